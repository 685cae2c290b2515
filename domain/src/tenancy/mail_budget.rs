//! The mail budget of a tenant: how many mails it may send on one day to people who are not its
//! members.
//!
//! Every such mail is counted in the transaction that causes it: links to new email addresses of
//! members, reminders, and invitations, whether individual, in a list, sent again, by an invite link
//! or because of an email domain.
//! Nothing is given back, so inviting, cancelling and inviting again counts each time. A new tenant
//! has a small budget, because anyone can create one; it grows with the tenant's age and with
//! accepted invitations. An operator can set another one.

use std::time::Duration;

use common::{
    config,
    db::{
        Change, Data, DbError, OfTenant, Record, Store, TenantScope, Txn,
        schema::{self, Field},
    },
    id::TenantId,
    telemetry::metrics,
};
use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use crate::{
    activity::{Action, Entry, Property},
    tenancy::tenants::Tenant,
};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// The budget of a tenant, and what it has spent today.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MailBudget {
    #[serde(rename = "_id")]
    tenant_id: TenantId,
    /// The day of the counts, in days since the epoch (UTC).
    day: i64,
    /// Mails sent on that day.
    pub spent: u64,
    /// Invitations accepted before that day.
    pub accepted: u64,
    /// Invitations accepted on that day.
    pub accepted_today: u64,
    /// Mails a day, if an operator has set them.
    pub set: Option<u64>,
}

impl Record for MailBudget {
    const COLLECTION: &'static str = "mail_budgets";
    const DATA: Data = Data::of_tenant_itself();
    const REQUIRED: &'static [Field] = &[("_id", schema::STRING)];
}
impl OfTenant for MailBudget {
    fn tenant_id(&self) -> TenantId {
        self.tenant_id
    }
}

/// Why a mail is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A member invites.
    ByMember,
    /// The invited person has requested it. Such mails can use only half of the budget, because
    /// anyone who has an invite link can cause them.
    OnRequest,
    /// A reminder of an invitation.
    Reminder,
    /// A member changes their email address.
    EmailChange,
}

impl Wanted {
    const fn name(self) -> &'static str {
        match self {
            Self::ByMember => "by_member",
            Self::OnRequest => "on_request",
            Self::Reminder => "reminder",
            Self::EmailChange => "email_change",
        }
    }
}

/// The budget is spent; the next day begins after this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent(pub Duration);

impl MailBudget {
    /// The budget of a tenant as it is now.
    pub async fn of(store: &Store, tenant: &Tenant) -> Result<Self, DbError> {
        let found = store.records::<Self>(TenantScope::of_row(tenant)).find(doc! {}).await?;
        Ok(Self::on_day(found, tenant.id, store.clock().now()))
    }

    /// Mails that the tenant may send on the day of `now`.
    pub fn limit(&self, tenant: &Tenant, now: DateTime, terms: &config::MailBudget) -> u64 {
        let age = day_of(now).saturating_sub(day_of(tenant.created_at));
        let age = u64::try_from(age).unwrap_or_default();
        let earned = terms
            .new_tenant
            .saturating_add(terms.per_day.saturating_mul(age))
            .saturating_add(terms.per_accepted.saturating_mul(self.accepted));
        self.set.unwrap_or(earned.min(terms.max))
    }

    /// Spends a mail of a tenant that this transaction has locked, unless nothing is left.
    pub(crate) async fn spend(
        txn: &mut Txn,
        tenant: &Tenant,
        wanted: Wanted,
        terms: &config::MailBudget,
    ) -> Result<Result<(), Spent>, DbError> {
        if let Err(spent) = Self::check(txn, tenant, wanted, terms).await? {
            return Ok(Err(spent));
        }
        Self::change(txn, tenant, |budget| budget.spent += 1).await.map(Ok)
    }

    /// Whether a mail is left, without spending it.
    pub(crate) async fn check(
        txn: &mut Txn,
        tenant: &Tenant,
        wanted: Wanted,
        terms: &config::MailBudget,
    ) -> Result<Result<(), Spent>, DbError> {
        let now = txn.clock().now();
        let budget = Self::within(txn, tenant).await?;
        let limit = match wanted {
            Wanted::ByMember | Wanted::Reminder | Wanted::EmailChange => {
                budget.limit(tenant, now, terms)
            }
            Wanted::OnRequest => budget.limit(tenant, now, terms) / 2,
        };
        if budget.spent < limit {
            return Ok(Ok(()));
        }
        metrics::MAIL_BUDGET_REFUSALS.with_label_values(&[wanted.name()]).inc();
        Ok(Err(Spent(until_next_day(now))))
    }

    /// Notes that a person has accepted an invitation to a tenant that this transaction has locked.
    pub(crate) async fn note_accepted(txn: &mut Txn, tenant: &Tenant) -> Result<(), DbError> {
        Self::change(txn, tenant, |budget| budget.accepted_today += 1).await
    }

