//! A tenant's security rules: how long its sessions last, from where it can be accessed, whom it
//! invites, and which passwords its members may set.
//!
//! They are stored in the tenant's row, which is read with every caller, so they apply from the
//! next request on. Sessions move between tenants, so the rules are not copied into them: code that
//! reads a session applies the rules of its tenant
//! ([`Security::limit`]).

use std::{borrow::Cow, collections::HashMap, fmt, net::IpAddr, str::FromStr, time::Duration};

use common::{
    db::{Change, DbError, Store, TenantScope, Txn, Unchanged},
    email::Email,
    id::{TenantId, UserId},
    networks::Range,
    revocations::{self, Revoked},
};
use mongodb::bson::{self, Bson};
use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

use crate::{
    activity::{Action, Entry, Property},
    people::{sessions::Session, users::User},
    tenancy::{
        actor::Actor,
        roles::{Permission, Role, RoleRef},
        tenants::Tenant,
    },
};

/// Maximum number of email domains.
pub const DOMAINS_MAX: usize = 100;
/// Maximum number of IP address ranges.
pub const RANGES_MAX: usize = 100;

/// How long a session may be unused, in minutes. At least five, because its last use is recorded
/// only once per minute.
pub type IdleMinutes = Bounded<5, 43_200>;
/// How long a session may last, in hours.
pub type AbsoluteHours = Bounded<1, 8_760>;
/// Minimum length of a password.
pub type PasswordLength = Bounded<8, 64>;

/// The rules. None of them is weaker than those of the installation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    /// Whether its members must have a second factor.
    pub require_mfa: bool,
    /// Its sessions end after this long without use.
    pub session_idle_minutes: Option<IdleMinutes>,
    /// Its sessions last at most this long.
    pub session_absolute_hours: Option<AbsoluteHours>,
    /// Minimum length of its members' new passwords.
    pub password_min_length: Option<PasswordLength>,
    /// The email domains that may be invited.
    pub allowed_email_domains: EmailDomains,
    /// The IP addresses from which it can be accessed.
    pub ip_allowlist: Allowlist,
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Bounded<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> PartialSchema for Bounded<MIN, MAX> {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(MIN)).maximum(Some(MAX)).into()
    }
}

impl<const MIN: u32, const MAX: u32> ToSchema for Bounded<MIN, MAX> {
    fn name() -> Cow<'static, str> {
        format!("From{MIN}To{MAX}").into()
    }
}

/// The number is too small or too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a whole number from {min} to {max}")]
pub struct OutOfRange {
    min: u32,
    max: u32,
}

/// The part of an email address after the `@`. Its subdomains are different domains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(
    description = "Domain of email addresses, without its subdomains.",
    example = "example.com"
)]
pub struct EmailDomain(String);

/// The text is not the domain of an email address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a domain such as example.com, in its ASCII form and without @")]
pub struct InvalidDomain;

/// The email domains that may be invited; all if empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(description = "Domains of email addresses.")]
pub struct EmailDomains(Vec<EmailDomain>);

/// The IP address ranges from which access is allowed; all if empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(description = "IP addresses and ranges of them.", max_items = 100)]
pub struct Allowlist(Vec<Range>);

impl<const MIN: u32, const MAX: u32> Bounded<MIN, MAX> {
    /// The smallest value.
    pub const MIN: u32 = MIN;
    /// The largest value.
    pub const MAX: u32 = MAX;

    /// The value.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32> TryFrom<i64> for Bounded<MIN, MAX> {
    type Error = OutOfRange;

    fn try_from(number: i64) -> Result<Self, OutOfRange> {
        let number = u32::try_from(number).ok().filter(|number| (MIN..=MAX).contains(number));
        number.map(Self).ok_or(OutOfRange { min: MIN, max: MAX })
    }
}

impl<const MIN: u32, const MAX: u32> From<Bounded<MIN, MAX>> for i64 {
    fn from(number: Bounded<MIN, MAX>) -> Self {
        number.0.into()
    }
}

impl FromStr for EmailDomain {
    type Err = InvalidDomain;

