//! What the commands of the programs have in common: how they print results, report that they
//! failed, and know who runs them.

mod operator;
mod output;

use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

pub use self::{
    operator::operator,
    output::{List, Output, OutputError, print},
};
use crate::{
    config::{EXIT_CONFIG, Effective, Mistakes},
    text,
};

/// Prints a line to standard error: an explanation beside the result. A closed standard error is
/// ignored.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{}", text::on_one_line(line));
}

/// Prints the mistakes of the configuration to standard error.
pub fn misconfigured(mistakes: &Mistakes) -> ExitCode {
    let _ = write!(io::stderr(), "{mistakes}");
    ExitCode::from(EXIT_CONFIG)
}

/// Prints the effective configuration.
pub fn show_config(output: Output, keys: &[Effective]) -> Result<(), OutputError> {
    keys.iter().try_for_each(|key| output.show(key, [key.to_string()]))
}

/// Prints why a command of `program` failed to standard error. If the reader of its output has
/// merely closed the pipe, it succeeded, and nothing is printed.
pub fn failed(program: &str, error: &(dyn Error + 'static)) -> ExitCode {
    if error.downcast_ref().is_some_and(OutputError::is_closed) {
        return ExitCode::SUCCESS;
    }
    note(&format!("{program}: {}", describe(error)));
    ExitCode::FAILURE
}

/// The error with its causes, each once: many errors already include their cause in their text.
fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let its_text = cause.to_string();
        if !text.contains(&its_text) {
            text = format!("{text}: {its_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Context(&'static str, #[source] io::Error);

    #[test]
    fn each_cause_is_shown_once() {
        let closed = || io::Error::other("closed");
        let nested = Context("Redis: closed", io::Error::other(Context("closed", closed())));
        assert_eq!(describe(&nested), "Redis: closed");
        assert_eq!(describe(&Context("the outbox", closed())), "the outbox: closed");
    }

    #[test]
    fn only_a_closed_standard_output_is_no_failure() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(failed("test", &OutputError::from(broken())), ExitCode::SUCCESS);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(failed("test", &OutputError::from(full)), ExitCode::FAILURE);
        // Such as the connection to a server.
        assert_eq!(failed("test", &broken()), ExitCode::FAILURE);
    }
}
