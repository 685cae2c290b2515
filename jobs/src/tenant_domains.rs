//! Jobs of tenants' domains, and the changes that stage them.

use std::time::Duration;

use common::{
    ambient::millis_of,
    crypto::MasterKey,
    db::{Change, DbError, TenantScope, Txn},
    id::{TenantDomainId, TenantId, UserId},
    invitations::InviteError,
    memberships::Actor,
    tenant_domains::{AutoInvite, TenantDomain},
    users::User,
};
use serde::{Deserialize, Serialize};

use crate::{
    Job, Queue, Unique, Window,
    invitations::{Answered, Conditions, invite_on_request},
    stage,
};

/// Looks whether a domain's record is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckDomain {
    /// Which.
    pub domain: TenantDomainId,
}

impl Job for CheckDomain {
    const KIND: &'static str = "tenant_domain.check";
    const QUEUE: Queue = Queue::Maintenance;

    /// Whoever asks again and again waits for one look, which finds what is there by then.
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

/// Invites somebody to the tenant that is open to their address' domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteByDomain {
    /// Whom.
    pub user: UserId,
    /// For how long after it was asked for it is not done again, in milliseconds.
    pub cooldown_ms: u64,
}

impl Job for InviteByDomain {
    const KIND: &'static str = "tenant_domain.invite";
    const QUEUE: Queue = Queue::Email;

    fn unique(&self) -> Option<Unique> {
        Some(Unique {
            key: self.user.to_string(),
            window: Window::For(Duration::from_millis(self.cooldown_ms)),
        })
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

/// Somebody asks to be invited to a tenant that is open to their address.
#[derive(Debug, Clone, Copy)]
pub struct AskByDomain {
    /// The tenant.
    pub tenant: TenantId,
    /// Who.
    pub user: UserId,
    /// Asked for again within this time it is not done again.
    pub cooldown: Duration,
}

impl Change for AskByDomain {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        let cooldown_ms = u64::try_from(millis_of(self.cooldown)).unwrap_or_default();
        stage(txn, Some(self.tenant), &InviteByDomain { user: self.user, cooldown_ms })
            .await
            .map(drop)
    }
}

/// Invites somebody to the tenant that is open to their address, on the word of whoever opened it.
pub struct InviteColleague<'a> {
    /// The installation's key.
    pub key: &'a MasterKey,
    /// The tenant.
    pub scope: TenantScope,
    /// Whom.
    pub user: UserId,
    /// How.
    pub conditions: Conditions,
}

impl Change for InviteColleague<'_> {
    /// None where the tenant is not open to them any more.
    type Output = Option<Answered>;
    type Error = InviteError;

    async fn apply(&self, txn: &mut Txn) -> Result<Option<Answered>, InviteError> {
        let user = User::within(txn, self.user).await?.filter(|user| user.disabled_at.is_none());
        let Some(user) = user else { return Ok(None) };
        let domain = TenantDomain::open_within(txn, &user.email).await?;
        let open = domain
            .filter(|domain| domain.tenant_id == self.scope.tenant_id())
            .and_then(|domain| domain.auto_invite);
        let Some(AutoInvite { role, by }) = open else { return Ok(None) };
        let actor = Actor { scope: self.scope, user: by };
        invite_on_request(txn, self.key, actor, &user.email, role, self.conditions).await.map(Some)
    }
}
