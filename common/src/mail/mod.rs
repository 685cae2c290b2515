//! Outgoing mail: rendered from a template into HTML and text parts, sent over pooled SMTP.
//!
//! Header values are typed and encoded by `lettre`, so a line break in a name or subject cannot
//! inject a header. The `Message-ID` is derived from the job, so recipients recognise a mail that
//! was sent twice (RFC 5322 §3.6.4).
//!
//! A server that does not answer, or does not accept our login, is down for all mails. Any other
//! reply concerns one mail: a recipient may be unknown, or be asked to try again later (greylisting).

mod template;

use std::{error::Error, fmt, io, iter::successors, time::Duration};

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, MultiPart, header},
    transport::smtp::{
        PoolConfig,
        authentication::Credentials,
        client::{Tls, TlsParameters},
    },
};
use secrecy::ExposeSecret;
use tokio::sync::watch;

pub use template::{LAYOUT, Rendered, Template, TemplateError};

use tracing::Instrument;

use crate::{
    config,
    email::Email,
    id::JobId,
    telemetry::{metrics, trace::Call},
    text,
};

/// Idle connections are closed after this time.
const POOL_IDLE: Duration = Duration::from_mins(1);
/// Time between two attempts to reach a mail server that is down.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// Replies by which a server refuses all mails of this sender: it closes, or rejects the login.
const DOWN_REPLIES: [u16; 6] = [421, 454, 530, 534, 535, 538];

/// The outcomes of sending a mail, in metrics.
pub const OUTCOMES: &[&str] = &["sent", "retry", "refused"];

/// What the mail server answered, or why it did not. Without email addresses: servers often repeat the
/// recipient's, and this is logged and stored with the job. Without hidden characters, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer(String);

impl Answer {
    fn of(text: &str) -> Self {
        Self(without_addresses(text::on_one_line(text).trim()))
    }
}

impl From<lettre::transport::smtp::Error> for Answer {
    fn from(error: lettre::transport::smtp::Error) -> Self {
        Self::of(&error.to_string())
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Replaces every word that may contain an email address.
fn without_addresses(text: &str) -> String {
    let hidden =
        |word: &str| if word.contains('@') { "[address]".to_owned() } else { word.to_owned() };
    text.split(' ').map(hidden).collect::<Vec<_>>().join(" ")
}

/// Why a mail was not sent.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// The server is down, busy or too slow; a retry may succeed.
    #[error("the mail server is temporarily unavailable: {0}")]
    Temporary(Answer),
    /// The server rejected the mail permanently, for instance because the recipient does not exist.
    #[error("the mail server rejected the mail: {0}")]
    Refused(Answer),
    /// The message could not be built.
    #[error("the mail could not be built: {0}")]
    Malformed(String),
}

/// Sends mails. Cheap to clone; clones share the connection pool.
#[derive(Clone)]
pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    is_down: watch::Sender<bool>,
    from: Mailbox,
    message_id_domain: String,
}

impl Mailer {
    /// A mailer for the configured server. Connects when it sends the first mail.
    pub fn new(config: &config::Smtp) -> Result<Self, MailError> {
        let address: lettre::Address = config.from.as_str().parse().map_err(malformed)?;
        let tls = || {
            TlsParameters::new(config.host.clone())
                .map_err(|error| MailError::Temporary(error.into()))
        };
        let tls = match config.tls {
            config::SmtpTls::None => Tls::None,
            config::SmtpTls::Starttls => Tls::Required(tls()?),
            config::SmtpTls::Tls => Tls::Wrapper(tls()?),
        };
        let mut builder =
            AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(config.host.as_str())
                .port(config.port)
                .tls(tls)
                .timeout(Some(config.timeout))
                .pool_config(PoolConfig::new().max_size(config.pool_max).idle_timeout(POOL_IDLE));
        if !config.username.is_empty() {
            let password = config.password.expose_secret().to_owned();
            builder = builder.credentials(Credentials::new(config.username.clone(), password));
        }
        metrics::MAIL_SERVER_UP.set(f64::NAN);
        Ok(Self {
            transport: builder.build(),
            is_down: watch::Sender::new(false),
            message_id_domain: address.domain().to_owned(),
            from: Mailbox::new(Some(config.from_name.clone()), address),
        })
    }

