//! Who commits a change, and by what.
//!
//! Whoever commits says it once, on the transaction; every event that the change writes carries
//! it. So a change need not pass it on, and none can forget it.

use std::{fmt, net::IpAddr, str::FromStr};

use mongodb::bson::Bson;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

use crate::id::{AdminId, ApiKeyId, JobId, UserId};

/// The longest reason, in characters.
const REASON_CHARS_MAX: usize = 500;

/// Somebody or something that acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A person, signed in.
    User(UserId),
    /// A customer's program, by an API key.
    ApiKey(ApiKeyId),
    /// An administrator of the platform, signed in.
    Admin(AdminId),
    /// Somebody with a shell on the installation. They have no account here; [`Via::Command`] names
    /// them.
    Operator,
    /// The installation itself.
    System,
}

/// A text that names no principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected the id of a user, an API key or an administrator, `operator`, or `system`")]
pub struct InvalidPrincipal;

impl Principal {
    /// The person, if it is one.
    pub const fn user(self) -> Option<UserId> {
        match self {
            Self::User(user) => Some(user),
            Self::ApiKey(_) | Self::Admin(_) | Self::Operator | Self::System => None,
        }
    }
}

impl From<UserId> for Principal {
    fn from(user: UserId) -> Self {
        Self::User(user)
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => id.fmt(f),
            Self::ApiKey(id) => id.fmt(f),
            Self::Admin(id) => id.fmt(f),
            Self::Operator => f.write_str("operator"),
            Self::System => f.write_str("system"),
        }
    }
}

impl FromStr for Principal {
    type Err = InvalidPrincipal;

    /// Ids tell by their prefix whose they are, so the text of an id alone is enough.
    fn from_str(text: &str) -> Result<Self, InvalidPrincipal> {
        match text {
            "operator" => Ok(Self::Operator),
            "system" => Ok(Self::System),
            id => (id.parse().map(Self::User))
                .or_else(|_| id.parse().map(Self::ApiKey))
                .or_else(|_| id.parse().map(Self::Admin))
                .map_err(|_| InvalidPrincipal),
        }
    }
}

impl PartialSchema for Principal {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("Id of a user, an API key or an administrator, or `operator`."))
            .examples(["usr_0192a0b8c0de7000800000000000cafe"])
            .into()
    }
}

impl ToSchema for Principal {}

impl From<Principal> for Bson {
    fn from(principal: Principal) -> Self {
        Self::String(principal.to_string())
    }
}

impl Serialize for Principal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Principal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Who commits a change, and by what.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Who acts; none where a stranger does, such as somebody who registers.
    pub principal: Option<Principal>,
    /// What the principal is called, if that is known.
    pub name: Option<String>,
    /// The administrator who acts as the principal, if one does.
    pub impersonator: Option<AdminId>,
    /// By what.
    pub via: Via,
}

/// By what a change is committed.
#[derive(Debug, Clone)]
pub enum Via {
    /// A request over HTTP.
    Request(Request),
    /// A job, by its id.
    Job(JobId),
    /// A command of somebody with a shell on the installation.
    Command(Operator),
    /// A process on its own account, as at its start.
    Process,
}

/// What is known of a request beside who makes it.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its `X-Request-Id`.
    pub id: String,
    /// Where the client is, if that is known.
    pub ip: Option<IpAddr>,
    /// What the client says it is.
    pub user_agent: String,
}

/// Somebody with a shell on the installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// Name of the operating system's user.
    pub name: String,
    /// Why they act, in their words.
    pub reason: Option<Reason>,
}

impl Origin {
    const fn new(principal: Option<Principal>, via: Via) -> Self {
        Self { principal, name: None, impersonator: None, via }
    }

    /// The process on its own account.
    pub const fn system() -> Self {
        Self::new(Some(Principal::System), Via::Process)
    }

    /// A job.
    pub const fn job(id: JobId) -> Self {
        Self::new(Some(Principal::System), Via::Job(id))
    }

    /// A command.
    pub const fn command(operator: Operator) -> Self {
        Self::new(Some(Principal::Operator), Via::Command(operator))
    }

    /// A request of a stranger.
    pub const fn request(request: Request) -> Self {
        Self::new(None, Via::Request(request))
    }

    /// It is `principal` who acts, called `name`.
    #[must_use]
    pub fn by(self, principal: Principal, name: impl Into<String>) -> Self {
        Self { principal: Some(principal), name: Some(name.into()), ..self }
    }
}

/// Why an operator or administrator acts: something visible on one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reason(String);

/// A text that cannot be a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must have 1 to {REASON_CHARS_MAX} characters on one line")]
pub struct InvalidReason;

impl FromStr for Reason {
    type Err = InvalidReason;

    fn from_str(text: &str) -> Result<Self, InvalidReason> {
        let text = text.trim();
        let length = text.chars().take(REASON_CHARS_MAX + 1).count();
        let fits = (1..=REASON_CHARS_MAX).contains(&length);
        let is_plain = !text.chars().any(char::is_control);
        if fits && is_plain { Ok(Self(text.to_owned())) } else { Err(InvalidReason) }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn a_principal_reads_as_it_was_written() {
        let clock = Clock::system();
        let principals = [
            Principal::User(clock.id()),
            Principal::ApiKey(clock.id()),
            Principal::Admin(clock.id()),
            Principal::Operator,
            Principal::System,
        ];
        for principal in principals {
            assert_eq!(principal.to_string().parse(), Ok(principal));
        }
        for text in ["", "root", "ten_0192a0b8c0de7000800000000000cafe"] {
            assert_eq!(text.parse::<Principal>(), Err(InvalidPrincipal), "{text:?}");
        }
    }

    #[test]
    fn a_reason_is_one_visible_line() {
        assert!("ticket 4711".parse::<Reason>().is_ok());
        for text in ["", "  ", "a\nb", "x".repeat(REASON_CHARS_MAX + 1).as_str()] {
            assert_eq!(text.parse::<Reason>(), Err(InvalidReason), "{text:?}");
        }
    }
}
