//! Limits of attempts ([`domain::access::throttle`]), as configured.

use std::future::Future;

use common::{
    config,
    crypto::Password,
    email::Email,
    sealed_email::{AddressDigest, SealedEmail},
};
use domain::{
    access::throttle::{Act, Admission, Limits, Subject, TooMany, Try},
    identity::sign_in::{SendThrottled, SignInError, Throttled},
    people::users::User,
};
use jobs::Job;

use crate::{extract::Client, problem::Problem, state::App};

/// An attempt by a client.
pub(crate) struct Guard<'a> {
    app: &'a App,
    act: Act,
    concerns: Concerns,
    client: &'a Client,
    weight: u32,
}

/// What an attempt concerns; owns the name of a [`Subject`].
enum Concerns {
    Nothing,
    Account(String),
    Mailbox(String),
}

impl<'a> Guard<'a> {
    /// A request that mails this email address, which anyone can name. It is counted per network,
    /// so that nobody can use up the mails of others.
    pub(crate) fn of_mailbox(app: &'a App, act: Act, email: &Email, client: &'a Client) -> Self {
        let mailbox = AddressDigest::of(&app.key, email).as_str().to_owned();
        Self::new(app, act, Concerns::Mailbox(mailbox), client)
    }

    /// An attempt on the account of this email address, whether or not it exists.
    fn of_address(app: &'a App, act: Act, email: &Email, client: &'a Client) -> Self {
        Self::of_account(app, act, AddressDigest::of(&app.key, email).as_str(), client)
    }

    /// An attempt that concerns an account, given by any name that is unique to it. All attempts
    /// count together, so only the account itself, or guesses at it, may be counted so.
    pub(crate) fn of_account(app: &'a App, act: Act, account: &str, client: &'a Client) -> Self {
        Self::new(app, act, Concerns::Account(account.to_owned()), client)
    }

    /// An attempt that concerns nothing in particular.
    pub(crate) fn of_network(app: &'a App, act: Act, client: &'a Client) -> Self {
        Self::new(app, act, Concerns::Nothing, client)
    }

    fn new(app: &'a App, act: Act, concerns: Concerns, client: &'a Client) -> Self {
        Self { app, act, concerns, client, weight: 1 }
    }

    /// Several attempts that are made together: as many as there are, but not more than half of what
    /// the network is allowed, so that one long list does not use it up.
    pub(crate) fn times(self, count: usize) -> Self {
        let half = limits(self.act, &self.app.auth).per_network / 2;
        let weight = u32::try_from(count).unwrap_or(u32::MAX).min(half).max(1);
        Self { weight, ..self }
    }

    fn tried(&self) -> Try<'_> {
        let subject = match &self.concerns {
            Concerns::Nothing => Subject::Nothing,
            Concerns::Account(account) => Subject::Account(account),
            Concerns::Mailbox(mailbox) => Subject::Mailbox(mailbox),
        };
        Try { act: self.act, subject, network: self.client.network(), weight: self.weight }
    }

    /// Counts the attempt, unless there were too many.
    pub(crate) async fn admit(&self) -> Result<Admission, Problem> {
        let admitted =
            self.app.throttle.admit(self.tried(), limits(self.act, &self.app.auth)).await;
        admitted.map_err(|TooMany(wait)| Problem::too_many_attempts(self.act, wait))
    }

    /// Checks a password with `checking`, unless too many were wrong; that is decided before anything
    /// is hashed. All routes count the same attempts. The owner of the account is notified when it
    /// becomes slow.
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
        if counted.slows_account && self.app.throttle.may_notify(self.tried()).await {
            let address = SealedEmail::seal(&self.app.key, SendThrottled::KIND, address)
                .map_err(|error| Problem::internal(&error))?;
            self.app.jobs.commit(&self.client.origin(), &Throttled { address }).await?;
        }
        Ok(())
    }

    /// Forgets the failed sign-ins to the account of an email address, whose owner has proven who
    /// they are by other means.
    pub(crate) async fn forgive_sign_ins(app: &'a App, address: &Email, client: &'a Client) {
        app.throttle.forgive(Self::of_address(app, Act::SignIn, address, client).tried()).await;
    }
}

fn limits(act: Act, auth: &config::Auth) -> Limits {
    let (per_account, per_account_max, per_network) = match act {
        Act::SignIn | Act::SecondFactor | Act::ResetPassword | Act::FollowInvitation => {
            let per_account = auth.login_failures_per_account;
            let max = auth.login_failures_per_account_max.max(per_account);
            (per_account, max, auth.login_failures_per_network)
        }
        Act::Register
        | Act::Invite
        | Act::FollowInviteLink
        | Act::CheckDomain
        | Act::ForgetPassword
        | Act::ResendVerification
        | Act::ChangeEmail
        | Act::ReportApiKeys => {
            // What an account causes itself is limited as a whole.
            (auth.mails_per_account, auth.mails_per_account, auth.mails_per_network)
        }
    };
    Limits { per_account, per_account_max, per_network, window: auth.throttle_window }
}
