//! Creation of accounts: the only place where an email address is verified for the first time,
//! through the link of a registration or of an invitation.

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
    identity::registrations::Registration,
    people::users::User,
    tenancy::tenant_domains,
};

/// A new account for a person who has shown that they read the mail of its email address.
#[derive(Debug)]
pub(crate) struct NewAccount {
    pub(crate) email: Email,
    pub(crate) name: Name,
    pub(crate) password_hash: PasswordHash,
}

impl NewAccount {
    /// Creates the account, and invites its owner to the tenant that admits their email domain, if
    /// any, at most once within `cooldown`. Fails with [`DbError::Duplicate`] of
    /// [`EMAIL_INDEX`](crate::people::users::EMAIL_INDEX) if the email address has an account.
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
        // Other registrations of this email address are no longer needed.
        txn.records::<Registration>(PlatformScope)
            .delete_all(doc! { "email_norm": &user.email_norm })
            .await?;
        Entry::new(Action::UserCreated, user.id).by(user.id).record_on_platform(txn).await?;
        tenant_domains::invite_by_domain(txn, &user, cooldown).await?;
        Ok(user)
    }
}
