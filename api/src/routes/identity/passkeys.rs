//! Passkeys: adding and removing one's own, and signing in with one.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::{
    clock::rfc3339,
    id::{PasskeyId, TenantId},
    name::Name,
};
use domain::{
    access::throttle::Act,
    identity::{
        mfa::passkeys::{
            Add, Adding, Assertion, Attestation, ByPasskey, Ceremony, Options, Passkey,
            RelyingParty, Remove, Used, Using,
        },
        sign_in::{Admitted, Start},
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    mfa::{count, kept_nowhere, owner, unavailable},
    sessions::{LoginView, TokenDelivery, lifetime, signed_in},
};
use crate::{
    extract::{Caller, Client, Fields, FromFields, Json, Open, PathId, Recent},
    problem::Problem,
    state::App,
    throttle::Guard,
};

/// One of one's passkeys.
#[derive(Serialize, ToSchema)]
#[schema(as = Passkey)]
pub(crate) struct PasskeyView {
    /// Its id.
    #[schema(value_type = String, example = "pky_0192a0b8c0de7000800000000000cafe")]
    id: PasskeyId,
    /// What one calls it.
    #[schema(value_type = String, example = "My phone")]
    name: Name,
    /// Since when.
    #[schema(format = DateTime)]
    created_at: String,
    /// When it was last used.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_used_at: Option<String>,
}

impl PasskeyView {
    pub(crate) fn new(passkey: &Passkey) -> Self {
        Self {
            id: passkey.id,
            name: passkey.name.clone(),
            created_at: rfc3339(passkey.created_at),
            last_used_at: passkey.last_used_at.map(rfc3339),
        }
    }
}

/// Half a ceremony with an authenticator.
#[derive(Serialize, ToSchema)]
#[schema(as = PasskeyCeremony)]
pub(crate) struct Begun {
    /// Send it back with what the authenticator says. Good once, for some minutes.
    ceremony: String,
    /// The `publicKey` of the browser's call, as `PublicKeyCredential.parseCreationOptionsFromJSON`
    /// or `parseRequestOptionsFromJSON` reads it.
    #[schema(value_type = Object)]
    public_key: Options,
}

fn party(app: &App) -> Result<&RelyingParty, Problem> {
    app.passkeys.as_ref().ok_or_else(unavailable)
}

/// Begin to add a passkey.
///
/// Refused as `passkeys_unavailable` (409) where the installation has no domain.
#[utoipa::path(
    post, path = "/api/auth/mfa/passkeys/enroll", tag = "Second factors",
    responses((status = 200, description = "Options for the authenticator.", body = Begun))
)]
pub(crate) async fn enroll(
    Recent(caller): Recent<Caller>,
    State(app): State<App>,
) -> Result<Response, Problem> {
    let others = Passkey::all_of(app.store(), caller.user.id).await?;
    let (public_key, ceremony) =
        party(&app)?.begin_adding(app.clock(), app.auth.mfa_token_ttl, &caller.user, &others)?;
    let ceremony = ceremony.seal(&app.key).map_err(|error| Problem::internal(&error))?;
    Ok(kept_nowhere(Begun { ceremony, public_key }))
}

/// A passkey that an authenticator made.
#[derive(ToSchema)]
pub(crate) struct NewPasskey {
    /// What was answered to beginning.
    ceremony: String,
    /// What `navigator.credentials.create` gave, as its `toJSON` writes it.
    #[schema(value_type = Object)]
    credential: Attestation,
    /// What to call it.
    #[schema(value_type = String, min_length = 1, max_length = 100, example = "My phone")]
    name: Name,
}

impl FromFields for NewPasskey {
    fn read(fields: &mut Fields) -> Option<Self> {
        let (ceremony, credential) =
            (fields.required_text("ceremony"), fields.required_object("credential"));
        let name = fields.required("name");
        Some(Self { ceremony: ceremony?, credential: credential?, name: name? })
    }
}

/// A passkey that was added.
#[derive(Serialize, ToSchema)]
pub(crate) struct AddedPasskey {
    /// The passkey.
    passkey: PasskeyView,
    /// Where it is one's first second factor: codes to write down, told this once.
    #[schema(example = json!(["7k2m9-x4pqt"]))]
    recovery_codes: Vec<String>,
}

/// Add a passkey.
///
/// It signs in without a password, and is a second factor beside it: from now on the password alone
/// is not enough. Ends all other sessions; the person is told by mail. Refused as
/// `passkey_ceremony_invalid` (400) when the credential does not belong to the ceremony, or is
/// known already.
#[utoipa::path(
    post, path = "/api/auth/mfa/passkeys", tag = "Second factors", request_body = NewPasskey,
    responses((status = 201, description = "It is added.", body = AddedPasskey, headers(("Cache-Control" = String, description = "`no-store`"))))
)]
pub(crate) async fn add(
    Recent(caller): Recent<Caller>,
    State(app): State<App>,
    Json(body): Json<NewPasskey>,
) -> Result<Response, Problem> {
    let begun = Ceremony::<Adding>::open(&app.key, &body.ceremony, app.clock().now())?;
    let (ceremony, passkey) =
        party(&app)?.finish_adding(&begun, caller.user.id, &body.credential)?;
    let owner = owner(&caller);
    let add = Add { key: &app.key, owner, ceremony, passkey, name: body.name };
    let (passkey, codes) = caller.commit(&app, &add).await?;
    let added = AddedPasskey {
        passkey: PasskeyView::new(&passkey),
        recovery_codes: codes.unwrap_or_default(),
    };
    Ok((StatusCode::CREATED, kept_nowhere(added)).into_response())
}

