//! `worker schedules`: the schedules and their ticks.

use common::{cli::Output, clock::rfc3339_millis, config, db::Store};
use jobs::schedules::ScheduleRow;
use mongodb::bson::DateTime;
use serde_json::json;

use crate::schedules::schedules;

/// Shows every schedule with its last and next tick.
pub(super) async fn run(
    store: &Store,
    config: &config::Maintenance,
    output: Output,
) -> anyhow::Result<()> {
    let now = store.clock().now();
    let mut rows = output.list(Some(format!(
        "{:<24} {:<16} {:<18} {:<24} next tick",
        "schedule", "cron (UTC)", "missed ticks", "last tick"
    )));
    for schedule in schedules(config)? {
        let last = ScheduleRow::of(store, &schedule).await?.and_then(|row| row.last_tick);
        let [last, next] = [last, schedule.cron().next_after(now)].map(at);
        let (name, cron, missed) =
            (schedule.name(), schedule.cron().to_string(), schedule.missed().to_string());
        let object = json!({
            "schedule": name, "cron": cron, "missed_ticks": missed, "last_tick": last, "next_tick": next,
        });
        let [last, next] = [&last, &next].map(|at| at.as_deref().unwrap_or("-"));
        rows.row(&object, &format!("{name:<24} {cron:<16} {missed:<18} {last:<24} {next}"))?;
    }
    rows.end("there are no schedules");
    Ok(())
}

fn at(tick: Option<DateTime>) -> Option<String> {
    tick.map(rfc3339_millis)
}
