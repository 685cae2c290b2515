//! What jobs do, one module a noun.

pub(crate) mod email_changes;
pub(crate) mod invitations;
pub(crate) mod maintenance;
pub(crate) mod members;
pub(crate) mod mfa;
pub(crate) mod ownership;
pub(crate) mod passwords;
pub(crate) mod registrations;
pub(crate) mod sessions;

use common::db::TenantScope;
use jobs::{JobError, Running};

use crate::app::App;

/// The rows of the tenant that the job's envelope names.
fn scope(running: &Running<App>) -> Result<TenantScope, JobError> {
    running.tenant.map(TenantScope::vouched).ok_or_else(|| JobError::fail("the job names no tenant"))
}
