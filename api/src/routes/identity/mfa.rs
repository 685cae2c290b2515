//! Second factors: presenting one, authenticator apps and recovery codes.

use axum::{Json as Answer, extract::State, http::StatusCode, response::Response};
use common::clock::Timestamp;
use domain::{
    access::throttle::{Act, TooMany},
    identity::{
        mfa::{
            Factors, MfaError,
            challenges::{AnswerChallenge, CodeLimit, MfaChallenge, Outcome, Shown},
            passkeys::Assertion,
            recovery_codes, totp,
        },
        sign_in::{SignInError, SignedIn},
    },
};
use qrcode::{QrCode, render::svg};
use serde::Serialize;
use utoipa::ToSchema;

use super::passkeys::PasskeyView;
use crate::{
    answers::{
        sign_in::{SignedInView, TokenDelivery, signed_in},
        unstored,
    },
    extract::{Account, Client, Fields, FromFields, Json, Open, Recent},
    problem::{Code, NoPasskeys, Problem, Refusals},
    second_factors::{count, relying_party},
    state::App,
    throttle::Guard,
};

/// Minimum width of the QR code. It is a vector image.
const QR_PIXELS: u32 = 240;

#[derive(ToSchema)]
#[schema(as = SecondFactor)]
pub(crate) struct Verify {
    /// The `mfa_token` of the problem `mfa_required`.
    mfa_token: String,
    /// The code that the authenticator app shows, or a recovery code.
    #[schema(example = "492039")]
    code: Option<String>,
    /// Result of `navigator.credentials.get`, as its `toJSON` writes it.
    #[schema(value_type = Option<Object>)]
    credential: Option<Assertion>,
    token_delivery: Option<TokenDelivery>,
}

impl FromFields for Verify {
    fn read(fields: &mut Fields) -> Option<Self> {
        let (mfa_token, code) = (fields.required_text("mfa_token"), fields.optional_text("code"));
        let (credential, token_delivery) =
            (fields.optional_object("credential"), fields.optional("token_delivery"));
        Some(Self { mfa_token: mfa_token?, code, credential, token_delivery })
    }
}

/// Present a second factor
///
/// Finishes a request that returned `mfa_required`: signing in, or confirming your identity. Send
/// either `code` or `credential`. After some minutes or five incorrect codes the request expires
/// (`mfa_token_invalid`) and must be started again.
#[utoipa::path(
    post, path = "/api/auth/mfa/verify", tag = "Two-factor authentication", request_body = Verify,
    responses(
        (status = 200, description = "Signed in.", body = SignedInView, headers(("Set-Cookie" = String, description = "The refresh token, if it is delivered as a cookie."))),
        Refusals<(SignInError, MfaError, TooMany, NoPasskeys)>,
    )
)]
pub(crate) async fn verify(
    _: Open,
    State(app): State<App>,
    client: Client,
    Json(body): Json<Verify>,
) -> Result<Response, Problem> {
    let challenge = MfaChallenge::pending(app.store(), &app.key, &body.mfa_token).await?;
    let counted = Guard::of_network(&app, Act::SecondFactor, &client).admit().await?;
    let (method, shown) = match (body.code, body.credential) {
        (Some(code), None) => ("code", Shown::Code(code)),
        (None, Some(answer)) => {
            let party = relying_party(&app)?;
            let used = challenge
                .used_passkey(app.store(), party, &answer)
                .await
                .inspect_err(|_| count("passkey", false))?;
            ("passkey", Shown::Passkey(Box::new(used)))
        }
        _ => {
            let detail = "Send either `code` or `credential`.";
            return Err(Problem::new(Code::ValidationFailed, detail));
        }
    };
    let limit = CodeLimit {
        wrong_max: app.auth.login_failures_per_account,
        window: app.auth.throttle_window,
    };
    let answer = AnswerChallenge { key: &app.key, challenge: challenge.id, shown, limit };
    let (session, delivery) = match app.jobs.commit(&client.origin(), &answer).await? {
        Outcome::Wrong => {
            count(method, false);
            return Err(MfaError::CodeInvalid.into());
        }
        Outcome::Begun(session) => {
            (session, Some(body.token_delivery.unwrap_or(TokenDelivery::Cookie)))
        }
        Outcome::Reauthenticated(session) => (session, None),
    };
    count(method, true);
    app.throttle.take_back(counted).await;
    signed_in(&app, &SignedIn::resume(app.store(), session).await?, delivery)
}

/// The second factors of the user.
#[derive(Serialize, ToSchema)]
#[schema(as = SecondFactors)]
pub(crate) struct FactorsView {
    /// Since when signing in requires a second factor; null if it does not.
    since: Option<Timestamp>,
    /// When the authenticator app was set up; null if there is none.
    totp_since: Option<Timestamp>,
    /// Passkeys, oldest first.
    passkeys: Vec<PasskeyView>,
    /// Number of unused recovery codes.
    recovery_codes_left: usize,
}

