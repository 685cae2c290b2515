//! Unicode rules for text that people type: its canonical form, how it is compared, and which
//! characters hide something.

use std::{borrow::Cow, fmt::Write, net::Ipv4Addr};

use icu_casemap::CaseMapper;
use icu_normalizer::ComposingNormalizerBorrowed as Normalizer;
use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{BinaryProperty, DefaultIgnorableCodePoint, Emoji, GeneralCategory as Category},
};

const ZWNJ: char = '\u{200c}';
const ZWJ: char = '\u{200d}';
/// Variation selector 16: show the character before as an emoji.
const VS16: char = '\u{fe0f}';
/// The enclosing keycap of emoji such as 1️⃣.
const KEYCAP: char = '\u{20e3}';

/// The canonical form of a text (NFC): the same text typed on two keyboards is the same.
pub fn canonical(text: &str) -> Cow<'_, str> {
    Normalizer::new_nfc().normalize(text)
}

/// The canonical form of a code: without spaces and hyphens, and in NFKC, so that the wide digits
/// of some keyboards are accepted.
pub fn canonical_code(text: &str) -> String {
    let plain = Normalizer::new_nfkc().normalize(text);
    plain.chars().filter(|c| !c.is_whitespace() && *c != '-').collect()
}

/// A form that is the same for texts that differ only in case, width or ignorable characters
/// (Unicode's `NFKC_Casefold`).
pub fn skeleton(text: &str) -> String {
    let normalizer = Normalizer::new_nfkc();
    let folded = CaseMapper::new();
    let folded = folded.fold_string(&normalizer.normalize(text)).into_owned();
    let visible: String = folded.chars().filter(|c| !is_ignorable(*c)).collect();
    normalizer.normalize(&visible).into_owned()
}

/// Whether it contains characters that are invisible, unassigned, or change the direction, so that
/// it looks like another text or like none.
pub fn has_hidden(text: &str) -> bool {
    // An encoded word (RFC 2047) reads differently in a mail header than on a page.
    text.contains("=?") || visible(text).any(|c| c.is_err())
}

/// The characters of a text; those that control a terminal, are invisible or change the direction,
/// so that it looks like another text, are errors.
pub fn visible(text: &str) -> impl Iterator<Item = Result<char, char>> {
    let before = std::iter::once(' ').chain(text.chars());
    let after = text.chars().skip(1).map(Some).chain([None]);
    let places = before.zip(text.chars()).zip(after);
    places.map(|((before, c), after)| if hides(before, c, after) { Err(c) } else { Ok(c) })
}

/// `text` on one line: white space becomes spaces, and every hidden character U+FFFD. For what comes
/// from outside and is shown or logged, such as the replies of mail servers.
pub fn on_one_line(text: &str) -> String {
    let shown = |c: Result<char, char>| match c {
        Ok(c) | Err(c) if c.is_whitespace() => ' ',
        Ok(c) => c,
        Err(_) => char::REPLACEMENT_CHARACTER,
    };
    visible(text).map(shown).collect()
}

/// JSON on one line with every hidden character escaped; only strings contain any. JSON itself
/// escapes those of ASCII only.
pub fn escaped(json: &str) -> Cow<'_, str> {
    if json.bytes().all(|byte| byte.is_ascii() && byte != 0x7f) {
        return Cow::Borrowed(json);
    }
    let mut text = String::with_capacity(json.len());
    for c in visible(json) {
        match c {
            Ok(c) => text.push(c),
            // Not in a string: the end of the line.
            Err('\n') => text.push('\n'),
            Err(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    let _ = write!(text, "\\u{unit:04x}");
                }
            }
        }
    }
    Cow::Owned(text)
}

/// Whether `c` hides something between its neighbours.
fn hides(before: char, c: char, after: Option<char>) -> bool {
    match c {
        // Joiners shape letters in some scripts and combine emoji. After ASCII, or at the end, they
        // only hide.
        ZWNJ | ZWJ => before.is_ascii() || matches!(before, ZWNJ | ZWJ) || after.is_none(),
        VS16 => {
            let is_emoji = has::<Emoji>(before);
            !is_emoji || (before.is_ascii() && after != Some(KEYCAP))
        }
        _ => is_ignorable(c) || is_invisible(c),
    }
}

