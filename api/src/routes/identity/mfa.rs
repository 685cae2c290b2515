//! Second factors: what one has, authenticator apps, recovery codes, and showing one of them.

use axum::{
    Json as Answer,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use common::{clock::rfc3339, telemetry::metrics};
use domain::{
    access::throttle::Act,
    identity::{
        mfa::{
            self, Factors, Owner,
            challenges::{self, AnswerChallenge, MfaChallenge, Outcome, Purpose, Shown},
            passkeys::Assertion,
            recovery_codes, totp,
        },
        sign_in::SignedIn,
    },
};
use qrcode::{QrCode, render::svg};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    passkeys::PasskeyView,
    sessions::{LoginView, TokenDelivery, signed_in},
};
use crate::{
    extract::{Caller, Client, Fields, FromFields, Json, Open, Recent},
    problem::{Code, Problem},
    state::App,
    throttle::Guard,
};

/// The picture is at least so many pixels wide; it scales.
const QR_PIXELS: u32 = 240;

/// A caller who changes their own second factors.
pub(crate) fn owner(caller: &Caller) -> Owner {
    Owner { user: caller.user.id, session: caller.session.id, scope: caller.scope() }
}

/// The refusal that asks for a second factor.
pub(crate) async fn asked(app: &App, purpose: Purpose) -> Problem {
    match challenges::ask(
        app.store(),
        &app.key,
        app.passkeys.as_ref(),
        app.auth.mfa_token_ttl,
        purpose,
    )
    .await
    {
        Ok(asked) => Problem::mfa_required(asked),
        Err(error) => error.into(),
    }
}

/// What somebody shows who gave their password.
#[derive(ToSchema)]
pub(crate) struct Verify {
    /// The `mfa_token` that was answered to the password.
    mfa_token: String,
    /// What the authenticator app shows now, or a recovery code. This, or `credential`.
    #[schema(value_type = Option<String>, example = "492039")]
    code: Option<String>,
    /// What `navigator.credentials.get` gave, as its `toJSON` writes it.
    #[schema(value_type = Option<Object>)]
    credential: Option<Assertion>,
    /// Where the refresh token is to go: `cookie` (for browsers, and without this) or `body`.
    #[schema(value_type = Option<String>, example = "cookie")]
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

/// Show a second factor.
///
/// Finishes what `mfa_required` was answered to: signing in, or proving anew who one is. Refused as
/// `mfa_code_invalid` (401) when the code or the credential is wrong or was used before, and as
/// `mfa_token_invalid` (401) when the password is to be given again: after some minutes, or five
/// wrong codes. After too many failures over all sign-ins of an account `too_many_attempts` (429).
#[utoipa::path(
    post, path = "/api/auth/mfa/verify", tag = "Second factors", request_body = Verify,
    responses((status = 200, description = "Signed in.", body = LoginView, headers(("Set-Cookie" = String, description = "The refresh token, for browsers."))))
)]
pub(crate) async fn verify(
    _: Open,
    State(app): State<App>,
    client: Client,
    Json(body): Json<Verify>,
) -> Result<Response, Problem> {
    let challenge = MfaChallenge::pending(app.store(), &app.key, &body.mfa_token).await?;
    let counted =
        Guard::of_account(&app, Act::SecondFactor, &challenge.user_id.to_string(), &client)
            .admit()
            .await?;
    let (method, shown) = match (body.code, body.credential) {
        (Some(code), None) => ("code", Shown::Code(code)),
        (None, Some(answer)) => {
            let party = app.passkeys.as_ref().ok_or_else(unavailable)?;
            let used = challenge
                .used_passkey(app.store(), party, &answer)
                .await
                .inspect_err(|_| count("passkey", false))?;
            ("passkey", Shown::Passkey(Box::new(used)))
        }
        _ => return Err(Problem::new(Code::ValidationFailed, "Give a `code`, or a `credential`.")),
    };
    let answer = AnswerChallenge { key: &app.key, challenge: challenge.id, shown };
    let (session, delivery) = match app.jobs.commit(&client.origin(), &answer).await? {
        Outcome::Wrong => {
            count(method, false);
            return Err(mfa::MfaError::CodeInvalid.into());
        }
        Outcome::Begun(session) => {
            (session, Some(body.token_delivery.unwrap_or(TokenDelivery::Cookie)))
        }
        Outcome::Reauthenticated(session) => (session, None),
    };
    count(method, true);
    app.throttle.succeeded(counted).await;
    signed_in(&app, &SignedIn::resume(app.store(), session).await?, delivery)
}

/// Counts a second factor that was shown.
pub(crate) fn count(method: &str, is_accepted: bool) {
    let outcome = if is_accepted { "accepted" } else { "refused" };
    metrics::AUTH_SECOND_FACTORS.with_label_values(&[method, outcome]).inc();
}

/// Passkeys need a domain.
pub(crate) fn unavailable() -> Problem {
    Problem::new(
        Code::PasskeysUnavailable,
        "Passkeys are bound to a domain, and `app.public_url` names an address.",
    )
}

/// What one can show beside the password.
#[derive(Serialize, ToSchema)]
#[schema(as = SecondFactors)]
pub(crate) struct FactorsView {
    /// Since when a second factor is asked for; null where the password is enough.
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<String>,
    /// Since when an authenticator app is asked.
    #[schema(value_type = Option<String>, format = DateTime)]
    totp_since: Option<String>,
    /// One's passkeys, the oldest first.
    passkeys: Vec<PasskeyView>,
    /// Recovery codes that were not used.
    recovery_codes_left: usize,
}

