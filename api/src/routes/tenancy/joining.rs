//! Following the link of an invitation.

use axum::{
    Json as Answer,
    extract::{Path, State},
    response::Response,
};
use common::{clock::rfc3339, crypto::Password, email::Email, name::Name};
use domain::{
    access::throttle::Act,
    identity::{
        sign_in::{SignedIn, Start},
        users::User,
    },
    tenancy::{
        invitations::Invitation,
        joining::{Guest, JoinError, Joined, Joining},
        roles::RoleRef,
        tenants::Tenant,
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    extract::{Caller, Client, Fields, FromFields, Json, Open, Perhaps},
    problem::Problem,
    routes::identity::sessions::{TokenDelivery, lifetime, signed_in},
    state::App,
    throttle::Guard,
};

/// What an invitation is to.
#[derive(Serialize, ToSchema)]
#[schema(as = InvitationPreview)]
pub(crate) struct Preview {
    /// What the tenant is called.
    #[schema(value_type = String, example = "Analytical Engines")]
    tenant_name: Name,
    /// Who is invited.
    #[schema(value_type = String, format = "email", example = "ada@example.com")]
    email: Email,
    /// As what.
    #[schema(value_type = String, example = "member")]
    role: RoleRef,
    /// What the role is called.
    #[schema(example = "Member")]
    role_name: String,
    /// What the person is called who invites.
    #[schema(example = "Charles Babbage")]
    inviter: String,
    /// Until when it can be accepted.
    #[schema(format = DateTime)]
    expires_at: String,
    /// Whether the address has an account, whose password is to be given, or its person to be
    /// signed in.
    has_account: bool,
}

impl Preview {
    /// What a link's token is for. Whoever has it was mailed it, and may know whether the address
    /// has an account.
    pub(crate) async fn of(app: &App, client: &Client, token: &str) -> Result<Self, Problem> {
        let store = app.store();
        let invitation = follow(app, client, token).await?;
        let (tenants, inviter, given, account) = futures::try_join!(
            Tenant::by_ids(store, std::slice::from_ref(&invitation.tenant_id)),
            User::of_principal(store, invitation.invited_by),
            invitation.grant(store),
            User::by_email(store, &invitation.email),
        )?;
        let (Some(tenant), Some(inviter), Some(given)) =
            (tenants.into_iter().next(), inviter, given)
        else {
            return Err(JoinError::TokenInvalid.into());
        };
        Ok(Self {
            tenant_name: tenant.name,
            email: invitation.email,
            role: invitation.role,
            role_name: given.name,
            inviter: inviter.name,
            expires_at: rfc3339(invitation.expires_at),
            has_account: account.is_some(),
        })
    }
}

/// The invitation that a link's token is for. Whoever makes tokens up is throttled.
async fn follow(app: &App, client: &Client, token: &str) -> Result<Invitation, Problem> {
    let counted = Guard::of_network(app, Act::FollowInvitation, client).admit().await?;
    let invitation =
        Invitation::by_token(app.store(), &app.key, token).await?.ok_or(JoinError::TokenInvalid)?;
    app.throttle.take_back(counted).await;
    Ok(invitation)
}

/// See what one is invited to.
///
/// Looking changes nothing. A token that is wrong, used or expired is refused as `token_invalid`,
/// and who tries too many of them as `too_many_attempts` (429).
#[utoipa::path(
    get, path = "/api/invitations/{token}", tag = "Invitations",
    params(("token" = String, Path, description = "The `token` of the mailed link.")),
    responses((status = 200, description = "The invitation.", body = Preview))
)]
pub(crate) async fn preview(
    _: Open,
    State(app): State<App>,
    client: Client,
    Path(token): Path<String>,
) -> Result<Answer<Preview>, Problem> {
    Preview::of(&app, &client, &token).await.map(Answer)
}

/// What is told by someone who accepts, on whichever way.
pub(crate) struct Acceptance<'a> {
    /// Their link's token.
    pub(crate) token: &'a str,
    /// Who they are, if they are signed in.
    pub(crate) signed_in: Option<&'a Caller>,
    /// What a new account's person is called.
    pub(crate) name: Option<Name>,
    /// The password of their account, or of the one to be made.
    pub(crate) password: Option<Password>,
    /// The session that they begin, if they do.
    pub(crate) start: Option<Start>,
}

