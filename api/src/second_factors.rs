//! Second factors as sign-in, reauthentication and enrollment share them.

use common::telemetry::metrics;
use domain::identity::mfa::{
    challenges::{self, Purpose},
    passkeys::{Assertion, Ceremony, RelyingParty, Used, Using},
};

use crate::{
    problem::{NoPasskeys, Problem},
    state::App,
};

/// The problem that asks for a second factor, with which `purpose` is fulfilled.
pub(crate) async fn required(app: &App, purpose: Purpose) -> Problem {
    let (key, party, ttl) = (&app.key, app.passkeys.as_ref(), app.auth.mfa_token_ttl);
    match challenges::ask(app.store(), key, party, ttl, purpose).await {
        Ok(asked) => Problem::mfa_required(asked),
        Err(error) => error.into(),
    }
}

/// The installation as passkeys know it.
pub(crate) fn relying_party(app: &App) -> Result<&RelyingParty, NoPasskeys> {
    app.passkeys.as_ref().ok_or(NoPasskeys)
}

/// The passkey that a credential belongs to, if it is valid and belongs to the `ceremony`.
pub(crate) async fn used_passkey(
    app: &App,
    ceremony: &str,
    credential: &Assertion,
) -> Result<Used, Problem> {
    let begun = Ceremony::<Using>::open(&app.key, ceremony, app.clock().now())?;
    let used = relying_party(app)?.finish_using(app.store(), begun, credential).await;
    count("passkey", used.is_ok());
    Ok(used?)
}

/// Counts a second factor that was presented.
pub(crate) fn count(method: &str, is_accepted: bool) {
    let outcome = if is_accepted { "accepted" } else { "refused" };
    metrics::AUTH_SECOND_FACTORS.with_label_values(&[method, outcome]).inc();
}
