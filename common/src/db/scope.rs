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
    /// Fields that MongoDB demands of every row; none if it does not check rows.
    const REQUIRED: &'static [Field] = &[];
}

/// A row that belongs to a tenant; has the field `tenant_id`.
pub trait TenantOwned: Record {
    /// The tenant that owns the row.
    fn tenant_id(&self) -> TenantId;
}

/// A row that belongs to no tenant, such as an account, a key or an outbox row.
pub trait PlatformOwned: Record {}

/// Permission to access one tenant's rows. Created only from an authenticated request or a job's
/// envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantScope(TenantId);

impl TenantScope {
    /// For the authenticated extractor and job envelopes only: the caller must have verified access
    /// to the tenant.
    pub const fn vouched(tenant: TenantId) -> Self {
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

impl<T: TenantOwned> Scope<T> for TenantScope {
    fn narrowing(self) -> Narrowing<T> {
        let tenant = self.0;
        Narrowing {
            filter: doc! { "tenant_id": tenant },
            admits: Box::new(move |row| row.tenant_id() == tenant),
        }
    }
}

impl<T: Record> Scope<T> for PlatformScope {
    fn narrowing(self) -> Narrowing<T> {
        Narrowing { filter: Document::new(), admits: Box::new(|_| true) }
    }
}