    fn from_str(text: &str) -> Result<Self, InvalidDomain> {
        let domain = text.trim().to_ascii_lowercase();
        // A domain is valid if an email address can have it.
        format!("somebody@{domain}").parse::<Email>().map_err(|_| InvalidDomain)?;
        Ok(Self(domain))
    }
}

impl TryFrom<String> for EmailDomain {
    type Error = InvalidDomain;
    fn try_from(text: String) -> Result<Self, InvalidDomain> {
        text.parse()
    }
}

impl From<EmailDomain> for String {
    fn from(domain: EmailDomain) -> Self {
        domain.0
    }
}

impl EmailDomain {
    /// The domain of an email address.
    pub(crate) fn of(email: &Email) -> Self {
        Self(email.domain().to_ascii_lowercase())
    }
}

impl fmt::Display for EmailDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl EmailDomains {
    /// Whether an email address may be invited.
    pub fn admit(&self, email: &Email) -> bool {
        self.0.is_empty() || self.name(email)
    }

    /// Whether the email address is of one of them.
    pub(crate) fn name(&self, email: &Email) -> bool {
        self.0.iter().any(|domain| domain.0.eq_ignore_ascii_case(email.domain()))
    }

    /// Whether email addresses of all `others` may be invited.
    pub(crate) fn cover(&self, others: &Self) -> bool {
        self.0.is_empty() || others.0.iter().all(|domain| self.0.contains(domain))
    }
}

impl FromIterator<EmailDomain> for EmailDomains {
    fn from_iter<I: IntoIterator<Item = EmailDomain>>(domains: I) -> Self {
        Self(distinct(domains))
    }
}

impl Allowlist {
    /// Whether access is allowed from everywhere.
    pub const fn is_everywhere(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether access is allowed from `address`; an unknown one is allowed only if every one is.
    pub fn admits(&self, address: Option<IpAddr>) -> bool {
        self.0.is_empty()
            || address.is_some_and(|address| self.0.iter().any(|range| range.contains(address)))
    }
}

impl Allowlist {
    /// Whether access is allowed only from addresses that `other` allows as well.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        let is_covered = |range: &Range| other.0.iter().any(|wider| wider.covers(range));
        other.0.is_empty() || (!self.0.is_empty() && self.0.iter().all(is_covered))
    }
}

impl FromIterator<Range> for Allowlist {
    fn from_iter<I: IntoIterator<Item = Range>>(ranges: I) -> Self {
        Self(distinct(ranges))
    }
}

/// Removes duplicates, keeping the first of each.
fn distinct<T: PartialEq>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    items.into_iter().fold(Vec::new(), |mut kept, item| {
        if !kept.contains(&item) {
            kept.push(item);
        }
        kept
    })
}

impl Security {
    /// Adds the changes from `self` to `after` to an event.
    fn differing(&self, event: Entry, after: &Self) -> Result<Entry, DbError> {
        event
            .changed(Property::RequireMfa, &self.require_mfa, &after.require_mfa)?
            .changed(
                Property::SessionIdleMinutes,
                &self.session_idle_minutes,
                &after.session_idle_minutes,
            )?
            .changed(
                Property::SessionAbsoluteHours,
                &self.session_absolute_hours,
                &after.session_absolute_hours,
            )?
            .changed(
                Property::PasswordMinLength,
                &self.password_min_length,
                &after.password_min_length,
            )?
            .changed(
                Property::AllowedEmailDomains,
                &self.allowed_email_domains,
                &after.allowed_email_domains,
            )?
            .changed(Property::IpAllowlist, &self.ip_allowlist, &after.ip_allowlist)
    }

    /// Sessions end after this long without use.
    pub fn session_idle(&self) -> Option<Duration> {
        self.session_idle_minutes.map(|minutes| Duration::from_mins(minutes.get().into()))
    }

    /// Sessions last at most this long.
    pub fn session_absolute(&self) -> Option<Duration> {
        self.session_absolute_hours.map(|hours| Duration::from_hours(hours.get().into()))
    }

    /// Limits a session of the tenant to these rules, where they are stricter.
    #[must_use]
    pub fn limit(&self, session: Session) -> Session {
        session.limited(self.session_absolute(), self.session_idle())
    }

