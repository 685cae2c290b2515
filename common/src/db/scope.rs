//! Scopes: which rows a handle may access, enforced by type.

use mongodb::bson::{Document, doc};
use serde::{Serialize, de::DeserializeOwned};

use super::schema::{Field, Index};
use crate::id::TenantId;

/// A type of row and its collection. The collections of a release are listed in its
/// [`Declaration`](super::schema::Declaration).
pub trait Record: Serialize + DeserializeOwned + Send + Sync + Unpin + 'static {
    /// Name of the collection.
    const COLLECTION: &'static str;
    /// Indexes of the collection.
    const INDEXES: &'static [Index] = &[];
    /// Fields that MongoDB requires of every row; none if it does not check rows.
    const REQUIRED: &'static [Field] = &[];
    /// Who owns the rows, and how they are exported and erased.
    const DATA: Data;
}

/// Who owns rows, and how they are exported and erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Data {
    /// The owner of the rows.
    pub owner: Owner,
    /// How they are exported to their owner.
    pub export: Export,
    /// What happens to them when their owner is erased.
    pub erasure: Erasure,
}

/// The owner of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A tenant, named by this field.
    Tenant(&'static str),
    /// A person, named by this field.
    Person(&'static str),
    /// The installation.
    Platform,
}

/// How rows are exported to their owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Export {
    /// Whole, without these fields, which are secrets.
    Without(&'static [&'static str]),
    /// Not at all, for this reason.
    Never(&'static str),
}

/// What happens to rows when their owner is erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erasure {
    /// They are deleted.
    Delete,
    /// They stay, for this reason.
    Keep(&'static str),
}

impl Data {
    /// Rows of the tenant in their `tenant_id`: exported completely, and deleted with it.
    pub const fn of_tenant() -> Self {
        let owner = Owner::Tenant("tenant_id");
        Self { owner, export: Export::Without(&[]), erasure: Erasure::Delete }
    }

    /// Rows of the person that `field` identifies by id or email address: exported completely, and
    /// deleted with their account.
    pub const fn of_person(field: &'static str) -> Self {
        let owner = Owner::Person(field);
        Self { owner, export: Export::Without(&[]), erasure: Erasure::Delete }
    }

    /// The row of a tenant itself.
    pub const fn of_tenant_itself() -> Self {
        Self { owner: Owner::Tenant("_id"), ..Self::of_tenant() }
    }

    /// Rows of the installation, which nobody else owns or can export.
    pub const fn of_platform() -> Self {
        let export = Export::Never("it is the installation's own");
        let erasure = Erasure::Keep("it is the installation's own");
        Self { owner: Owner::Platform, export, erasure }
    }

    /// Exported without `fields`.
    #[must_use]
    pub const fn without(self, fields: &'static [&'static str]) -> Self {
        Self { export: Export::Without(fields), ..self }
    }

    /// Not exported, for a reason.
    #[must_use]
    pub const fn not_exported(self, reason: &'static str) -> Self {
        Self { export: Export::Never(reason), ..self }
    }

    /// Kept when their owner is erased, for a reason.
    #[must_use]
    pub const fn kept(self, reason: &'static str) -> Self {
        Self { erasure: Erasure::Keep(reason), ..self }
    }

    /// The field that contains the owning tenant.
    ///
    /// # Panics
    /// If they belong to no tenant. This happens at compile time, because it is only called in
    /// constants.
    const fn tenant_field(self) -> &'static str {
        match self.owner {
            Owner::Tenant(field) => field,
            Owner::Person(_) | Owner::Platform => panic!("these rows belong to no tenant"),
        }
    }
}

/// A row that belongs to a tenant. Each is `#[non_exhaustive]`, so that only the crate that declares
/// it, and its changes, can make one; a test checks it.
pub trait OfTenant: Record {
    /// The tenant that owns the row.
    fn tenant_id(&self) -> TenantId;
}

/// A row that belongs to a tenant or to none, such as the session of an account without a tenant.
/// Each is `#[non_exhaustive]`, as those [`OfTenant`] are.
pub trait MaybeOfTenant: Record {
    /// The tenant that the row belongs to, if any.
    fn tenant_id(&self) -> Option<TenantId>;
}

/// Permission to access one tenant's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantScope(TenantId);

impl TenantScope {
    /// The scope of a row's tenant: the caller was allowed to read the row. Never change the tenant
    /// of a row that was read.
    pub fn of_row(row: &impl OfTenant) -> Self {
        Self(row.tenant_id())
    }

    /// As [`TenantScope::of_row`]; none if the row belongs to no tenant. None never means all.
    pub fn of_row_if_any(row: &impl MaybeOfTenant) -> Option<Self> {
        row.tenant_id().map(Self)
    }

    /// The scope of a caller's tenant. Only for the authenticated extractor, which has verified
    /// that the caller belongs to the tenant.
    pub const fn of_caller(tenant: TenantId) -> Self {
        Self(tenant)
    }

    /// The scope of a job's tenant. Only for the job engine, which takes it from the job's
    /// envelope.
    pub const fn of_job(tenant: TenantId) -> Self {
        Self(tenant)
    }

    /// The tenant of the scope.
    pub const fn tenant_id(self) -> TenantId {
        self.0
    }
}

/// Permission to access the rows of every tenant, and those of none. Code that returns rows read
/// with it in answer to a tenant's request must explain why that is safe.
#[derive(Debug, Clone, Copy)]
pub struct PlatformScope;

/// How a scope restricts the rows of `T`.
pub trait Scope<T> {
    /// The restriction to apply.
    fn narrowing(self) -> Narrowing<T>;
}

/// What a scope adds to every filter and requires of every insert.
pub struct Narrowing<T> {
    pub(super) filter: Document,
    pub(super) admits: Admits<T>,
}

/// Decides whether a row may be written.
pub(super) type Admits<T> = Box<dyn Fn(&T) -> bool + Send + Sync>;

impl<T: OfTenant> Scope<T> for TenantScope {
    fn narrowing(self) -> Narrowing<T> {
        let (tenant, field) = (self.0, const { T::DATA.tenant_field() });
        Narrowing {
            filter: doc! { field: tenant },
            admits: Box::new(move |row| row.tenant_id() == tenant),
        }
    }
}

impl<T: Record> Scope<T> for PlatformScope {
    fn narrowing(self) -> Narrowing<T> {
        Narrowing { filter: Document::new(), admits: Box::new(|_| true) }
    }
}
