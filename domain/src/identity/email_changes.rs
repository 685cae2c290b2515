//! Changes of an account's email address, confirmed from both mailboxes.
//!
//! Requesting a change creates a pending one, whether or not the new email address has an account:
//! the same rows, the same staged mails, the same response. The change takes effect when both links
//! have been followed, the one to the old address (the caller is the account's owner) and the one
//! to the new address (its mailbox is theirs). An account has at most one pending change: a newer
//! one revokes it, and so does a new password. A new address that already has an account is mailed
//! no link, so its change never takes effect.

use std::time::Duration;

use common::{
    clock::later,
    config::{self, PURGE_AFTER_MAX},
    crypto::{LinkToken, MasterKey, SealError, TokenHash},
    db::{
        Change, Data, DbError, MaybeOfTenant, PlatformScope, Record, Store, TenantScope, Txn,
        is_duplicate,
        schema::{self, Field, Index},
    },
    email::Email,
    id::{
        self, EmailChangeId, Id, NewAddressLinkId, OldAddressLinkId, SessionId, TenantId, UserId,
    },
    revocations::{self, Revoked},
    sealed_email::SealedEmail,
};
use jobs::{Job, Queue, stage, stage_at};
use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use crate::{
    activity::{Action, Entry},
    identity::{password_resets::PasswordReset, registrations::Registration},
    people::{
        sessions::Session,
        users::{self, User},
    },
    queues,
    tenancy::{
        mail_budget::{MailBudget, Spent, Wanted},
        tenants::Tenant,
    },
};

/// A pending change of an email address.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EmailChange {
    #[serde(rename = "_id")]
    pub id: EmailChangeId,
    /// The account whose address it changes.
    pub user_id: UserId,
    /// The session that requested it, which survives the change.
    pub session_id: SessionId,
    /// The tenant they were working in, if any. Releases up to generation 43 cannot read a row
    /// without one.
    pub tenant_id: Option<TenantId>,
    /// The current email address.
    pub old: Half,
    /// The new email address.
    pub new: Half,
    /// When it was requested.
    pub created_at: DateTime,
    /// When its mails are due: a cooldown after those of the previous change.
    pub mail_at: DateTime,
    /// When it expires.
    pub expires_at: DateTime,
}

/// One of its two email addresses.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Half {
    pub email: Email,
    /// Hash of the token in the link mailed to it.
    token_hash: TokenHash,
    /// When that link was followed.
    confirmed_at: Option<DateTime>,
}

/// One of the two email addresses of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The current one.
    Old,
    /// The new one.
    New,
}

impl Record for EmailChange {
    const COLLECTION: &'static str = "email_changes";
    const DATA: Data = Data::of_person("user_id").without(&["old.token_hash", "new.token_hash"]);
    const INDEXES: &'static [Index] = &[
        Index::unique("email_changes_user", &[("user_id", 1)]),
        Index::expiring("email_changes_ttl", &[("expires_at", 1)], PURGE_AFTER_MAX),
    ];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("user_id", schema::STRING),
        ("session_id", schema::STRING),
        ("tenant_id", schema::STRING_OR_NULL),
        ("old", schema::OBJECT),
        ("new", schema::OBJECT),
        ("created_at", schema::DATE),
        ("mail_at", schema::DATE),
        ("expires_at", schema::DATE),
    ];
}
impl MaybeOfTenant for EmailChange {
    fn tenant_id(&self) -> Option<TenantId> {
        self.tenant_id
    }
}

impl Side {
    /// Both sides.
    pub const ALL: [Self; 2] = [Self::Old, Self::New];

    /// The token in the link mailed to this side of a change.
    fn token(self, key: &MasterKey, change: EmailChangeId) -> LinkToken {
        match self {
            Self::Old => LinkToken::issue(key, OldAddressLinkId::from_uuid(change.uuid())),
            Self::New => LinkToken::issue(key, NewAddressLinkId::from_uuid(change.uuid())),
        }
    }

    /// The change for which `token` was issued to this side, if any.
    fn redeem(self, key: &MasterKey, token: &str) -> Option<EmailChangeId> {
        let uuid = match self {
            Self::Old => {
                LinkToken::redeem::<id::OldAddressLink>(key, token).map(|link| link.uuid())
            }
            Self::New => {
                LinkToken::redeem::<id::NewAddressLink>(key, token).map(|link| link.uuid())
            }
        };
        uuid.map(Id::from_uuid)
    }

