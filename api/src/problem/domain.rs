//! What each error of the domain is to a client. Causes go to the log, never into an answer.

use common::{
    crypto::{HashError, SigningError},
    db::DbError,
    password_resets::ResetError,
    refresh::RefreshError,
    registrations::VerifyError,
    sign_in::SignInError,
};

use super::{Code, Problem, chain};

impl From<DbError> for Problem {
    fn from(error: DbError) -> Self {
        if error.is_outage() {
            tracing::warn!(error = %chain(&error), "database_unavailable");
            Self::unavailable()
        } else {
            Self::internal(&error)
        }
    }
}

impl From<HashError> for Problem {
    fn from(error: HashError) -> Self {
        match error {
            HashError::Overloaded => Self::new(Code::Overloaded, "Too many passwords are being checked. Try again shortly."),
            HashError::Interrupted(_) | HashError::Refused(_) => Self::internal(&error),
        }
    }
}

impl From<SigningError> for Problem {
    fn from(error: SigningError) -> Self {
        match error {
            SigningError::Db(error) => error.into(),
            SigningError::Seal(_) | SigningError::Key(_) => Self::internal(&error),
        }
    }
}

impl From<VerifyError> for Problem {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::TokenInvalid => Self::new(Code::TokenInvalid, "It is wrong, was used already, or has expired. Ask for a new one."),
            VerifyError::Db(error) => error.into(),
        }
    }
}

impl From<ResetError> for Problem {
    fn from(error: ResetError) -> Self {
        match error {
            ResetError::TokenInvalid => Self::new(Code::TokenInvalid, "It is wrong, was used already, or has expired. Ask for a new one."),
            ResetError::Db(error) => error.into(),
        }
    }
}

impl From<SignInError> for Problem {
    fn from(error: SignInError) -> Self {
        match error {
            SignInError::InvalidCredentials => Self::new(Code::InvalidCredentials, "Check both and try again."),
            SignInError::EmailNotVerified => {
                Self::new(Code::EmailNotVerified, "Follow the link in the mail we sent, or ask for a new one.")
            }
            SignInError::TenantNotFound => Self::new(Code::TenantNotFound, "You do not belong to a tenant of this id."),
            SignInError::TenantSuspended => Self::new(Code::TenantSuspended, "Ask the operator of this installation."),
            SignInError::Hash(error) => error.into(),
            SignInError::Db(error) => error.into(),
        }
    }
}

impl From<RefreshError> for Problem {
    fn from(error: RefreshError) -> Self {
        match error {
            RefreshError::Invalid => Self::new(Code::RefreshTokenInvalid, "Sign in again."),
            RefreshError::Raced => Self::new(Code::RefreshRaced, "Use what the other request was given, or ask again with it."),
            RefreshError::Db(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    #[test]
    fn a_server_error_never_tells_its_cause() {
        let cause = DbError::Shape("canary".to_owned());
        let problem = Problem::from(cause);
        assert_eq!(problem.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!format!("{problem:?}").contains("canary"));
    }
}
