//! Lists of people to invite, with the outcome for each.
//!
//! A list is processed in chunks. Each chunk is one transaction that invites its lines and records
//! the outcomes, so a chunk that runs again finds them done.

use std::{collections::HashSet, ops::Range, time::Duration};

use common::{
    clock::{between, later},
    db::{
        Data, DbError, OfTenant, Record, Store, TenantScope, Txn,
        schema::{self, Field, Index},
    },
    email::Email,
    id::{InvitationId, InvitationListId, TenantId},
    origin::Principal,
};
use jobs::batches::BatchError;
use mongodb::bson::{DateTime, Document, doc};
use serde::{Deserialize, Serialize};

use crate::{
    activity::Action,
    tenancy::{
        actor::Actor,
        invitations::{Invitation, InviteError, Inviting},
        roles::{OutOfReach, RoleRef},
    },
};

/// Maximum number of lines in a list.
pub const LINES_MAX: usize = 1_000;
/// Maximum number of lists that are read to find those to delete; further ones stay until they
/// expire.
const LISTS_MAX: i64 = 10_000;
/// A list that is not completed after this time never will be, and counts as completed.
const ABANDONED_AFTER: Duration = Duration::from_hours(24);
/// Lines invited in one transaction: few enough not to block other changes of the tenant.
pub const CHUNK_LINES: usize = 25;
/// Maximum stored length of a text that is not an email address or a role: enough to recognize the
/// line.
const JUNK_CHARS_MAX: usize = 40;
/// How long the outcomes can be viewed.
const RETENTION: Duration = Duration::from_hours(30 * 24);

/// A list of people to invite.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InvitationList {
    #[serde(rename = "_id")]
    pub id: InvitationListId,
    /// The tenant to join.
    pub tenant_id: TenantId,
    /// The member who invites.
    pub by: Principal,
    /// The people to invite, in the order given.
    pub lines: Vec<Line>,
    /// When it was submitted.
    pub created_at: DateTime,
    /// When it was completed.
    pub completed_at: Option<DateTime>,
    /// When it expires.
    pub expires_at: DateTime,
}

/// A line of a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    /// Email address, as submitted.
    pub email: String,
    /// Role, as submitted.
    pub role: String,
    /// The outcome; none if not processed yet.
    pub outcome: Option<Outcome>,
    /// The invitation, if there is one.
    pub invitation: Option<InvitationId>,
}

/// The outcome for a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The person was invited.
    Invited,
    /// The email address is invalid.
    InvalidEmail,
    /// The email address occurs earlier in the list.
    Duplicate,
    /// The tenant has no such role.
    NoSuchRole,
    /// The role has permissions that the inviting member lacks.
    RoleTooHigh,
    /// The email address belongs to a member.
    AlreadyMember,
    /// The tenant has reached its limit of pending invitations.
    TooManyInvitations,
    /// The tenant does not invite email addresses of this domain.
    EmailDomainNotAllowed,
    /// The tenant has sent as many mails on this day as it may.
    MailBudgetExhausted,
    /// It failed repeatedly; the log contains the reason.
    Failed,
}

/// Limits of a tenant's lists.
#[derive(Debug, Clone, Copy)]
pub struct ListLimits {
    /// Maximum number of lists in progress.
    pub open_max: u64,
    /// Maximum number of lines kept, in progress and completed.
    pub lines_max: u64,
}

/// Why a list was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// A line gives power, so the caller must authenticate again first. Roles that are too high for
    /// them are outcomes of their lines.
    #[error(transparent)]
    Reach(#[from] OutOfReach),
    /// The tenant has reached its limit of lists in progress, or of their lines.
    #[error("the tenant has reached its limit of invitation lists in progress")]
    TooMany,
    /// The tenant has sent as many mails today as it may, until after this time.
    #[error("the tenant has reached its daily limit of mails")]
    BudgetSpent(Duration),
    /// Its jobs could not be staged.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl Outcome {
    /// Its name in rows and responses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invited => "invited",
            Self::InvalidEmail => "invalid_email",
            Self::Duplicate => "duplicate",
            Self::NoSuchRole => "no_such_role",
            Self::RoleTooHigh => "role_too_high",
            Self::AlreadyMember => "already_member",
            Self::TooManyInvitations => "too_many_invitations",
            Self::EmailDomainNotAllowed => "email_domain_not_allowed",
            Self::MailBudgetExhausted => "mail_budget_exhausted",
            Self::Failed => "failed",
        }
    }
}

