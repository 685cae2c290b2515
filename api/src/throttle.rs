//! How often what may be tried ([`domain::access::throttle`]), as the configuration says.

use std::future::Future;

use common::{config, crypto::Password, email::Email, sealed_email::SealedEmail};
use domain::{
    access::throttle::{Act, Admission, Limits, TooMany, Try},
    identity::{
        registrations::AddressDigest,
        sign_in::{SignInError, Throttled},
        users::User,
    },
};

use crate::{extract::Client, problem::Problem, state::App};

/// A try about an account, or about none, by one client.
pub(crate) struct Guard<'a> {
    app: &'a App,
    act: Act,
    account: Option<String>,
    client: &'a Client,
}

impl<'a> Guard<'a> {
    /// Of a try about the account of an address, whether there is one or not.
    pub(crate) fn of_address(app: &'a App, act: Act, email: &Email, client: &'a Client) -> Self {
        Self::of_account(app, act, AddressDigest::of(&app.key, email).as_str(), client)
    }

    /// Of a try about an account by what it is called.
    pub(crate) fn of_account(app: &'a App, act: Act, account: &str, client: &'a Client) -> Self {
        Self { app, act, account: Some(account.to_owned()), client }
    }

    /// Of a try about no account in particular.
    pub(crate) fn of_network(app: &'a App, act: Act, client: &'a Client) -> Self {
        Self { app, act, account: None, client }
    }

    fn tried(&self) -> Try<'_> {
        Try { act: self.act, account: self.account.as_deref(), network: self.client.network() }
    }

    /// Counts the try.
    ///
    /// # Errors
    /// When there were too many.
    pub(crate) async fn admit(&self) -> Result<Admission, Problem> {
        let admitted =
            self.app.throttle.admit(self.tried(), limits(self.act, &self.app.auth)).await;
        admitted.map_err(|TooMany(wait)| Problem::too_many_attempts(self.act, wait))
    }

    /// Counts `checking` the password of an address's account, whichever route asks for it, unless
    /// too many were wrong: before anything is hashed. The owner is told when that throttles the
    /// account.
    ///
    /// # Errors
    /// When there were too many, and what `checking` refuses.
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
                    // The password was right, or was not looked at.
                    app.throttle.take_back(counted).await;
                }
                Err(error.into())
            }
        }
    }

    /// As [`Guard::check_password`], of somebody who is signed in: a session that was stolen is no
    /// further way to guess.
    pub(crate) async fn check_password_of(
        app: &'a App,
        client: &'a Client,
        user: &User,
        password: Password,
    ) -> Result<(), Problem> {
        let checking = async {
            let is_right = app.hasher.verify(password, Some(user.password_hash.clone())).await?;
            is_right.then_some(()).ok_or(SignInError::InvalidCredentials)
        };
        let is_wrong = |error: &SignInError| matches!(error, SignInError::InvalidCredentials);
        Self::check_password(app, client, &user.email, checking, is_wrong).await
    }

    async fn note_failure(&self, counted: &Admission, address: &Email) -> Result<(), Problem> {
        if counted.fills_account && self.app.throttle.may_tell(self.tried()).await {
            let address = SealedEmail::seal(&self.app.key, address)
                .map_err(|error| Problem::internal(&error))?;
            self.app.jobs.commit(&self.client.origin(), &Throttled { address }).await?;
        }
        Ok(())
    }

    /// Forgets the failures about the account.
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