    /// Whether a member with this role may sign in from this IP address. Owners may from anywhere, so
    /// that nobody can lock them out; there, all but the security rules stays closed to them.
    pub fn admits(&self, role: RoleRef, address: Option<IpAddr>) -> bool {
        role == Role::Owner.into() || self.ip_allowlist.admits(address)
    }

    /// The stored form.
    fn bson(&self) -> Result<Bson, DbError> {
        bson::serialize_to_bson(self).map_err(|error| DbError::Shape(error.to_string()))
    }
}

/// The live sessions of `user`, newest first, each limited by the rules of its tenant.
pub async fn sessions_of(store: &Store, user: UserId) -> Result<Vec<Session>, DbError> {
    let now = store.clock().now();
    let found = Session::unrevoked_of(store, user).await?;
    let mut tenants: Vec<TenantId> = found.iter().filter_map(|session| session.tenant_id).collect();
    tenants.sort_unstable();
    tenants.dedup();
    let tenants = Tenant::by_ids(store, &tenants).await?;
    let rules: HashMap<TenantId, Security> =
        tenants.into_iter().map(|tenant| (tenant.id, tenant.security)).collect();
    let limited = |session: Session| match session.tenant_id {
        Some(tenant) => Some(rules.get(&tenant)?.limit(session)),
        None => Some(session),
    };
    Ok(found.into_iter().filter_map(limited).filter(|session| session.is_live(now)).collect())
}

/// Why the rules were not changed.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// The caller no longer has the permission.
    #[error("the caller no longer has the permission")]
    NotAllowed,
    /// The rules are not as the caller last saw them.
    #[error("the rules have been changed in the meantime")]
    Changed,
    /// The caller could no longer access the tenant.
    #[error("the rules would lock out the caller")]
    LocksOut,
    /// The caller requires a second factor of others, but has none.
    #[error("a caller without a second factor cannot require one of all members")]
    NoSecondFactor,
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Replaces the rules of a tenant, effective at the next request everywhere.
pub struct ChangeSecurity<'a> {
    /// The caller.
    pub actor: Actor,
    /// Their IP address.
    pub address: Option<IpAddr>,
    /// The new rules.
    pub security: Security,
    /// Whether the rules are still as the caller last saw them.
    pub unchanged: Unchanged<'a, Security>,
}

impl Change for ChangeSecurity<'_> {
    type Output = Security;
    type Error = SecurityError;

    async fn apply(&self, txn: &mut Txn) -> Result<Security, SecurityError> {
        let scope = self.actor.scope;
        let tenant = Tenant::lock(txn, scope).await?.ok_or(SecurityError::NotAllowed)?;
        if !self.actor.grant(txn).await?.may(Permission::SecurityWrite) {
            return Err(SecurityError::NotAllowed);
        }
        if !(self.unchanged)(&tenant.security) {
            return Err(SecurityError::Changed);
        }
        if !self.security.ip_allowlist.admits(self.address) {
            return Err(SecurityError::LocksOut);
        }
        if self.security.require_mfa && !self.has_second_factor(txn).await? {
            return Err(SecurityError::NoSecondFactor);
        }
        Tenant::set_security(txn, scope, self.security.bson()?).await?;
        revocations::note(txn, Revoked::Tenant(scope.tenant_id()));
        let event = self.actor.did(Action::TenantSecurityChanged, scope.tenant_id());
        tenant.security.differing(event, &self.security)?.record(txn, scope).await?;
        Ok(self.security.clone())
    }
}

impl ChangeSecurity<'_> {
    async fn has_second_factor(&self, txn: &mut Txn) -> Result<bool, DbError> {
        let Some(user) = self.actor.principal.user() else { return Ok(false) };
        let user = User::within(txn, user).await?;
        Ok(user.is_some_and(|user| user.second_factor_since.is_some()))
    }
}

