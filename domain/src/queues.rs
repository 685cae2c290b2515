//! The queues of the product, one per concern. A new queue is one constant here and its place in
//! [`ALL`]; its `[queues.<name>]` section follows from that.

use jobs::{Queue, QueueDeclaration, QueueSettings};

/// Outgoing mail.
pub const EMAIL: Queue = Queue::new(&QueueDeclaration {
    name: "email",
    defaults: QueueSettings { priority: 200, concurrency: 32, ..QueueSettings::DEFAULT },
});

/// Maintenance of the installation: purges and self-checks.
pub const MAINTENANCE: Queue = Queue::new(&QueueDeclaration {
    name: "maintenance",
    defaults: QueueSettings {
        priority: 50,
        concurrency: 4,
        tenant_concurrency: 1,
        ..QueueSettings::DEFAULT
    },
});

/// Every queue.
pub const ALL: &[Queue] = &[EMAIL, MAINTENANCE];
