//! What a caller must be allowed to do, said in a handler's signature.
//!
//! The first argument of every handler is its [`Access`]: [`Requires`] a permission, [`Caller`] for
//! whoever is signed in, or [`Open`] for anybody; [`Recent`] around one of them wants fresh proof
//! of who they are. A handler that says nothing cannot be made a route ([`crate::routes`]), and the
//! OpenAPI document tells of each what its type does ([`Stated`]).

use std::{convert::Infallible, marker::PhantomData};

use axum::{
    extract::FromRequestParts,
    http::{header, request::Parts},
};
use common::clock::between;
use domain::{identity::sessions::Session, tenancy::roles::Permission};
use utoipa::openapi::path::Parameter;

use super::{Argument, Caller, FromAnywhere};
use crate::{problem::Problem, state::App};

/// What a route demands of whoever calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing.
    Nothing,
    /// To be signed in.
    SignedIn,
    /// To be signed in, with a role that holds the permission.
    Permission(Permission),
}

/// An extractor that lets in whom a route is for.
pub(crate) trait Access {
    /// What it demands.
    const NEED: Need;
    /// Whether the caller must have proved of late who they are.
    const RECENT: bool = false;
}

/// A handler whose first argument says what it demands.
pub(crate) trait Stated<Args> {
    /// That argument's type.
    type Access: Access;

    /// The parameters that its arguments read.
    fn parameters() -> Vec<Parameter>;
}

/// Handlers of each number of arguments.
macro_rules! stated {
    ($($argument:ident)*) => {
        impl<F, Out, A: Access, $($argument: Argument,)*> Stated<(A, $($argument,)*)> for F
        where
            F: FnOnce(A, $($argument,)*) -> Out,
        {
            type Access = A;

            fn parameters() -> Vec<Parameter> {
                let each: Vec<Vec<Parameter>> = vec![$($argument::parameters(),)*];
                each.concat()
            }
        }
    };
}

stated!();
stated!(B);
stated!(B C);
stated!(B C D);
stated!(B C D E);
stated!(B C D E G);

/// Anybody may call.
pub(crate) struct Open;

impl Access for Open {
    const NEED: Need = Need::Nothing;
}

impl FromRequestParts<App> for Open {
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut Parts, _: &App) -> Result<Self, Infallible> {
        Ok(Self)
    }
}

/// Anybody may call, and is known where they are signed in: a token that is no good is refused.
pub(crate) struct Perhaps(pub(crate) Option<Caller>);

impl Access for Perhaps {
    const NEED: Need = Need::Nothing;
}

impl FromRequestParts<App> for Perhaps {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        if !parts.headers.contains_key(header::AUTHORIZATION) {
            return Ok(Self(None));
        }
        Caller::from_request_parts(parts, app).await.map(|caller| Self(Some(caller)))
    }
}

impl Access for Caller {
    const NEED: Need = Need::SignedIn;
}

impl Access for FromAnywhere {
    const NEED: Need = Need::SignedIn;
}

/// A permission as a type.
pub(crate) trait Needed: Send + Sync + 'static {
    /// The permission.
    const PERMISSION: Permission;
}

/// The permissions that routes need, each as a type of the same name.
macro_rules! needed {
    ($($permission:ident)+) => {$(
        #[doc = concat!("[`Permission::", stringify!($permission), "`] as a type.")]
        pub(crate) enum $permission {}

        impl Needed for $permission {
            const PERMISSION: Permission = Permission::$permission;
        }
    )+};
}

needed!(TenantRead TenantTransfer UsersRead UsersInvite UsersWrite UsersDelete RolesWrite SecurityWrite);

/// A caller whose role holds the permission `P`, with a second factor where the tenant demands one.
/// Routes for whoever is signed in stay open to those who lack it, so that they can set one up.
pub(crate) struct Requires<P> {
    /// Who.
    pub(crate) caller: Caller,
    needed: PhantomData<fn() -> P>,
}

impl<P: Needed> Access for Requires<P> {
    const NEED: Need = Need::Permission(P::PERMISSION);
}

impl<P: Needed> FromRequestParts<App> for Requires<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, app).await?;
        if !caller.grant.may(P::PERMISSION) {
            return Err(Problem::forbidden(P::PERMISSION));
        }
        if caller.lacks_second_factor() {
            return Err(Problem::mfa_enrollment_required());
        }
        Ok(Self { caller, needed: PhantomData })
    }
}

/// Whom `A` lets in, if they proved of late who they are: by signing in, or anew (`POST
/// /api/auth/reauthenticate`). For what a stolen session must not be enough for (OWASP ASVS 7.5.1).
pub(crate) struct Recent<A>(pub(crate) A);

impl<A: Access> Access for Recent<A> {
    const NEED: Need = A::NEED;
    const RECENT: bool = true;
}

impl<A: Access + FromRequestParts<App, Rejection = Problem>> FromRequestParts<App> for Recent<A> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, app).await?;
        let let_in = A::from_request_parts(parts, app).await?;
        if is_recent(&caller.session, app) {
            Ok(Self(let_in))
        } else {
            Err(Problem::reauthentication_required())
        }
    }
}

/// Whether the person of `session` proved of late who they are.
pub(crate) fn is_recent(session: &Session, app: &App) -> bool {
    between(session.authenticated_at(), app.clock().now()) <= app.auth.reauthenticate_within
}
