//! Reauthentication, for changes that a session alone is not enough for.

use axum::{extract::State, response::Response};
use common::crypto::Password;
use domain::{
    access::throttle::{Act, TooMany},
    identity::{
        mfa::{
            MfaError,
            challenges::Purpose,
            passkeys::{Assertion, ByPasskey},
        },
        reauthentication::Reauthenticate,
        sign_in::{SignInError, SignedIn},
    },
    people::users::User,
};
use utoipa::ToSchema;

use crate::{
    answers::sign_in::{SignedInView, signed_in},
    extract::{Account, Client, Fields, FromFields, Json, OwnerFromAnywhere},
    problem::{Code, NoPasskeys, Problem, Refusals},
    second_factors,
    state::App,
    throttle::Guard,
};

/// Either the password, or a passkey with its ceremony.
#[derive(ToSchema)]
pub(crate) struct Proof {
    password: Option<Password>,
    /// The `ceremony` from `POST /api/auth/passkeys/options`.
    ceremony: Option<String>,
    /// Result of `navigator.credentials.get`, as its `toJSON` writes it.
    #[schema(value_type = Option<Object>)]
    credential: Option<Assertion>,
}

impl FromFields for Proof {
    fn read(fields: &mut Fields) -> Option<Self> {
        let password = fields.optional_password("password");
        let (ceremony, credential) =
            (fields.optional_text("ceremony"), fields.optional_object("credential"));
        Some(Self { password, ceremony, credential })
    }
}

/// Confirm your identity
///
/// Sensitive changes require recent authentication. This endpoint provides it for some minutes,
/// with the password or with a passkey; the session continues. If the account has a second factor,
/// the password returns `mfa_required`: finish with `POST /api/auth/mfa/verify`.
#[utoipa::path(
    post, path = "/api/auth/reauthenticate", tag = "Sign-in", request_body = Proof,
    responses(
        (status = 200, description = "Confirmed. The session and its refresh token remain valid.", body = SignedInView),
        Refusals<(SignInError, MfaError, TooMany, NoPasskeys)>,
    )
)]
pub(crate) async fn reauthenticate(
    OwnerFromAnywhere(account): OwnerFromAnywhere<Account>,
    State(app): State<App>,
    client: Client,
    Json(body): Json<Proof>,
) -> Result<Response, Problem> {
    // The current account, not the cached one.
    let user = User::by_id(app.store(), account.user.id)
        .await?
        .ok_or_else(|| Problem::unauthenticated(true))?;
    let again = |second_factor| Reauthenticate {
        session: account.session.id,
        user: user.id,
        password_set_at: user.password_set_at,
        device: client.device(),
        second_factor,
    };
    let session = match body {
        Proof { password: Some(password), ceremony: None, credential: None } => {
            Guard::check_password_of(&app, &client, &user, password).await?;
            app.jobs.commit(&account.origin(), &again(false)).await
        }
        Proof { password: None, ceremony: Some(ceremony), credential: Some(credential) } => {
            // Passkeys cannot be guessed. Their attempts are counted by network only, so that they
            // do not use up the attempts of the account's owner.
            let counted = Guard::of_network(&app, Act::SecondFactor, &client).admit().await?;
            let passkey = second_factors::used_passkey(&app, &ceremony, &credential).await?;
            if passkey.user() != user.id {
                return Err(SignInError::PasskeyInvalid.into());
            }
            app.throttle.take_back(counted).await;
            app.jobs
                .commit(&account.origin(), &ByPasskey { used: passkey, change: again(true) })
                .await
        }
        _ => {
            return Err(Problem::new(
                Code::ValidationFailed,
                "Send either `password`, or `ceremony` and `credential`.",
            ));
        }
    };
    match session {
        Ok(session) => signed_in(&app, &SignedIn::resume(app.store(), session).await?, None),
        Err(SignInError::SecondFactorRequired) => {
            Err(second_factors::required(&app, Purpose::Reauthenticate(again(false))).await)
        }
        Err(error) => Err(error.into()),
    }
}
