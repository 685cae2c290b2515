//! Configuration of outgoing mail.

use std::time::Duration;

use secrecy::SecretString;

use super::{POOL_MAX, choice, reader::Reader};
use crate::email::Email;

choice! {
    /// How the connection to the mail server is protected.
    SmtpTls {
        /// Unencrypted; only for a mail server on the same machine or network.
        None = "none",
        /// Upgraded by STARTTLS (RFC 3207); sending fails if the server does not offer it.
        Starttls = "starttls",
        /// TLS from the first byte (RFC 8314), port 465.
        Tls = "tls",
    }
}

/// The `smtp` section.
#[derive(Debug, Clone)]
pub struct Smtp {
    /// Host of the mail server.
    pub host: String,
    /// Port of the mail server.
    pub port: u16,
    /// How the connection is encrypted.
    pub tls: SmtpTls,
    /// User at the mail server; empty for none.
    pub username: String,
    /// Password at the mail server.
    pub password: SecretString,
    /// Email address that mails are sent from.
    pub from: Email,
    /// Name that mails are sent from.
    pub from_name: String,
    /// Connections kept open at most.
    pub pool_max: u32,
    /// How long handing over one mail may take.
    pub timeout: Duration,
}

impl Smtp {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            host: r.value("smtp.host", "127.0.0.1", "Host of the mail server"),
            port: r.count("smtp.port", "1025", "Port of the mail server"),
            tls: r.value(
                "smtp.tls",
                "starttls",
                "Encryption of the connection: `none`, `starttls` or `tls`",
            ),
            username: r.value("smtp.username", "", "User at the mail server; empty for none"),
            password: r.secret("smtp.password", "", "Password at the mail server"),
            from: r.value(
                "smtp.from",
                "no-reply@example.com",
                "Email address that mails are sent from",
            ),
            from_name: r.value("smtp.from_name", "Tenantry", "Name that mails are sent from"),
            pool_max: r.count_up_to(
                POOL_MAX,
                "smtp.pool_max",
                "16",
                "Connections kept open at most",
            ),
            timeout: r.period("smtp.timeout", "20s", "How long handing over one mail may take"),
        }
    }
}
