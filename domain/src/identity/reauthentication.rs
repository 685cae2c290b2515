//! Proving anew who one is, in the middle of a session: for what a stolen session must not be
//! enough for.

use common::{
    db::{Change, DbError, TenantScope, Txn},
    id::{SessionId, UserId},
};
use mongodb::bson::DateTime;
use serde::{Deserialize, Serialize};

use crate::{
    activity::{Action, Entry},
    identity::{sessions::Session, sign_in::SignInError, users::User},
    tenancy::tenants::Tenant,
};

/// Notes that the person of a session proved who they are just now.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Reauthenticate {
    /// The session.
    pub session: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// When the password was set that they gave, or that was theirs when they used a passkey.
    pub password_set_at: Option<DateTime>,
    /// Whether they showed a second factor.
    pub second_factor: bool,
}

impl Change for Reauthenticate {
    type Output = Session;
    type Error = SignInError;

    /// Refused as [`SignInError::SecondFactorRequired`] when they have one and did not show it.
    async fn apply(&self, txn: &mut Txn) -> Result<Session, SignInError> {
        let user = User::within(txn, self.user).await?;
        let user = user
            .filter(|user| user.password_set_at == self.password_set_at)
            .ok_or(SignInError::InvalidCredentials)?;
        if user.second_factor_since.is_some() && !self.second_factor {
            return Err(SignInError::SecondFactorRequired);
        }
        let session = self.live_session(txn).await?.ok_or(SignInError::ChallengeInvalid)?;
        let session =
            Session::authenticated(txn, session.id).await?.ok_or(SignInError::ChallengeInvalid)?;
        Entry::new(Action::SessionReauthenticated, self.session)
            .by(self.user)
            .record(txn, TenantScope::of_row(&session))
            .await?;
        Ok(session)
    }
}

impl Reauthenticate {
    /// Their session, unless it is over, also by the rules of the tenant that it is in.
    async fn live_session(&self, txn: &mut Txn) -> Result<Option<Session>, DbError> {
        let Some(session) = Session::within(txn, self.session)
            .await?
            .filter(|session| session.user_id == self.user)
        else {
            return Ok(None);
        };
        let tenant = Tenant::within(txn, TenantScope::of_row(&session)).await?;
        let (session, now) =
            (tenant.map(|tenant| session.under(&tenant.security)), txn.clock().now());
        Ok(session.filter(|session| session.is_live(now)))
    }
}
