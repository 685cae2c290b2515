//! Proving anew who one is, before what a session alone is not enough for.

use axum::{extract::State, response::Response};
use common::crypto::Password;
use domain::{
    access::throttle::Act,
    identity::{
        mfa::{
            challenges::Purpose,
            passkeys::{Assertion, ByPasskey},
        },
        reauthentication::Reauthenticate,
        sign_in::{SignInError, SignedIn},
        users::User,
    },
};
use utoipa::ToSchema;

use super::{
    mfa, passkeys,
    sessions::{LoginView, signed_in},
};
use crate::{
    extract::{Caller, Client, Fields, FromFields, Json},
    problem::{Code, Problem},
    state::App,
    throttle::Guard,
};

/// What proves who one is: the password, or a passkey with its ceremony.
#[derive(ToSchema)]
pub(crate) struct Proof {
    /// The account's password.
    #[schema(value_type = Option<String>, format = "password", max_length = 1024, example = "correct horse battery staple")]
    password: Option<Password>,
    /// What `POST /api/auth/passkeys/options` answered.
    ceremony: Option<String>,
    /// What `navigator.credentials.get` gave, as its `toJSON` writes it.
    #[schema(value_type = Option<Object>)]
    credential: Option<Assertion>,
}

impl FromFields for Proof {
    fn read(fields: &mut Fields) -> Option<Self> {
        let password = fields.optional_as("password", Password::presented);
        let (ceremony, credential) =
            (fields.optional_text("ceremony"), fields.optional_object("credential"));
        Some(Self { password, ceremony, credential })
    }
}

/// Prove anew who one is.
///
/// By the password, or by a passkey. For some minutes sensitive changes are let through then.
/// Refused as `invalid_credentials` (401) when the password is wrong; as `mfa_required` (401) when
/// the account has a second factor: then `POST /api/auth/mfa/verify` finishes it, in the same
/// session.
#[utoipa::path(
    post, path = "/api/auth/reauthenticate", tag = "Session", request_body = Proof,
    responses((status = 200, description = "Proved. The session and its refresh token stay.", body = LoginView))
)]
pub(crate) async fn reauthenticate(
    caller: Caller,
    State(app): State<App>,
    client: Client,
    Json(body): Json<Proof>,
) -> Result<Response, Problem> {
    // The account as it is now, not as it was kept for this caller.
    let user = User::by_id(app.store(), caller.user.id)
        .await?
        .ok_or_else(|| Problem::unauthenticated(true))?;
    let again = |second_factor| Reauthenticate {
        session: caller.session.id,
        user: user.id,
        password_set_at: user.password_set_at,
        second_factor,
    };
    let session = match body {
        Proof { password: Some(password), ceremony: None, credential: None } => {
            Guard::check_password_of(&app, &client, &user, password).await?;
            app.jobs.commit(&caller.origin(), &again(false)).await
        }
        Proof { password: None, ceremony: Some(ceremony), credential: Some(credential) } => {
            // Nobody guesses a passkey; whoever tries must not use up the tries of the account's
            // owner.
            let counted = Guard::of_network(&app, Act::SecondFactor, &client).admit().await?;
            let passkey = passkeys::used(&app, &ceremony, &credential).await?;
            if passkey.user() != user.id {
                return Err(SignInError::PasskeyInvalid.into());
            }
            app.throttle.take_back(counted).await;
            app.jobs
                .commit(&caller.origin(), &ByPasskey { used: passkey, change: again(true) })
                .await
        }
        _ => {
            return Err(Problem::new(
                Code::ValidationFailed,
                "Give the `password`, or a `ceremony` and its `credential`.",
            ));
        }
    };
    match session {
        Ok(session) => signed_in(&app, &SignedIn::resume(app.store(), session).await?, None),
        Err(SignInError::SecondFactorRequired) => {
            Err(mfa::asked(&app, Purpose::Reauthenticate(again(false))).await)
        }
        Err(error) => Err(error.into()),
    }
}