    /// Field of the row that holds this side.
    const fn field(self) -> &'static str {
        match self {
            Self::Old => "old",
            Self::New => "new",
        }
    }
}

impl EmailChange {
    /// The change with this id, if it is pending.
    pub async fn pending(store: &Store, id: EmailChangeId) -> Result<Option<Self>, DbError> {
        let filter = doc! { "_id": id, "expires_at": { "$gt": store.clock().now() } };
        store.records::<Self>(PlatformScope).find(filter).await
    }

    /// The token in the link mailed to one side.
    pub fn link_token(&self, key: &MasterKey, side: Side) -> LinkToken {
        side.token(key, self.id)
    }

    /// Revokes the pending change of `user`, if any.
    pub(crate) async fn forget_of(txn: &mut Txn, user: UserId) -> Result<(), DbError> {
        txn.records::<Self>(PlatformScope).delete_all(doc! { "user_id": user }).await.map(drop)
    }

    fn is_confirmed(&self) -> bool {
        self.old.confirmed_at.is_some() && self.new.confirmed_at.is_some()
    }
}

/// Why an email address was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EmailChangeError {
    /// The link is wrong, used, superseded or expired; callers do not learn which.
    #[error("the link is not valid, was used already, or has expired")]
    TokenInvalid,
    /// The new email address is the current one.
    #[error("the account already has this email address")]
    Unchanged,
    /// The account no longer exists, or the user is no longer a member of the tenant.
    #[error("the account does not exist")]
    AccountGone,
    /// The tenant may send no more mails to people who are not members for this time.
    #[error("the tenant's mail budget is spent")]
    BudgetSpent(Duration),
    /// An email address could not be encrypted for the payload of a job.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Requests a change of the email address, and mails a link to both addresses.
#[derive(Debug)]
pub struct AskEmailChange<'a> {
    /// The installation's master key.
    pub key: &'a MasterKey,
    /// The user who requests it.
    pub user: UserId,
    pub session: SessionId,
    /// The tenant they are working in, if any.
    pub scope: Option<TenantScope>,
    /// The new email address.
    pub new: Email,
    /// Lifetime of the links.
    pub ttl: Duration,
    /// Minimum time between two mails about one account.
    pub cooldown: Duration,
    /// The mail budgets of tenants: the new email address is not a member's. A user without a
    /// tenant has none; only the throttles of their account and of the new email address apply.
    pub budget: config::MailBudget,
}

impl Change for AskEmailChange<'_> {
    type Output = ();
    type Error = EmailChangeError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), EmailChangeError> {
        let (id, now) = (txn.clock().id(), txn.clock().now());
        let user = User::within(txn, self.user).await?.ok_or(EmailChangeError::AccountGone)?;
        if user.email_norm == self.new.normalized() {
            return Err(EmailChangeError::Unchanged);
        }
        if let Some(scope) = self.scope {
            let tenant = Tenant::lock(txn, scope).await?.ok_or(EmailChangeError::AccountGone)?;
            let spent = MailBudget::spend(txn, &tenant, Wanted::EmailChange, &self.budget).await?;
            spent.map_err(|Spent(wait)| EmailChangeError::BudgetSpent(wait))?;
        }
        let before =
            txn.records::<EmailChange>(PlatformScope).take(doc! { "user_id": user.id }).await?;
        let half = |side: Side, email| Half {
            email,
            token_hash: side.token(self.key, id).hash(),
            confirmed_at: None,
        };
        let change = EmailChange {
            id,
            user_id: user.id,
            session_id: self.session,
            tenant_id: self.scope.map(TenantScope::tenant_id),
            old: half(Side::Old, user.email),
            new: half(Side::New, self.new.clone()),
            created_at: now,
            mail_at: mail_at(before.map(|before| before.mail_at), now, self.cooldown),
            expires_at: later(now, self.ttl),
        };
        txn.records::<EmailChange>(PlatformScope).insert(&change).await?;
        Entry::new(Action::EmailChangeRequested, id)
            .by(self.user)
            .record_in(txn, self.scope)
            .await?;
        for side in Side::ALL {
            stage_at(txn, None, &SendEmailChangeLink { change: id, side }, change.mail_at).await?;
        }
        Ok(())
    }
}

/// When the mails of a change requested at `now` are due, if those of the previous change are or
/// were due at `before`. Mails of the previous change that are still pending will not be sent, so
/// these take their place.
fn mail_at(before: Option<DateTime>, now: DateTime, cooldown: Duration) -> DateTime {
    match before {
        Some(before) if before > now => before,
        Some(before) => later(before, cooldown).max(now),
        None => now,
    }
}

