//! The `Idempotency-Key` of a request (draft-ietf-httpapi-idempotency-key-header-07), with which a
//! client may repeat the request until it receives the response.
//!
//! A handler takes [`Idempotency`] after the caller and commits its one change with `commit_once`.
//! If the request was carried out before, the extractor answers with the stored response, before
//! anything is validated, throttled or read for the handler.

use std::{borrow::Cow, fmt};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, HeaderValue, request::Parts},
    response::{IntoResponse, Response},
};
use common::{
    db::Change,
    origin::{Origin, Principal},
    telemetry::metrics,
};
use domain::{
    access::idempotency::{
        Asked, Claim, Earlier, EarlierError, IdempotencyKey, InvalidIdempotencyKey, Once,
        OnceError, Reply, ReplyError, Sender,
    },
    tenancy::{
        actor::Acting,
        permitted::{Denied, Permitted},
    },
};
use sfv::{Parser, StringRef};
use utoipa::openapi::{
    ObjectBuilder, Type,
    path::{Parameter, ParameterBuilder, ParameterIn},
};

use super::{
    Account, Argument, Caller, Requires,
    auth::{Authenticated, authenticate, commit},
    permission::Needed,
};
use crate::{
    answers::reply::response,
    middleware::WholeBody,
    problem::{Code, Problem},
    state::App,
};

/// Header of requests.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// As the document spells it.
pub(crate) const PARAMETER: &str = "Idempotency-Key";
/// Has the same effect whatever tenant the user is signed in to, which may be another one when they
/// repeat the request.
const OF_ACCOUNT: &str = "/api/tenants";
/// Header of responses that are sent again.
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// A key as it is, or as a quoted string; in the latter, `"` and `\` are escaped with `\`.
const PATTERN: &str = r#"^([!#-~][!-~]{0,254}|"([!#-\[\]-~]|\\["\\]){1,255}")$"#;

/// The key of a request that is carried out for the first time, if it has one.
pub(crate) struct Idempotency(Option<Claim>);

impl Argument for Idempotency {
    fn refusals() -> Vec<Code> {
        vec![
            Code::IdempotencyKeyInvalid,
            Code::IdempotencyKeyReused,
            Code::RequestInProgress,
            Code::ResponseNotKept,
        ]
    }

    fn parameters() -> Vec<Parameter> {
        let text = "Any unique text of 1 to 255 visible ASCII characters, as it is or as a quoted \
                    string (a structured field). The request takes effect once: repeating it with \
                    the same key returns the stored response with `Idempotent-Replayed: true`. \
                    Keys are remembered for 24 hours unless configured otherwise. Refusals are not \
                    stored.";
        let schema = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(PATTERN))
            .examples(["8e03978e-40d5-43e8-bc93-6894a57f9324"]);
        let parameter = ParameterBuilder::new().name(PARAMETER).parameter_in(ParameterIn::Header);
        vec![parameter.description(Some(text)).schema(Some(schema)).build()]
    }
}

/// Why a handler does not run.
pub(crate) enum Halted {
    /// The request was carried out before, and this is its response.
    Replayed(Reply),
    Refused(Problem),
}