fn is_invisible(c: char) -> bool {
    let category = CodePointMapData::<Category>::new().get(c);
    // The blank pattern of Braille counts as a symbol.
    c == '\u{2800}'
        || matches!(
            category,
            Category::Control
                | Category::Format
                | Category::LineSeparator
                | Category::ParagraphSeparator
                | Category::PrivateUse
                | Category::Surrogate
                | Category::Unassigned
        )
}

fn is_ignorable(c: char) -> bool {
    has::<DefaultIgnorableCodePoint>(c)
}

fn has<P: BinaryProperty>(c: char) -> bool {
    CodePointSetData::new::<P>().contains(c)
}

/// Schemes of URLs that need no `//`.
const SCHEMES: &[&str] = &["data", "javascript", "mailto", "sms", "tel"];

/// Whether mail programs would turn a part of it into a link: a URL, `www.`, an email address, or a
/// host followed by a path, a query, a fragment or a port. A host alone may be a name, such as
/// Booking.com.
pub fn has_link(text: &str) -> bool {
    // Browsers read other dots as dots, too (UTS 46 §2.3).
    let text = Normalizer::new_nfkc().normalize(text).replace(['。', '｡'], ".").to_lowercase();
    if text.contains("://") {
        return true;
    }
    let mut rest = text.as_str();
    while let Some(start) = rest.find(is_of_host) {
        let run = &rest[start..];
        let end = run.find(|c| !is_of_host(c)).unwrap_or(run.len());
        let before = &text[..text.len() - run.len()];
        let (word, after) = run.split_at(end);
        if is_link(before, word, after) {
            return true;
        }
        rest = after;
    }
    false
}

/// Whether a word in lower case is a link, or the beginning of one, between these texts.
fn is_link(before: &str, word: &str, after: &str) -> bool {
    let host = word.trim_matches(['.', '-', '_']);
    let mut following = after.chars();
    let separator = following.next().filter(|c| "/\\?#:".contains(*c));
    // Punctuation at the end of a name or of a word is no path.
    let goes_on = separator.is_some() && following.next().is_some_and(|c| !c.is_whitespace());
    let is_address = before.strip_suffix('@').is_some_and(|local| local.ends_with(is_of_host));
    (goes_on && separator == Some(':') && SCHEMES.contains(&host))
        || host.strip_prefix("www.").is_some_and(|rest| !rest.is_empty())
        || ((goes_on || is_address) && is_host(host))
}

/// Whether a character may be part of a host name, as mail programs see it.
fn is_of_host(c: char) -> bool {
    let category = CodePointMapData::<Category>::new().get(c);
    c.is_alphanumeric()
        || matches!(c, '.' | '-' | '_')
        || matches!(category, Category::NonspacingMark | Category::SpacingMark)
}

