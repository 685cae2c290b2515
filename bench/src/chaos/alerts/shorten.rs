//! Shortens the times of the shipped rules and configuration, so that a run takes minutes: the
//! tested rules are the shipped ones, except for their times.
//!
//! Durations are shortened wherever they stand for themselves (`[5m]`, `for: 45s`, `group_wait: 10s`),
//! not inside names (`ratio_rate5m`). Times that are plain numbers are marked by `# seconds`.

/// Marks a line whose last number is a time in seconds.
const SECONDS: &str = "# seconds";

/// The text with all its times divided by `factor`.
pub(super) fn shortened(text: &str, factor: u32) -> String {
    text.lines().map(|line| shortened_line(line, factor) + "\n").collect()
}

fn shortened_line(line: &str, factor: u32) -> String {
    if let Some((before, _)) = line.split_once(SECONDS) {
        let before = before.trim_end();
        let end = before.trim_end_matches(|c: char| !c.is_ascii_digit()).len();
        let start = before[..end].trim_end_matches(|c: char| c.is_ascii_digit()).len();
        if let Ok(seconds) = before[start..end].parse::<f64>() {
            let shorter = seconds / f64::from(factor);
            return format!(
                "{}{shorter}{}",
                shortened_durations(&before[..start], factor),
                &before[end..]
            );
        }
    }
    shortened_durations(line, factor)
}

fn shortened_durations(line: &str, factor: u32) -> String {
    let mut shorter = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(start);
        shorter += before;
        let stands_alone = shorter.ends_with([' ', '[', ':', '(']);
        let end = from.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        match millis(word).filter(|_| stands_alone) {
            Some(millis) => {
                shorter.extend([(millis / u64::from(factor)).to_string().as_str(), "ms"]);
            }
            None => shorter += word,
        }
        rest = after;
    }
    shorter + rest
}

/// A duration of one unit, such as `45s`, in milliseconds.
fn millis(word: &str) -> Option<u64> {
    let unit = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let count: u64 = word.strip_suffix(unit)?.parse().ok()?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(count * millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shortened_and_names_are_not() {
        for (line, shorter) in [
            ("        for: 45s", "        for: 7500ms"),
            ("    interval: 15s", "    interval: 2500ms"),
            ("rate(x_total{job=\"api\"}[5m]) > 0.5", "rate(x_total{job=\"api\"}[50000ms]) > 0.5"),
            (
                "sum_over_time(a:b:increase5m[6h:1m]) / 5",
                "sum_over_time(a:b:increase5m[3600000ms:10000ms]) / 5",
            ),
            ("x offset 30m == 1", "x offset 300000ms == 1"),
            ("queue:age:max > 60  # seconds", "queue:age:max > 10"),
            ("and x[2m] > 900)  # seconds", "and x[20000ms] > 150)"),
            ("status=~\"401|429\", le=\"0.2\"", "status=~\"401|429\", le=\"0.2\""),
            ("  smtp_smarthost: mail:1025", "  smtp_smarthost: mail:1025"),
            ("in the last 30 minutes, 14.4 times", "in the last 30 minutes, 14.4 times"),
        ] {
            assert_eq!(shortened(line, 6), format!("{shorter}\n"));
        }
    }

    /// Every time in the shipped rules is a multiple of the shortest step, so none becomes zero.
    #[test]
    fn no_time_of_the_shipped_rules_is_lost() {
        let folder = programs::workspace_root().join("dashboards/prometheus/rules");
        for file in ["alerts.yml", "recording.yml"] {
            let rules = std::fs::read_to_string(folder.join(file)).unwrap();
            let shorter = shortened(&rules, 12);
            assert_eq!(shorter.lines().count(), rules.lines().count());
            assert!(!shorter.contains("[0ms]") && !shorter.contains(": 0ms"), "{file}");
            assert!(!shorter.contains(SECONDS), "{file}: a marked line has no number");
        }
    }
}