impl From<Problem> for Halted {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

impl IntoResponse for Halted {
    fn into_response(self) -> Response {
        match self {
            Self::Replayed(reply) => {
                let mut response = response(reply);
                response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
                response
            }
            Self::Refused(problem) => problem.into_response(),
        }
    }
}

impl FromRequestParts<App> for Idempotency {
    type Rejection = Halted;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Halted> {
        let key = match key_of(&parts.headers) {
            Ok(None) => return Ok(Self(None)),
            Ok(Some(key)) => key,
            Err(invalid) => {
                count("invalid");
                let detail = format!("The header `{PARAMETER}` {invalid}. Send it once.");
                return Err(Problem::new(Code::IdempotencyKeyInvalid, detail).into());
            }
        };
        // Known already, because of the first argument of the handler.
        let sender = sender(&authenticate(parts, app).await?, parts.uri.path());
        let body = parts.extensions.get::<WholeBody>().map(|body| body.0.clone());
        let asked = Asked {
            method: parts.method.as_str(),
            path: parts.uri.path(),
            query: parts.uri.query().unwrap_or_default(),
            body: &body.unwrap_or_default(),
        };
        let claim = Claim::new(&app.key, sender, &key, asked, app.idempotency.ttl);
        match claim.earlier(app.store()).await.map_err(Problem::from)? {
            None => Ok(Self(Some(claim))),
            Some(earlier) => Err(halted_by(earlier)),
        }
    }
}

/// Whose keys are independent of those of others.
fn sender(authenticated: &Authenticated, path: &str) -> Sender {
    match authenticated {
        Authenticated::User(account) => Sender {
            principal: account.user.id.into(),
            tenant: account.session.tenant_id.filter(|_| path != OF_ACCOUNT),
        },
        Authenticated::Program(program) => Sender {
            principal: Principal::ApiKey(program.key().id),
            tenant: Some(program.tenant().id),
        },
    }
}

/// The key that the headers state, if any.
fn key_of(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, InvalidIdempotencyKey> {
    let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(first) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(InvalidIdempotencyKey);
    }
    let text = first.to_str().map_err(|_| InvalidIdempotencyKey)?;
    if !text.starts_with('"') {
        return text.parse().map(Some);
    }
    let quoted = Parser::new(text).parse_item::<Cow<'_, StringRef>>();
    quoted.map_err(|_| InvalidIdempotencyKey)?.as_str().parse().map(Some)
}

fn count(outcome: &str) {
    metrics::IDEMPOTENT_REQUESTS.with_label_values(&[outcome]).inc();
}

/// How a request is answered because of an earlier one with the same key.
fn halted_by(earlier: Earlier) -> Halted {
    let (outcome, code, detail) = match earlier {
        Earlier::Replied(reply) => {
            count("replayed");
            return Halted::Replayed(reply);
        }
        Earlier::NotKept => (
            "not_kept",
            Code::ResponseNotKept,
            "Do not send the request again. Get what it created or changed instead.",
        ),
        Earlier::Different => (
            "reused",
            Code::IdempotencyKeyReused,
            "Use a new key for each request, and send exactly the same request to repeat it.",
        ),
    };
    count(outcome);
    Problem::new(code, detail).into()
}

fn in_progress() -> Problem {
    count("in_progress");
    Problem::new(
        Code::RequestInProgress,
        "Wait as `Retry-After` says, then repeat the request with the same key.",
    )
}

impl From<EarlierError> for Problem {
    fn from(error: EarlierError) -> Self {
        match error {
            EarlierError::Db(error) => error.into(),
            EarlierError::Reply(error) => error.into(),
        }
    }
}

impl From<ReplyError> for Problem {
    fn from(error: ReplyError) -> Self {
        Self::internal(&error)
    }
}

/// Commits a change, if the credentials are still valid and still allow it, and answers with `reply`.
/// If the request has a key, both happen once for that key.
async fn commit_once<C: Change>(
    app: &App,
    origin: Origin,
    acting: Acting<'_, C>,
    once: Idempotency,
    reply: impl Fn(C::Output) -> Result<Reply, ReplyError> + Sync,
) -> Result<Response, Problem>
where
    Problem: From<C::Error>,
{
    let Some(claim) = once.0 else {
        let output = commit(app, origin, &acting).await?;
        return Ok(response(reply(output)?));
    };
    let once = Once { claim: &claim, change: &Permitted(acting), reply };
    match app.jobs.commit(&origin, &once).await {
        Ok(reply) => {
            count("first");
            Ok(response(reply))
        }
        Err(OnceError::InProgress) => Err(in_progress()),
        // Committed since the extractor looked. If it cannot be read yet, its commit has not been
        // acknowledged.
        Err(OnceError::Seen) => match claim.earlier(app.store()).await? {
            Some(earlier) => Ok(halted_by(earlier).into_response()),
            None => Err(in_progress()),
        },
        Err(OnceError::Reply(error)) => Err(error.into()),
        Err(OnceError::Change(Denied::SignedOut)) => Err(Problem::unauthenticated(true)),
        Err(OnceError::Change(Denied::Forbidden(permission))) => {
            Err(Problem::forbidden(permission))
        }
        Err(OnceError::Change(Denied::Change(error))) => Err(error.into()),
    }
}

impl Account {
    /// Commits a change on their behalf, if they are still signed in, and answers with `reply`. If
    /// the request has a key, both happen once for that key: what is answered must follow from the
    /// output of the change and from what was read before it.
    pub(crate) async fn commit_once<C: Change>(
        &self,
        app: &App,
        once: Idempotency,
        change: &C,
        reply: impl Fn(C::Output) -> Result<Reply, ReplyError> + Sync,
    ) -> Result<Response, Problem>
    where
        Problem: From<C::Error>,
    {
        commit_once(app, self.origin(), self.acting(None, change), once, reply).await
    }
}

impl Caller {
    /// As [`Account::commit_once`].
    pub(crate) async fn commit_once<C: Change>(
        &self,
        app: &App,
        once: Idempotency,
        change: &C,
        reply: impl Fn(C::Output) -> Result<Reply, ReplyError> + Sync,
    ) -> Result<Response, Problem>
    where
        Problem: From<C::Error>,
    {
        self.account.commit_once(app, once, change, reply).await
    }
}

impl<P: Needed> Requires<P> {
    /// As [`Account::commit_once`], if they still have the permission.
    pub(crate) async fn commit_once<C: Change>(
        &self,
        app: &App,
        once: Idempotency,
        change: &C,
        reply: impl Fn(C::Output) -> Result<Reply, ReplyError> + Sync,
    ) -> Result<Response, Problem>
    where
        Problem: From<C::Error>,
    {
        let acting = self.caller.acting(P::PERMISSION, change);
        commit_once(app, self.caller.origin(), acting, once, reply).await
    }
}

impl fmt::Debug for Idempotency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Idempotency").field(&self.0).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key in these header lines, as a MAC of a fixed sender, or whether they are invalid.
    fn read(lines: &[&[u8]]) -> Result<Option<IdempotencyKey>, InvalidIdempotencyKey> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(IDEMPOTENCY_KEY, HeaderValue::from_bytes(line).unwrap());
        }
        key_of(&headers)
    }

    #[test]
    fn a_key_may_be_bare_or_quoted() {
        let key = |text: &str| Ok(Some(text.parse().unwrap()));
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[b"abc"]), key("abc"));
        assert_eq!(read(&[b"\"abc\""]), key("abc"));
        assert_eq!(read(&[br#""a\"b\\c""#]), key("a\"b\\c"));
        assert_eq!(read(&[b"\"abc\";v=1"]), key("abc"), "parameters are ignored");
        assert_eq!(read(&["x".repeat(255).as_bytes()]), key(&"x".repeat(255)));
        assert_eq!(read(&[format!("\"{}\"", "x".repeat(255)).as_bytes()]), key(&"x".repeat(255)));
    }

    #[test]
    fn anything_else_is_invalid() {
        let long = "x".repeat(256);
        let quoted = format!("\"{long}\"");
        let invalid: [&[&[u8]]; 13] = [
            &[b""],
            &[b"\"\""],
            &[b"\""],
            &[b"\"abc"],
            &[b"\"abc\"x"],
            &[b"\"a\\bc\""],
            &[b"\"a b\""],
            &[b"a b"],
            &["schl\u{fc}ssel".as_bytes()],
            &[b"\xff"],
            &[long.as_bytes()],
            &[quoted.as_bytes()],
            &[b"abc", b"abc"],
        ];
        for lines in invalid {
            assert_eq!(read(lines), Err(InvalidIdempotencyKey), "{lines:?}");
        }
        assert_eq!(read(&[b"\"a\", \"b\""]), Err(InvalidIdempotencyKey), "a list");
    }
}
