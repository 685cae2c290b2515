//! Tenants: the customers, isolated from each other.

use std::{fmt, str::FromStr};

use common::{
    db::{
        Data, DbError, OfTenant, PlatformScope, Record, Store, TenantScope, Txn,
        schema::{self, Field, Index},
    },
    id::TenantId,
    name::Name,
};
use mongodb::bson::{Bson, DateTime, Document, doc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::tenancy::tenant_security::Security;

mod creation;

pub(crate) use creation::create_for;
pub use creation::{CreateTenant, CreateTenantError};

/// Unique index: a slug has one tenant.
const SLUG_INDEX: &str = "tenants_slug";
/// Maximum length of a slug; that of a label of a host name.
const SLUG_CHARS_MAX: usize = 63;
/// Maximum length of a slug that a name suggests; a suffix may follow.
const SUGGESTED_CHARS_MAX: usize = 48;
/// Number of numbered slugs to try before a random one is used.
const SLUG_SUFFIX_MAX: u32 = 5;

/// A tenant's short name in URLs: lower-case letters, digits and single hyphens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(
    description = "Unique short name: lower-case letters, digits and single hyphens.",
    min_length = 1,
    max_length = 63,
    pattern = "^[a-z0-9]+(-[a-z0-9]+)*$",
    example = "analytical-engines"
)]
pub struct Slug(String);

impl Slug {
    /// The slug for a name; `tenant` if the name has no usable letter or digit.
    pub fn suggested_by(name: &Name) -> Self {
        let mut slug = String::new();
        for c in name.as_str().chars() {
            if slug.len() >= SUGGESTED_CHARS_MAX {
                break;
            }
            if c.is_ascii_alphanumeric() {
                slug.push(c.to_ascii_lowercase());
            } else if !slug.is_empty() && !slug.ends_with('-') {
                slug.push('-');
            }
        }
        let slug = slug.trim_end_matches('-');
        Self(if slug.is_empty() { "tenant" } else { slug }.to_owned())
    }
}

/// The text is not a valid slug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must consist of at most {SLUG_CHARS_MAX} lower-case letters and digits, separated by single hyphens"
)]
pub struct InvalidSlug;

impl FromStr for Slug {
    type Err = InvalidSlug;

    fn from_str(text: &str) -> Result<Self, InvalidSlug> {
        let is_word = |word: &str| {
            !word.is_empty()
                && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        let fits = text.len() <= SLUG_CHARS_MAX;
        if fits && text.split('-').all(is_word) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidSlug)
        }
    }
}

/// How an operator refers to a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantRef {
    /// By its id.
    Id(TenantId),
    /// By its slug.
    Slug(Slug),
}

/// The text does not refer to a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an id such as ten_0192a0b8c0de7000800000000000cafe, or a tenant's slug")]
pub struct InvalidTenantRef;

impl FromStr for TenantRef {
    type Err = InvalidTenantRef;

    fn from_str(text: &str) -> Result<Self, InvalidTenantRef> {
        let by_id = text.parse().map(Self::Id);
        by_id.or_else(|_| text.parse().map(Self::Slug)).map_err(|_| InvalidTenantRef)
    }
}

impl fmt::Display for TenantRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Slug(slug) => slug.fmt(f),
        }
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `text` as a pattern that matches only itself.
fn literal(text: &str) -> String {
    let is_special = |c: char| c.is_ascii() && !c.is_ascii_alphanumeric();
    text.chars().flat_map(|c| is_special(c).then_some('\\').into_iter().chain([c])).collect()
}

/// State of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(description = "`active`, or `suspended` by an operator.")]
pub enum TenantStatus {
    /// In use.
    Active,
    /// Suspended by an operator; its members cannot sign in.
    Suspended,
}

impl TenantStatus {
    /// Its name in commands.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
        }
    }
}

/// A customer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Tenant {
    #[serde(rename = "_id")]
    pub id: TenantId,
    /// Name of the tenant.
    pub name: Name,
    /// Its slug; unique.
    pub slug: Slug,
    pub status: TenantStatus,
    /// Code of its plan.
    pub plan: String,
    /// Its settings.
    pub settings: Document,
    /// Its branding.
    pub branding: Document,
    /// Its security rules.
    #[serde(default)]
    pub security: Security,
    /// When it was created.
    pub created_at: DateTime,
    /// Counts the changes of its members' access.
    #[serde(default)]
    pub members_version: i64,
}

impl Record for Tenant {
    const COLLECTION: &'static str = "tenants";
    const DATA: Data = Data::of_tenant_itself();
    const INDEXES: &'static [Index] = &[Index::unique(SLUG_INDEX, &[("slug", 1)])];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("name", schema::STRING),
        ("slug", schema::STRING),
        ("status", schema::STRING),
        ("plan", schema::STRING),
        ("settings", schema::OBJECT),
        ("branding", schema::OBJECT),
        ("created_at", schema::DATE),
    ];
}
impl OfTenant for Tenant {
    fn tenant_id(&self) -> TenantId {
        self.id
    }
}

impl Tenant {
    /// Creates a tenant on the free plan, with `slug` or else the first free one for its name. The
    /// unique index settles races: the change of the loser fails and can be retried.
    pub async fn create(txn: &mut Txn, name: &Name, slug: Option<&Slug>) -> Result<Self, DbError> {
        let slug = match slug {
            Some(slug) => slug.clone(),
            None => free_slug(txn, Slug::suggested_by(name)).await?,
        };
        let tenant = Self {
            id: txn.clock().id(),
            name: name.clone(),
            slug,
            status: TenantStatus::Active,
            plan: "free".to_owned(),
            settings: Document::new(),
            branding: Document::new(),
            security: Security::default(),
            created_at: txn.clock().now(),
            members_version: 0,
        };
        txn.records::<Self>(PlatformScope).insert(&tenant).await?;
        Ok(tenant)
    }

