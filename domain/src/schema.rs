//! The schema of this release, and waiting for a usable database.

use std::time::Duration;

use common::{
    config,
    db::{
        self, DbError, Heartbeat, Store,
        schema::{Collection, DataChange, Declaration},
    },
};
use jobs::Drain;

use crate::{
    access::{idempotency::UsedKey, mail_slots::MailSlots},
    activity::{AuditContext, Event, PlatformEvent},
    identity::{
        devices::KnownDevice,
        email_changes::EmailChange,
        mfa::{
            challenges::MfaChallenge,
            passkeys::{Passkey, UsedCeremony},
            recovery_codes::RecoveryCodes,
            totp::Totp,
        },
        password_resets::PasswordReset,
        registrations::{FollowedLink, Registration},
        signing_keys::SigningKey,
    },
    people::{sessions::Session, users::User},
    tenancy::{
        api_keys::{ApiKey, usage::ApiKeyUsage},
        custom_roles::CustomRole,
        former_members::FormerMember,
        invitation_lists::InvitationList,
        invitations::Invitation,
        invite_links::InviteLink,
        mail_budget::MailBudget,
        memberships::Membership,
        ownership::OwnershipTransfer,
        tenant_domains::TenantDomain,
        tenants::Tenant,
    },
};

/// The generation of the declaration below. Raise it by one with every change of a collection's
/// indexes or required fields, of the list of collections, or of the data changes; a test compares
/// them with `FINGERPRINT`.
pub const GENERATION: i32 = 46;
/// The digest of the declaration of this generation.
#[cfg(test)]
const FINGERPRINT: &str = "c7cdf0f5b3179c98";
/// The oldest generation whose release can work with a database of this one, contracting changes
/// included. Raise it only if an older release would fail; such a release can then neither start nor
/// be rolled back to.
const READABLE_FROM: i32 = 40;

/// The collections of this crate.
const COLLECTIONS: &[Collection] = &[
    Collection::of::<ApiKey>(),
    Collection::of::<ApiKeyUsage>(),
    Collection::of::<AuditContext>(),
    Collection::of::<CustomRole>(),
    Collection::of::<EmailChange>(),
    Collection::of::<Event>(),
    Collection::of::<FollowedLink>(),
    Collection::of::<FormerMember>(),
    Collection::of::<Invitation>(),
    Collection::of::<InvitationList>(),
    Collection::of::<InviteLink>(),
    Collection::of::<KnownDevice>(),
    Collection::of::<MailBudget>(),
    Collection::of::<MailSlots>(),
    Collection::of::<Membership>(),
    Collection::of::<MfaChallenge>(),
    Collection::of::<OwnershipTransfer>(),
    Collection::of::<Passkey>(),
    Collection::of::<PasswordReset>(),
    Collection::of::<PlatformEvent>(),
    Collection::of::<RecoveryCodes>(),
    Collection::of::<Registration>(),
    Collection::of::<Session>(),
    Collection::of::<SigningKey>(),
    Collection::of::<Tenant>(),
    Collection::of::<TenantDomain>(),
    Collection::of::<Totp>(),
    Collection::of::<UsedCeremony>(),
    Collection::of::<UsedKey>(),
    Collection::of::<User>(),
];

/// Changes of stored rows, by version. Versions up to 39 were used before the schema was declared.
const DATA_CHANGES: &[DataChange] = &[];

/// What this release declares about its database: its own collections and those of the crates
/// below.
pub fn schema() -> Declaration {
    Declaration {
        generation: GENERATION,
        readable_from: READABLE_FROM,
        collections: [db::COLLECTIONS, jobs::COLLECTIONS, COLLECTIONS].concat(),
        data_changes: DATA_CHANGES,
    }
}

/// Pause between two attempts to reach the database.
const PAUSE: Duration = Duration::from_secs(1);

/// Registers this process, of kind `api` or `worker`, and checks that it can work with the database.
/// Waits until the database answers; returns `None` if shutdown begins before.
///
/// # Errors
/// If this release cannot work with the schema, which waiting would not change.
pub async fn join(
    store: &Store,
    kind: &str,
    config: &config::App,
    drain: &Drain,
) -> Result<Option<Heartbeat>, DbError> {
    loop {
        match try_join(store, kind, config).await {
            Ok(heartbeat) => return Ok(Some(heartbeat)),
            Err(error) if error.is_outage() => tracing::warn!(%error, "waiting_for_database"),
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = drain.begun() => return Ok(None),
        }
    }
}

async fn try_join(store: &Store, kind: &str, config: &config::App) -> Result<Heartbeat, DbError> {
    let heartbeat = Heartbeat::start(store, kind, GENERATION, config).await?;
    match store.check_schema(GENERATION).await {
        Ok(()) => Ok(heartbeat),
        Err(error) => {
            heartbeat.stop().await;
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use aws_lc_rs::digest::{SHA256, digest};

    use super::*;

    /// A digest of the declaration that does not depend on the order of its lists.
    fn fingerprint() -> String {
        let Declaration { readable_from, collections, data_changes, .. } = schema();
        let collections: BTreeSet<String> =
            collections.iter().map(|collection| format!("{collection:?}")).collect();
        let changes: Vec<_> =
            data_changes.iter().map(|it| (it.version, it.name, it.readable_from)).collect();
        let declared = format!("{readable_from} {collections:?} {changes:?}");
        let digest = digest(&SHA256, declared.as_bytes());
        let first: [u8; 8] = digest.as_ref()[..8].try_into().unwrap();
        format!("{:016x}", u64::from_be_bytes(first))
    }

    #[test]
    fn a_changed_declaration_has_a_generation_of_its_own() {
        let found = fingerprint();
        assert!(
            found == FINGERPRINT,
            "the declared schema has changed. In domain/src/schema.rs, set GENERATION to {} \
             (unless your branch has raised it already) and FINGERPRINT to \"{found}\".",
            GENERATION + 1
        );
    }

    #[test]
    fn every_collection_is_declared_once() {
        let collections = schema().collections;
        let names: BTreeSet<&str> = collections.iter().map(Collection::name).collect();
        assert_eq!(names.len(), collections.len());
    }

    /// [`Store::migrate`] drops undeclared indexes only if their names show that a release declared
    /// them.
    #[test]
    fn every_index_is_named_after_its_collection() {
        for collection in schema().collections {
            for index in collection.indexes() {
                let rest = index.name().strip_prefix(collection.name());
                assert!(
                    rest.is_some_and(|rest| rest.starts_with('_')),
                    "index {} of {} must be named {}_…",
                    index.name(),
                    collection.name(),
                    collection.name()
                );
            }
        }
    }

    #[test]
    fn data_changes_are_numbered_in_order() {
        let versions: Vec<i32> = DATA_CHANGES.iter().map(|change| change.version).collect();
        assert!(versions.is_sorted_by(|one, next| one < next), "{versions:?}");
        assert!(versions.first().is_none_or(|first| *first > 39), "{versions:?}");
        let is_readable = |change: &DataChange| change.readable_from <= GENERATION;
        assert!(DATA_CHANGES.iter().all(is_readable) && READABLE_FROM <= GENERATION);
    }
}
