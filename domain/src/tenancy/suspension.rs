//! Suspending tenants, for operators.

use common::{
    db::{Change, DbError, TenantScope, Txn},
    id::TenantId,
    revocations::{self, Revoked},
};

use crate::{
    activity::{Action, Entry},
    tenancy::tenants::{Tenant, TenantStatus},
};

/// Why a tenant was not suspended or activated.
#[derive(Debug, thiserror::Error)]
pub enum SuspensionError {
    /// The tenant does not exist.
    #[error("the tenant does not exist")]
    NotFound,
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Suspends a tenant, so that its members can neither sign in to it nor act in it, or activates it
/// again; their sessions stay, and continue then. Returns whether that was a change. Repeating it
/// publishes it again.
#[derive(Debug, Clone, Copy)]
pub struct SetTenantStatus {
    pub tenant: TenantId,
    pub status: TenantStatus,
}

impl Change for SetTenantStatus {
    type Output = bool;
    type Error = SuspensionError;

    async fn apply(&self, txn: &mut Txn) -> Result<bool, SuspensionError> {
        let tenant =
            Tenant::by_operator(txn, self.tenant).await?.ok_or(SuspensionError::NotFound)?;
        let scope = TenantScope::of_row(&tenant);
        let tenant = Tenant::lock(txn, scope).await?.ok_or(SuspensionError::NotFound)?;
        revocations::note(txn, Revoked::Tenant(tenant.id));
        if tenant.status == self.status {
            return Ok(false);
        }
        Tenant::set_status(txn, scope, self.status).await?;
        let action = match self.status {
            TenantStatus::Active => Action::TenantActivated,
            TenantStatus::Suspended => Action::TenantSuspended,
        };
        let event = Entry::new(action, tenant.id);
        // Recorded twice: for the tenant, and for the platform whose operator did it.
        event.clone().record(txn, scope).await?;
        event.record_on_platform(txn).await?;
        Ok(true)
    }
}
