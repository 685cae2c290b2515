//! Prints what matters of the logs of processes, with a name before each line, and our own JSON
//! lines in readable form: mails, warnings and errors. The rest, such as a line for each request,
//! stays in the log files, unless everything is asked for; of the servers' logs only errors are
//! ever printed.

use std::{
    fs::{File, OpenOptions},
    io::{IsTerminal, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use programs::{
    log_line::{level, readable},
    progress::print,
};

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A log that exceeds this size is emptied; the processes append, so they continue at its start.
const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Which lines of our own programs are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Mails, warnings and errors.
    Essential,
    /// All.
    Everything,
}

/// Prints lines until it is dropped.
pub(super) async fn follow(name: &'static str, log: PathBuf, detail: Detail) {
    let mut position = log.metadata().map_or(0, |metadata| metadata.len());
    let mut unfinished = Vec::new();
    let mut every = tokio::time::interval(LOOK_EVERY);
    loop {
        every.tick().await;
        // The log may not exist yet, or the disk may be full; both may pass and need no report.
        let Ok(fresh) = read_from(&log, &mut position) else { continue };
        unfinished.extend_from_slice(&fresh);
        while let Some(end) = unfinished.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unfinished.drain(..=end).collect();
            show(name, String::from_utf8_lossy(&line).trim_end(), detail);
        }
        if unfinished.len() > LINE_BYTES_MAX {
            unfinished.clear();
        }
    }
}

/// What was written after `position`, which is moved forward.
fn read_from(log: &Path, position: &mut u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    if length < *position {
        *position = 0;
    }
    let mut fresh = Vec::new();
    if length > *position {
        file.seek(SeekFrom::Start(*position))?;
        file.take(length - *position).read_to_end(&mut fresh)?;
        *position = length;
    }
    if length > LOG_BYTES_MAX {
        OpenOptions::new().write(true).open(log)?.set_len(0)?;
        *position = 0;
    }
    Ok(fresh)
}

fn show(name: &str, line: &str, detail: Detail) {
    if is_worth_showing(name, line, detail) {
        let label = format!("{name:>10} │");
        let coloured = std::io::stdout().is_terminal();
        let label =
            if coloured { format!("\u{1b}[{}m{label}\u{1b}[0m", colour(name)) } else { label };
        print(&format!("{label} {}", readable(line, coloured)));
    }
}

fn is_worth_showing(name: &str, line: &str, detail: Detail) -> bool {
    match name {
        "mongod" => ["\"s\":\"E\"", "\"s\":\"F\""].iter().any(|severity| line.contains(severity)),
        // `#` marks warnings of Redis, but also each start and stop, and hints about kernel
        // settings.
        "redis" => {
            line.contains(" # ")
                && ["rror", "ailed", "an't", "MISCONF"].iter().any(|trouble| line.contains(trouble))
        }
        // Without an Alertmanager, Prometheus logs an error at every alert.
        "prometheus" => line.contains("level=error") && !line.contains("component=notifier"),
        "api" | "worker" if detail == Detail::Essential => is_warning(line),
        _ => !line.is_empty(),
    }
}

/// Whether a line of our programs is a warning or an error, or none of their log lines at all, such
/// as a panic.
fn is_warning(line: &str) -> bool {
    match level(line) {
        Some(level) => matches!(&*level, "WARN" | "ERROR"),
        None => !line.is_empty(),
    }
}

fn colour(name: &str) -> &'static str {
    match name {
        "api" => "36",
        "worker" => "35",
        "mail" => "33",
        "redis" => "31",
        "mongod" => "32",
        _ => "34",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_lines_are_read_and_an_emptied_log_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut position = 0;
        assert!(read_from(&log, &mut position).is_err());
        std::fs::write(&log, "one\n").unwrap();
        assert_eq!(read_from(&log, &mut position).unwrap(), b"one\n");
        assert_eq!(read_from(&log, &mut position).unwrap(), b"");
        std::fs::write(&log, "2\n").unwrap();
        assert_eq!(read_from(&log, &mut position).unwrap(), b"2\n");
    }

    #[test]
    fn only_errors_of_servers_are_shown() {
        let quiet = [
            ("mongod", r#"{"s":"I"}"#),
            ("redis", "1:M 1 Jan # Server initialized"),
            ("prometheus", "level=info"),
            ("api", ""),
        ];
        let everything = Detail::Everything;
        assert!(quiet.iter().all(|(name, line)| !is_worth_showing(name, line, everything)));
        let loud = [
            ("mongod", r#"{"s":"F"}"#),
            ("redis", "1:M 1 Jan # Can't save in background"),
            ("prometheus", "level=error"),
            ("api", "hello"),
        ];
        assert!(loud.iter().all(|(name, line)| is_worth_showing(name, line, Detail::Essential)));
    }

    #[test]
    fn requests_stay_in_the_log_unless_everything_is_asked_for() {
        let line = |level: &str| {
            format!(
                r#"{{"timestamp":"2025-11-24T22:07:01Z","level":"{level}","message":"request_answered"}}"#
            )
        };
        let shows = |name: &str, line: &str, detail| is_worth_showing(name, line, detail);
        for (level, matters) in [("DEBUG", false), ("INFO", false), ("WARN", true), ("ERROR", true)]
        {
            for name in ["api", "worker"] {
                assert_eq!(shows(name, &line(level), Detail::Essential), matters, "{level}");
                assert!(shows(name, &line(level), Detail::Everything), "{level}");
            }
        }
        assert!(shows("api", "thread 'main' panicked", Detail::Essential));
        assert!(shows("mail", "received a mail to ada@example.com", Detail::Essential));
    }
}
