//! `worker schedules`: the schedules and their ticks.

use common::{clock::rfc3339_millis, config, db::Store};
use jobs::schedules::ScheduleRow;
use mongodb::bson::DateTime;

use crate::schedules::schedules;

/// Shows every schedule with its last and next tick.
pub(super) async fn run(store: &Store, config: &config::Maintenance) -> anyhow::Result<()> {
    let (now, time) = (store.clock().now(), |tick: Option<DateTime>| {
        tick.map_or_else(|| "-".to_owned(), rfc3339_millis)
    });
    println!(
        "{:<24} {:<16} {:<18} {:<24} next tick",
        "schedule", "cron (UTC)", "missed ticks", "last tick"
    );
    for schedule in schedules(config)? {
        let last = ScheduleRow::of(store, &schedule).await?.and_then(|row| row.last_tick);
        let (name, cron, missed) =
            (schedule.name(), schedule.cron().to_string(), schedule.missed().to_string());
        println!(
            "{name:<24} {cron:<16} {missed:<18} {:<24} {}",
            time(last),
            time(schedule.cron().next_after(now))
        );
    }
    Ok(())
}