/// Whether it is an IPv4 address, or a host name with a top-level domain, which has letters.
fn is_host(text: &str) -> bool {
    text.parse::<Ipv4Addr>().is_ok()
        || text.rsplit_once('.').is_some_and(|(labels, top)| {
            top.chars().count() > 1
                && top.starts_with(char::is_alphabetic)
                && labels.split('.').all(|label| !label.is_empty())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_has_one_canonical_form() {
        assert_eq!(canonical("u\u{308}ber"), "über");
        assert_eq!(canonical_code(" 123 456\u{a0}"), "123456");
        assert_eq!(canonical_code("１２３-４５６"), "123456");
    }

    #[test]
    fn texts_that_look_the_same_have_the_same_skeleton() {
        for (one, other) in [
            ("Admin", "ADMIN"),
            ("Admin", "Ａｄｍｉｎ"),
            ("Admin", "Ad\u{200d}min\u{e0041}\u{fe0f}"),
            ("Straße", "STRASSE"),
            ("Jo\u{308}rg", "JÖRG"),
            ("ﬁnance", "Finance"),
        ] {
            assert_eq!(skeleton(one), skeleton(other), "{one:?} {other:?}");
        }
        assert_ne!(skeleton("Admin"), skeleton("Admins"));
    }

    #[test]
    fn hidden_characters_are_found() {
        for text in [
            "a\u{200b}b",
            "\u{200d}",
            "a\u{200c}b",
            "ب\u{200d}\u{200d}ب",
            "é\u{200d}",
            "\u{202e}evil",
            "a\u{2066}b\u{2069}",
            "\u{feff}a",
            "\u{3164}",
            "\u{2800}",
            "a\u{ad}b",
            "a\u{200f}b",
            "a\u{2028}b",
            // Tags, also those of an emoji flag; variation selectors; annotations; musical controls.
            "Admin\u{e0041}",
            "🏴\u{e0067}\u{e0062}\u{e007f}",
            "Admin\u{fe0e}",
            "Admin\u{fe0f}",
            "1\u{fe0f}",
            "Admin\u{e0100}",
            "a\u{fff9}b",
            "a\u{1d173}b",
            "a\u{180b}",
            // Private use and unassigned characters.
            "a\u{e000}",
            "a\u{378}",
            "=?utf-8?q?a?=",
        ] {
            assert!(has_hidden(text), "{text:?}");
        }
        for text in [
            "Jörg Söhne",
            "می\u{200c}خواهم",
            "👩\u{200d}💻 Ada",
            "❤\u{fe0f}\u{200d}🔥 Love",
            "1\u{fe0f}\u{20e3} First",
            "日本 太郎",
            "O’Neil",
            "שלום",
            "Zoë \u{1f468}\u{1f3fd}",
        ] {
            assert!(!has_hidden(text), "{text:?}");
        }
    }

    #[test]
    fn hidden_characters_are_replaced_or_escaped() {
        assert_eq!(
            on_one_line("a\u{1b}[2Jb\r\nc\u{9b}1m\u{202e}d\u{200b}e\u{e0041}"),
            "a\u{fffd}[2Jb  c\u{fffd}1m\u{fffd}d\u{fffd}e\u{fffd}"
        );
        assert_eq!(on_one_line("👩\u{200d}💻 می\u{200c}خواهم"), "👩\u{200d}💻 می\u{200c}خواهم");
        let json = "{\"a\":\"\u{9b}\u{202e}\u{7f}é\u{200b}\u{e0041}\"}\n";
        let wanted = "{\"a\":\"\\u009b\\u202e\\u007fé\\u200b\\udb40\\udc41\"}\n";
        assert_eq!(escaped(json), wanted);
        let value: serde_json::Value = serde_json::from_str(wanted).unwrap();
        assert_eq!(value["a"], "\u{9b}\u{202e}\u{7f}é\u{200b}\u{e0041}");
        assert!(matches!(escaped("{}\n"), Cow::Borrowed("{}\n")));
    }

    #[test]
    fn what_mail_programs_turn_into_a_link_is_a_link() {
        for text in [
            "Win at https://evil.example",
            "ftp://evil.example",
            "see WWW.evil.example",
            "(www.evil.example)",
            "evil.example/login",
            "Evil.Example/?a",
            "evil.example?a=1",
            "evil.example#now",
            "evil.example:8080",
            "evil．example／login",
            "evil。example/login",
            "bücher.example/login",
            "xn--bcher-kva.example/a",
            "a,evil.co.uk/x",
            "write help@evil.example",
            "write help@evil.example.",
            "help@evil.example!",
            "x@evil.example/login",
            "mailto:help",
            "tel:+49301234",
            "Login:evil.example/x",
            "https:evil.example/x",
            "a_b.evil.example/login",
            "_evil.example/login_",
            "*evil.example/login*",
            "!evil.example/login",
            "…evil.example/login",
            "=evil.example/login",
            "A/evil.example/login",
            "evil.example./login",
            "192.0.2.1/login",
            "हिन्दी.example/login",
        ] {
            assert!(has_link(text), "{text:?}");
        }
        for text in [
            "Booking.com",
            "A/B Testing",
            "Smith & Co. / R&D: Berlin",
            "The www",
            "awww.so cute",
            "Acme Inc.",
            "St. Mary's/Berlin",
            "v1.2/3",
            "me @ work",
            "24/7",
            "Booking.com/",
            "Booking.com: Berlin",
            "S.p.A./Milano",
            "Tel: 030 1234",
            "Data: 7",
            "Hôtel:Paris",
        ] {
            assert!(!has_link(text), "{text:?}");
        }
    }
}
