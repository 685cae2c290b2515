//! E-mail addresses as people write them and as we compare them.
//!
//! One mailbox must not be several accounts, so only plain ASCII addresses at domain names are
//! accepted: a quoted local part can spell any other one, letters that look alike or cannot be
//! seen make twins, and mail to none of them could be sent without SMTPUTF8 anyway.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The longest address SMTP can carry (RFC 5321 §4.5.3.1.3, less the angle brackets).
pub const ADDRESS_BYTES_MAX: usize = 254;

/// An address that can be mailed. Keeps the spelling it was given; two addresses are the same
/// when their [`Email::normalized`] forms are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Email(String);

/// A text that is not an address we can mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEmail {
    /// It is no address, or one of a form that is not served.
    #[error("must be an e-mail address such as name@example.com")]
    Form,
    /// It has characters beyond ASCII, visible or not.
    #[error(
        "must have ASCII characters only; write an internationalised domain in its ASCII form, xn--…"
    )]
    NotAscii,
}

impl Email {
    /// The address as it was given, without surrounding space.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands behind the `@`.
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }

    /// The form that addresses are compared and indexed by: lower case throughout. Mailbox names
    /// are case-sensitive by the letter of RFC 5321 §2.4, and by no provider in practice.
    pub fn normalized(&self) -> String {
        self.0.to_lowercase()
    }
}

impl FromStr for Email {
    type Err = InvalidEmail;

    fn from_str(text: &str) -> Result<Self, InvalidEmail> {
        let text = text.trim();
        if !text.is_ascii() {
            return Err(InvalidEmail::NotAscii);
        }
        let has_known_form = text
            .split_once('@')
            .is_some_and(|(local, domain)| is_plain(local) && is_domain_name(domain));
        let acceptable = text.len() <= ADDRESS_BYTES_MAX
            && has_known_form
            && text.parse::<lettre::Address>().is_ok();
        if acceptable { Ok(Self(text.to_owned())) } else { Err(InvalidEmail::Form) }
    }
}

/// Whether a local part is written without quotes (a dot-atom, RFC 5321 §4.1.2).
fn is_plain(local: &str) -> bool {
    local.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&b))
}

/// Whether a domain is a qualified name rather than the address of a machine, bare or in brackets.
fn is_domain_name(domain: &str) -> bool {
    let top = domain.rsplit_once('.').map(|(_, top)| top);
    top.is_some_and(|top| top.bytes().any(|b| b.is_ascii_alphabetic()))
        && !domain.starts_with('.')
        && domain.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
}

impl TryFrom<String> for Email {
    type Error = InvalidEmail;
    fn try_from(text: String) -> Result<Self, InvalidEmail> {
        text.parse()
    }
}

impl From<Email> for String {
    fn from(email: Email) -> Self {
        email.0
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_people_have() {
        for text in ["a@example.com", " First.Last+tag@sub.example.co ", "o'neil@example.org"] {
            assert!(text.parse::<Email>().is_ok(), "{text}");
        }
    }

    #[test]
    fn refuses_what_cannot_be_mailed() {
        let long = format!("{}@example.com", "a".repeat(250));
        let forms = [
            "",
            "a",
            "a@",
            "@b.c",
            "a@b",
            "a b@c.de",
            "a@b.c\r\nBcc: x@y.z",
            "a\0@b.co",
            "a@.com",
            "a@b.com.",
            "a@b..com",
        ];
        for text in forms.into_iter().chain([long.as_str()]) {
            assert_eq!(text.parse::<Email>(), Err(InvalidEmail::Form), "{text}");
        }
    }

    #[test]
    fn refuses_second_spellings_of_a_mailbox() {
        for text in [
            "\"a@b\"@example.com",
            "\"ada\"@example.com",
            "\"a b\"@example.com",
            "a(comment)@example.com",
            "a@b@example.com",
        ] {
            assert_eq!(text.parse::<Email>(), Err(InvalidEmail::Form), "{text}");
        }
        for text in ["a@[127.0.0.1]", "a@[IPv6:::1]", "a@127.0.0.1", "a@[example.com]"] {
            assert_eq!(text.parse::<Email>(), Err(InvalidEmail::Form), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_ascii_and_tells_the_way_out() {
        let hidden = [
            "a\u{200b}@example.com",
            "a@exam\u{ad}ple.com",
            "a\u{feff}@example.com",
            "\u{202e}a@example.com",
            "\u{200b}a@example.com",
        ];
        for text in [
            "jörg@example.com",
            "a@bücher.example",
            "а@example.com",
            "a@example。com",
            "ａ@example.com",
        ]
        .into_iter()
        .chain(hidden)
        {
            assert_eq!(text.parse::<Email>(), Err(InvalidEmail::NotAscii), "{text}");
        }
        assert!(InvalidEmail::NotAscii.to_string().contains("xn--"));
        assert!("a@xn--bcher-kva.example".parse::<Email>().is_ok());
        assert!("a@example.xn--p1ai".parse::<Email>().is_ok());
    }

    #[test]
    fn case_does_not_make_another_address() {
        let (a, b): (Email, Email) =
            ("A@Example.com".parse().unwrap(), "a@example.COM".parse().unwrap());
        assert_eq!(a.normalized(), b.normalized());
    }
}
