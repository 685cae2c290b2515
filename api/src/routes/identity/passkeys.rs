//! Passkeys: adding and removing them, and signing in with one.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::{
    clock::Timestamp,
    id::{PasskeyId, TenantId},
    name::Name,
};
use domain::{
    access::throttle::{Act, TooMany},
    identity::{
        mfa::{
            MfaError,
            passkeys::{
                Add, Adding, Assertion, Attestation, ByPasskey, Ceremony, Options, Passkey, Remove,
            },
        },
        sign_in::{Admitted, SignInError, Start},
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    answers::{
        sign_in::{SignedInView, TokenDelivery, lifetime, signed_in},
        unstored,
    },
    extract::{Account, Client, Fields, FromFields, Json, Open, PathId, Recent},
    problem::{NoPasskeys, Problem, Refusals},
    second_factors::{relying_party, used_passkey},
    state::App,
    throttle::Guard,
};

/// A passkey of the user.
#[derive(Serialize, ToSchema)]
#[schema(as = Passkey)]
pub(crate) struct PasskeyView {
    id: PasskeyId,
    /// Name that the user gave it.
    name: Name,
    created_at: Timestamp,
    last_used_at: Option<Timestamp>,
}

impl PasskeyView {
    pub(crate) fn new(passkey: &Passkey) -> Self {
        Self {
            id: passkey.id,
            name: passkey.name.clone(),
            created_at: passkey.created_at.into(),
            last_used_at: passkey.last_used_at.map(Timestamp::from),
        }
    }
}

/// A request to an authenticator.
#[derive(Serialize, ToSchema)]
#[schema(as = PasskeyCeremony)]
pub(crate) struct Begun {
    /// Send this back with the credential. It can be used once, within some minutes.
    ceremony: String,
    /// The `publicKey` option of the browser's call, in the form that
    /// `PublicKeyCredential.parseCreationOptionsFromJSON` or `parseRequestOptionsFromJSON` takes.
    #[schema(value_type = Object)]
    public_key: Options,
}

/// Start adding a passkey
#[utoipa::path(
    post, path = "/api/auth/mfa/passkeys/enroll", tag = "Two-factor authentication",
    responses(
        (status = 200, description = "Options for the authenticator.", body = Begun),
        Refusals<(MfaError, NoPasskeys)>,
    )
)]
pub(crate) async fn enroll(
    Recent(account): Recent<Account>,
    State(app): State<App>,
) -> Result<Response, Problem> {
    let others = Passkey::all_of(app.store(), account.user.id).await?;
    let (public_key, ceremony) = relying_party(&app)?.begin_adding(
        app.clock(),
        app.auth.mfa_token_ttl,
        &account.user,
        &others,
    )?;
    let ceremony = ceremony.seal(&app.key).map_err(|error| Problem::internal(&error))?;
    Ok(unstored(Begun { ceremony, public_key }))
}

#[derive(ToSchema)]
pub(crate) struct NewPasskey {
    /// The `ceremony` that was started.
    ceremony: String,
    /// Result of `navigator.credentials.create`, as its `toJSON` writes it.
    #[schema(value_type = Object)]
    credential: Attestation,
    /// Name of the passkey.
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
    passkey: PasskeyView,
    /// Recovery codes to write down, if this is the first second factor. They are shown only this
    /// once.
    #[schema(example = json!(["7k2m9-x4pqt"]))]
    recovery_codes: Vec<String>,
}

/// Add a passkey
///
/// Finishes adding a passkey. A passkey signs the user in without a password and is a second factor
/// next to it: from then on, the password alone is not enough. All other sessions end, and the user
/// is notified by email.
#[utoipa::path(
    post, path = "/api/auth/mfa/passkeys", tag = "Two-factor authentication", request_body = NewPasskey,
    responses(
        (status = 201, description = "The passkey is added.", body = AddedPasskey, headers(("Cache-Control" = String, description = "`no-store`"))),
        Refusals<(MfaError, NoPasskeys)>,
    )
)]
pub(crate) async fn add(
    Recent(account): Recent<Account>,
    State(app): State<App>,
    Json(body): Json<NewPasskey>,
) -> Result<Response, Problem> {
    let begun = Ceremony::<Adding>::open(&app.key, &body.ceremony, app.clock().now())?;
    let (ceremony, passkey) =
        relying_party(&app)?.finish_adding(&begun, account.user.id, &body.credential)?;
    let owner = account.factor_owner();
    let add = Add { key: &app.key, owner, ceremony, passkey, name: body.name };
    let (passkey, codes) = account.commit(&app, &add).await?;
    let added = AddedPasskey {
        passkey: PasskeyView::new(&passkey),
        recovery_codes: codes.unwrap_or_default(),
    };
    Ok((StatusCode::CREATED, unstored(added)).into_response())
}

/// Remove a passkey
///
/// If the user has no other second factor, signing in no longer requires one. The user is notified
/// by email.
#[utoipa::path(
    delete, path = "/api/auth/mfa/passkeys/{id}", tag = "Two-factor authentication",
    responses((status = 204, description = "The passkey is removed."), Refusals<MfaError>)
)]
pub(crate) async fn remove(
    Recent(account): Recent<Account>,
    State(app): State<App>,
    PathId(passkey): PathId<PasskeyId>,
) -> Result<StatusCode, Problem> {
    account.commit(&app, &Remove { owner: account.factor_owner(), passkey }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Start using a passkey
///
/// Returns the options for signing in with a passkey, or for confirming your identity with it. No
/// email address is needed: the authenticator knows the account.
#[utoipa::path(
    post, path = "/api/auth/passkeys/options", tag = "Sign-in",
    responses(
        (status = 200, description = "Options for the authenticator.", body = Begun),
        Refusals<(MfaError, NoPasskeys)>,
    )
)]
pub(crate) async fn options(_: Open, State(app): State<App>) -> Result<Response, Problem> {
    let (public_key, ceremony) =
        relying_party(&app)?.begin_using(app.clock(), app.auth.mfa_token_ttl)?;
    let ceremony = ceremony.seal(&app.key).map_err(|error| Problem::internal(&error))?;
    Ok(unstored(Begun { ceremony, public_key }))
}

#[derive(ToSchema)]
pub(crate) struct PasskeyLogin {
    /// The `ceremony` that was started.
    ceremony: String,
    /// Result of `navigator.credentials.get`, as its `toJSON` writes it.
    #[schema(value_type = Object)]
    credential: Assertion,
    /// The tenant to sign in to. The default is the user's first active tenant.
    tenant_id: Option<TenantId>,
    /// Stay signed in for weeks, and after the browser is closed.
    remember_me: Option<bool>,
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

/// Sign in with a passkey
///
/// Signing in with a passkey requires neither a password nor a second factor.
#[utoipa::path(
    post, path = "/api/auth/passkeys/login", tag = "Sign-in", request_body = PasskeyLogin,
    responses(
        (status = 200, description = "Signed in.", body = SignedInView, headers(("Set-Cookie" = String, description = "The refresh token, if it is delivered as a cookie."))),
        Refusals<(SignInError, MfaError, TooMany, NoPasskeys)>,
    )
)]
pub(crate) async fn login(
    _: Open,
    State(app): State<App>,
    client: Client,
    Json(body): Json<PasskeyLogin>,
) -> Result<Response, Problem> {
    let counted = Guard::of_network(&app, Act::SignIn, &client).admit().await?;
    let used = used_passkey(&app, &body.ceremony, &body.credential).await?;
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
