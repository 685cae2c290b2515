//! The trace that a request or a job belongs to, in the format of W3C Trace Context.
//!
//! A request continues its caller's trace or begins one. A job continues the trace in which it was
//! staged and also links to it in each attempt, as OpenTelemetry requires for message consumers.
//! The context is task-local, so staging a job needs no extra argument.

use std::{fmt, future::Future, str::FromStr};

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::{clock::Clock, id::JobId};

/// A trace and a span within it (W3C Trace Context, level 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace: u128,
    span: u64,
    flags: u8,
}

/// The text is not a `traceparent` of version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 00-<32 hex>-<16 hex>-<2 hex>")]
pub struct InvalidTraceparent;

/// A message that a span processes, named after OpenTelemetry's semantic conventions for messaging
/// spans.
#[derive(Debug, Clone, Copy)]
pub struct Message {
    /// The broker that delivered it (`messaging.system`).
    pub system: &'static str,
    /// The queue it was delivered from (`messaging.destination.name`).
    pub destination: &'static str,
    /// The job it carries (`messaging.message.id`).
    pub id: JobId,
}

/// Work within a request or job that has a span of its own. Spans are named after OpenTelemetry's
/// semantic conventions for database client calls.
#[derive(Debug, Clone, Copy)]
pub enum Call<'a> {
    /// A command that is sent to MongoDB.
    Mongodb {
        command: &'static str,
        /// None for commits.
        collection: Option<&'static str>,
    },
    /// A command that is sent to Redis.
    Redis { command: &'a str },
    /// A mail that is handed to the mail server.
    Smtp { template: &'static str },
    /// A query of a DNS server.
    Dns,
    /// A password that waits for its turn and is hashed.
    Hash,
}

/// Target of the spans of calls: they are exported, but are no context of log lines.
pub(super) const CALLS: &str = "tenantry_calls";

impl Call<'_> {
    /// Its span. It does nothing outside of a request or job, so that background work exports no
    /// traces of its own, and nothing if spans are not exported.
    pub fn span(self) -> Span {
        if CURRENT.try_with(|_| ()).is_err() {
            return Span::none();
        }
        let (system, operation, target) = match self {
            Self::Mongodb { command, collection } => (Some("mongodb"), command, collection),
            Self::Redis { command } => (Some("redis"), command, None),
            Self::Smtp { template } => (None, "send mail", Some(template)),
            Self::Dns => (None, "query dns", None),
            Self::Hash => (None, "hash password", None),
        };
        tracing::info_span!(
            target: CALLS,
            "call",
            otel.name = %Name(operation, target),
            otel.kind = if matches!(self, Self::Hash) { "internal" } else { "client" },
            db.system.name = system,
            db.operation.name = system.map(|_| operation),
            db.collection.name = system.and(target),
        )
    }
}

/// The name of a span: what is done, and to what.
struct Name<'a>(&'a str, Option<&'static str>);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(operation, target) = self;
        f.write_str(operation)?;
        target.map_or(Ok(()), |target| write!(f, " {target}"))
    }
}

/// What the current request or job belongs to.
struct Current {
    context: TraceContext,
    request_id: Option<String>,
}

tokio::task_local! {
    static CURRENT: Current;
}

impl TraceContext {
    /// A new trace and its first span.
    pub fn begin(clock: &Clock) -> Self {
        // Zero is not a valid id.
        Self { trace: u128::from_le_bytes(clock.random()) | 1, span: new_span(clock), flags: 1 }
    }

    /// Joins `span` to the trace that `traceparent` names, or to a new one without it, and records
    /// the trace in the span's field `trace_id`, which must exist. If spans are exported, the
    /// context is the span's own; otherwise it is created here.
    pub fn join(span: &Span, traceparent: Option<&str>, clock: &Clock) -> Self {
        let parent = traceparent.and_then(|text| text.parse::<Self>().ok());
        if let Some(parent) = parent {
            let remote = opentelemetry::Context::new().with_remote_span_context(parent.as_remote());
            if let Err(error) = span.set_parent(remote) {
                tracing::trace!(%error, "span_without_parent");
            }
        }
        let context = Self::exported(span).unwrap_or_else(|| Self::continued(traceparent, clock));
        span.record("trace_id", context.trace_id());
        context
    }

