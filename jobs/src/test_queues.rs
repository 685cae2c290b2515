//! The queues of the unit tests.

use crate::{Queue, QueueDeclaration, QueueSettings};

/// Like a product's queue of mails.
pub(crate) const EMAIL: Queue = Queue::new(&QueueDeclaration {
    name: "email",
    defaults: QueueSettings { priority: 200, concurrency: 32, ..QueueSettings::DEFAULT },
});

/// Like a product's queue of maintenance jobs.
pub(crate) const MAINTENANCE: Queue = Queue::new(&QueueDeclaration {
    name: "maintenance",
    defaults: QueueSettings { priority: 50, tenant_concurrency: 1, ..QueueSettings::DEFAULT },
});

/// Every queue of the tests.
pub(crate) const QUEUES: &[Queue] = &[EMAIL, MAINTENANCE];
