//! Removes hidden characters from log lines. A text from outside, such as the reply of a mail server,
//! must not control the terminal of an operator or look like another text.

use std::{
    fmt::{self, Debug},
    io,
};

use tracing::field::Field;
use tracing_subscriber::fmt::{MakeWriter, format::Writer};

use crate::text;

/// Where lines of JSON are written to.
#[derive(Debug)]
pub(super) struct JsonLines<M>(pub(super) M);

/// Writes one line.
#[derive(Debug)]
pub(super) struct JsonLine<W>(W);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for JsonLines<M> {
    type Writer = JsonLine<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        JsonLine(self.0.make_writer())
    }
}

impl<W: io::Write> io::Write for JsonLine<W> {
    /// The subscriber writes a whole line at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_all(text::escaped(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Writes a field of a line for a terminal.
pub(super) fn field(to: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    let shown = text::on_one_line(&format!("{value:?}"));
    match field.name() {
        "message" => to.write_str(&shown),
        name => write!(to, "{name}={shown}"),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use super::*;
    use crate::config::LogFormat;

    /// Collects what is written.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, error: &str) -> String {
        let written = Written::default();
        let writer = written.clone();
        let lines = super::super::lines(format, true, move || writer.clone());
        let subscriber =
            tracing_subscriber::layer::SubscriberExt::with(tracing_subscriber::registry(), lines);
        tracing::subscriber::with_default(subscriber, || tracing::warn!(%error, "job_retried"));
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn texts_from_outside_hide_nothing_in_a_log_line() {
        let error = "550 \u{202e}no\u{200b} user\u{1b}[31m\u{9b}2J é";
        let line = logged(LogFormat::Json, error);
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed["error"], error, "nothing is lost");
        let line = line.trim_end_matches('\n');
        assert!(line.contains("\\u202eno\\u200b") && !text::has_hidden(line), "{line}");

        let line = logged(LogFormat::Pretty, error);
        for hidden in ["\u{202e}", "\u{200b}", "\u{9b}", "\u{1b}[31m"] {
            assert!(!line.contains(hidden), "{line:?}");
        }
        assert!(line.contains(" job_retried error=550 ") && line.ends_with(" é\n"), "{line:?}");
    }
}
