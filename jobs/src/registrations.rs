//! Jobs of registrations, and the changes that stage them.

use std::time::Duration;

use common::{
    crypto::MasterKey,
    db::{Change, DbError, Txn},
    id::RegistrationId,
    registrations::{AddressDigest, NewRegistration, Registration, Verify, VerifyError},
    tenant_domains::TenantDomain,
};
use serde::{Deserialize, Serialize};

use crate::{Job, Queue, stage, tenant_domains::AskByDomain};

/// Mails the person who asked for an account: a verification link, or, when the address has an
/// account already, word that somebody tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendVerification {
    /// What was asked for.
    pub registration: RegistrationId,
}

impl Job for SendVerification {
    const KIND: &'static str = "registration.send_verification";
    const QUEUE: Queue = Queue::Email;
}

/// Mails the verification link of an address again. Staged whether or not the address is known,
/// so that asking tells nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResendVerification {
    /// The address' pseudonym.
    pub address: AddressDigest,
}

impl Job for ResendVerification {
    const KIND: &'static str = "registration.resend_verification";
    const QUEUE: Queue = Queue::Email;
}

/// Someone asks for an account: notes it and stages the mail.
pub struct Register<'a> {
    /// The installation's key.
    pub key: &'a MasterKey,
    /// What they tell.
    pub new: NewRegistration,
    /// How long the link is good for.
    pub ttl: Duration,
}

impl Change for Register<'_> {
    type Output = RegistrationId;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<RegistrationId, DbError> {
        let registration = Registration::create(txn, self.key, &self.new, self.ttl).await?;
        stage(txn, None, &SendVerification { registration: registration.id }).await?;
        Ok(registration.id)
    }
}

/// An address is verified: as [`Verify`], and its person is invited to the tenant that is open to
/// its domain, if one is.
pub struct VerifyAddress {
    /// What is verified.
    pub verify: Verify,
    /// For how long they are not invited again when they ask.
    pub cooldown: Duration,
}

impl Change for VerifyAddress {
    type Output = ();
    type Error = VerifyError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), VerifyError> {
        let user = self.verify.apply(txn).await?;
        if let Some(domain) = TenantDomain::open_within(txn, &user.email).await? {
            AskByDomain { tenant: domain.tenant_id, user: user.id, cooldown: self.cooldown }
                .apply(txn)
                .await?;
        }
        Ok(())
    }
}

/// Someone asks for the verification mail again.
pub struct AskAgain {
    /// The address' pseudonym.
    pub address: AddressDigest,
}

impl Change for AskAgain {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        stage(txn, None, &ResendVerification { address: self.address.clone() }).await.map(drop)
    }
}
