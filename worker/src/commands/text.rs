//! Jobs as text, and as JSON where that differs from their view.

use std::{borrow::Cow, time::Duration};

use common::clock::{millis_of, rfc3339_millis};
use jobs::{Details, JobStatus, JobView, progress::Progress};
use mongodb::bson::DateTime;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

/// Fields that `worker jobs list --json` omits; `show` includes them.
const ONLY_SHOWN: [&str; 5] = ["payload", "failures", "traceparent", "request_id", "bytes"];

/// A job as JSON without [`ONLY_SHOWN`].
pub(super) fn summary_json(job: &JobView) -> serde_json::Result<Value> {
    let mut value = serde_json::to_value(job)?;
    if let Some(object) = value.as_object_mut() {
        object.retain(|field, _| !ONLY_SHOWN.contains(&field.as_str()));
    }
    Ok(value)
}

/// A job on one line.
pub(super) fn summary(job: &JobView) -> String {
    let id = job.id.map_or_else(|| "-".to_owned(), |id| id.to_string());
    let since = job.since().map_or_else(|| "-".to_owned(), time);
    let (kind, attempt) =
        job.details().map_or(("-", 0), |details| (details.kind.as_str(), details.attempt));
    let state = job.status.state();
    let mut line = format!("{since}  {id}  {}  {state}  {kind}  attempt={attempt}", job.queue);
    for more in [doing(&job.status), job.error().map(str::to_owned)].into_iter().flatten() {
        line.push_str("  ");
        line.push_str(&more);
    }
    line
}

/// Details of a state.
fn doing(status: &JobStatus) -> Option<String> {
    match status {
        JobStatus::Running { consumer, silence_ms, .. } => {
            Some(format!("taken by {consumer}, lease renewed {} ago", span(*silence_ms)))
        }
        JobStatus::Delayed { until } => Some(format!("due {}", time(*until))),
        JobStatus::Staged | JobStatus::Ready { .. } | JobStatus::Held | JobStatus::Dead { .. } => {
            None
        }
    }
}

/// A job with its progress.
#[derive(Serialize)]
pub(super) struct Shown<'a> {
    #[serde(flatten)]
    pub(super) job: &'a JobView,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "progress_json")]
    pub(super) progress: Option<Progress>,
}

/// Serializes the time as RFC 3339 instead of milliseconds.
#[expect(clippy::ref_option, reason = "serde requires this signature")]
fn progress_json<S: Serializer>(
    progress: &Option<Progress>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let progress = progress.as_ref().map(|Progress { tenant, attempt, step, at }| {
        json!({ "tenant": tenant, "attempt": attempt, "done": step.done, "total": step.total, "note": step.note, "at": time(*at) })
    });
    progress.serialize(serializer)
}

/// All details of a job, one per line.
pub(super) fn whole(Shown { job, progress }: &Shown<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |name: &str, text: &str| lines.push(format!("{name:<9} {text}"));
    line("job", &job.id.map_or_else(|| "-".to_owned(), |id| id.to_string()));
    line("queue", job.queue.name());
    line("state", &state(&job.status));
    if let Some(progress) = progress {
        line("progress", &how_far(progress));
    }
    if let Some(error) = job.error() {
        line("error", error);
    }
    match &job.content {
        jobs::Content::Job(details) => describe(details, &mut line),
        jobs::Content::Unreadable { bytes } => line("bytes", bytes),
    }
    lines
}

fn how_far(Progress { attempt, step, at, .. }: &Progress) -> String {
    let of = if step.total == 0 { String::new() } else { format!(" of {}", step.total) };
    let note = if step.note.is_empty() { String::new() } else { format!("  {}", step.note) };
    format!("{}{of}{note}  (attempt {attempt}, {})", step.done, time(*at))
}

fn state(status: &JobStatus) -> String {
    let state = status.state();
    match status {
        JobStatus::Ready { ready_at } => format!("{state} since {}", time(*ready_at)),
        JobStatus::Running { ready_at, deliveries, .. } => {
            let doing = doing(status).unwrap_or_default();
            format!(
                "{state}, {doing}; ready since {}, delivered {deliveries} times",
                time(*ready_at)
            )
        }
        JobStatus::Delayed { until } => format!("{state}, due {}", time(*until)),
        JobStatus::Dead { died_at, .. } => format!("{state} since {}", time(*died_at)),
        JobStatus::Staged => format!("{state}, not in Redis yet"),
        JobStatus::Held => format!("{state}, its tenant has reached its limit"),
    }
}

fn describe(details: &Details, line: &mut impl FnMut(&str, &str)) {
    line("kind", &format!("{} v{}", details.kind, details.version));
    line("tenant", &details.tenant.map_or_else(|| "-".to_owned(), |tenant| tenant.to_string()));
    line("attempt", &details.attempt.to_string());
    line("enqueued", &time(details.enqueued_at));
    line("due", &details.due_at.map_or_else(|| "-".to_owned(), time));
    line("outbox", if details.staged { "yes" } else { "no" });
    line("trace", details.traceparent.as_deref().unwrap_or("-"));
    line("request", details.request_id.as_deref().unwrap_or("-"));
    line("payload", details.payload.get());
    for failure in &details.failures {
        line(
            "failure",
            &format!("{}  attempt {}  {}", time(failure.at), failure.attempt, failure.error),
        );
    }
}

/// `text` as one word of a shell command.
pub(super) fn quoted(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':');
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.into();
    }
    format!("'{}'", text.replace('\'', r"'\''")).into()
}

/// A count with its noun, such as "1 job" or "2 jobs".
pub(super) fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// The time `age` before `now`.
pub(super) fn ago(now: DateTime, age: Duration) -> DateTime {
    DateTime::from_millis(now.timestamp_millis().saturating_sub(millis_of(age)))
}

/// A time, from milliseconds since the epoch, as RFC 3339 of constant width.
pub(super) fn time(millis: i64) -> String {
    rfc3339_millis(DateTime::from_millis(millis))
}

/// A duration in milliseconds, rounded for reading.
pub(super) fn span(millis: u64) -> String {
    let seconds = millis / 1_000;
    match seconds {
        0..60 => format!("{seconds}.{} s", millis % 1_000 / 100),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_a_shell_is_quoted_where_necessary() {
        let words = ["registration.send_verification", "", "mailbox full", "it's"].map(quoted);
        assert_eq!(words, ["registration.send_verification", "''", "'mailbox full'", r"'it'\''s'"]);
    }

    #[test]
    fn spans_are_short() {
        let spans = [0, 1_250, 61_000, 7_200_000, 900_000_000].map(span);
        assert_eq!(spans, ["0.0 s", "1.2 s", "1 min", "2 h", "10 d"]);
    }
}
