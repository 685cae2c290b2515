//! Changes of an account's address, confirmed by whoever reads the mail of both.
//!
//! Asking makes a change that waits, whether or not the new address has an account: the same rows,
//! the same mails to stage, the same answer. It happens when both links were followed, the old
//! address's (whoever is signed in is who they were) and the new one's (its mailbox is theirs). An
//! account has one change at most that waits: a newer one voids it, and so does a new password. A
//! new address that has an account is mailed no link, so its change never happens.

use std::time::Duration;

use common::{
    clock::later,
    config::PURGE_AFTER_MAX,
    crypto::{LinkToken, MasterKey, SealError, TokenHash},
    db::{
        Change, Data, DbError, OfTenant, PlatformScope, Record, Store, TenantScope, Txn,
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
    identity::{
        password_resets::PasswordReset,
        registrations::Registration,
        sessions::Session,
        users::{self, User},
    },
};

/// A change of an address that waits to be confirmed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EmailChange {
    /// Its id.
    #[serde(rename = "_id")]
    pub id: EmailChangeId,
    /// Whose address it changes.
    pub user_id: UserId,
    /// Where they asked for it: the session that goes on.
    pub session_id: SessionId,
    /// Where they were at work.
    pub tenant_id: TenantId,
    /// The address there is.
    pub old: Half,
    /// The address there is to be.
    pub new: Half,
    /// When it was asked for.
    pub created_at: DateTime,
    /// When its mails are due: a while after those of the change before it.
    pub mail_at: DateTime,
    /// Void from then on.
    pub expires_at: DateTime,
}

/// One of its two addresses.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Half {
    /// The address.
    pub email: Email,
    /// The token of the link that it is mailed, hashed.
    token_hash: TokenHash,
    /// When that was followed.
    confirmed_at: Option<DateTime>,
}

/// Which of the two addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The one there is.
    Old,
    /// The one there is to be.
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
        ("tenant_id", schema::STRING),
        ("old", schema::OBJECT),
        ("new", schema::OBJECT),
        ("created_at", schema::DATE),
        ("mail_at", schema::DATE),
        ("expires_at", schema::DATE),
    ];
}
impl OfTenant for EmailChange {
    fn tenant_id(&self) -> TenantId {
        self.tenant_id
    }
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Old, Self::New];

    /// The token of the link that this side of a change is mailed.
    fn token(self, key: &MasterKey, change: EmailChangeId) -> LinkToken {
        match self {
            Self::Old => LinkToken::issue(key, OldAddressLinkId::from_uuid(change.uuid())),
            Self::New => LinkToken::issue(key, NewAddressLinkId::from_uuid(change.uuid())),
        }
    }

    /// The change that `token` was issued for to this side, if it was.
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

    /// Where a row has it.
    const fn field(self) -> &'static str {
        match self {
            Self::Old => "old",
            Self::New => "new",
        }
    }
}

impl EmailChange {
    /// The change with this id, if it waits.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn pending(store: &Store, id: EmailChangeId) -> Result<Option<Self>, DbError> {
        let filter = doc! { "_id": id, "expires_at": { "$gt": store.clock().now() } };
        store.records::<Self>(PlatformScope).find(filter).await
    }

    /// The token of the link that one side is mailed.
    pub fn link_token(&self, key: &MasterKey, side: Side) -> LinkToken {
        side.token(key, self.id)
    }

    /// Voids whatever change of `user` waits.
    pub(crate) async fn forget_of(txn: &mut Txn, user: UserId) -> Result<(), DbError> {
        txn.records::<Self>(PlatformScope).delete_all(doc! { "user_id": user }).await.map(drop)
    }

    fn is_confirmed(&self) -> bool {
        self.old.confirmed_at.is_some() && self.new.confirmed_at.is_some()
    }
}