/// Remove a passkey.
///
/// Without another second factor the password is enough again. The person is told by mail.
#[utoipa::path(
    delete, path = "/api/auth/mfa/passkeys/{id}", tag = "Second factors",
    responses((status = 204, description = "It is not accepted any more."))
)]
pub(crate) async fn remove(
    Recent(caller): Recent<Caller>,
    State(app): State<App>,
    PathId(passkey): PathId<PasskeyId>,
) -> Result<StatusCode, Problem> {
    caller.commit(&app, &Remove { owner: owner(&caller), passkey }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Begin to sign in with a passkey.
///
/// Needs no address: the authenticator knows whose it is. The same for everybody. Also for proving
/// anew who one is.
#[utoipa::path(
    post, path = "/api/auth/passkeys/options", tag = "Session",
    responses((status = 200, description = "Options for the authenticator.", body = Begun))
)]
pub(crate) async fn options(_: Open, State(app): State<App>) -> Result<Response, Problem> {
    let (public_key, ceremony) = party(&app)?.begin_using(app.clock(), app.auth.mfa_token_ttl)?;
    let ceremony = ceremony.seal(&app.key).map_err(|error| Problem::internal(&error))?;
    Ok(kept_nowhere(Begun { ceremony, public_key }))
}

/// A passkey that is used.
#[derive(ToSchema)]
pub(crate) struct PasskeyLogin {
    /// What was answered to beginning.
    ceremony: String,
    /// What `navigator.credentials.get` gave, as its `toJSON` writes it.
    #[schema(value_type = Object)]
    credential: Assertion,
    /// The tenant to work in; the first that is in use when not given.
    #[schema(value_type = Option<String>, example = "ten_0192a0b8c0de7000800000000000cafe")]
    tenant_id: Option<TenantId>,
    /// Whether to stay signed in: for weeks, and also when the browser is closed.
    remember_me: Option<bool>,
    /// Where the refresh token is to go: `cookie` (for browsers, and without this) or `body`.
    #[schema(value_type = Option<String>, example = "cookie")]
    token_delivery: Option<TokenDelivery>,
}

impl FromFields for PasskeyLogin {
    fn read(fields: &mut Fields) -> Option<Self> {
        let (ceremony, credential) =
            (fields.required_text("ceremony"), fields.required_object("credential"));
        let (tenant_id, remember_me) =
            (fields.optional("tenant_id"), fields.optional_bool("remember_me"));
        let token_delivery = fields.optional("token_delivery");
        Some(Self {
            ceremony: ceremony?,
            credential: credential?,
            tenant_id,
            remember_me,
            token_delivery,
        })
    }
}

/// Sign in with a passkey.
///
/// Needs neither password nor second factor: it is two in one. Refused as `passkey_invalid` (401)
/// when it is not accepted, as `passkey_ceremony_invalid` (400) when it took too long, else as
/// signing in with a password is.
#[utoipa::path(
    post, path = "/api/auth/passkeys/login", tag = "Session", request_body = PasskeyLogin,
    responses((status = 200, description = "Signed in.", body = LoginView, headers(("Set-Cookie" = String, description = "The refresh token, for browsers."))))
)]
pub(crate) async fn login(
    _: Open,
    State(app): State<App>,
    client: Client,
    Json(body): Json<PasskeyLogin>,
) -> Result<Response, Problem> {
    let counted = Guard::of_network(&app, Act::SignIn, &client).admit().await?;
    let used = used(&app, &body.ceremony, &body.credential).await?;
    app.throttle.take_back(counted).await;
    let remember = body.remember_me.unwrap_or_default();
    let start = Start { device: client.device(), remember, lifetime: lifetime(&app, remember) };
    let admitted = Admitted::by_passkey(app.store(), &used, body.tenant_id, start).await?;
    let begin = ByPasskey { used, change: admitted.begin.clone() };
    let session = app.jobs.commit(&client.origin(), &begin).await?;
    signed_in(
        &app,
        &admitted.signed_in(session),
        Some(body.token_delivery.unwrap_or(TokenDelivery::Cookie)),
    )
}

/// The passkey that was used, if it was used well.
pub(crate) async fn used(
    app: &App,
    ceremony: &str,
    credential: &Assertion,
) -> Result<Used, Problem> {
    let begun = Ceremony::<Using>::open(&app.key, ceremony, app.clock().now())?;
    let used = party(app)?.finish_using(app.store(), begun, credential).await;
    count("passkey", used.is_ok());
    Ok(used?)
}
