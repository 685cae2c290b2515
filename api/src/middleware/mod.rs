//! What happens to every request before and after its handler.
//!
//! From the outside in: [`observe`] (request id, trace, log line, metrics, panics), [`headers`]
//! (security), [`limits`] (concurrency, time, length), and on routes that need the
//! database [`limits::with_database`].

pub(crate) mod headers;
pub(crate) mod limits;
pub(crate) mod observe;
mod punctual;
pub(crate) mod request_id;

pub(crate) use request_id::RequestId;
