//! Authenticating again within a session, for actions for which a stolen session must not be
//! enough.

use common::{
    db::{Change, DbError, TenantScope, Txn},
    id::{SessionId, UserId},
};
use mongodb::bson::DateTime;
use serde::{Deserialize, Serialize};

use crate::{
    activity::{Action, Entry},
    identity::sign_in::SignInError,
    people::{
        sessions::{Device, Session},
        users::User,
    },
    tenancy::tenants::Tenant,
};

/// Records that the user of a session has just authenticated.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reauthenticate {
    pub session: SessionId,
    /// The owner of the session.
    pub user: UserId,
    /// When the password they gave was set, or, with a passkey, their current one.
    pub password_set_at: Option<DateTime>,
    /// What is known of the client.
    #[serde(default)]
    pub device: Device,
    /// Whether they presented a second factor.
    pub second_factor: bool,
}

impl Change for Reauthenticate {
    type Output = Session;
    type Error = SignInError;

    /// Fails with [`SignInError::SecondFactorRequired`] if they have a second factor and did not
    /// present it.
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
            .record_in(txn, TenantScope::of_row_if_any(&session))
            .await?;
        Ok(session)
    }
}

impl Reauthenticate {
    /// Their session, unless it is over, also by the rules of its tenant.
    async fn live_session(&self, txn: &mut Txn) -> Result<Option<Session>, DbError> {
        let Some(session) = Session::within(txn, self.session)
            .await?
            .filter(|session| session.user_id == self.user)
        else {
            return Ok(None);
        };
        let session = match TenantScope::of_row_if_any(&session) {
            Some(scope) => {
                let tenant = Tenant::within(txn, scope).await?;
                tenant.map(|tenant| tenant.security.limit(session))
            }
            None => Some(session),
        };
        let now = txn.clock().now();
        Ok(session.filter(|session| session.is_live(now)))
    }
}
