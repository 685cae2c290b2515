//! The mail catcher speaks real SMTP, loses no mail, and misbehaves on request.

#![expect(clippy::unwrap_used, reason = "a test whose helper fails has failed")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::MultiPart,
    transport::smtp::{Error, PoolConfig},
};
use testkit::servers::{MailCatcher, Reply};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

const SOON: Duration = Duration::from_secs(10);

type Transport = AsyncSmtpTransport<Tokio1Executor>;

fn transport(port: u16) -> Transport {
    let builder =
        Transport::builder_dangerous("127.0.0.1").port(port).timeout(Some(Duration::from_secs(5)));
    builder.pool_config(PoolConfig::new().max_size(16)).build()
}

fn message(subject: &str) -> Message {
    let builder = Message::builder()
        .from("Tenantry <no-reply@example.com>".parse().unwrap())
        .to("someone@example.com".parse().unwrap());
    let builder = builder.subject(subject).message_id(Some(format!("<{subject}@example.com>")));
    let body = MultiPart::alternative_plain_html(
        "Open http://127.0.0.1/verify-email?token=abc".to_owned(),
        "<p>Open</p>".to_owned(),
    );
    builder.multipart(body).unwrap()
}

async fn send(transport: &Transport, subject: &str) -> Result<(), Error> {
    transport.send(message(subject)).await.map(|_| ())
}

#[tokio::test]
async fn a_mail_arrives_completely() {
    let mail = MailCatcher::start(None).await.unwrap();
    send(&transport(mail.port()), "hello").await.unwrap();
    let received = mail.wait_for(|mail| mail.subject == "hello", SOON).await;
    assert_eq!(
        (received.from.as_str(), received.to.as_slice()),
        ("no-reply@example.com", &["someone@example.com".to_owned()][..])
    );
    assert!(received.text.contains("?token=abc") && received.html.contains("<p>Open</p>"));
    assert_eq!(received.header("Message-ID"), Some("<hello@example.com>"));
    mail.clear();
    assert!(mail.messages().is_empty());
}

#[tokio::test]
async fn the_smtp_protocol_is_supported_including_dots() {
    let mail = MailCatcher::start(None).await.unwrap();
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", mail.port())).await.unwrap());
    let mut answers = Vec::new();
    let steps = ["", "HELO me", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>", "DATA"];
    for step in steps.iter().chain(&["Subject: by hand\r\n\r\n..dotted\r\n.", "NONSENSE", "QUIT"]) {
        if !step.is_empty() {
            stream.write_all(format!("{step}\r\n").as_bytes()).await.unwrap();
        }
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        answers.push(line[..3].to_owned());
    }
    assert_eq!(answers, ["220", "250", "250", "250", "354", "250", "500", "221"]);
    assert_eq!(mail.messages()[0].text, ".dotted\n");
}

#[tokio::test]
async fn a_rejecting_server_states_its_reason_and_accepts_mail_later() {
    let mail = MailCatcher::start(None).await.unwrap();
    let transport = transport(mail.port());
    mail.reply(Reply::Refuse(451));
    assert!(send(&transport, "later").await.unwrap_err().is_transient());
    mail.reply(Reply::Refuse(550));
    assert!(send(&transport, "never").await.unwrap_err().is_permanent());
    mail.reply(Reply::Accept);
    send(&transport, "now").await.unwrap();
    assert_eq!(mail.messages().len(), 1);
}

#[tokio::test]
async fn a_silent_server_stores_the_mail_without_a_response() {
    let mail = Arc::new(MailCatcher::start(None).await.unwrap());
    mail.reply(Reply::Hold);
    let transport = transport(mail.port());
    let mut sending = tokio::spawn(async move { send(&transport, "held").await });
    mail.wait_for(|mail| mail.subject == "held", SOON).await;
    assert!(
        tokio::time::timeout(Duration::from_millis(50), &mut sending).await.is_err(),
        "it was told"
    );
    mail.reply(Reply::Accept);
    sending.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_slow_server_responds_late_until_it_is_fast_again() {
    const LATE: Duration = Duration::from_millis(200);
    let mail = MailCatcher::start(None).await.unwrap();
    let transport = transport(mail.port());
    mail.reply(Reply::Slow(LATE));
    let begun = Instant::now();
    send(&transport, "late").await.unwrap();
    assert!(begun.elapsed() >= LATE);
    // Longer than the client waits.
    mail.reply(Reply::Slow(SOON));
    let released = async {
        mail.wait_for(|mail| mail.subject == "released", SOON).await;
        mail.reply(Reply::Accept);
    };
    let (sent, ()) = tokio::join!(send(&transport, "released"), released);
    sent.unwrap();
}

#[tokio::test]
async fn a_stopped_server_refuses_connections_and_returns_with_its_mails() {
    let mail = MailCatcher::start(None).await.unwrap();
    let transport = transport(mail.port());
    send(&transport, "before").await.unwrap();
    mail.stop().await;
    assert!(send(&transport, "during").await.is_err());
    mail.start_again().await.unwrap();
    send(&transport, "after").await.unwrap();
    let subjects: Vec<String> = mail.messages().into_iter().map(|mail| mail.subject).collect();
    assert_eq!(subjects, ["after", "before"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_twenty_thousand_loses_none() {
    const SENDERS: usize = 16;
    const MAILS: usize = 20_000;
    let mail = Arc::new(MailCatcher::start(None).await.unwrap());
    let transport = transport(mail.port());
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..SENDERS {
        let transport = transport.clone();
        senders.spawn(async move {
            for number in 0..MAILS / SENDERS {
                send(&transport, &format!("{sender}-{number}")).await.unwrap();
            }
        });
    }
    senders.join_all().await;
    let mut subjects: Vec<String> = mail.messages().into_iter().map(|mail| mail.subject).collect();
    subjects.sort_unstable();
    subjects.dedup();
    assert_eq!(subjects.len(), MAILS);
}