/// Why an address was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EmailChangeError {
    /// The link is wrong, used, superseded or expired: which of them is nobody's business.
    #[error("the link is not valid, was used already, or has expired")]
    TokenInvalid,
    /// The account has that address already.
    #[error("the account has that address already")]
    Unchanged,
    /// The account is gone.
    #[error("there is no such account")]
    AccountGone,
    /// An address could not be hidden in the payload of a job.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Asks for another address, and mails a link to both.
#[derive(Debug)]
pub struct AskEmailChange<'a> {
    /// The installation's key.
    pub key: &'a MasterKey,
    /// Who asks.
    pub user: UserId,
    /// Their session.
    pub session: SessionId,
    /// The tenant they are signed in to.
    pub scope: TenantScope,
    /// The address there is to be.
    pub new: Email,
    /// How long the links are good for.
    pub ttl: Duration,
    /// Mails about one account are at least this far apart.
    pub cooldown: Duration,
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
            tenant_id: self.scope.tenant_id(),
            old: half(Side::Old, user.email),
            new: half(Side::New, self.new.clone()),
            created_at: now,
            mail_at: mail_at(before.map(|before| before.mail_at), now, self.cooldown),
            expires_at: later(now, self.ttl),
        };
        txn.records::<EmailChange>(PlatformScope).insert(&change).await?;
        Entry::new(Action::EmailChangeRequested, id).by(self.user).record(txn, self.scope).await?;
        for side in Side::ALL {
            stage_at(txn, None, &SendEmailChangeLink { change: id, side }, change.mail_at).await?;
        }
        Ok(())
    }
}

/// When mails are due that are asked for at `now`, where others are or were due at `before`. Those
/// that wait still are sent no more, so that these take their place.
fn mail_at(before: Option<DateTime>, now: DateTime, cooldown: Duration) -> DateTime {
    match before {
        Some(before) if before > now => before,
        Some(before) => later(before, cooldown).max(now),
        None => now,
    }
}

/// A link that somebody followed: one of ours, though it may be over.
#[derive(Debug, Clone)]
pub struct FollowedLink {
    change: EmailChangeId,
    /// Whose mail it was in.
    pub side: Side,
    token: TokenHash,
}

impl FollowedLink {
    /// Checks that `token` is one of ours before anything is looked up.
    ///
    /// # Errors
    /// [`EmailChangeError::TokenInvalid`] when it is not.
    pub fn with_token(key: &MasterKey, token: &str) -> Result<Self, EmailChangeError> {
        let link = |side: Side| {
            let change = side.redeem(key, token)?;
            Some(Self { change, side, token: side.token(key, change).hash() })
        };
        Side::ALL.into_iter().find_map(link).ok_or(EmailChangeError::TokenInvalid)
    }

    /// Uses the link up; answers the change as it is then.
    async fn confirm(&self, txn: &mut Txn) -> Result<EmailChange, EmailChangeError> {
        let confirm =
            doc! { "$set": { format!("{}.confirmed_at", self.side.field()): txn.clock().now() } };
        let filter = self.filter(txn);
        txn.records::<EmailChange>(PlatformScope)
            .find_and_update(filter, confirm)
            .await?
            .ok_or(EmailChangeError::TokenInvalid)
    }

    /// Finds its change, while it is good.
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

/// Confirms one side of a change; the second to do so makes it happen. Whom it concerns is mailed.
#[derive(Debug)]
pub struct ConfirmEmailChange<'a> {
    /// The installation's key.
    pub key: &'a MasterKey,
    /// The link that is followed.
    pub link: FollowedLink,
}

/// What a confirmation led to.
#[derive(Debug)]
pub enum Confirmed {
    /// The other side is waited for.
    First,
    /// The account has another address.
    Changed {
        /// The account as it is now.
        user: Box<User>,
        /// The address it had.
        old: Email,
    },
    /// Nothing, and nothing will: an account of the new address came to be in between.
    Taken {
        /// Whose.
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
            .record(txn, TenantScope::of_row(&change))
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
                    let to = SealedEmail::seal(self.key, address)?;
                    stage(txn, None, &SendEmailChanged { user: user.id, side, to }).await?;
                }
            }
        }
        Ok(())
    }
}