impl Acceptance<'_> {
    /// Makes them a member. Guesses at the password of an account count as those at sign-in do, so
    /// that this is no way around its throttle; a newcomer guesses nothing, and is not shut out by
    /// who does.
    pub(crate) async fn join(self, app: &App, client: &Client) -> Result<Joined, Problem> {
        let Self { token, signed_in, name, password, start } = self;
        let invitation = follow(app, client, token).await?;
        let guest = Guest::of(
            app.store(),
            &invitation,
            signed_in.map(|caller| (&caller.user, &caller.session)),
        )
        .await?;
        let origin = signed_in.map_or_else(|| client.origin(), Caller::origin);
        let claimed = matches!(guest, Guest::Claimant(_)).then(|| invitation.email.clone());
        let joining = Joining {
            invitation,
            guest,
            name,
            password,
            start,
            address: client.address,
            cooldown: app.auth.resend_cooldown,
        }
        .join(&app.jobs, &origin, &app.hasher, &app.passwords);
        let Some(address) = claimed else { return Ok(joining.await?) };
        let is_wrong = |error: &JoinError| matches!(error, JoinError::InvalidCredentials);
        Guard::check_password(app, client, &address, joining, is_wrong).await
    }
}

/// What someone sends who accepts.
#[derive(ToSchema)]
pub(crate) struct AcceptBody {
    /// The `token` of the mailed link.
    token: String,
    /// What the person is called, where the address has no account yet.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 100, example = "Ada Lovelace")]
    name: Option<Name>,
    /// The password of the account, or of the one that is made: of at least 8 characters then. Not
    /// needed of whoever is signed in.
    #[schema(value_type = Option<String>, format = "password", max_length = 1024, example = "correct horse battery staple")]
    password: Option<Password>,
    /// Whether to stay signed in: for weeks, and also when the browser is closed.
    remember_me: Option<bool>,
    /// Where the refresh token is to go: `cookie` (for browsers, and without this) or `body`.
    #[schema(value_type = Option<String>, example = "cookie")]
    token_delivery: Option<TokenDelivery>,
}

impl FromFields for AcceptBody {
    fn read(fields: &mut Fields) -> Option<Self> {
        let (token, name) = (fields.required_text("token"), fields.optional("name"));
        let password = fields.optional_as("password", Password::presented);
        let (remember_me, token_delivery) =
            (fields.optional_bool("remember_me"), fields.optional("token_delivery"));
        Some(Self { token: token?, name, password, remember_me, token_delivery })
    }
}

/// Accept an invitation.
///
/// Whoever is signed in with the invited address just joins; everybody else gives the password of
/// their account, or name and password for a new one, whose address counts as verified. Either way
/// one is signed in to the tenant then. Refused as `token_invalid` (400) when the link is wrong,
/// used or expired; as `invitation_not_yours` (403) when somebody else is signed in; as
/// `invalid_credentials` (401) when the password is not that of the account, which counts as a
/// failure to sign in, and after too many of either as `too_many_attempts` (429); as `mfa_required`
/// (401) when the account has a second factor: then sign in first; as `account_disabled` (403) when
/// an operator stopped it; as `ip_not_allowed` (403) or `email_domain_not_allowed` (422) when the
/// tenant's rules are against it.
#[utoipa::path(
    post, path = "/api/invitations/accept", tag = "Invitations", request_body = AcceptBody,
    responses((status = 200, description = "Joined, and signed in.", body = super::super::identity::sessions::LoginView, headers(("Set-Cookie" = String, description = "The refresh token, for browsers."))))
)]
pub(crate) async fn accept(
    Perhaps(caller): Perhaps,
    State(app): State<App>,
    client: Client,
    Json(body): Json<AcceptBody>,
) -> Result<Response, Problem> {
    let AcceptBody { token, name, password, remember_me, token_delivery } = body;
    let remember = remember_me.unwrap_or_default();
    let start = Start { device: client.device(), remember, lifetime: lifetime(&app, remember) };
    let acceptance = Acceptance {
        token: &token,
        signed_in: caller.as_ref(),
        name,
        password,
        start: Some(start),
    };
    let Joined { session, .. } = acceptance.join(&app, &client).await?;
    let session = session.ok_or_else(Problem::defect)?;
    let someone = SignedIn::resume(app.store(), session).await?;
    signed_in(&app, &someone, Some(token_delivery.unwrap_or(TokenDelivery::Cookie)))
}
