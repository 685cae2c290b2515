//! The values as a bar chart: one panel per unit, one group per value, one bar per contestant. The
//! scale is logarithmic, because the contestants differ by orders of magnitude. All colours are
//! readable on light and on dark backgrounds.

use std::fmt::Write;

use super::{
    measure::Unit,
    peers::Contestant,
    results::{Results, Row},
};
use crate::figures::number;

const WIDTH: f64 = 900.0;
/// Where bars begin; names are to the left.
const LEFT: f64 = 210.0;
/// Where the longest bar ends; numbers are to the right.
const RIGHT: f64 = 810.0;
const BAR: f64 = 11.0;
const BAR_GAP: f64 = 2.0;
const GROUP_GAP: f64 = 10.0;
const PANEL_HEAD: f64 = 44.0;
const MARGIN: f64 = 14.0;
/// Readable on white and on black.
const INK: &str = "#7d8590";

impl Contestant {
    /// Its colour: of medium lightness, and distinguishable by people with colour blindness.
    const fn colour(self) -> &'static str {
        match self {
            Self::Ours => "#d55e00",
            Self::Bullmq => "#0072b2",
            Self::Sidekiq => "#009e73",
            Self::ApalisRedis => "#cc79a7",
            Self::Raw => "#8a8a8a",
        }
    }
}

/// The whole plot.
pub(super) fn plot(results: &Results) -> String {
    let rows = results.rows();
    let (mut body, mut y) = (String::new(), legend_height());
    legend(&mut body);
    for unit in [Unit::JobsPerSecond, Unit::Milliseconds, Unit::Bytes] {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.figure.unit == unit).collect();
        y = panel(&mut body, unit, &rows, y);
    }
    let height = y + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"11\" fill=\"{INK}\" role=\"img\">\n\
         <title>The job engine against its peers, {}</title>\n{body}</svg>\n",
        escaped(&results.measured_at)
    )
}

fn legend_height() -> f64 {
    MARGIN + 14.0
}

fn legend(body: &mut String) {
    let mut x = LEFT;
    for who in Contestant::ALL {
        // Writing to a string cannot fail.
        let _ = writeln!(
            body,
            "<rect x=\"{x}\" y=\"{MARGIN}\" width=\"11\" height=\"11\" rx=\"2\" fill=\"{}\"/>",
            who.colour()
        );
        let _ = writeln!(body, "<text x=\"{}\" y=\"{}\">{who}</text>", x + 16.0, MARGIN + 10.0);
        x += 120.0;
    }
}

/// Draws the values of one unit below `y`. Returns where the next panel begins.
fn panel(body: &mut String, unit: Unit, rows: &[&Row], y: f64) -> f64 {
    let Some(scale) = Scale::of(rows) else { return y };
    let better = if unit.more_is_better() { "more is better" } else { "less is better" };
    let _ = writeln!(
        body,
        "<text x=\"{MARGIN}\" y=\"{}\" font-weight=\"600\">{}, {better}, logarithmic</text>",
        y + 20.0,
        unit.name()
    );
    let top = y + PANEL_HEAD;
    let mut at = top;
    let mut bars = String::new();
    for row in rows {
        at = group(&mut bars, row, &scale, at);
    }
    ticks(body, &scale, top, at - GROUP_GAP);
    body.push_str(&bars);
    at
}

fn group(body: &mut String, row: &Row, scale: &Scale, y: f64) -> f64 {
    let medians: Vec<(Contestant, f64)> =
        Contestant::ALL.into_iter().filter_map(|who| Some((who, row.median(who)?))).collect();
    let mut at = y;
    for (who, median) in &medians {
        let width = scale.x(*median) - LEFT;
        let (colour, text) = (who.colour(), number(*median));
        let _ = writeln!(
            body,
            "<rect x=\"{LEFT}\" y=\"{at:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{colour}\"/>"
        );
        let _ = writeln!(
            body,
            "<text x=\"{:.1}\" y=\"{:.1}\">{text}</text>",
            LEFT + width + 5.0,
            at + BAR - 1.5
        );
        at += BAR + BAR_GAP;
    }
    let middle = f64::midpoint(y, at - BAR_GAP) + 4.0;
    let name = escaped(row.figure.name);
    let _ = writeln!(
        body,
        "<text x=\"{}\" y=\"{middle:.1}\" text-anchor=\"end\">{name}</text>",
        LEFT - 10.0
    );
    at + GROUP_GAP
}

fn ticks(body: &mut String, scale: &Scale, top: f64, bottom: f64) {
    for power in scale.low..=scale.high {
        let (value, x) = (10_f64.powi(power), scale.x(10_f64.powi(power)));
        let _ = writeln!(
            body,
            "<path d=\"M{x:.1} {top:.1}V{bottom:.1}\" stroke=\"{INK}\" stroke-opacity=\".3\"/>"
        );
        let _ = writeln!(
            body,
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            top - 6.0,
            tick(value)
        );
    }
}

/// A power of ten as a label of an axis.
fn tick(value: f64) -> String {
    if value >= 1.0 {
        number(value).trim_end_matches(".00").trim_end_matches(".0").to_owned()
    } else {
        format!("{value}")
    }
}

/// A logarithmic axis from one power of ten to another.
struct Scale {
    low: i32,
    high: i32,
}

impl Scale {
    /// An axis with room for all medians; none without any.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the power of ten of a number that was measured is small"
    )]
    fn of(rows: &[&Row]) -> Option<Self> {
        let medians = rows
            .iter()
            .flat_map(|row| Contestant::ALL.into_iter().filter_map(|who| row.median(who)));
        let powers: Vec<f64> = medians.filter(|median| *median > 0.0).map(f64::log10).collect();
        let low = powers.iter().copied().min_by(f64::total_cmp)?.floor() as i32;
        let high = powers.iter().copied().max_by(f64::total_cmp)?.ceil() as i32;
        Some(Self { low, high: high.max(low + 1) })
    }

    /// Position of `value`.
    fn x(&self, value: f64) -> f64 {
        let (low, high) = (f64::from(self.low), f64::from(self.high));
        let part = (value.max(f64::MIN_POSITIVE).log10() - low) / (high - low);
        LEFT + part.clamp(0.0, 1.0) * (RIGHT - LEFT)
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::{super::results::tests::sample, *};

    #[test]
    fn every_median_has_a_bar_and_a_number() {
        let plot = plot(&sample());
        // Five in the legend, two for a drain, one each for the percentiles of a latency.
        assert_eq!(plot.matches("<rect").count(), 5 + 2 + 2, "{plot}");
        assert!(plot.contains(">61\u{202f}000</text>") && plot.contains(">0.40</text>"), "{plot}");
        assert!(
            plot.contains("jobs/s, more is better") && plot.contains("ms, less is better"),
            "{plot}"
        );
        assert!(!plot.contains("bytes,"), "a panel of nothing:\n{plot}");
    }

    #[test]
    fn bars_grow_with_the_power_of_ten() {
        let scale = Scale { low: 2, high: 4 };
        let ends = [50.0, 100.0, 1_000.0, 10_000.0].map(|value| format!("{:.1}", scale.x(value)));
        assert_eq!(ends, ["210.0", "210.0", "510.0", "810.0"]);
    }
}