    async fn within(txn: &mut Txn, tenant: &Tenant) -> Result<Self, DbError> {
        let now = txn.clock().now();
        let found = txn.records::<Self>(TenantScope::of_row(tenant)).find(doc! {}).await?;
        Ok(Self::on_day(found, tenant.id, now))
    }

    /// Changes the budget of a tenant that this transaction has locked, so that no other change can
    /// come between reading and writing.
    async fn change(
        txn: &mut Txn,
        tenant: &Tenant,
        change: impl FnOnce(&mut Self),
    ) -> Result<(), DbError> {
        let mut budget = Self::within(txn, tenant).await?;
        change(&mut budget);
        let scope = TenantScope::of_row(tenant);
        txn.records::<Self>(scope).delete_all(doc! {}).await?;
        txn.records::<Self>(scope).insert(&budget).await
    }

    /// The stored budget, or a new one, carried forward to the day of `now`.
    fn on_day(found: Option<Self>, tenant_id: TenantId, now: DateTime) -> Self {
        let day = day_of(now);
        let new = Self { tenant_id, day, spent: 0, accepted: 0, accepted_today: 0, set: None };
        let found = found.unwrap_or(new);
        if found.day >= day {
            return found;
        }
        let accepted = found.accepted + found.accepted_today;
        Self { day, spent: 0, accepted, accepted_today: 0, ..found }
    }
}

/// Days since the epoch, in UTC.
fn day_of(at: DateTime) -> i64 {
    at.timestamp_millis().div_euclid(DAY_MS)
}

fn until_next_day(now: DateTime) -> Duration {
    let passed = now.timestamp_millis().rem_euclid(DAY_MS);
    Duration::from_millis(DAY_MS.abs_diff(passed))
}

/// Why a tenant's budget was not set.
#[derive(Debug, thiserror::Error)]
pub enum BudgetError {
    /// The tenant does not exist.
    #[error("the tenant does not exist")]
    NotFound,
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Sets the mails a day of a tenant; none restores the default. Returns whether that was a change.
/// For operators.
#[derive(Debug, Clone, Copy)]
pub struct SetMailBudget {
    pub tenant: TenantId,
    pub mails: Option<u64>,
}

impl Change for SetMailBudget {
    type Output = bool;
    type Error = BudgetError;

    async fn apply(&self, txn: &mut Txn) -> Result<bool, BudgetError> {
        let tenant = Tenant::by_operator(txn, self.tenant).await?.ok_or(BudgetError::NotFound)?;
        let scope = TenantScope::of_row(&tenant);
        let tenant = Tenant::lock(txn, scope).await?.ok_or(BudgetError::NotFound)?;
        let before = MailBudget::within(txn, &tenant).await?.set;
        if before == self.mails {
            return Ok(false);
        }
        MailBudget::change(txn, &tenant, |budget| budget.set = self.mails).await?;
        let event = Entry::new(Action::TenantMailBudgetSet, tenant.id);
        let event = event.changed(Property::MailsPerDay, &before, &self.mails)?;
        // Recorded twice: for the tenant, and for the platform whose operator did it.
        event.clone().record(txn, scope).await?;
        event.record_on_platform(txn).await?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use common::clock::Clock;

    use super::*;
    use crate::tenancy::tenants::{Slug, TenantStatus};

    const TERMS: config::MailBudget =
        config::MailBudget { new_tenant: 10, per_day: 2, per_accepted: 5, max: 100 };

    fn tenant(created_at: DateTime) -> Tenant {
        let name: common::name::Name = "Demo".parse().unwrap();
        Tenant {
            id: Clock::system().id(),
            slug: Slug::suggested_by(&name),
            name,
            status: TenantStatus::Active,
            plan: "free".to_owned(),
            settings: doc! {},
            branding: doc! {},
            security: crate::tenancy::tenant_security::Security::default(),
            created_at,
            members_version: 0,
        }
    }

    #[test]
    fn the_budget_grows_with_age_and_accepted_invitations() {
        let day = |day: i64| DateTime::from_millis(day * DAY_MS + 7);
        let tenant = tenant(day(100));
        let new = MailBudget::on_day(None, tenant.id, day(100));
        let limit = |budget: &MailBudget, at| budget.limit(&tenant, at, &TERMS);
        assert_eq!([limit(&new, day(100)), limit(&new, day(103))], [10, 16]);
        let accepted = MailBudget { accepted_today: 3, spent: 10, ..new };
        assert_eq!(limit(&accepted, day(100)), 10, "they count from the next day on");
        let next = MailBudget::on_day(Some(accepted), tenant.id, day(101));
        assert_eq!((limit(&next, day(101)), next.spent), (10 + 2 + 15, 0));
        assert_eq!(limit(&next, day(1_000)), 100);
        let set = MailBudget { set: Some(500), ..next };
        assert_eq!(limit(&set, day(101)), 500);
    }

    #[test]
    fn a_day_is_that_of_utc() {
        let at = |millis: i64| until_next_day(DateTime::from_millis(millis)).as_millis();
        assert_eq!([at(0), at(1), at(DAY_MS - 1)], [86_400_000, 86_399_999, 1]);
    }
}
