//! Jobs of tenants' domains, and the changes that stage them.

use common::{
    db::{Change, DbError, Txn},
    id::{TenantDomainId, TenantId},
    tenant_domains::TenantDomain,
};
use serde::{Deserialize, Serialize};

use crate::{Job, Queue, Unique, Window, stage};

/// Looks whether a domain's record is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckDomain {
    /// Which.
    pub domain: TenantDomainId,
}

impl Job for CheckDomain {
    const KIND: &'static str = "tenant_domain.check";
    const QUEUE: Queue = Queue::Maintenance;

    /// Whoever asks again and again has it looked for no more often than it takes.
    fn unique(&self) -> Option<Unique> {
        Some(Unique { key: self.domain.to_string(), window: Window::UntilStarted })
    }
}

/// Has the records looked for of domains that were verified a while ago.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecheckDomains {}

impl Job for RecheckDomains {
    const KIND: &'static str = "tenant_domain.recheck";
    const QUEUE: Queue = Queue::Maintenance;

    fn unique(&self) -> Option<Unique> {
        Some(Unique { key: String::new(), window: Window::UntilFinished })
    }
}

/// Somebody wants domains to be looked at.
#[derive(Debug)]
pub struct CheckDomains(pub Vec<(TenantId, TenantDomainId)>);

impl CheckDomains {
    /// These.
    pub fn of<'a>(domains: impl IntoIterator<Item = &'a TenantDomain>) -> Self {
        Self(domains.into_iter().map(|domain| (domain.tenant_id, domain.id)).collect())
    }
}

impl Change for CheckDomains {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        for (tenant, domain) in &self.0 {
            stage(txn, Some(*tenant), &CheckDomain { domain: *domain }).await?;
        }
        Ok(())
    }
}
