//! Checks that the ports of `up` are free, and suggests others if they are not.

use anyhow::bail;
use programs::is_free;

use crate::stack::Ports;

/// Suggested offsets are multiples of this, so that moved ports are easy to recognise.
const OFFSET_STEP: u16 = 1_000;

/// Fails with a list of all ports that are taken, their purposes, and an offset that works.
pub(super) fn check(ports: Ports, with_prometheus: bool) -> anyhow::Result<()> {
    let wanted = wanted(ports, with_prometheus);
    let taken = wanted.iter().filter(|(port, _)| !is_free(*port));
    let taken: Vec<String> = taken
        .map(|(port, purpose)| format!("\n  port {port}, needed for {purpose}, is taken"))
        .collect();
    if taken.is_empty() {
        return Ok(());
    }
    let offset =
        free_offset(with_prometheus).map_or_else(|| "N".to_owned(), |offset| offset.to_string());
    bail!(
        "{} of the ports are not free:{}\nstop the programs that use them, or move all ports with `--port-offset {offset}`",
        taken.len(),
        taken.concat()
    )
}

/// The first offset with which all ports are free.
fn free_offset(with_prometheus: bool) -> Option<u16> {
    let offsets = (1..=u16::MAX / OFFSET_STEP).map(|step| step * OFFSET_STEP);
    let mut moved = offsets.map_while(|offset| Some((offset, Ports::documented(offset).ok()?)));
    let free = moved
        .find(|(_, ports)| wanted(*ports, with_prometheus).iter().all(|(port, _)| is_free(*port)));
    free.map(|(offset, _)| offset)
}

/// Each port with its purpose.
fn wanted(ports: Ports, with_prometheus: bool) -> Vec<(u16, &'static str)> {
    let mut wanted = vec![
        (ports.mongod, "MongoDB"),
        (ports.redis, "Redis"),
        (ports.smtp, "the mail catcher's SMTP"),
        (ports.inbox, "the mail catcher's inbox page"),
        (ports.api, "the API"),
        (ports.api_internal, "the API's metrics and health"),
        (ports.worker_internal, "the worker's metrics and health"),
    ];
    if with_prometheus {
        wanted.extend([(ports.prometheus, "Prometheus"), (ports.alertmanager, "Alertmanager")]);
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suggested_offset_leaves_every_port_below_the_highest() {
        // Ports may be taken here, but never so many.
        let offset = free_offset(true).unwrap();
        assert_eq!(offset % OFFSET_STEP, 0);
        assert!(Ports::documented(offset).is_ok());
    }
}