async fn complete(txn: &mut Txn, change: EmailChange) -> Result<Confirmed, EmailChangeError> {
    EmailChange::forget_of(txn, change.user_id).await?;
    let scope = TenantScope::of_row(&change);
    if let Some(owner) = User::by_email_within(txn, &change.new.email).await? {
        Entry::new(Action::EmailChangeRefused, change.id)
            .by(change.user_id)
            .record(txn, scope)
            .await?;
        return Ok(Confirmed::Taken { owner: owner.id });
    }
    let replaced =
        User::replace_email(txn, change.user_id, &change.old.email, &change.new.email).await;
    let user = replaced.map_err(|error| match error {
        // Made at the same moment: as if it had been before.
        error if is_duplicate(&error, users::EMAIL_INDEX) => EmailChangeError::TokenInvalid,
        error => error.into(),
    })?;
    let user = user.ok_or(EmailChangeError::TokenInvalid)?;
    // Links on their way were mailed to the old address, or make an account of the new one.
    PasswordReset::forget_of(txn, user.id).await?;
    txn.records::<Registration>(PlatformScope)
        .delete_all(doc! { "email_norm": &user.email_norm })
        .await?;
    Session::revoke_all(txn, user.id, Some(change.session_id)).await?;
    // Also where no session ended: the one that goes on has another address.
    revocations::note(txn, Revoked::User(user.id));
    Entry::new(Action::UserEmailChanged, user.id).by(change.user_id).record(txn, scope).await?;
    Ok(Confirmed::Changed { user: Box::new(user), old: change.old.email })
}

/// Whoever reads the old address's mail says that it was not them: the change will not happen.
#[derive(Debug)]
pub struct CancelEmailChange {
    /// The link that is followed.
    pub link: FollowedLink,
}

impl Change for CancelEmailChange {
    type Output = ();
    type Error = EmailChangeError;

    /// Refused as [`EmailChangeError::TokenInvalid`] to whoever follows the new address's link.
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
            .record(txn, TenantScope::of_row(&change))
            .await?;
        Ok(())
    }
}

/// Mails one of the two links; or, when the new address has an account, word of it to its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendEmailChangeLink {
    /// The change; one that was superseded meanwhile is not mailed.
    pub change: EmailChangeId,
    /// To which of its addresses.
    pub side: Side,
}

impl Job for SendEmailChangeLink {
    const KIND: &'static str = "email_change.send_link";
    const QUEUE: Queue = Queue::Email;
}

/// Tells a person that somebody wants their address for another account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendEmailTaken {
    /// Whose address it is.
    pub owner: UserId,
}

impl Job for SendEmailTaken {
    const KIND: &'static str = "email_change.send_taken";
    const QUEUE: Queue = Queue::Email;
}

/// Tells a person, at one of the two addresses, that their account has another now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendEmailChanged {
    /// Whose.
    pub user: UserId,
    /// Which of the two it is.
    pub side: Side,
    /// That address.
    pub to: SealedEmail,
}

impl Job for SendEmailChanged {
    const KIND: &'static str = "email_change.send_changed";
    const QUEUE: Queue = Queue::Email;
}

#[cfg(test)]
mod tests {
    use common::clock::Clock;

    use super::*;

    #[test]
    fn mails_are_a_cooldown_apart_and_those_that_wait_are_replaced_in_their_place() {
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
    fn a_link_tells_whose_mail_it_was_in_and_one_of_another_kind_is_none() {
        let key = MasterKey::parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
        let id: EmailChangeId = Clock::system().id();
        for side in Side::ALL {
            let link = FollowedLink::with_token(&key, side.token(&key, id).expose()).unwrap();
            assert_eq!((link.side, link.change), (side, id));
        }
        assert!(FollowedLink::with_token(&key, LinkToken::issue(&key, id).expose()).is_err());
    }
}
