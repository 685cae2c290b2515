//! Whose rows a handle may touch, decided by type.

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
    /// Fields that MongoDB demands of every row; none if it does not check rows.
    const REQUIRED: &'static [Field] = &[];
    /// Whose the rows are, and what becomes of them when their owner asks for a copy or leaves.
    const DATA: Data;
}

/// Whose rows are, and what becomes of them when their owner asks for a copy or leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Data {
    /// Whose they are.
    pub owner: Owner,
    /// How they are exported to their owner.
    pub export: Export,
    /// What happens to them when their owner is erased.
    pub erasure: Erasure,
}

/// Whose rows are.
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
    /// Rows of a tenant that name it by `tenant_id`: exported whole, and deleted with it.
    pub const fn of_tenant() -> Self {
        let owner = Owner::Tenant("tenant_id");
        Self { owner, export: Export::Without(&[]), erasure: Erasure::Delete }
    }

    /// Rows of the person that `field` names, by id or address: exported whole, and deleted with their account.
    pub const fn of_person(field: &'static str) -> Self {
        let owner = Owner::Person(field);
        Self { owner, export: Export::Without(&[]), erasure: Erasure::Delete }
    }

    /// The row of a tenant itself.
    pub const fn of_tenant_itself() -> Self {
        Self { owner: Owner::Tenant("_id"), ..Self::of_tenant() }
    }

    /// Rows of the installation: nobody else's, so that nobody is given a copy.
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

    /// The field that names the tenant that the rows belong to.
    ///
    /// # Panics
    /// When they belong to no tenant; while compiling, since it is only asked in constants.
    const fn tenant_field(self) -> &'static str {
        match self.owner {
            Owner::Tenant(field) => field,
            Owner::Person(_) | Owner::Platform => panic!("these rows belong to no tenant"),
        }
    }
}

/// A row that names a tenant that it belongs to.
pub trait OfTenant: Record {
    /// The tenant.
    fn tenant_id(&self) -> TenantId;
}

/// The right to touch one tenant's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantScope(TenantId);

impl TenantScope {
    /// That of a row, which whoever has it was allowed to read.
    pub fn of_row(row: &impl OfTenant) -> Self {
        Self(row.tenant_id())
    }

    /// That of a caller. For the authenticated extractor alone, which vouches that the caller
    /// belongs to the tenant.
    pub const fn of_caller(tenant: TenantId) -> Self {
        Self(tenant)
    }

    /// That of a job. For the job engine alone: the tenant is that of the job's envelope.
    pub const fn of_job(tenant: TenantId) -> Self {
        Self(tenant)
    }

    /// The tenant.
    pub const fn tenant_id(self) -> TenantId {
        self.0
    }
}

/// The right to touch rows of every tenant and of none. Anything that answers a tenant's request
/// with rows read through it must say why that is safe.
#[derive(Debug, Clone, Copy)]
pub struct PlatformScope;

/// How a scope narrows the rows of `T`.
pub trait Scope<T> {
    /// What is added to every filter and demanded of every insert.
    fn narrowing(self) -> Narrowing<T>;
}

/// What a scope adds to every filter and demands of every insert.
pub struct Narrowing<T> {
    pub(super) filter: Document,
    pub(super) admits: Admits<T>,
}

/// Whether a row may be written.
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
