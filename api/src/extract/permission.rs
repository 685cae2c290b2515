//! Who may call a handler, stated in its signature.
//!
//! The first argument of every handler is its [`Access`]: [`Requires`] for a permission, [`Caller`]
//! for anyone who is signed in to a tenant, [`Account`] for anyone who is signed in, [`Open`] for
//! anyone; [`Recent`] around one of them also requires recent authentication. A handler without one
//! cannot be made a route ([`crate::routes`]).

use std::{convert::Infallible, marker::PhantomData};

use axum::{
    extract::FromRequestParts,
    http::{header, request::Parts},
};
use common::db::Change;
use domain::{people::sessions::Session, tenancy::roles::Permission};
use utoipa::openapi::path::Parameter;

use super::{
    Account, Agent, Argument, Caller, RefreshCookies, SessionHolder,
    auth::{Authenticated, admit_owner_from_anywhere, authenticate, commit},
    program,
};
use crate::{
    problem::{
        ApiKeyNotAllowed, Code, ForeignOrigin, NoSecondFactor, NotInTenant, NotRecent, Problem,
        Refusal,
    },
    state::App,
};

/// What a route requires of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Nothing,
    SignedIn,
    /// As [`Need::SignedIn`], by an access token or by the refresh token alone.
    Session,
    /// A role that includes the permission.
    Permission(Permission),
}

/// An extractor that admits the callers of a route.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not state who may call the route",
    label = "must be an extractor such as `Open`, `Account`, `Caller` or `Requires<UsersRead>`"
)]
pub(crate) trait Access: Argument {
    const NEED: Need;
    /// Whether the caller must have authenticated recently.
    const RECENT: bool = false;
}

/// A handler whose first argument states who may call it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler whose first argument states who may call it",
    note = "each argument must implement `Argument`, and the first one `Access`"
)]
pub(crate) trait Stated<Args> {
    /// Type of that argument.
    type Access: Access;

    /// Problems that its arguments return.
    fn refusals() -> Vec<Code>;

    /// Parameters that its arguments read.
    fn parameters() -> Vec<Parameter>;
}

/// Implements [`Stated`] for handlers of each number of arguments.
macro_rules! stated {
    ($($argument:ident)*) => {
        impl<F, Out, A: Access, $($argument: Argument,)*> Stated<(A, $($argument,)*)> for F
        where
            F: FnOnce(A, $($argument,)*) -> Out,
        {
            type Access = A;

            fn refusals() -> Vec<Code> {
                [A::refusals(), $($argument::refusals(),)*].concat()
            }

            fn parameters() -> Vec<Parameter> {
                [A::parameters(), $($argument::parameters(),)*].concat()
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

/// Anyone may call.
pub(crate) struct Open;

impl Argument for Open {}

impl Access for Open {
    const NEED: Need = Need::Nothing;
}

impl FromRequestParts<App> for Open {
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut Parts, _: &App) -> Result<Self, Infallible> {
        Ok(Self)
    }
}

/// Anyone may call. A caller who sends an access token is identified, and an invalid token is
/// refused.
pub(crate) struct Perhaps(pub(crate) Option<Account>);

impl Argument for Perhaps {
    fn refusals() -> Vec<Code> {
        Account::refusals()
    }
}

impl Access for Perhaps {
    const NEED: Need = Need::Nothing;
}

impl FromRequestParts<App> for Perhaps {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        if !parts.headers.contains_key(header::AUTHORIZATION) {
            return Ok(Self(None));
        }
        Account::from_request_parts(parts, app).await.map(|account| Self(Some(account)))
    }
}

impl Argument for Account {
    fn refusals() -> Vec<Code> {
        vec![
            Code::Unauthenticated,
            Code::TenantSuspended,
            Code::IpNotAllowed,
            Code::ApiKeyNotAllowed,
        ]
    }
}

impl Access for Account {
    const NEED: Need = Need::SignedIn;
}

impl Argument for Caller {
    fn refusals() -> Vec<Code> {
        [Account::refusals(), NotInTenant::codes()].concat()
    }
}

impl Access for Caller {
    const NEED: Need = Need::SignedIn;
}

impl Argument for RefreshCookies {
    fn refusals() -> Vec<Code> {
        ForeignOrigin::codes()
    }
}

impl Argument for SessionHolder {
    fn refusals() -> Vec<Code> {
        let own = vec![Code::Unauthenticated, Code::RefreshTokenInvalid, Code::ApiKeyNotAllowed];
        [own, RefreshCookies::refusals()].concat()
    }
}

impl Access for SessionHolder {
    const NEED: Need = Need::Session;
}

/// A permission as a type.
pub(crate) trait Needed: Send + Sync + 'static {
    const PERMISSION: Permission;
}

/// Declares the permissions that routes require, each as a type with the name of its variant.
macro_rules! needed {
    ($($permission:ident)+) => {$(
        pub(crate) enum $permission {}

        impl Needed for $permission {
            const PERMISSION: Permission = Permission::$permission;
        }
    )+};
}

needed!(ApiKeysWrite TenantRead TenantTransfer UsersRead UsersInvite UsersWrite UsersDelete RolesRead RolesWrite SecurityWrite);

/// A user whose role includes the permission `P`, or a program whose key and sponsor have it. The
/// user or sponsor has a second factor if the tenant requires one. Routes for anyone who is signed in
/// do not check the second factor, so that users can set one up.
pub(crate) struct Requires<P> {
    pub(crate) caller: Agent,
    needed: PhantomData<fn() -> P>,
}

impl<P> Argument for Requires<P> {
    fn refusals() -> Vec<Code> {
        let mut users = Caller::refusals();
        users.retain(|code| *code != Code::ApiKeyNotAllowed);
        [users, program::refusals(), NoSecondFactor::codes(), vec![Code::Forbidden]].concat()
    }
}

impl<P: Needed> Access for Requires<P> {
    const NEED: Need = Need::Permission(P::PERMISSION);
}

impl<P: Needed> FromRequestParts<App> for Requires<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let caller = match authenticate(parts, app).await? {
            Authenticated::User(_) => Agent::User(Caller::from_request_parts(parts, app).await?),
            Authenticated::Program(program) => Agent::Program(program),
        };
        if !caller.may(P::PERMISSION) {
            return Err(Problem::forbidden(P::PERMISSION));
        }
        if caller.lacks_second_factor() {
            return Err(NoSecondFactor.into());
        }
        Ok(Self { caller, needed: PhantomData })
    }
}

