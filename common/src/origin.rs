//! The origin of a change: who makes it, and through what.
//!
//! The origin is set once, on the transaction, and every event of the change carries it. So no
//! change needs to pass it on or can forget it.

use std::{fmt, net::IpAddr, str::FromStr};

use mongodb::bson::Bson;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

use crate::id::{AdminId, ApiKeyId, JobId, UserId};

/// Maximum length of a reason in characters.
const REASON_CHARS_MAX: usize = 500;

/// A person or program that acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A signed-in user.
    User(UserId),
    /// A customer's program with an API key.
    ApiKey(ApiKeyId),
    /// A signed-in administrator of the platform.
    Admin(AdminId),
    /// A person with shell access to the installation. They have no account; [`Via::Command`] names
    /// them.
    Operator,
    /// The installation itself.
    System,
}

/// The text is not a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be the id of a user, an API key or an administrator, `operator`, or `system`")]
pub struct InvalidPrincipal;

impl Principal {
    /// The user, if it is one.
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

    /// The prefix of an id shows its kind, so the id alone is enough.
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

/// Who makes a change, and through what.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Who acts; none for an unknown person, such as one who registers.
    pub principal: Option<Principal>,
    /// Name of the principal, if known.
    pub name: Option<String>,
    /// The administrator who impersonates the principal, if any.
    pub impersonator: Option<AdminId>,
    /// Through what they act.
    pub via: Via,
}

/// Through what a change is made.
#[derive(Debug, Clone)]
pub enum Via {
    /// A request over HTTP.
    Request(Request),
    /// A job, by its id.
    Job(JobId),
    /// A command of a person with shell access to the installation.
    Command(Operator),
    /// A process itself, for instance at its start.
    Process,
}

/// Details of a request, besides its principal.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its `X-Request-Id`.
    pub id: String,
    /// IP address of the client, if known.
    pub ip: Option<IpAddr>,
    /// Name of the client (`User-Agent`).
    pub user_agent: String,
}

/// A person with shell access to the installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// Name of the operating system's user.
    pub name: String,
    /// The reason they gave.
    pub reason: Option<Reason>,
}

impl Origin {
    const fn new(principal: Option<Principal>, via: Via) -> Self {
        Self { principal, name: None, impersonator: None, via }
    }

    /// The process itself.
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

    /// A request of an unknown person.
    pub const fn request(request: Request) -> Self {
        Self::new(None, Via::Request(request))
    }

    /// Sets the principal and its name.
    #[must_use]
    pub fn by(self, principal: Principal, name: impl Into<String>) -> Self {
        Self { principal: Some(principal), name: Some(name.into()), ..self }
    }
}

/// The reason of an operator or administrator: visible text on one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reason(String);

/// The text is not a valid reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be one line of 1 to {REASON_CHARS_MAX} visible characters")]
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
