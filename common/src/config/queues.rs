//! The `[queues.<name>]` sections, one for each queue that the product declares.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
};

use serde::{Serialize, Serializer};

use super::{
    CONCURRENCY_MAX,
    reader::{Rate, RateOrNone, Reader},
};

/// A queue of jobs, declared once as a constant. There is one per concern, so that a slow concern
/// does not delay the others. Two queues are equal if their names are.
#[derive(Clone, Copy)]
pub struct Queue(&'static QueueDeclaration);

/// A queue's name and the defaults of its section.
#[derive(Debug)]
pub struct QueueDeclaration {
    /// Its name in keys, metrics and commands: lowercase letters and underscores.
    pub name: &'static str,
    /// Its settings unless its section says otherwise.
    pub defaults: QueueSettings,
}

/// How much of a queue runs, and when.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueueSettings {
    /// When a process runs as many jobs as it may, the next job comes from the waiting queue with
    /// the highest priority.
    pub priority: u8,
    /// Jobs that one process runs at once.
    pub concurrency: usize,
    /// Rate at which jobs may start, over all workers.
    pub rate: Option<Rate>,
    /// Jobs of one tenant that may be ready or running at once, over all workers. Its further jobs
    /// are held back, so that its backlog does not delay other tenants' jobs.
    pub tenant_concurrency: u32,
    /// Rate at which jobs of one tenant may become ready, over all workers.
    pub tenant_rate: Option<Rate>,
}

/// The declared queues with their settings.
#[derive(Debug, Clone, Default)]
pub struct Queues(Vec<(Queue, QueueSettings)>);

/// The highest priority of a queue.
const PRIORITY_MAX: u64 = u8::MAX as u64;

impl Queue {
    /// The queue of this declaration.
    pub const fn new(declaration: &'static QueueDeclaration) -> Self {
        Self(declaration)
    }

    /// Its name in keys, metrics and commands.
    pub const fn name(self) -> &'static str {
        self.0.name
    }
}

impl Queues {
    /// Every queue, in the order of declaration.
    pub fn all(&self) -> impl Iterator<Item = Queue> {
        self.0.iter().map(|(queue, _)| *queue)
    }

    /// The queue with this name, if it is declared.
    pub fn named(&self, name: &str) -> Option<Queue> {
        self.all().find(|queue| queue.name() == name)
    }

    /// The settings of `queue`; its defaults if it is not among these.
    pub fn settings(&self, queue: Queue) -> &QueueSettings {
        let found = self.0.iter().find(|(declared, _)| *declared == queue);
        found.map_or(&queue.0.defaults, |(_, settings)| settings)
    }

    pub(super) fn read(r: &mut Reader) -> Self {
        let queues = r.queues();
        queues.iter().map(|queue| (*queue, QueueSettings::read(r, *queue))).collect()
    }
}

impl FromIterator<(Queue, QueueSettings)> for Queues {
    fn from_iter<I: IntoIterator<Item = (Queue, QueueSettings)>>(queues: I) -> Self {
        Self(queues.into_iter().collect())
    }
}

impl QueueSettings {
    /// Defaults for a queue without needs of its own.
    pub const DEFAULT: Self = Self {
        priority: 100,
        concurrency: 16,
        rate: None,
        tenant_concurrency: 16,
        tenant_rate: None,
    };