impl Record for InvitationList {
    const COLLECTION: &'static str = "invitation_lists";
    const DATA: Data = Data::of_tenant();
    const INDEXES: &'static [Index] = &[
        Index::on("invitation_lists_tenant", &[("tenant_id", 1), ("_id", 1)]),
        Index::expiring("invitation_lists_ttl", &[("expires_at", 1)], Duration::ZERO),
    ];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("tenant_id", schema::STRING),
        ("by", schema::STRING),
        ("lines", schema::ARRAY),
        ("created_at", schema::DATE),
        ("completed_at", schema::DATE_OR_NULL),
        ("expires_at", schema::DATE),
    ];
}
impl OfTenant for InvitationList {
    fn tenant_id(&self) -> TenantId {
        self.tenant_id
    }
}

impl Line {
    /// A line as submitted. Of an invalid one, only the beginning is kept, and its outcome is
    /// decided.
    pub fn new(email: &str, role: &str) -> Self {
        let (has_email, has_role) =
            (email.parse::<Email>().is_ok(), role.parse::<RoleRef>().is_ok());
        let kept = |text: &str, is_valid: bool| {
            if is_valid { text.to_owned() } else { text.chars().take(JUNK_CHARS_MAX).collect() }
        };
        let outcome = match (has_email, has_role) {
            (true, true) => None,
            (true, false) => Some(Outcome::NoSuchRole),
            (false, _) => Some(Outcome::InvalidEmail),
        };
        let (email, role) = (kept(email, has_email), kept(role, has_role));
        Self { email, role, outcome, invitation: None }
    }
}

impl InvitationList {
    /// Stores a list, within a change that has locked the tenant. It replaces the oldest completed
    /// lists if more lines would be kept than the tenant may have.
    pub(crate) async fn create(
        txn: &mut Txn,
        actor: Actor,
        lines: &[Line],
        limits: ListLimits,
    ) -> Result<Self, ListError> {
        make_room(txn, actor.scope, lines.len(), limits).await?;
        let (id, now) = (txn.clock().id(), txn.clock().now());
        let list = Self {
            id,
            tenant_id: actor.scope.tenant_id(),
            by: actor.principal,
            lines: lines.to_vec(),
            created_at: now,
            completed_at: None,
            expires_at: later(now, RETENTION),
        };
        txn.records::<Self>(actor.scope).insert(&list).await?;
        actor.record(txn, Action::InvitationListCreated, id).await?;
        Ok(list)
    }

    /// Numbers of the first lines of the chunks that have lines to invite.
    pub(crate) fn chunks_to_invite(&self) -> impl Iterator<Item = usize> {
        let chunks = self.lines.chunks(CHUNK_LINES).enumerate();
        chunks
            .filter(|(_, lines)| lines.iter().any(|line| line.outcome.is_none()))
            .map(|(number, _)| number * CHUNK_LINES)
    }

    /// The list with this id.
    pub async fn of(
        store: &Store,
        scope: TenantScope,
        id: InvitationListId,
    ) -> Result<Option<Self>, DbError> {
        store.records::<Self>(scope).find(doc! { "_id": id }).await
    }

    /// The member who submitted it.
    pub fn actor(&self) -> Actor {
        // The list belongs to the tenant of that member.
        Actor::on_behalf_of(TenantScope::of_row(self), self.by)
    }

    /// Invites the unprocessed lines in `range`; returns the invitations.
    pub async fn invite(
        &self,
        txn: &mut Txn,
        inviting: &Inviting<'_>,
        range: Range<usize>,
    ) -> Result<Vec<Invitation>, DbError> {
        let has_email = |line: &Line| line.outcome != Some(Outcome::InvalidEmail);
        let mut seen: HashSet<String> = self
            .lines
            .iter()
            .take(range.start)
            .filter(|line| has_email(line))
            .map(|line| line.email.trim().to_lowercase())
            .collect();
        let (mut invitations, mut set) = (Vec::new(), Document::new());
        let lines = self.lines.iter().enumerate().take(range.end).skip(range.start);
        for (at, line) in lines {
            let is_first = has_email(line) && seen.insert(line.email.trim().to_lowercase());
            if line.outcome.is_some() {
                continue;
            }
            let outcome = match invite(txn, inviting, line, is_first).await? {
                Ok(invitation) => {
                    set.insert(format!("lines.{at}.invitation"), invitation.id);
                    invitations.push(invitation);
                    Outcome::Invited
                }
                Err(outcome) => outcome,
            };
            set.insert(format!("lines.{at}.outcome"), outcome.as_str());
        }
        self.set(txn, set).await?;
        Ok(invitations)
    }

