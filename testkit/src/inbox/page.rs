//! The inbox as HTML. All text from a mail is escaped; its HTML part is escaped as the value of an
//! attribute and shown in a sandbox.

use std::{fmt::Write, sync::Arc};

use testkit::servers::Mail;

/// Mails on the list page; older ones are in the JSON API.
const LISTED_MAX: usize = 200;

/// The style sheet.
pub(super) const STYLE: &str = include_str!("style.css");

/// All mails, newest first. The page reloads every few seconds.
pub(super) fn list(mails: &[Arc<Mail>]) -> String {
    let mut body = format!(
        "<header><h1>Inbox</h1><p>{}</p><form method=\"post\" action=\"/clear\"><button>Delete all</button></form></header>",
        counted(mails.len())
    );
    if mails.is_empty() {
        body.push_str("<p class=\"empty\">No mail yet. All mails that the product sends appear here; none leaves this machine.</p>");
    } else {
        body.push_str("<main><table><thead><tr><th>Received<th>To<th>Subject</thead><tbody>");
        for mail in mails.iter().take(LISTED_MAX) {
            let subject = if mail.subject.is_empty() { "(no subject)" } else { &mail.subject };
            // Writing to a string cannot fail.
            let _ = write!(
                body,
                "<tr><td>{}<td>{}<td><a href=\"/messages/{}\">{}</a>",
                time(&mail.received_at),
                escape(&mail.to.join(", ")),
                escape(&mail.id),
                escape(subject)
            );
        }
        body.push_str("</tbody></table></main>");
    }
    if mails.len() > LISTED_MAX {
        let _ = write!(
            body,
            "<p class=\"empty\">The newest {LISTED_MAX} are shown; <a href=\"/api/messages\">all as JSON</a>.</p>"
        );
    }
    document("Inbox", "<meta http-equiv=\"refresh\" content=\"3\">", &body)
}

/// One mail: its headers, its text with clickable links, and its HTML in a sandbox.
pub(super) fn message(mail: &Mail) -> String {
    let mut body = format!(
        "<header><h1>{}</h1><p><a href=\"/\">Inbox</a></p></header><main><dl><dt>From<dd>{}<dt>To<dd>{}<dt>Received<dd>{}</dl>",
        escape(&mail.subject),
        escape(&mail.from),
        escape(&mail.to.join(", ")),
        time(&mail.received_at)
    );
    if !mail.text.is_empty() {
        let _ = write!(body, "<h2>Text</h2><pre>{}</pre>", linked(&mail.text));
    }
    if !mail.html.is_empty() {
        // Opens links outside the sandbox, in which they would not work.
        let framed = format!("<base target=\"_blank\">{}", mail.html);
        let sandbox = "allow-popups allow-popups-to-escape-sandbox";
        let _ = write!(
            body,
            "<h2>HTML</h2><iframe title=\"HTML part\" sandbox=\"{sandbox}\" srcdoc=\"{}\"></iframe>",
            escape(&framed)
        );
    }
    body.push_str("<h2>Headers</h2><dl class=\"headers\">");
    for (name, value) in &mail.headers {
        let _ = write!(body, "<dt>{}<dd>{}", escape(name), escape(value).replace('\n', "<br>"));
    }
    body.push_str("</dl></main>");
    document(&mail.subject, "", &body)
}

/// Shown for a mail that does not exist, or no longer does.
pub(super) fn missing() -> String {
    let body = "<header><h1>No such mail</h1><p><a href=\"/\">Inbox</a></p></header><p class=\"empty\">It may have been deleted.</p>";
    document("No such mail", "", body)
}

fn document(title: &str, head: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">{head}\
         <title>{}</title><link rel=\"stylesheet\" href=\"/style.css\"></head><body>{body}</body></html>",
        escape(title)
    )
}

fn counted(count: usize) -> String {
    match count {
        1 => "1 mail".to_owned(),
        _ => format!("{count} mails"),
    }
}

/// `2026-01-31T12:34:56.789Z` as `2026-01-31 12:34:56 UTC`.
fn time(received_at: &str) -> String {
    let shown = received_at.split(['.', 'Z']).next().unwrap_or_default().replace('T', " ");
    format!("<time datetime=\"{0}\">{1} UTC</time>", escape(received_at), escape(&shown))
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Escaped text with clickable links.
fn linked(text: &str) -> String {
    let mut html = String::with_capacity(text.len() * 2);
    for piece in text.split_inclusive(char::is_whitespace) {
        let word = piece.trim_end();
        let address = word
            .trim_start_matches(['(', '<', '"'])
            .trim_end_matches(['.', ',', ')', '>', '"', ';', '!']);
        if address.starts_with("http://") || address.starts_with("https://") {
            let (before, after) = piece.split_once(address).unwrap_or((piece, ""));
            let (before, address, after) = (escape(before), escape(address), escape(after));
            let _ = write!(
                html,
                "{before}<a href=\"{address}\" target=\"_blank\" rel=\"noopener noreferrer\">{address}</a>{after}"
            );
        } else {
            html.push_str(&escape(piece));
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn hostile() -> Mail {
        let evil = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>".to_owned();
        Mail {
            id: "mail_1\"><b>".to_owned(),
            from: evil.clone(),
            to: vec![evil.clone()],
            subject: evil.clone(),
            text: format!("{evil} http://x/\"onclick=alert(1) "),
            html: format!("<p>{evil}</p>"),
            headers: BTreeMap::from([(evil.clone(), evil.clone())]),
            received_at: evil,
        }
    }

    #[test]
    fn no_text_of_a_mail_becomes_markup() {
        let mail = hostile();
        for page in [list(&[Arc::new(mail.clone())]), message(&mail)] {
            assert!(
                !page.contains("<script") && !page.contains("<img") && !page.contains("\"onclick"),
                "{page}"
            );
        }
    }

    #[test]
    fn the_sandbox_allows_neither_scripts_nor_our_origin() {
        let page = message(&hostile());
        let (_, frame) = page.split_once("<iframe").unwrap();
        let (attributes, _) = frame.split_once("srcdoc").unwrap();
        assert!(
            attributes.contains("sandbox=")
                && !attributes.contains("allow-scripts")
                && !attributes.contains("allow-same-origin")
        );
    }

    #[test]
    fn addresses_in_text_become_links() {
        let html = linked("Open (http://127.0.0.1/verify?a=1&b=2).\nhttps://x");
        let link = |address: &str| {
            format!(
                "<a href=\"{address}\" target=\"_blank\" rel=\"noopener noreferrer\">{address}</a>"
            )
        };
        assert_eq!(
            html,
            format!(
                "Open ({}).\n{}",
                link("http://127.0.0.1/verify?a=1&amp;b=2"),
                link("https://x")
            )
        );
        assert_eq!(linked("javascript:alert(1)"), "javascript:alert(1)");
    }

    #[test]
    fn times_are_for_people() {
        assert!(time("2026-01-31T12:34:56.789Z").contains(">2026-01-31 12:34:56 UTC<"));
    }
}