/// See one's second factors.
#[utoipa::path(
    get, path = "/api/auth/mfa", tag = "Second factors",
    responses((status = 200, description = "What one can show beside the password.", body = FactorsView))
)]
pub(crate) async fn list(
    caller: Caller,
    State(app): State<App>,
) -> Result<Answer<FactorsView>, Problem> {
    let factors = Factors::of(app.store(), caller.user.id).await?;
    Ok(Answer(FactorsView {
        since: caller.user.second_factor_since.map(rfc3339),
        totp_since: factors.totp_since.map(rfc3339),
        passkeys: factors.passkeys.iter().map(PasskeyView::new).collect(),
        recovery_codes_left: factors.recovery_codes_left,
    }))
}

/// What an authenticator app is told.
#[derive(Serialize, ToSchema)]
pub(crate) struct TotpEnrollment {
    /// To be typed in, in base 32.
    #[schema(example = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP")]
    secret: String,
    /// To be opened on the device that has the app.
    #[schema(
        format = "uri",
        example = "otpauth://totp/Tenantry:ada%40example.com?secret=JBSWY3DPEHPK3PXP&issuer=Tenantry"
    )]
    otpauth_url: String,
    /// To be scanned: an SVG picture of the URL.
    qr_svg: String,
}

/// Begin to set up an authenticator app.
///
/// It is asked for only once it is confirmed. Beginning again voids what was answered before.
/// Refused as `mfa_enrolled_already` (409) where there is one.
#[utoipa::path(
    post, path = "/api/auth/mfa/totp/enroll", tag = "Second factors",
    responses((status = 200, description = "What the app is to be told.", body = TotpEnrollment, headers(("Cache-Control" = String, description = "`no-store`"))))
)]
pub(crate) async fn enroll_totp(
    Recent(caller): Recent<Caller>,
    State(app): State<App>,
) -> Result<Response, Problem> {
    let secret = caller.commit(&app, &totp::Enroll { key: &app.key, user: caller.user.id }).await?;
    let otpauth_url = secret.otpauth_url(&app.name.to_string(), caller.user.email.as_str());
    let code = QrCode::new(&otpauth_url).map_err(|error| Problem::internal(&error))?;
    let qr_svg = code.render::<svg::Color>().min_dimensions(QR_PIXELS, QR_PIXELS).build();
    Ok(kept_nowhere(TotpEnrollment { secret: secret.to_base32(), otpauth_url, qr_svg }))
}

/// An answer that nobody may keep.
pub(crate) fn kept_nowhere(answer: impl Serialize) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Answer(answer)).into_response()
}

/// What the authenticator app shows.
#[derive(ToSchema)]
pub(crate) struct TotpCode {
    /// Six digits.
    #[schema(example = "492039")]
    code: String,
}

impl FromFields for TotpCode {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { code: fields.required_text("code")? })
    }
}

/// Codes to write down.
#[derive(Serialize, ToSchema)]
pub(crate) struct RecoveryCodes {
    /// Each stands in once for a second factor that was lost. They are told this once; empty where
    /// one has some already.
    #[schema(example = json!(["7k2m9-x4pqt"]))]
    recovery_codes: Vec<String>,
}

/// Finish to set up an authenticator app.
///
/// From now on signing in takes a code of it. Ends all other sessions, for they began with the
/// password alone; the person is told by mail. Refused as `mfa_code_invalid` (401) when the app
/// shows something else.
#[utoipa::path(
    post, path = "/api/auth/mfa/totp/confirm", tag = "Second factors", request_body = TotpCode,
    responses((status = 200, description = "It is set up.", body = RecoveryCodes, headers(("Cache-Control" = String, description = "`no-store`"))))
)]
pub(crate) async fn confirm_totp(
    Recent(caller): Recent<Caller>,
    State(app): State<App>,
    client: Client,
    Json(body): Json<TotpCode>,
) -> Result<Response, Problem> {
    let counted = Guard::of_account(&app, Act::SecondFactor, &caller.user.id.to_string(), &client)
        .admit()
        .await?;
    let confirm = totp::Confirm { key: &app.key, owner: owner(&caller), code: body.code };
    let codes = caller.commit(&app, &confirm).await?;
    app.throttle.succeeded(counted).await;
    Ok(kept_nowhere(RecoveryCodes { recovery_codes: codes.unwrap_or_default() }))
}

/// Remove the authenticator app.
///
/// Without a passkey the password is enough again, and the recovery codes are void. The person is
/// told by mail.
#[utoipa::path(
    delete, path = "/api/auth/mfa/totp", tag = "Second factors",
    responses((status = 204, description = "It is not asked any more."))
)]
pub(crate) async fn remove_totp(
    Recent(caller): Recent<Caller>,
    State(app): State<App>,
) -> Result<StatusCode, Problem> {
    caller.commit(&app, &totp::Remove { owner: owner(&caller) }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Make new recovery codes.
///
/// Those before are void. Refused as `mfa_not_enrolled` (409) where there is nothing they could
/// stand in for.
#[utoipa::path(
    post, path = "/api/auth/mfa/recovery-codes", tag = "Second factors",
    responses((status = 200, description = "The new codes.", body = RecoveryCodes, headers(("Cache-Control" = String, description = "`no-store`"))))
)]
pub(crate) async fn replace_recovery_codes(
    Recent(caller): Recent<Caller>,
    State(app): State<App>,
) -> Result<Response, Problem> {
    let replace = recovery_codes::Replace { key: &app.key, owner: owner(&caller) };
    let recovery_codes = caller.commit(&app, &replace).await?;
    Ok(kept_nowhere(RecoveryCodes { recovery_codes }))
}
