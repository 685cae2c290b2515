//! Mails about API keys to the owners of a tenant.

use common::{
    db::{DbError, TenantScope, Txn},
    id::{ApiKeyId, UserId},
};
use jobs::{Job, Queue, stage};
use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use super::ApiKey;
use crate::{
    queues,
    tenancy::{
        memberships::Membership,
        roles::{Role, RoleRef},
    },
};

/// Maximum number of owners who are notified, those who joined first.
const OWNERS_MAX: i64 = 50;

/// What happened to keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// They were suspended, because their sponsor's membership ended.
    Suspended,
    /// They were revoked, because somebody found and reported them.
    Leaked,
    /// They expire soon, at this time in milliseconds since the epoch.
    Expiring(i64),
}

impl Notice {
    /// That keys expire at this time.
    pub(super) const fn expiring(at: DateTime) -> Self {
        Self::Expiring(at.timestamp_millis())
    }
}

/// Notifies a person about keys of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendApiKeyNotice {
    pub user: UserId,
    pub keys: Vec<ApiKeyId>,
    pub notice: Notice,
}

impl Job for SendApiKeyNotice {
    const KIND: &'static str = "api_key.send_notice";
    const QUEUE: Queue = queues::EMAIL;
}

/// Stages a mail about `keys` to each owner of the tenant. If they leaked or expire, their sponsors
/// are notified as well, because they know where the keys are used.
pub(super) async fn notify(
    txn: &mut Txn,
    scope: TenantScope,
    keys: &[ApiKeyId],
    notice: Notice,
) -> Result<(), DbError> {
    let owner = RoleRef::from(Role::Owner);
    let owners = txn
        .records::<Membership>(scope)
        .list(doc! { "role": owner }, doc! { "_id": 1 }, OWNERS_MAX)
        .await?;
    let mut people: Vec<UserId> = owners.iter().map(|membership| membership.user_id).collect();
    if notice != Notice::Suspended {
        for key in keys {
            let row = txn.records::<ApiKey>(scope).find(doc! { "_id": *key }).await?;
            people.extend(row.map(|key| key.sponsor));
        }
    }
    let mut told = Vec::new();
    for user in people {
        if !told.contains(&user) {
            told.push(user);
            let job = SendApiKeyNotice { user, keys: keys.to_vec(), notice };
            stage(txn, Some(scope.tenant_id()), &job).await?;
        }
    }
    Ok(())
}
