//! E-mail addresses as people write them and as we compare them.

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
#[error("expected an e-mail address such as name@example.com")]
pub struct InvalidEmail;

impl Email {
    /// The address as it was given, without surrounding space.
    pub fn as_str(&self) -> &str {
        &self.0
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
        let domain_is_qualified =
            text.rsplit_once('@').is_some_and(|(_, domain)| domain.contains('.') && !domain.starts_with('.') && !domain.ends_with('.'));
        let acceptable = text.len() <= ADDRESS_BYTES_MAX
            && domain_is_qualified
            && !text.chars().any(|c| c.is_control() || c.is_whitespace())
            && text.parse::<lettre::Address>().is_ok();
        if acceptable { Ok(Self(text.to_owned())) } else { Err(InvalidEmail) }
    }
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
        for text in ["", "a", "a@", "@b.c", "a@b", "a b@c.de", "a@b.c\r\nBcc: x@y.z", "a@.com", long.as_str()] {
            assert_eq!(text.parse::<Email>(), Err(InvalidEmail), "{text}");
        }
    }

    #[test]
    fn case_does_not_make_another_address() {
        let (a, b): (Email, Email) = ("A@Example.com".parse().unwrap(), "a@example.COM".parse().unwrap());
        assert_eq!(a.normalized(), b.normalized());
    }
}