    /// Sends one mail. Its `Message-ID` is derived from `job`.
    pub async fn send(
        &self,
        job: JobId,
        to: &Email,
        to_name: &str,
        mail: Rendered,
    ) -> Result<(), MailError> {
        let template = mail.template;
        let message = self.message(job, to, to_name, mail)?;
        let timer = metrics::MAIL_SEND_DURATION.start_timer();
        let answer = self.transport.send(message).instrument(Call::Smtp { template }.span()).await;
        timer.observe_duration();
        let is_down = answer.as_ref().is_err_and(means_down);
        self.note(is_down);
        let (outcome, result) = match answer {
            Ok(_) => ("sent", Ok(())),
            Err(error) if error.is_permanent() && !is_down => {
                ("refused", Err(MailError::Refused(error.into())))
            }
            Err(error) => ("retry", Err(MailError::Temporary(error.into()))),
        };
        metrics::MAIL_SENT.with_label_values(&[template, outcome]).inc();
        result
    }

    /// Connects to the server, logs in, and sends nothing. Returns whether the server stays
    /// connected. Fails if it cannot be reached or rejects the login.
    pub async fn answers(&self) -> Result<bool, MailError> {
        self.transport.test_connection().await.map_err(|error| MailError::Temporary(error.into()))
    }

    /// Connects to a server that is down until it answers, for as long as the future is polled:
    /// after a long outage, the next mail may be minutes away.
    pub async fn probe_while_down(self) {
        // The sender lives in `self`, so waiting cannot fail.
        while self.is_down.subscribe().wait_for(|is_down| *is_down).await.is_ok() {
            tokio::time::sleep(PROBE_INTERVAL).await;
            match self.answers().await {
                Ok(answers) => self.note(!answers),
                Err(error) => tracing::debug!(%error, "mail_server_still_down"),
            }
        }
    }

    fn note(&self, is_down: bool) {
        metrics::MAIL_SERVER_UP.set(f64::from(u8::from(!is_down)));
        if self.is_down.send_replace(is_down) != is_down {
            if is_down {
                tracing::error!("mail_server_down");
            } else {
                tracing::info!("mail_server_up");
            }
        }
    }

    fn message(
        &self,
        job: JobId,
        to: &Email,
        to_name: &str,
        mail: Rendered,
    ) -> Result<Message, MailError> {
        let name = Some(one_line(to_name)).filter(|name| !name.is_empty());
        let to = Mailbox::new(name, to.as_str().parse().map_err(malformed)?);
        Message::builder()
            .from(self.from.clone())
            .to(to)
            .subject(one_line(&mail.subject))
            .message_id(Some(format!("<{job}@{}>", self.message_id_domain)))
            // Prevents automatic replies (RFC 3834).
            .header(AutoSubmitted("auto-generated".to_owned()))
            .multipart(MultiPart::alternative_plain_html(mail.text, mail.html))
            .map_err(malformed)
    }
}

/// Whether the failure concerns the server, not one mail. An answer that is not UTF-8 cannot be read,
/// but is one.
fn means_down(error: &lettre::transport::smtp::Error) -> bool {
    let is_unreadable = successors(error.source(), |&cause| cause.source())
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::InvalidData);
    if is_unreadable {
        return false;
    }
    error.status().map_or(!error.is_client(), |reply| DOWN_REPLIES.contains(&u16::from(reply)))
}

/// Replaces control characters: `lettre` panics on them in a name.
fn one_line(text: &str) -> String {
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(visible).collect::<String>().trim().to_owned()
}

fn malformed(error: impl std::fmt::Display) -> MailError {
    MailError::Malformed(error.to_string())
}

