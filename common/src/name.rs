//! Names of people and tenants.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::text;

/// Maximum length of a name in characters.
pub const NAME_CHARS_MAX: usize = 100;

/// The name of a tenant, a person or a role: visible text on one line, in NFC, with single spaces.
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
    fn from_str(given: &str) -> Result<Self, InvalidName> {
        let given = given.trim();
        // Bounds the work, before the text is normalized.
        if given.chars().nth(NAME_CHARS_MAX).is_some() {
            return Err(InvalidName);
        }
        let typed = text::canonical(given);
        let is_plain = !typed.is_empty() && !text::has_hidden(&typed) && !text::has_link(&typed);
        let name = typed.split_whitespace().collect::<Vec<_>>().join(" ");
        let fits = name.chars().nth(NAME_CHARS_MAX).is_none();
        if fits && is_plain { Ok(Self(name)) } else { Err(InvalidName) }
    }
}

impl Name {
    /// The name as text, in NFC.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form by which names are compared where they must be unique.
    pub fn skeleton(&self) -> String {
        text::skeleton(&self.0)
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
    fn a_name_has_one_form() {
        let name: Name = " Jo\u{308}rg \u{a0} Ott ".parse().unwrap();
        assert_eq!(name.as_str(), "Jörg Ott");
        assert_eq!(name.skeleton(), "JÖRG OTT".parse::<Name>().unwrap().skeleton());
    }

    #[test]
    fn hidden_characters_and_links_are_rejected() {
        // Names appear in mails to strangers, who trust us as the sender.
        for text in ["Admin\u{e0041}", "evil.example/login"] {
            assert_eq!(text.parse::<Name>(), Err(InvalidName), "{text:?}");
        }
        for text in ["Booking.com", "A/B Testing", "👩\u{200d}💻 Ada"] {
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