/// Why a tenant's IP allowlist was not removed.
#[derive(Debug, thiserror::Error)]
pub enum AllowError {
    /// The tenant does not exist.
    #[error("the tenant does not exist")]
    NotFound,
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Removes a tenant's IP allowlist, in case it locks its members out; returns whether there was
/// one. The other rules stay. Repeating it publishes the revocation again.
#[derive(Debug)]
pub struct AllowAllAddresses {
    pub tenant: TenantId,
}

impl Change for AllowAllAddresses {
    type Output = bool;
    type Error = AllowError;

    async fn apply(&self, txn: &mut Txn) -> Result<bool, AllowError> {
        let tenant = Tenant::by_operator(txn, self.tenant).await?.ok_or(AllowError::NotFound)?;
        let scope = TenantScope::of_row(&tenant);
        let tenant = Tenant::lock(txn, scope).await?.ok_or(AllowError::NotFound)?;
        revocations::note(txn, Revoked::Tenant(tenant.id));
        if tenant.security.ip_allowlist.is_everywhere() {
            return Ok(false);
        }
        let security = Security { ip_allowlist: Allowlist::default(), ..tenant.security.clone() };
        Tenant::set_security(txn, scope, security.bson()?).await?;
        let event = Entry::new(Action::TenantAllAddressesAllowed, tenant.id);
        let event = tenant.security.differing(event, &security)?;
        // Recorded twice: for the tenant, and for the platform whose operator did it.
        event.clone().record(txn, scope).await?;
        event.record_on_platform(txn).await?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_bounded() {
        for (minutes, fits) in [
            (i64::MIN, false),
            (-5, false),
            (4, false),
            (5, true),
            (43_200, true),
            (43_201, false),
            (i64::MAX, false),
        ] {
            assert_eq!(IdleMinutes::try_from(minutes).is_ok(), fits, "{minutes}");
        }
        assert_eq!(
            PasswordLength::try_from(7).unwrap_err().to_string(),
            "must be a whole number from 8 to 64"
        );
    }

    #[test]
    fn a_domain_is_the_part_after_the_at_sign() {
        let domains: EmailDomains = ["Example.com", "example.com", "sub.example.org"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        assert_eq!(
            serde_json::to_string(&domains).unwrap(),
            r#"["example.com","sub.example.org"]"#
        );
        for (address, admitted) in [
            ("a@EXAMPLE.com", true),
            ("a@sub.example.org", true),
            ("a@example.org", false),
            ("a@other.example.com", false),
            ("a@notexample.com", false),
            ("example.com@evil.example", false),
        ] {
            assert_eq!(domains.admit(&address.parse().unwrap()), admitted, "{address}");
        }
        assert!(EmailDomains::default().admit(&"a@anywhere.example".parse().unwrap()));
        for text in [
            "",
            "example",
            "@example.com",
            "a@example.com",
            "*.example.com",
            "exam ple.com",
            "10.0.0.1",
            "bücher.example",
            ".com",
        ] {
            assert_eq!(text.parse::<EmailDomain>(), Err(InvalidDomain), "{text}");
        }
    }

    #[test]
    fn access_is_limited_to_the_given_ranges() {
        let list: Allowlist =
            ["10.0.0.0/8", "2001:db8::/32"].iter().map(|text| text.parse().unwrap()).collect();
        let admits = |text: &str| list.admits(Some(text.parse().unwrap()));
        assert!(admits("10.1.2.3") && admits("::ffff:10.1.2.3") && admits("2001:db8::1"));
        assert!(!admits("11.0.0.1") && !admits("::1") && !list.admits(None));
        assert!(Allowlist::default().admits(None));
    }

    #[test]
    fn rules_have_one_format_in_rows_and_responses_and_default_to_none() {
        let rules = r#"{"require_mfa":true,"session_idle_minutes":15,"session_absolute_hours":null,"password_min_length":12,"allowed_email_domains":["example.com"],"ip_allowlist":["10.0.0.0/8"]}"#;
        let security: Security = serde_json::from_str(rules).unwrap();
        assert_eq!(serde_json::to_string(&security).unwrap(), rules);
        assert_eq!(
            bson::deserialize_from_bson::<Security>(security.bson().unwrap()).unwrap(),
            security
        );
        assert_eq!(serde_json::from_str::<Security>("{}").unwrap(), Security::default());
    }
}
