//! Accepting an invitation by its link.

use axum::{
    Json as Answer,
    extract::{Path, State},
    response::Response,
};
use common::{clock::Timestamp, crypto::Password, email::Email, name::Name};
use domain::{
    access::throttle::{Act, TooMany},
    identity::{
        joining::{Guest, JoinError, Joined, Joining},
        sign_in::{SignedIn, Start},
    },
    people::users::User,
    tenancy::{invitations::Invitation, roles::RoleRef, tenants::Tenant},
};
use futures::FutureExt;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    answers::sign_in::{SignedInView, TokenDelivery, lifetime, signed_in},
    extract::{Account, Client, Fields, FromFields, Json, Open, Perhaps},
    problem::{Problem, Refusals},
    state::App,
    throttle::Guard,
};

/// An invitation, as the invited person sees it.
#[derive(Serialize, ToSchema)]
#[schema(as = InvitationPreview)]
pub(crate) struct Preview {
    tenant_name: Name,
    /// Email address of the invited person.
    email: Email,
    role: RoleRef,
    /// Name of the role.
    #[schema(example = "Member")]
    role_name: String,
    /// Name of the person who sent the invitation.
    #[schema(example = "Charles Babbage")]
    inviter: String,
    expires_at: Timestamp,
    /// Whether the email address has an account.
    has_account: bool,
}

impl Preview {
    /// The invitation with this token. Only the owner of the mailbox has the token, and they may
    /// learn whether the email address has an account.
    pub(crate) async fn of(app: &App, client: &Client, token: &str) -> Result<Self, Problem> {
        let store = app.store();
        let invitation = follow(app, client, token).await?;
        let (tenants, inviter, given, account) = futures::try_join!(
            Tenant::by_ids(store, std::slice::from_ref(&invitation.tenant_id)),
            invitation.inviter(store),
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
            expires_at: invitation.expires_at.into(),
            has_account: account.is_some(),
        })
    }
}

/// The invitation with this token. Guessing tokens is throttled.
async fn follow(app: &App, client: &Client, token: &str) -> Result<Invitation, Problem> {
    let counted = Guard::of_network(app, Act::FollowInvitation, client).admit().await?;
    let invitation =
        Invitation::by_token(app.store(), &app.key, token).await?.ok_or(JoinError::TokenInvalid)?;
    app.throttle.take_back(counted).await;
    Ok(invitation)
}

/// Preview an invitation
///
/// Returns the tenant, the role and the invited email address. The link remains valid.
#[utoipa::path(
    get, path = "/api/invitations/{token}", tag = "Invitations",
    params(("token" = String, Path, description = "The `token` of the emailed link.")),
    responses(
        (status = 200, description = "The invitation.", body = Preview),
        Refusals<(JoinError, TooMany)>,
    )
)]
pub(crate) async fn preview(
    _: Open,
    State(app): State<App>,
    client: Client,
    Path(token): Path<String>,
) -> Result<Answer<Preview>, Problem> {
    Preview::of(&app, &client, &token).await.map(Answer)
}

/// A request to accept an invitation, from the API or a form.
pub(crate) struct Acceptance<'a> {
    /// Token of the link.
    pub(crate) token: &'a str,
    /// The account of the caller, if they are signed in.
    pub(crate) signed_in: Option<&'a Account>,
    /// Name for a new account.
    pub(crate) name: Option<Name>,
    /// Password of the account, or for a new one.
    pub(crate) password: Option<Password>,
    /// The session to begin, if any.
    pub(crate) start: Option<Start>,
}

impl Acceptance<'_> {
    /// Makes the person a member. Incorrect passwords count like those at sign-in, so that its
    /// throttle cannot be bypassed. People without an account are not affected by it.
    pub(crate) async fn join(self, app: &App, client: &Client) -> Result<Joined, Problem> {
        let Self { token, signed_in, name, password, start } = self;
        let invitation = follow(app, client, token).await?;
        let guest = Guest::of(
            app.store(),
            &invitation,
            signed_in.map(|account| (&account.user, &account.session)),
        )
        .await?;
        let origin = signed_in.map_or_else(|| client.origin(), Account::origin);
        let claimed = matches!(guest, Guest::Claimant(_)).then(|| invitation.email.clone());
        // Boxed: it would take kilobytes in the future of every caller.
        let joining = Joining {
            invitation,
            guest,
            name,
            password,
            start,
            address: client.address,
            cooldown: app.auth.resend_cooldown,
        }
        .join(&app.jobs, &origin, &app.hasher, &app.passwords)
        .boxed();
        let Some(address) = claimed else { return Ok(joining.await?) };
        let is_wrong = |error: &JoinError| matches!(error, JoinError::InvalidCredentials);
        Guard::check_password(app, client, &address, joining, is_wrong).await
    }
}

#[derive(ToSchema)]
pub(crate) struct AcceptBody {
    /// The `token` of the emailed link.
    token: String,
    /// Name of the person, if the email address has no account.
    name: Option<Name>,
    /// Password of the account, or for a new one: at least 8 characters. Not needed when signed in.
    password: Option<Password>,
    /// Stay signed in for weeks, and after the browser is closed.
    remember_me: Option<bool>,
    token_delivery: Option<TokenDelivery>,
}

impl FromFields for AcceptBody {
    fn read(fields: &mut Fields) -> Option<Self> {
        let (token, name) = (fields.required_text("token"), fields.optional("name"));
        let password = fields.optional_password("password");
        let (remember_me, token_delivery) =
            (fields.optional_bool("remember_me"), fields.optional("token_delivery"));
        Some(Self { token: token?, name, password, remember_me, token_delivery })
    }
}

/// Accept an invitation
///
/// Makes the person a member and signs them in to the tenant. A user who is signed in with the
/// invited email address joins directly. Otherwise send the password of the account or, if the
/// email address has no account, `name` and `password` for a new one; the email address then counts
/// as verified. If the account has a second factor, sign in first.
#[utoipa::path(
    post, path = "/api/invitations/accept", tag = "Invitations", request_body = AcceptBody,
    responses(
        (status = 200, description = "Joined and signed in.", body = SignedInView, headers(("Set-Cookie" = String, description = "The refresh token, if it is delivered as a cookie."))),
        Refusals<(JoinError, TooMany)>,
    )
)]
pub(crate) async fn accept(
    Perhaps(account): Perhaps,
    State(app): State<App>,
    client: Client,
    Json(body): Json<AcceptBody>,
) -> Result<Response, Problem> {
    let AcceptBody { token, name, password, remember_me, token_delivery } = body;
    let remember = remember_me.unwrap_or_default();
    let start = Start { device: client.device(), remember, lifetime: lifetime(&app, remember) };
    let acceptance = Acceptance {
        token: &token,
        signed_in: account.as_ref(),
        name,
        password,
        start: Some(start),
    };
    let Joined { session, .. } = acceptance.join(&app, &client).await?;
    let session = session.ok_or_else(Problem::defect)?;
    let someone = SignedIn::resume(app.store(), session).await?;
    signed_in(&app, &someone, Some(token_delivery.unwrap_or(TokenDelivery::Cookie)))
}
