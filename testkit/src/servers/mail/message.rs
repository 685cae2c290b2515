//! A mail, parsed from the bytes received over SMTP.

use std::{borrow::Cow, collections::BTreeMap};

use mail_parser::{MessageParser, MessagePart};
use serde::{Deserialize, Serialize};

/// A received mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mail {
    /// Unique and ascending id of this server. Unlike the Message-ID, it differs if a mail arrives
    /// twice.
    pub id: String,
    /// Email address in the From header, or else the sender of the envelope.
    pub from: String,
    /// Recipients of the envelope, whatever the headers say.
    pub to: Vec<String>,
    /// Decoded subject.
    pub subject: String,
    /// Decoded plain-text part with `\n` as line ends; empty if there is none.
    pub text: String,
    /// Decoded HTML part; empty if there is none.
    pub html: String,
    /// All headers by name, undecoded and unfolded; repeated ones are joined by `\n`.
    pub headers: BTreeMap<String, String>,
    /// When it was received (RFC 3339, UTC).
    pub received_at: String,
}

impl Mail {
    /// A header by its name, ignoring case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Parses a message. A message that is not valid is stored as text.
    pub(super) fn read(raw: &[u8], sender: &str, recipients: Vec<String>) -> Self {
        let id = format!("mail_{}", uuid::Uuid::now_v7().simple());
        let received_at =
            mongodb::bson::DateTime::now().try_to_rfc3339_string().unwrap_or_default();
        let mut mail = Self {
            id,
            from: sender.to_owned(),
            to: recipients,
            subject: String::new(),
            text: String::new(),
            html: String::new(),
            headers: BTreeMap::new(),
            received_at,
        };
        let Some(message) = MessageParser::default().parse(raw) else {
            mail.text = String::from_utf8_lossy(raw).into_owned();
            return mail;
        };
        if let Some(address) =
            message.from().and_then(|from| from.first()).and_then(|first| first.address())
        {
            address.clone_into(&mut mail.from);
        }
        message.subject().unwrap_or_default().clone_into(&mut mail.subject);
        mail.text =
            content(message.text_bodies().find(|part| part.is_text() && !part.is_text_html()))
                .replace("\r\n", "\n");
        mail.html = content(message.html_bodies().find(|part| part.is_text_html())).into_owned();
        for (name, value) in message.headers_raw() {
            let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
            let known = mail
                .headers
                .entry(name.to_owned())
                .and_modify(|known| *known = format!("{known}\n{value}"));
            known.or_insert(value);
        }
        mail
    }
}

fn content<'a>(part: Option<&'a MessagePart<'a>>) -> Cow<'a, str> {
    part.and_then(MessagePart::text_contents).map_or(Cow::Borrowed(""), Cow::Borrowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_is_parsed_completely() {
        let raw = "From: Tenantry <no-reply@example.com>\r\nTo: a@example.com\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\
            Message-ID: <1@example.com>\r\nReceived: one\r\nReceived: two\r\n three\r\nMIME-Version: 1.0\r\n\
            Content-Type: multipart/alternative; boundary=b\r\n\r\n\
            --b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nhttp://x/?token=3Dab=\r\nc\r\nend\r\n\
            --b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>hi</p>\r\n--b--\r\n";
        let mail =
            Mail::read(raw.as_bytes(), "bounce@example.com", vec!["hidden@example.com".to_owned()]);
        assert_eq!((mail.from.as_str(), mail.subject.as_str()), ("no-reply@example.com", "Grüße"));
        assert_eq!(mail.to, ["hidden@example.com"]);
        assert_eq!(
            (mail.text.trim_end(), mail.html.trim_end()),
            ("http://x/?token=abc\nend", "<p>hi</p>")
        );
        assert_eq!(mail.header("message-id"), Some("<1@example.com>"));
        assert_eq!(mail.header("Received"), Some("one\ntwo three"));
    }

    #[test]
    fn a_mail_with_one_part_has_no_other() {
        let text = Mail::read(b"Subject: x\r\n\r\nplain\r\n", "s@example.com", Vec::new());
        assert_eq!(
            (text.from.as_str(), text.text.as_str(), text.html.as_str()),
            ("s@example.com", "plain\n", "")
        );
        let html =
            Mail::read(b"Content-Type: text/html\r\n\r\n<b>x</b>", "s@example.com", Vec::new());
        assert_eq!((html.text.as_str(), html.html.as_str()), ("", "<b>x</b>"));
    }
}
