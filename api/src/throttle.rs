//! Limits of attempts ([`domain::access::throttle`]), as configured.

use std::future::Future;

use common::{
    config,
    crypto::Password,
    email::Email,
    sealed_email::{AddressDigest, SealedEmail},
};
use domain::{
    access::throttle::{Act, Admission, Limits, TooMany, Try},
    identity::sign_in::{SignInError, Throttled},
    people::users::User,
};

use crate::{extract::Client, problem::Problem, state::App};

/// An attempt by a client, which may concern an account.
pub(crate) struct Guard<'a> {
    app: &'a App,
    act: Act,
    account: Option<String>,
    client: &'a Client,
}

impl<'a> Guard<'a> {
    /// An attempt that concerns the account with this email address, whether or not it exists.
    pub(crate) fn of_address(app: &'a App, act: Act, email: &Email, client: &'a Client) -> Self {
        Self::of_account(app, act, AddressDigest::of(&app.key, email).as_str(), client)
    }

    /// An attempt that concerns an account, given by any name that is unique to it.
    pub(crate) fn of_account(app: &'a App, act: Act, account: &str, client: &'a Client) -> Self {
        Self { app, act, account: Some(account.to_owned()), client }
    }

    /// An attempt that concerns no account.
    pub(crate) fn of_network(app: &'a App, act: Act, client: &'a Client) -> Self {
        Self { app, act, account: None, client }
    }

    fn tried(&self) -> Try<'_> {
        Try { act: self.act, account: self.account.as_deref(), network: self.client.network() }
    }

    /// Counts the attempt, unless there were too many.
    pub(crate) async fn admit(&self) -> Result<Admission, Problem> {
        let admitted =
            self.app.throttle.admit(self.tried(), limits(self.act, &self.app.auth)).await;
        admitted.map_err(|TooMany(wait)| Problem::too_many_attempts(self.act, wait))
    }

    /// Checks a password with `checking`, unless too many were wrong; that is decided before anything
    /// is hashed. All routes count the same attempts. The owner of the account is notified when it
    /// becomes throttled.
    pub(crate) async fn check_password<T, E: Into<Problem>>(
        app: &'a App,
        client: &'a Client,
        address: &Email,
        checking: impl Future<Output = Result<T, E>>,
        is_wrong: impl FnOnce(&E) -> bool,
    ) -> Result<T, Problem> {
        let guard = Self::of_address(app, Act::SignIn, address, client);
        let counted = guard.admit().await?;
        match checking.await {
            Ok(checked) => {
                app.throttle.succeeded(counted).await;
                Ok(checked)
            }
            Err(error) => {
                if is_wrong(&error) {
                    guard.note_failure(&counted, address).await?;
                } else {
                    // The password was correct or was not checked.
                    app.throttle.take_back(counted).await;
                }
                Err(error.into())
            }
        }
    }

    /// Like [`Guard::check_password`], for a user who is signed in: a stolen session does not allow
    /// more attempts.
    pub(crate) async fn check_password_of(
        app: &'a App,
        client: &'a Client,
        user: &User,
        password: Password,
    ) -> Result<(), Problem> {
        let checking = async {
            let hash = user.password_hash.clone();
            let verdict = app.hasher.verify(password, Some(hash)).await?;
            verdict.is_right().then_some(()).ok_or(SignInError::InvalidCredentials)
        };
        let is_wrong = |error: &SignInError| matches!(error, SignInError::InvalidCredentials);
        Self::check_password(app, client, &user.email, checking, is_wrong).await
    }

    async fn note_failure(&self, counted: &Admission, address: &Email) -> Result<(), Problem> {
        if counted.fills_account && self.app.throttle.may_notify(self.tried()).await {
            let address = SealedEmail::seal(&self.app.key, address)
                .map_err(|error| Problem::internal(&error))?;
            self.app.jobs.commit(&self.client.origin(), &Throttled { address }).await?;
        }
        Ok(())
    }

    /// Forgets the failed attempts that concern the account.
    pub(crate) async fn forgive(&self) {
        self.app.throttle.forgive(self.tried()).await;
    }
}

fn limits(act: Act, auth: &config::Auth) -> Limits {
    let (per_account, per_network) = match act {
        Act::SignIn | Act::SecondFactor | Act::ResetPassword | Act::FollowInvitation => {
            (auth.login_failures_per_account, auth.login_failures_per_network)
        }
        Act::Register
        | Act::Invite
        | Act::FollowInviteLink
        | Act::CheckDomain
        | Act::ForgetPassword
        | Act::ResendVerification
        | Act::ChangeEmail => (auth.mails_per_account, auth.mails_per_network),
    };
    Limits { per_account, per_network, window: auth.throttle_window }
}
