//! The results of commands: text for people, or JSON for programs, one object per line.
//!
//! Results are printed to standard output and nothing else is, so that an empty result prints
//! nothing there. Names, errors and payloads are untrusted: here, whatever is printed loses the
//! characters with which it could control the terminal or imitate other lines.

use std::io::{self, Write};

use serde::Serialize;

use super::note;
use crate::text;

/// Standard output could not be written.
#[derive(Debug, thiserror::Error)]
#[error("standard output: {0}")]
pub struct OutputError(#[from] io::Error);

impl OutputError {
    /// Whether its reader has closed it, as `head` does once it has seen enough.
    pub(super) fn is_closed(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// The form in which a command prints its results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Output {
    /// As the option `--json` says.
    pub const fn new(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }

    /// Prints a result: the object, or the lines.
    pub fn show<L: AsRef<str>>(
        self,
        object: &impl Serialize,
        lines: impl IntoIterator<Item = L>,
    ) -> Result<(), OutputError> {
        match self {
            Self::Json => print_line(&json(object)?),
            Self::Text => {
                lines.into_iter().try_for_each(|line| print_line(&text::on_one_line(line.as_ref())))
            }
        }
    }

    /// Prints a line for people only, such as a heading.
    pub fn say(self, line: &str) -> Result<(), OutputError> {
        if self == Self::Text { print_line(&text::on_one_line(line)) } else { Ok(()) }
    }

    /// Begins a list, whose heading is printed for people before the first row.
    pub const fn list(self, heading: Option<String>) -> List {
        List { output: self, heading, rows: 0 }
    }
}

/// A list that is being printed, row by row.
#[derive(Debug)]
#[must_use = "an empty list says so when it ends"]
pub struct List {
    output: Output,
    heading: Option<String>,
    rows: usize,
}

impl List {
    /// Prints a row: the object, or the line.
    pub fn row(&mut self, object: &impl Serialize, line: &str) -> Result<(), OutputError> {
        self.rows += 1;
        if let Some(heading) = self.heading.take() {
            self.output.say(&heading)?;
        }
        self.output.show(object, [line])
    }

    /// Number of rows so far.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Ends the list. If it is empty, says so on standard error, in the words of `nothing`.
    pub fn end(self, nothing: &str) {
        if self.rows == 0 {
            note(nothing);
        }
    }
}

/// Prints a document as it is, such as a generated file.
pub fn print(text: &str) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn print_line(line: &str) -> Result<(), OutputError> {
    Ok(writeln!(io::stdout(), "{line}")?)
}

/// `value` on one line.
fn json(value: &impl Serialize) -> Result<String, OutputError> {
    let json = serde_json::to_string(value).map_err(io::Error::from)?;
    Ok(text::escaped(&json).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_no_hidden_characters() {
        let escaped = json(&"\u{1b}\u{9b}\u{202e}\u{7f}é\n").unwrap();
        assert_eq!(escaped, "\"\\u001b\\u009b\\u202e\\u007fé\\n\"");
    }
}
