//! Progress of a long step: that it began, is still running, and how long it took.

use std::{
    fmt::Display,
    future::Future,
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

/// A step that takes longer than this is announced.
const PATIENCE: Duration = Duration::from_millis(300);
/// Interval of further messages.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Runs `work` and prints to standard error that `what` has ended and how long it took. For a long
/// step, also prints that it began and is still running.
pub async fn step<T>(
    what: impl Display,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    let mut work = std::pin::pin!(work);
    let mut news = format!("  {what} …");
    let mut pause = PATIENCE;
    let result = loop {
        match tokio::time::timeout(pause, &mut work).await {
            Ok(result) => break result,
            Err(_) => say(&news),
        }
        pause = HEARTBEAT;
        news = format!("  {what} … still running after {}", seconds(begun.elapsed() + HEARTBEAT));
    };
    let mark = if result.is_ok() { paint("32", "✓") } else { paint("31", "✗") };
    say(&format!("{mark} {what} ({})", seconds(begun.elapsed())));
    result
}

/// Prints a line to standard error. A closed standard error is ignored.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Prints a text and a line end to standard output. A closed standard output is ignored.
pub fn print(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// `text` in the colour of an SGR code, if standard error is a terminal.
pub fn paint(sgr: &str, text: &str) -> String {
    if std::io::stderr().is_terminal() {
        format!("\u{1b}[{sgr}m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}

/// A time in readable form: `0.42 s`, `12.3 s`, `3 min 05 s`.
pub fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.2} s", time.as_secs_f64()),
        10..60 => format!("{:.1} s", time.as_secs_f64()),
        total => format!("{} min {:02} s", total / 60, total % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let shown = [420, 12_345, 185_000].map(|millis| seconds(Duration::from_millis(millis)));
        assert_eq!(shown, ["0.42 s", "12.3 s", "3 min 05 s"]);
    }
}