impl<P: Needed> Requires<P> {
    /// Commits a change on their behalf, if their credentials are still valid and they still have the
    /// permission.
    pub(crate) async fn commit<C: Change>(
        &self,
        app: &App,
        change: &C,
    ) -> Result<C::Output, Problem>
    where
        Problem: From<C::Error>,
    {
        commit(app, self.caller.origin(), &self.caller.acting(P::PERMISSION, change)).await
    }
}

/// Admits the users whom `A` admits if they authenticated recently, by signing in or by `POST
/// /api/auth/reauthenticate`. For changes that a stolen session must not be enough for (OWASP ASVS
/// 7.5.1).
pub(crate) struct Recent<A>(pub(crate) A);

impl<A: Argument> Argument for Recent<A> {
    fn refusals() -> Vec<Code> {
        [A::refusals(), NotRecent::codes(), ApiKeyNotAllowed::codes()].concat()
    }

    fn parameters() -> Vec<Parameter> {
        A::parameters()
    }
}

impl<A: Access> Access for Recent<A> {
    const NEED: Need = A::NEED;
    const RECENT: bool = true;
}

impl<A: Access + FromRequestParts<App, Rejection = Problem>> FromRequestParts<App> for Recent<A> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let account = Account::from_request_parts(parts, app).await?;
        let admitted = A::from_request_parts(parts, app).await?;
        if is_recent(&account.session, app) { Ok(Self(admitted)) } else { Err(NotRecent.into()) }
    }
}

/// Admits the callers that `A` admits, and owners of the tenant from any IP address: nobody can lock
/// them out of its security settings.
pub(crate) struct OwnerFromAnywhere<A>(pub(crate) A);

impl<A: Argument> Argument for OwnerFromAnywhere<A> {
    fn refusals() -> Vec<Code> {
        A::refusals()
    }

    fn parameters() -> Vec<Parameter> {
        A::parameters()
    }
}

impl<A: Access> Access for OwnerFromAnywhere<A> {
    const NEED: Need = A::NEED;
    const RECENT: bool = A::RECENT;
}

impl<A: Access + FromRequestParts<App, Rejection = Problem>> FromRequestParts<App>
    for OwnerFromAnywhere<A>
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        admit_owner_from_anywhere(parts, app).await?;
        A::from_request_parts(parts, app).await.map(Self)
    }
}

/// Whether the person of `session` authenticated recently.
pub(crate) fn is_recent(session: &Session, app: &App) -> bool {
    session.is_recent(app.clock().now(), app.auth.reauthenticate_within)
}