    /// The tenant of a scope.
    pub async fn of(store: &Store, scope: TenantScope) -> Result<Option<Self>, DbError> {
        store.records::<Self>(scope).find(doc! {}).await
    }

    /// The tenant that `name` refers to.
    pub async fn named(store: &Store, name: &TenantRef) -> Result<Option<Self>, DbError> {
        let filter = match name {
            TenantRef::Id(id) => doc! { "_id": id },
            TenantRef::Slug(slug) => doc! { "slug": slug.to_string() },
        };
        store.records::<Self>(PlatformScope).find(filter).await
    }

    /// Up to `limit` tenants with `text` in their name or slug, in upper or lower case, ordered by
    /// slug. Reads every tenant; for operators.
    pub async fn containing(store: &Store, text: &str, limit: i64) -> Result<Vec<Self>, DbError> {
        let contains = doc! { "$regex": literal(text), "$options": "i" };
        let filter = doc! { "$or": [{ "name": contains.clone() }, { "slug": contains }] };
        store.records::<Self>(PlatformScope).list(filter, doc! { "slug": 1 }, limit).await
    }

    /// Begins a change of access in the scope's tenant. It writes the tenant's row, so that such
    /// changes are serialized: each sees the result of those before it, and rules about all members
    /// together (there is an owner, a role in use exists, limits hold) cannot be broken by two
    /// changes that are harmless individually. None if the tenant does not exist.
    pub(crate) async fn lock(txn: &mut Txn, scope: TenantScope) -> Result<Option<Self>, DbError> {
        let update = doc! { "$inc": { "members_version": 1_i64 } };
        txn.records::<Self>(scope).find_and_update(doc! {}, update).await
    }

    /// Replaces its security rules, within a change that has locked it.
    pub(crate) async fn set_security(
        txn: &mut Txn,
        scope: TenantScope,
        security: Bson,
    ) -> Result<(), DbError> {
        let update = doc! { "$set": { "security": security } };
        txn.records::<Self>(PlatformScope)
            .update(doc! { "_id": scope.tenant_id() }, update)
            .await
            .map(drop)
    }

    /// Sets its status, within a change that has locked it.
    pub(crate) async fn set_status(
        txn: &mut Txn,
        scope: TenantScope,
        status: TenantStatus,
    ) -> Result<(), DbError> {
        let update = doc! { "$set": { "status": status.name() } };
        txn.records::<Self>(scope).update(doc! {}, update).await.map(drop)
    }

    /// The tenant with this id, within a transaction.
    pub(crate) async fn within(txn: &mut Txn, scope: TenantScope) -> Result<Option<Self>, DbError> {
        txn.records::<Self>(scope).find(doc! {}).await
    }

    /// The tenant with this id, for operators of the installation.
    pub(crate) async fn by_operator(txn: &mut Txn, id: TenantId) -> Result<Option<Self>, DbError> {
        txn.records::<Self>(PlatformScope).find(doc! { "_id": id }).await
    }

    /// The tenants with these ids.
    pub async fn by_ids(store: &Store, ids: &[TenantId]) -> Result<Vec<Self>, DbError> {
        let limit = i64::try_from(ids.len()).unwrap_or(i64::MAX).max(1);
        store
            .records::<Self>(PlatformScope)
            .list(doc! { "_id": { "$in": ids.to_vec() } }, doc! { "name": 1, "_id": 1 }, limit)
            .await
    }
}

async fn free_slug(txn: &mut Txn, wanted: Slug) -> Result<Slug, DbError> {
    let mut slug = wanted.clone();
    for suffix in 2..=SLUG_SUFFIX_MAX + 1 {
        let taken =
            txn.records::<Tenant>(PlatformScope).find(doc! { "slug": slug.to_string() }).await?;
        if taken.is_none() {
            return Ok(slug);
        }
        slug = Slug(format!("{wanted}-{suffix}"));
    }
    let random = u32::from_le_bytes(txn.clock().random());
    Ok(Slug(format!("{wanted}-{random:08x}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_follow_names() {
        for (name, slug) in [
            ("Demo", "demo"),
            ("  Ärzte & Söhne GmbH ", "rzte-s-hne-gmbh"),
            ("日本", "tenant"),
            ("a--b", "a-b"),
        ] {
            assert_eq!(Slug::suggested_by(&name.parse().unwrap()).to_string(), slug);
        }
    }

    #[test]
    fn a_literal_pattern_has_no_special_characters() {
        assert_eq!(literal("a.b*(c)"), r"a\.b\*\(c\)");
        assert_eq!(literal("Söhne 7"), r"Söhne\ 7");
    }

    #[test]
    fn statuses_have_the_names_that_are_stored() {
        for status in [TenantStatus::Active, TenantStatus::Suspended] {
            assert_eq!(serde_json::to_value(status).unwrap(), status.name());
        }
    }

    #[test]
    fn an_operator_refers_to_a_tenant_by_id_or_slug() {
        for slug in ["demo", "rzte-s-hne-gmbh", "7"] {
            assert_eq!(slug.parse(), Ok(TenantRef::Slug(Slug(slug.to_owned()))));
        }
        let id: TenantId = common::clock::Clock::system().id();
        assert_eq!(id.to_string().parse(), Ok(TenantRef::Id(id)));
        for text in
            ["", "-", "a--b", "-a", "a-", "Demo", "a b", "ten_7", "ada@example.com", "ärzte"]
        {
            assert_eq!(text.parse::<TenantRef>(), Err(InvalidTenantRef), "{text:?}");
        }
    }
}
