//! What happens to every request before and after its handler.
//!
//! From the outside in: [`observe`] (request id, trace, log line, metrics, panics), [`headers`]
//! (security), [`limits`] (time, length, concurrency; the body arrives here), and on routes that need
//! the database [`limits::with_database`] and [`rate_limits`].

mod bodies;
pub(crate) mod headers;
pub(crate) mod limits;
pub(crate) mod observe;
pub(crate) mod rate_limits;
pub(crate) mod request_id;

pub(crate) use bodies::{BODY_BYTES_MAX, BodyMemory, WholeBody};
pub(crate) use request_id::RequestId;