/// List second factors
#[utoipa::path(
    get, path = "/api/auth/mfa", tag = "Two-factor authentication",
    responses((status = 200, description = "The second factors.", body = FactorsView))
)]
pub(crate) async fn list(
    account: Account,
    State(app): State<App>,
) -> Result<Answer<FactorsView>, Problem> {
    let factors = Factors::of(app.store(), account.user.id).await?;
    Ok(Answer(FactorsView {
        since: account.user.second_factor_since.map(Timestamp::from),
        totp_since: factors.totp_since.map(Timestamp::from),
        passkeys: factors.passkeys.iter().map(PasskeyView::new).collect(),
        recovery_codes_left: factors.recovery_codes_left,
    }))
}

/// The secret for an authenticator app, in three forms.
#[derive(Serialize, ToSchema)]
pub(crate) struct TotpEnrollment {
    /// Secret in base 32, to type in.
    #[schema(example = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP")]
    secret: String,
    /// URL with the secret, to open on the device that has the app.
    #[schema(
        format = "uri",
        example = "otpauth://totp/Tenantry:ada%40example.com?secret=JBSWY3DPEHPK3PXP&issuer=Tenantry"
    )]
    otpauth_url: String,
    /// QR code of the URL, an SVG image to scan.
    qr_svg: String,
}

/// Set up an authenticator app
///
/// Returns the secret for the app. The app is required for signing in once it is confirmed.
/// Starting again replaces the secret.
#[utoipa::path(
    post, path = "/api/auth/mfa/totp/enroll", tag = "Two-factor authentication",
    responses(
        (status = 200, description = "The secret for the app.", body = TotpEnrollment, headers(("Cache-Control" = String, description = "`no-store`"))),
        Refusals<MfaError>,
    )
)]
pub(crate) async fn enroll_totp(
    Recent(account): Recent<Account>,
    State(app): State<App>,
) -> Result<Response, Problem> {
    let secret =
        account.commit(&app, &totp::Enroll { key: &app.key, user: account.user.id }).await?;
    let otpauth_url = secret.otpauth_url(&app.name.to_string(), account.user.email.as_str());
    let code = QrCode::new(&otpauth_url).map_err(|error| Problem::internal(&error))?;
    let qr_svg = code.render::<svg::Color>().min_dimensions(QR_PIXELS, QR_PIXELS).build();
    Ok(unstored(TotpEnrollment { secret: secret.to_base32(), otpauth_url, qr_svg }))
}

#[derive(ToSchema)]
pub(crate) struct TotpCode {
    /// The code of six digits that the authenticator app shows.
    #[schema(example = "492039")]
    code: String,
}

impl FromFields for TotpCode {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { code: fields.required_text("code")? })
    }
}

/// Recovery codes to write down.
#[derive(Serialize, ToSchema)]
pub(crate) struct RecoveryCodes {
    /// Each code replaces a second factor once. The codes are shown only this once; empty if the
    /// user already has some.
    #[schema(example = json!(["7k2m9-x4pqt"]))]
    recovery_codes: Vec<String>,
}

/// Confirm the authenticator app
///
/// Finishes setting up the app with a code that it shows. From then on, signing in requires a
/// second factor. All other sessions end, because they began without one. The user is notified by
/// email.
#[utoipa::path(
    post, path = "/api/auth/mfa/totp/confirm", tag = "Two-factor authentication", request_body = TotpCode,
    responses(
        (status = 200, description = "The app is set up.", body = RecoveryCodes, headers(("Cache-Control" = String, description = "`no-store`"))),
        Refusals<(MfaError, TooMany)>,
    )
)]
pub(crate) async fn confirm_totp(
    Recent(account): Recent<Account>,
    State(app): State<App>,
    client: Client,
    Json(body): Json<TotpCode>,
) -> Result<Response, Problem> {
    let counted = Guard::of_account(&app, Act::SecondFactor, &account.user.id.to_string(), &client)
        .admit()
        .await?;
    let confirm = totp::Confirm { key: &app.key, owner: account.factor_owner(), code: body.code };
    let codes = account.commit(&app, &confirm).await?;
    app.throttle.succeeded(counted).await;
    Ok(unstored(RecoveryCodes { recovery_codes: codes.unwrap_or_default() }))
}

/// Remove the authenticator app
///
/// If the user has no passkey, signing in no longer requires a second factor and recovery codes
/// stop working. The user is notified by email.
#[utoipa::path(
    delete, path = "/api/auth/mfa/totp", tag = "Two-factor authentication",
    responses((status = 204, description = "The app is removed."), Refusals<MfaError>)
)]
pub(crate) async fn remove_totp(
    Recent(account): Recent<Account>,
    State(app): State<App>,
) -> Result<StatusCode, Problem> {
    account.commit(&app, &totp::Remove { owner: account.factor_owner() }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Replace the recovery codes
///
/// The previous codes stop working. The user is notified by email.
#[utoipa::path(
    post, path = "/api/auth/mfa/recovery-codes", tag = "Two-factor authentication",
    responses(
        (status = 200, description = "The new codes.", body = RecoveryCodes, headers(("Cache-Control" = String, description = "`no-store`"))),
        Refusals<MfaError>,
    )
)]
pub(crate) async fn replace_recovery_codes(
    Recent(account): Recent<Account>,
    State(app): State<App>,
) -> Result<Response, Problem> {
    let replace = recovery_codes::Replace { key: &app.key, owner: account.factor_owner() };
    let recovery_codes = account.commit(&app, &replace).await?;
    Ok(unstored(RecoveryCodes { recovery_codes }))
}
