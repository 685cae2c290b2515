//! How the programs report that a command failed.

use std::{error::Error, process::ExitCode};

use crate::config::{EXIT_CONFIG, Mistakes};

/// Prints the mistakes of the configuration to standard error.
pub fn misconfigured(mistakes: &Mistakes) -> ExitCode {
    eprint!("{mistakes}");
    ExitCode::from(EXIT_CONFIG)
}

/// Prints why a command of `program` failed to standard error.
pub fn failed(program: &str, error: &(dyn Error + 'static)) -> ExitCode {
    eprintln!("{program}: {}", describe(error));
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
    use std::io;

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
}
