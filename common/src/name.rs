//! Names of people and tenants.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Maximum length of a name in characters.
pub const NAME_CHARS_MAX: usize = 100;

/// The name of a tenant or a person: visible text on one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(
    description = "Name on one line, without links.",
    min_length = 1,
    max_length = 100,
    example = "Ada Lovelace"
)]
pub struct Name(String);

/// The text is not a valid name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be one line of 1 to {NAME_CHARS_MAX} visible characters without a link")]
pub struct InvalidName;

impl FromStr for Name {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let text = text.trim();
        let fits = (1..=NAME_CHARS_MAX).contains(&text.chars().take(NAME_CHARS_MAX + 1).count());
        let is_plain = !text.chars().any(char::is_control) && !has_hidden(text) && !has_link(text);
        if fits && is_plain { Ok(Self(text.to_owned())) } else { Err(InvalidName) }
    }
}

/// Whether it contains characters that are invisible or change the text direction, so that the name
/// looks like another one or like none.
fn has_hidden(text: &str) -> bool {
    // Joiners shape letters in some scripts and combine emoji; after ASCII, or at the end, they
    // only hide text.
    let is_joiner = |c: char| matches!(c, '\u{200c}' | '\u{200d}');
    let before = std::iter::once(' ').chain(text.chars());
    let joins_nothing = before
        .zip(text.chars())
        .any(|(before, c)| is_joiner(c) && (before.is_ascii() || is_joiner(before)));
    // An encoded word (RFC 2047) reads differently in a mail header than on a page.
    text.contains("=?") || joins_nothing || text.ends_with(is_joiner) || text.chars().any(is_hidden)
}

/// Whether it contains an obvious link: names appear in mails to strangers, who trust us as the
/// sender.
fn has_link(text: &str) -> bool {
    text.contains("://")
        || text
            .to_ascii_lowercase()
            .split(|c: char| !c.is_alphanumeric() && c != '.')
            .any(|word| word.starts_with("www."))
}

fn is_hidden(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
    )
}

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_characters_are_rejected() {
        let hidden = [
            "a\u{200b}b",
            "\u{200d}",
            "a\u{200c}b",
            "ب\u{200d}\u{200d}ب",
            "é\u{200d}",
            "\u{202e}evil",
            "a\u{2066}b\u{2069}",
            "\u{feff}a",
        ];
        for text in hidden.into_iter().chain([
            "\u{3164}",
            "\u{2800}",
            "a\u{ad}b",
            "a\u{200f}b",
            "a\u{2028}b",
        ]) {
            assert_eq!(text.parse::<Name>(), Err(InvalidName), "{text:?}");
        }
        for text in
            ["Jörg Söhne", "می\u{200c}خواهم", "👩\u{200d}💻 Ada", "日本 太郎", "O’Neil", "שלום"]
        {
            assert!(text.parse::<Name>().is_ok(), "{text:?}");
        }
    }

    #[test]
    fn links_are_rejected() {
        for text in [
            "Win at https://evil.example",
            "ftp://evil.example",
            "see WWW.evil.example",
            "(www.evil.example)",
        ] {
            assert_eq!(text.parse::<Name>(), Err(InvalidName), "{text:?}");
        }
        for text in
            ["Booking.com", "A/B Testing", "Smith & Co. / R&D: Berlin", "The www", "awww.so cute"]
        {
            assert!(text.parse::<Name>().is_ok(), "{text:?}");
        }
    }

    #[test]
    fn names_must_be_one_visible_line() {
        let long = "x".repeat(NAME_CHARS_MAX + 1);
        for text in ["", "  ", "a\r\nBcc: x", "\u{0}", long.as_str()] {
            assert_eq!(text.parse::<Name>(), Err(InvalidName), "{text:?}");
        }
    }
}
