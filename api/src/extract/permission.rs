//! What a caller must be allowed to do, said in a handler's signature.

use std::marker::PhantomData;

use axum::{extract::FromRequestParts, http::request::Parts};
use common::roles::Permission;

use super::Caller;
use crate::{problem::Problem, state::App};

/// A permission as a type.
pub(crate) trait Needed: Send + Sync + 'static {
    /// The permission.
    const PERMISSION: Permission;
}

/// See the tenant itself.
pub(crate) enum TenantRead {}

impl Needed for TenantRead {
    const PERMISSION: Permission = Permission::TenantRead;
}

/// A caller whose role holds the permission `P`.
pub(crate) struct Requires<P> {
    /// Who.
    pub(crate) caller: Caller,
    needed: PhantomData<fn() -> P>,
}

impl<P: Needed> FromRequestParts<App> for Requires<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, app).await?;
        if caller.membership.role.may(P::PERMISSION) {
            Ok(Self { caller, needed: PhantomData })
        } else {
            Err(Problem::forbidden(P::PERMISSION))
        }
    }
}
