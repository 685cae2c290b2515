//! Readable log lines. Our programs write one JSON object per line, for `jq`; on a terminal such a
//! line is shown as the time of day, the level, the event and its fields. Other lines are not
//! changed.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Deserialize;
use serde_json::Value;

/// The fields that all our log lines have. Other fields are sorted, so that each is easy to find.
#[derive(Deserialize)]
struct Line {
    timestamp: String,
    level: String,
    message: String,
    #[serde(default)]
    span: BTreeMap<String, Value>,
    /// The place in the code; the name of the event is enough to find it.
    #[serde(default, rename = "target")]
    _target: Option<String>,
    #[serde(flatten)]
    fields: BTreeMap<String, Value>,
}

/// The line in readable form, with a coloured level if `coloured`.
pub fn readable(line: &str, coloured: bool) -> Cow<'_, str> {
    let Some(line) = parsed(line) else { return Cow::Borrowed(line) };
    let level = format!("{:<5}", line.level);
    let level =
        if coloured { format!("\u{1b}[{}m{level}\u{1b}[0m", colour(&line.level)) } else { level };
    let mut shown =
        format!("{} {level} {}", time_of_day(&line.timestamp), line.message.escape_debug());
    shown.extend(line.fields.iter().map(shown_field));
    // The name of the span is shown first, not as a field.
    if let Some(name) = line.span.get("name").and_then(Value::as_str) {
        let fields: String =
            line.span.iter().filter(|(key, _)| *key != "name").map(shown_field).collect();
        shown.extend([" (", name, &fields, ")"]);
    }
    Cow::Owned(shown)
}

/// The level of a log line, such as `WARN`; none if it is not one of ours.
pub fn level(line: &str) -> Option<String> {
    parsed(line).map(|line| line.level)
}

fn parsed(line: &str) -> Option<Line> {
    line.starts_with('{').then(|| serde_json::from_str(line).ok()).flatten()
}

/// Each line of a text in the form of [`readable`], without colours.
pub fn readable_text(text: &str) -> String {
    text.lines().map(|line| readable(line, false)).collect::<Vec<_>>().join("\n")
}

/// `22:07:01.123` for `2025-11-24T22:07:01.123456Z`, still in UTC; a time in another format is not
/// changed.
fn time_of_day(timestamp: &str) -> &str {
    timestamp.get(11..23).unwrap_or(timestamp)
}

/// ` key=value`. A text is quoted if its end would be unclear or it would control the terminal.
fn shown_field((key, value): (&String, &Value)) -> String {
    match value {
        Value::String(text)
            if !text.is_empty()
                && text.chars().all(|char| char.is_ascii_graphic() && char != '"') =>
        {
            format!(" {key}={text}")
        }
        Value::String(text) => format!(" {key}={text:?}"),
        other => format!(" {key}={other}"),
    }
}

fn colour(level: &str) -> &'static str {
    match level {
        "ERROR" => "31",
        "WARN" => "33",
        "INFO" => "32",
        _ => "34",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_lines_are_shown_as_time_level_event_and_fields() {
        let line = r#"{"timestamp":"2025-11-24T22:07:01.123456Z","level":"WARN","message":"job_retried","error":"no \u001bsuch host","delay_ms":250,"target":"jobs::run","span":{"attempt":1,"kind":"email.verify","name":"job"}}"#;
        let shown = r#"22:07:01.123 WARN  job_retried delay_ms=250 error="no \u{1b}such host" (job attempt=1 kind=email.verify)"#;
        assert_eq!(readable(line, false), shown);
        assert_eq!(readable(line, true), shown.replace("WARN ", "\u{1b}[33mWARN \u{1b}[0m"));
    }

    #[test]
    fn other_lines_are_not_changed() {
        for line in
            ["", "plain", "{not json", r#"{"t":{"$date":"…"},"s":"E","msg":"mongod's"}"#, "[1]"]
        {
            assert_eq!(readable(line, true), line);
        }
    }

    #[test]
    fn a_text_is_shown_line_by_line() {
        let text = "plain\n{\"timestamp\":\"now\",\"level\":\"INFO\",\"message\":\"started\"}\n";
        assert_eq!(readable_text(text), "plain\nnow INFO  started");
    }
}