    /// As [`TraceContext::join`], for a span that processes `message`, created in the trace of
    /// `traceparent`. If spans are exported, the span also links to it: "For each message it
    /// accounts for, the *Process* span SHOULD link to the message's creation context" (semantic
    /// conventions for messaging spans, "Consumer spans"). The span's field `otel.kind` must be
    /// `consumer`.
    pub fn process(
        span: &Span,
        traceparent: Option<&str>,
        message: Message,
        clock: &Clock,
    ) -> Self {
        let context = Self::join(span, traceparent, clock);
        if Self::exported(span).is_some() {
            span.set_attribute("messaging.system", message.system);
            span.set_attribute("messaging.destination.name", message.destination);
            span.set_attribute("messaging.message.id", message.id.to_string());
            span.set_attribute("messaging.operation.type", "process");
            span.set_attribute("messaging.operation.name", "process");
            if let Some(Ok(producer)) = traceparent.map(str::parse::<Self>) {
                span.add_link(producer.as_remote());
            }
        }
        context
    }

    /// The context of a span that is exported.
    fn exported(span: &Span) -> Option<Self> {
        let context = span.context();
        let context = context.span().span_context().clone();
        context.is_valid().then(|| Self {
            trace: u128::from_be_bytes(context.trace_id().to_bytes()),
            span: u64::from_be_bytes(context.span_id().to_bytes()),
            flags: context.trace_flags().to_u8(),
        })
    }

    fn as_remote(self) -> SpanContext {
        let (trace, span) = (
            TraceId::from_bytes(self.trace.to_be_bytes()),
            SpanId::from_bytes(self.span.to_be_bytes()),
        );
        SpanContext::new(trace, span, TraceFlags::new(self.flags), true, TraceState::default())
    }

    /// A new span in the trace that `traceparent` names, or in a new trace without it.
    pub fn continued(traceparent: Option<&str>, clock: &Clock) -> Self {
        let parent = traceparent.and_then(|text| text.parse::<Self>().ok());
        parent.map_or_else(|| Self::begin(clock), |parent| Self { span: new_span(clock), ..parent })
    }

    /// The trace's id: 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }

    /// Runs `work` within this context, on behalf of the request with this id.
    pub async fn scope<F: Future>(self, request_id: Option<String>, work: F) -> F::Output {
        CURRENT.scope(Current { context: self, request_id }, work).await
    }
}

/// The `traceparent` of the current request or job, if any.
pub fn current_traceparent() -> Option<String> {
    CURRENT.try_with(|current| current.context.to_string()).ok()
}

/// The id of the current request, or of the one that caused the current job, if any.
pub fn current_request_id() -> Option<String> {
    CURRENT.try_with(|current| current.request_id.clone()).ok().flatten()
}

fn new_span(clock: &Clock) -> u64 {
    u64::from_le_bytes(clock.random()) | 1
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

impl FromStr for TraceContext {
    type Err = InvalidTraceparent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceparent> {
        let mut parts = text.split('-');
        let mut part = |digits: usize| {
            let part = parts.next()?;
            let plain = part.len() == digits
                && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            plain.then_some(part)
        };
        let (Some("00"), Some(trace), Some(span), Some(flags)) =
            (part(2), part(32), part(16), part(2))
        else {
            return Err(InvalidTraceparent);
        };
        let invalid = |_| InvalidTraceparent;
        let context = Self {
            trace: u128::from_str_radix(trace, 16).map_err(invalid)?,
            span: u64::from_str_radix(span, 16).map_err(invalid)?,
            flags: u8::from_str_radix(flags, 16).map_err(invalid)?,
        };
        let valid = context.trace != 0 && context.span != 0 && parts.next().is_none();
        if valid { Ok(context) } else { Err(InvalidTraceparent) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(text.parse::<TraceContext>().unwrap().to_string(), text);
    }

    #[test]
    fn invalid_traceparents_are_rejected() {
        let zero = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        let upper = "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01";
        let longer = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x";
        for text in [
            "",
            "00",
            zero,
            upper,
            longer,
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(text.parse::<TraceContext>(), Err(InvalidTraceparent), "{text}");
        }
    }

    #[tokio::test]
    async fn a_job_continues_the_trace_in_which_it_was_staged() {
        let clock = Clock::system();
        let request = TraceContext::begin(&clock);
        let staged = request
            .scope(Some("req".to_owned()), async {
                assert_eq!(current_request_id().as_deref(), Some("req"));
                current_traceparent()
            })
            .await;
        let job = TraceContext::continued(staged.as_deref(), &clock);
        assert_eq!(job.trace_id(), request.trace_id());
        assert_ne!(job, request);
        assert_eq!(current_traceparent(), None);
    }
}
