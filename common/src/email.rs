//! Email addresses: which are accepted, and how they are compared.
//!
//! One mailbox must not become several accounts, so only plain ASCII addresses at domain names are
//! accepted. A quoted local part can spell any other one, and letters that look alike or are
//! invisible create lookalike addresses, which could not receive mail without SMTPUTF8 anyway.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The longest address that SMTP can carry (RFC 5321 §4.5.3.1.3, without the angle brackets).
pub const ADDRESS_BYTES_MAX: usize = 254;

/// An email address. Keeps its original spelling; two addresses are equal if their
/// [`Email::normalized`] forms are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(
    description = "Email address, in ASCII.",
    format = "email",
    max_length = 254,
    example = "ada@example.com"
)]
pub struct Email(String);

/// Why a text is not an accepted email address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEmail {
    /// It is not an email address, or of a form that is not supported.
    #[error("must be an email address such as name@example.com")]
    Form,
    /// It contains characters beyond ASCII, visible or not.
    #[error(
        "must contain ASCII characters only; write an internationalised domain in its ASCII form, xn--…"
    )]
    NotAscii,
}

impl Email {
    /// The address as it was given, without surrounding whitespace.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the `@`.
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }

    /// The form by which addresses are compared and indexed: lower case. RFC 5321 §2.4 allows
    /// case-sensitive mailbox names, but no provider in practice uses them.
    pub fn normalized(&self) -> String {
        self.0.to_lowercase()
    }
}

impl Email {
    /// The mailbox that most providers deliver to: without what follows a `+` in the local part
    /// (RFC 5233). Only for limits: to a provider without subaddresses, it is another mailbox.
    pub fn mailbox(&self) -> String {
        let address = self.normalized();
        let Some((local, domain)) = address.rsplit_once('@') else { return address };
        match local.split_once('+') {
            Some((mailbox, _)) if !mailbox.is_empty() => format!("{mailbox}@{domain}"),
            _ => address,
        }
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

/// Whether a local part is unquoted (a dot-atom, RFC 5321 §4.1.2).
fn is_plain(local: &str) -> bool {
    local.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&b))
}

/// Whether a domain is a qualified name rather than an IP address, bare or in brackets.
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
    fn accepts_common_addresses() {
        for text in ["a@example.com", " First.Last+tag@sub.example.co ", "o'neil@example.org"] {
            assert!(text.parse::<Email>().is_ok(), "{text}");
        }
    }

    #[test]
    fn subaddresses_belong_to_one_mailbox() {
        let mailbox = |text: &str| text.parse::<Email>().unwrap().mailbox();
        for text in ["Ada@example.com", "ada+news@example.com", "ada+a+b@EXAMPLE.com"] {
            assert_eq!(mailbox(text), "ada@example.com", "{text}");
        }
        assert_eq!(mailbox("+ada@example.com"), "+ada@example.com");
    }

    #[test]
    fn rejects_undeliverable_addresses() {
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
    fn rejects_alternative_spellings_of_a_mailbox() {
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
    fn rejects_addresses_beyond_ascii_and_suggests_punycode() {
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
    fn addresses_are_compared_ignoring_case() {
        let (a, b): (Email, Email) =
            ("A@Example.com".parse().unwrap(), "a@example.COM".parse().unwrap());
        assert_eq!(a.normalized(), b.normalized());
    }
}
