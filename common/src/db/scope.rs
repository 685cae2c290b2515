//! Whose rows a handle may touch, decided by type.

use mongodb::bson::{Document, doc};
use serde::{Serialize, de::DeserializeOwned};

use crate::id::TenantId;

/// A row type and the collection it lives in.
pub trait Record: Serialize + DeserializeOwned + Send + Sync + Unpin + 'static {
    /// Name of the collection.
    const COLLECTION: &'static str;
}

/// A row that belongs to a tenant; has a field `tenant_id`.
pub trait TenantOwned: Record {
    /// Whose row this is.
    fn tenant_id(&self) -> TenantId;
}

/// A row that belongs to no tenant: accounts, keys, the outbox.
pub trait PlatformOwned: Record {}

/// The right to touch one tenant's rows. Made from an authenticated request or a job's envelope,
/// and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantScope(TenantId);

impl TenantScope {
    /// For the authenticated extractor and for a job's envelope only: whoever calls this vouches
    /// that the caller belongs to the tenant.
    pub const fn vouched(tenant: TenantId) -> Self {
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
