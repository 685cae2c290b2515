//! Where an account begins: the one place where an address becomes verified for the first time,
//! whether its person followed the link of a registration or of an invitation.

use std::time::Duration;

use common::{
    crypto::PasswordHash,
    db::{DbError, PlatformScope, Txn},
    email::Email,
    name::Name,
};
use mongodb::bson::doc;

use crate::{
    activity::{Action, Entry},
    identity::{registrations::Registration, users::User},
    tenancy::tenant_domains,
};

/// An account to be made for somebody who has shown that they read the mail of its address.
#[derive(Debug)]
pub(crate) struct NewAccount {
    pub(crate) email: Email,
    pub(crate) name: Name,
    pub(crate) password_hash: PasswordHash,
}

impl NewAccount {
    /// Makes the account, and invites its person to the tenant that is open to their address'
    /// domain, if one is; within `cooldown` once at most.
    ///
    /// # Errors
    /// [`DbError::Duplicate`] of [`EMAIL_INDEX`](super::users::EMAIL_INDEX) when the address has an
    /// account.
    pub(crate) async fn create(self, txn: &mut Txn, cooldown: Duration) -> Result<User, DbError> {
        let now = txn.clock().now();
        let user = User {
            id: txn.clock().id(),
            email_norm: self.email.normalized(),
            email: self.email,
            name: self.name.to_string(),
            password_hash: self.password_hash,
            password_set_at: None,
            second_factor_since: None,
            disabled_at: None,
            last_sign_in_at: None,
            email_verified_at: now,
            created_at: now,
        };
        user.insert(txn).await?;
        // Links of other registrations of this address are of no use any more.
        txn.records::<Registration>(PlatformScope)
            .delete_all(doc! { "email_norm": &user.email_norm })
            .await?;
        Entry::new(Action::UserCreated, user.id).by(user.id).record_on_platform(txn).await?;
        tenant_domains::invite_by_domain(txn, &user, cooldown).await?;
        Ok(user)
    }
}