    fn read(r: &mut Reader, queue: Queue) -> Self {
        let Self { priority, concurrency, rate, tenant_concurrency, tenant_rate } =
            queue.0.defaults;
        let key = |key: &str| format!("queues.{queue}.{key}");
        let rate_text = |rate: Option<Rate>| rate.map(|rate| rate.to_string()).unwrap_or_default();
        Self {
            priority: r.count_up_to(
                PRIORITY_MAX,
                key("priority"),
                priority.to_string(),
                "Priority, up to 255: when a process runs `worker.concurrency` jobs, the next job comes from the waiting queue with the highest priority",
            ),
            concurrency: r.count_up_to(
                CONCURRENCY_MAX,
                key("concurrency"),
                concurrency.to_string(),
                format!("Jobs of the `{queue}` queue that one process runs at once"),
            ),
            rate: r
                .value::<RateOrNone>(
                    key("rate"),
                    rate_text(rate),
                    format!("Jobs of the `{queue}` queue that may start, over all workers, such as `14/s`, `600/m` or `5000/h`; empty for no limit"),
                )
                .0,
            tenant_concurrency: r.count_up_to(
                CONCURRENCY_MAX,
                key("tenant_concurrency"),
                tenant_concurrency.to_string(),
                "Jobs of one tenant that may be ready or running at once, over all workers; further ones are held back, so that its backlog does not delay other tenants' jobs",
            ),
            tenant_rate: r
                .value::<RateOrNone>(
                    key("tenant_rate"),
                    rate_text(tenant_rate),
                    "Rate at which jobs of one tenant may become ready, over all workers; empty for no limit",
                )
                .0,
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Queue").field(&self.name()).finish()
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl PartialEq for Queue {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Queue {}

impl PartialOrd for Queue {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queue {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name().cmp(other.name())
    }
}

impl Hash for Queue {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl Serialize for Queue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Config, Sources};

    const DEFAULTS: QueueSettings = QueueSettings {
        priority: 7,
        concurrency: 3,
        rate: Some(Rate { permits: 600, per: Duration::from_mins(1) }),
        tenant_concurrency: 2,
        tenant_rate: None,
    };
    const REPORTS: Queue = Queue::new(&QueueDeclaration { name: "reports", defaults: DEFAULTS });

    fn queues(variables: &[(&str, &str)]) -> Result<Queues, String> {
        let mut sources = Sources::new(&[REPORTS]);
        let variables = [("TENANTRY__APP__ENVIRONMENT", "development")].iter().chain(variables);
        let owned = variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        sources.add_environment(owned);
        Config::load(sources).map(|config| config.jobs.queues).map_err(|error| error.to_string())
    }

    #[test]
    fn a_section_starts_from_the_declaration() {
        assert_eq!(*queues(&[]).unwrap().settings(REPORTS), DEFAULTS);
        let given = queues(&[
            ("TENANTRY__QUEUES__REPORTS__CONCURRENCY", "9"),
            ("TENANTRY__QUEUES__REPORTS__RATE", ""),
            ("TENANTRY__QUEUES__REPORTS__TENANT_RATE", "14/s"),
        ]);
        let tenant_rate = Some(Rate { permits: 14, per: Duration::from_secs(1) });
        assert_eq!(
            *given.unwrap().settings(REPORTS),
            QueueSettings { concurrency: 9, rate: None, tenant_rate, ..DEFAULTS }
        );
    }

    #[test]
    fn queues_are_found_by_name() {
        let queues = queues(&[]).unwrap();
        assert_eq!(queues.all().collect::<Vec<_>>(), [REPORTS]);
        assert_eq!(queues.named("reports"), Some(REPORTS));
        assert_eq!(queues.named("nowhere"), None);
    }

    #[test]
    fn sections_of_unknown_queues_and_invalid_values_are_rejected() {
        let mistakes = queues(&[
            ("TENANTRY__QUEUES__REPORT__RATE", "1/s"),
            ("TENANTRY__QUEUES__REPORTS__PRIORITY", "256"),
            ("TENANTRY__QUEUES__REPORTS__CONCURRENCY", "0"),
            ("TENANTRY__QUEUES__REPORTS__TENANT_RATE", "fast"),
        ])
        .unwrap_err();
        for mistake in [
            "queues.report.rate: is not a known key",
            "queues.reports.priority: must be a whole number from 1 to 255",
            "queues.reports.concurrency: must be a whole number from 1 to 10000",
            "queues.reports.tenant_rate: must be a whole number from 1 to 1000000 per second",
        ] {
            assert!(mistakes.contains(mistake), "{mistake} is missing from {mistakes}");
        }
    }
}