/// A link that was followed: issued by us, but possibly no longer valid.
#[derive(Debug, Clone)]
pub struct FollowedLink {
    change: EmailChangeId,
    /// The mailbox it was mailed to.
    pub side: Side,
    token: TokenHash,
}

impl FollowedLink {
    /// Checks that we issued `token` before querying anything. Fails with
    /// [`EmailChangeError::TokenInvalid`] otherwise.
    pub fn with_token(key: &MasterKey, token: &str) -> Result<Self, EmailChangeError> {
        let link = |side: Side| {
            let change = side.redeem(key, token)?;
            Some(Self { change, side, token: side.token(key, change).hash() })
        };
        Side::ALL.into_iter().find_map(link).ok_or(EmailChangeError::TokenInvalid)
    }

    /// Uses the link; returns the change in its new state.
    async fn confirm(&self, txn: &mut Txn) -> Result<EmailChange, EmailChangeError> {
        let confirm =
            doc! { "$set": { format!("{}.confirmed_at", self.side.field()): txn.clock().now() } };
        let filter = self.filter(txn);
        txn.records::<EmailChange>(PlatformScope)
            .find_and_update(filter, confirm)
            .await?
            .ok_or(EmailChangeError::TokenInvalid)
    }

    /// Matches its change while the link is valid.
    fn filter(&self, txn: &Txn) -> mongodb::bson::Document {
        let half = self.side.field();
        doc! {
            "_id": self.change,
            format!("{half}.token_hash"): self.token.clone(),
            format!("{half}.confirmed_at"): null,
            "expires_at": { "$gt": txn.clock().now() },
        }
    }
}

/// Confirms one side of a change; the second confirmation makes it take effect. Notifies the users
/// concerned.
#[derive(Debug)]
pub struct ConfirmEmailChange<'a> {
    /// The installation's master key.
    pub key: &'a MasterKey,
    /// The link that was followed.
    pub link: FollowedLink,
}

/// Result of a confirmation.
#[derive(Debug)]
pub enum Confirmed {
    /// The other side has not confirmed yet.
    First,
    /// The email address was changed.
    Changed {
        /// The account in its new state.
        user: Box<User>,
        /// Its previous email address.
        old: Email,
    },
    /// The change failed: the new email address got an account in the meantime.
    Taken {
        /// The owner of that account.
        owner: UserId,
    },
}

impl Change for ConfirmEmailChange<'_> {
    type Output = Confirmed;
    type Error = EmailChangeError;

    async fn apply(&self, txn: &mut Txn) -> Result<Confirmed, EmailChangeError> {
        let change = self.link.confirm(txn).await?;
        let user = User::within(txn, change.user_id).await?;
        user.filter(|user| user.disabled_at.is_none()).ok_or(EmailChangeError::TokenInvalid)?;
        Entry::new(Action::EmailChangeConfirmed, change.id)
            .by(change.user_id)
            .record_in(txn, TenantScope::of_row_if_any(&change))
            .await?;
        if !change.is_confirmed() {
            return Ok(Confirmed::First);
        }
        let confirmed = complete(txn, change).await?;
        self.stage_mails(txn, &confirmed).await?;
        Ok(confirmed)
    }
}

impl ConfirmEmailChange<'_> {
    async fn stage_mails(
        &self,
        txn: &mut Txn,
        confirmed: &Confirmed,
    ) -> Result<(), EmailChangeError> {
        match confirmed {
            Confirmed::First => {}
            Confirmed::Taken { owner } => {
                stage(txn, None, &SendEmailTaken { owner: *owner }).await?;
            }
            Confirmed::Changed { user, old } => {
                for (side, address) in [(Side::Old, old), (Side::New, &user.email)] {
                    let to = SealedEmail::seal(self.key, SendEmailChanged::KIND, address)?;
                    stage(txn, None, &SendEmailChanged { user: user.id, side, to }).await?;
                }
            }
        }
        Ok(())
    }
}