/// The header `Auto-Submitted` (RFC 3834 §5).
#[derive(Clone)]
struct AutoSubmitted(String);

impl header::Header for AutoSubmitted {
    fn name() -> header::HeaderName {
        header::HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(text: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self(text.to_owned()))
    }

    fn display(&self) -> header::HeaderValue {
        header::HeaderValue::new(Self::name(), self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn answers_of_the_server_lose_their_addresses() {
        let answer = "permanent error (550): 5.1.1 <ada@example.com>: no user ada@example.com here";
        assert_eq!(
            without_addresses(answer),
            "permanent error (550): 5.1.1 [address] no user [address] here"
        );
    }

    #[test]
    fn answers_of_the_server_lose_hidden_characters() {
        let answer = "550 \u{202e}no\u{200b} user\u{1b}[31m\r\nhere\u{9b}2J\r\n";
        let wanted = "550 \u{fffd}no\u{fffd} user\u{fffd}[31m  here\u{fffd}2J";
        assert_eq!(Answer::of(answer).to_string(), wanted);
    }

    fn mailer() -> Mailer {
        mailer_to("1025")
    }

    fn mailer_to(port: &str) -> Mailer {
        let mut sources = config::Sources::default();
        let variables = [
            ("TENANTRY__APP__ENVIRONMENT", "development"),
            ("TENANTRY__SMTP__TLS", "none"),
            ("TENANTRY__SMTP__PORT", port),
        ];
        sources.add_environment(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
        Mailer::new(&config::Config::load(sources).unwrap().smtp).unwrap()
    }

    fn rendered(subject: &str) -> Rendered {
        Rendered {
            template: "test",
            subject: subject.into(),
            text: "text".into(),
            html: "<p>html</p>".into(),
        }
    }

    /// Answers every recipient in Latin-1.
    async fn answer_in_latin_1(listener: TcpListener) -> io::Result<()> {
        let (mut stream, _) = listener.accept().await?;
        let (reading, mut writing) = stream.split();
        let mut lines = BufReader::new(reading).lines();
        writing.write_all(b"220 ready\r\n").await?;
        while let Some(line) = lines.next_line().await? {
            let answer: &[u8] = match line.split(' ').next() {
                Some("RCPT") => b"550 5.1.1 Empf\xe4nger unbekannt\r\n",
                _ => b"250 ok\r\n",
            };
            writing.write_all(answer).await?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn an_answer_that_is_not_text_concerns_one_mail() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let server = tokio::spawn(answer_in_latin_1(listener));
        let mailer = mailer_to(&port);
        let job = JobId::from_uuid(uuid::Uuid::now_v7());
        let to = "a@example.com".parse().unwrap();
        mailer.send(job, &to, "Ann", rendered("Hi")).await.unwrap_err();
        assert!(!*mailer.is_down.borrow(), "the server answers");
        server.abort();
    }

    #[tokio::test]
    async fn a_line_break_cannot_inject_a_header() {
        let job = JobId::from_uuid(uuid::Uuid::now_v7());
        let to = "a@example.com".parse().unwrap();
        let mail = rendered("Hello\r\nBcc: evil@example.com");
        let message = mailer().message(job, &to, "Ann\r\nBcc: evil@example.com", mail).unwrap();
        let text = String::from_utf8(message.formatted()).unwrap();
        let head = text.split("\r\n\r\n").next().unwrap();
        assert!(!head.lines().any(|line| line.to_lowercase().starts_with("bcc")), "{head}");
    }

    #[tokio::test]
    async fn message_id_is_derived_from_the_job() {
        let job = JobId::from_uuid(uuid::Uuid::now_v7());
        let to = "a@example.com".parse().unwrap();
        let text = mailer().message(job, &to, "", rendered("Hi")).unwrap().formatted();
        let expected = format!("Message-ID: <{job}@example.com>");
        assert!(String::from_utf8(text).unwrap().contains(&expected));
    }
}