    /// Marks the list as complete; lines that are still unprocessed have failed.
    pub async fn complete(&self, txn: &mut Txn) -> Result<(), DbError> {
        let waiting = self.lines.iter().enumerate().filter(|(_, line)| line.outcome.is_none());
        let mut set: Document = waiting
            .map(|(at, _)| (format!("lines.{at}.outcome"), Outcome::Failed.as_str().into()))
            .collect();
        set.insert("completed_at", txn.clock().now());
        self.set(txn, set).await?;
        self.actor().record(txn, Action::InvitationListCompleted, self.id).await
    }

    async fn set(&self, txn: &mut Txn, set: Document) -> Result<(), DbError> {
        if set.is_empty() {
            return Ok(());
        }
        txn.records::<Self>(self.actor().scope)
            .update(doc! { "_id": self.id }, doc! { "$set": set })
            .await
            .map(drop)
    }

    /// The list, within a transaction.
    pub async fn within(
        txn: &mut Txn,
        scope: TenantScope,
        id: InvitationListId,
    ) -> Result<Option<Self>, DbError> {
        txn.records::<Self>(scope).find(doc! { "_id": id }).await
    }
}

/// Deletes the oldest completed lists of a tenant until a new one of so many lines fits.
async fn make_room(
    txn: &mut Txn,
    scope: TenantScope,
    lines: usize,
    limits: ListLimits,
) -> Result<(), ListError> {
    let (newest_first, now) = (doc! { "_id": -1 }, txn.clock().now());
    let lists = txn.records::<InvitationList>(scope).list(doc! {}, newest_first, LISTS_MAX).await?;
    let (open, completed): (Vec<_>, Vec<_>) = lists.iter().partition(|list| {
        list.completed_at.is_none() && between(list.created_at, now) < ABANDONED_AFTER
    });
    let size = |list: &InvitationList| list.lines.len() as u64;
    let in_progress = lines as u64 + open.iter().map(|list| size(list)).sum::<u64>();
    if open.len() as u64 >= limits.open_max || in_progress > limits.lines_max {
        return Err(ListError::TooMany);
    }
    let mut sum = in_progress;
    let excess = completed.iter().filter(|list| {
        sum += size(list);
        sum > limits.lines_max
    });
    let excess: Vec<InvitationListId> = excess.map(|list| list.id).collect();
    if !excess.is_empty() {
        txn.records::<InvitationList>(scope).delete_all(doc! { "_id": { "$in": excess } }).await?;
    }
    Ok(())
}

/// Invites one line, or returns why it could not be.
async fn invite(
    txn: &mut Txn,
    inviting: &Inviting<'_>,
    line: &Line,
    is_first: bool,
) -> Result<Result<Invitation, Outcome>, DbError> {
    let Ok(email) = line.email.parse::<Email>() else { return Ok(Err(Outcome::InvalidEmail)) };
    let Ok(role) = line.role.parse() else { return Ok(Err(Outcome::NoSuchRole)) };
    if !is_first {
        return Ok(Err(Outcome::Duplicate));
    }
    match inviting.invite(txn, &email, role).await {
        Ok(invitation) => Ok(Ok(invitation)),
        Err(InviteError::NotFound | InviteError::NoSuchRole) => Ok(Err(Outcome::NoSuchRole)),
        Err(InviteError::Reach(_)) => Ok(Err(Outcome::RoleTooHigh)),
        Err(InviteError::AlreadyMember) => Ok(Err(Outcome::AlreadyMember)),
        Err(InviteError::TooMany) => Ok(Err(Outcome::TooManyInvitations)),
        Err(InviteError::DomainNotAllowed) => Ok(Err(Outcome::EmailDomainNotAllowed)),
        Err(InviteError::BudgetSpent(_)) => Ok(Err(Outcome::MailBudgetExhausted)),
        Err(InviteError::Db(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_has_one_name_in_rows_and_responses() {
        for outcome in [
            Outcome::Invited,
            Outcome::InvalidEmail,
            Outcome::NoSuchRole,
            Outcome::EmailDomainNotAllowed,
            Outcome::Failed,
        ] {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.as_str());
        }
    }
}