async fn complete(txn: &mut Txn, change: EmailChange) -> Result<Confirmed, EmailChangeError> {
    EmailChange::forget_of(txn, change.user_id).await?;
    let scope = TenantScope::of_row_if_any(&change);
    if let Some(owner) = User::by_email_within(txn, &change.new.email).await? {
        Entry::new(Action::EmailChangeRefused, change.id)
            .by(change.user_id)
            .record_in(txn, scope)
            .await?;
        return Ok(Confirmed::Taken { owner: owner.id });
    }
    let replaced =
        User::replace_email(txn, change.user_id, &change.old.email, &change.new.email).await;
    let user = replaced.map_err(|error| match error {
        // Created at the same moment: treated as if it had existed before.
        error if is_duplicate(&error, users::EMAIL_INDEX) => EmailChangeError::TokenInvalid,
        error => error.into(),
    })?;
    let user = user.ok_or(EmailChangeError::TokenInvalid)?;
    // Pending links were mailed to the old email address, or would create an account for the new
    // one.
    PasswordReset::forget_of(txn, user.id).await?;
    txn.records::<Registration>(PlatformScope)
        .delete_all(doc! { "email_norm": &user.email_norm })
        .await?;
    Session::revoke_all(txn, user.id, Some(change.session_id)).await?;
    // Even if no session ended: the remaining one has another email address.
    revocations::note(txn, Revoked::User(user.id));
    Entry::new(Action::UserEmailChanged, user.id).by(change.user_id).record_in(txn, scope).await?;
    Ok(Confirmed::Changed { user: Box::new(user), old: change.old.email })
}

/// Cancels the change on behalf of the old address: its owner did not request it.
#[derive(Debug)]
pub struct CancelEmailChange {
    /// The link that was followed.
    pub link: FollowedLink,
}

impl Change for CancelEmailChange {
    type Output = ();
    type Error = EmailChangeError;

    /// Fails with [`EmailChangeError::TokenInvalid`] for the link to the new address.
    async fn apply(&self, txn: &mut Txn) -> Result<(), EmailChangeError> {
        if self.link.side == Side::New {
            return Err(EmailChangeError::TokenInvalid);
        }
        let filter = self.link.filter(txn);
        let change = txn
            .records::<EmailChange>(PlatformScope)
            .take(filter)
            .await?
            .ok_or(EmailChangeError::TokenInvalid)?;
        Entry::new(Action::EmailChangeCancelled, change.id)
            .by(change.user_id)
            .record_in(txn, TenantScope::of_row_if_any(&change))
            .await?;
        Ok(())
    }
}

/// Mails one of the two links, or notifies the owner if the new address has an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendEmailChangeLink {
    /// The change; one that was superseded in the meantime is not mailed.
    pub change: EmailChangeId,
    /// The side to mail.
    pub side: Side,
}

impl Job for SendEmailChangeLink {
    const KIND: &'static str = "email_change.send_link";
    const QUEUE: Queue = queues::EMAIL;
}

/// Notifies a user that someone tried to use their email address for another account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendEmailTaken {
    /// The owner of the email address.
    pub owner: UserId,
}

impl Job for SendEmailTaken {
    const KIND: &'static str = "email_change.send_taken";
    const QUEUE: Queue = queues::EMAIL;
}

/// Notifies a user, at the old or new email address, that it was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendEmailChanged {
    pub user: UserId,
    /// The side to mail.
    pub side: Side,
    /// That side's email address.
    pub to: SealedEmail,
}

impl Job for SendEmailChanged {
    const KIND: &'static str = "email_change.send_changed";
    const QUEUE: Queue = queues::EMAIL;
}

#[cfg(test)]
mod tests {
    use common::clock::Clock;

    use super::*;

    #[test]
    fn mails_are_a_cooldown_apart_and_pending_ones_are_replaced() {
        let due = |before: Option<i64>, now| {
            let cooldown = Duration::from_millis(60);
            mail_at(before.map(DateTime::from_millis), DateTime::from_millis(now), cooldown)
                .timestamp_millis()
        };
        assert_eq!(
            [
                due(None, 5),
                due(Some(0), 5),
                due(Some(60), 10),
                due(Some(60), 61),
                due(Some(60), 500)
            ],
            [5, 60, 60, 120, 500]
        );
    }

    #[test]
    fn a_link_identifies_its_mailbox_and_other_kinds_are_rejected() {
        let key = MasterKey::parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
        let id: EmailChangeId = Clock::system().id();
        for side in Side::ALL {
            let link = FollowedLink::with_token(&key, side.token(&key, id).expose()).unwrap();
            assert_eq!((link.side, link.change), (side, id));
        }
        assert!(FollowedLink::with_token(&key, LinkToken::issue(&key, id).expose()).is_err());
    }
}
