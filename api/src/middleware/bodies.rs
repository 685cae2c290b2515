//! Request bodies: each arrives completely before anything else happens to its request.
//!
//! A client may take seconds to send a body. Until it is complete, its request occupies no slot for
//! concurrent requests and no handler, but only the memory of what has arrived, which is limited
//! for all requests together, and for those of each network to a share of it. Small bodies are
//! always received: the number of connections limits them.
//!
//! A client that is refused while it is still sending would see a broken connection instead of the
//! response. The rest of its body is therefore read and discarded, up to a bound, while it is
//! answered. A client that asked first (`Expect: 100-continue`) has not started to send.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{MatchedPath, Request},
    http::{HeaderMap, header},
};
use common::{
    networks::Network,
    telemetry::metrics::{Counted, Resource},
};
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::problem::{Code, Problem};

/// The longest request body that is read, unless the route has a limit of its own.
pub(crate) const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Routes with a limit of their own.
pub(crate) const LIMITS: &[(&str, usize)] = &[
    // Anyone may send it, and a hundred keys are short.
    ("/api/public/api-keys/revoke", 16 * 1024),
];
/// The first bytes of a body, which do not count: about what a connection's own buffer takes.
const UNCOUNTED_BYTES: usize = 8 * 1024;
/// The most bytes of a refused body that are discarded before the connection is closed.
const DISCARDED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The longest time that a refused body is discarded before the connection is closed.
const DISCARDING_MAX: Duration = Duration::from_secs(1);

/// A network has at most one of this many equal parts of the memory, or one of the longest bodies.
const PARTS: usize = 4;

/// The whole body of a request, in its extensions, for what is about the request as a whole. There is
/// none if the body is empty.
#[derive(Debug, Clone)]
pub(crate) struct WholeBody(pub(crate) Bytes);

/// The memory for the bodies of all requests.
#[derive(Debug)]
pub(crate) struct BodyMemory {
    /// The most bytes of a network, and of a wider one that one client may control.
    share: usize,
    usage: Mutex<Usage>,
}

#[derive(Debug)]
struct Usage {
    free: usize,
    /// The bytes that the bodies of each network take.
    taken: HashMap<Network, usize>,
}

impl BodyMemory {
    pub(crate) fn new(bytes: usize) -> Self {
        Resource::BodyMemory.limit_to(bytes);
        Self {
            share: (bytes / PARTS).max(BODY_BYTES_MAX),
            usage: Mutex::new(Usage { free: bytes, taken: HashMap::new() }),
        }
    }

    /// Memory for a body from `network`, none of which is taken yet. Without a known network, only
    /// the memory of all bodies together is limited.
    pub(super) fn of(&self, network: Option<Network>) -> Taken<'_> {
        let counted = Counted::none(Resource::BodyMemory.used());
        Taken { memory: self, network, bytes: 0, counted }
    }

    fn in_use(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memory that a body takes, which becomes free when this is dropped.
pub(super) struct Taken<'a> {
    memory: &'a BodyMemory,
    network: Option<Network>,
    bytes: usize,
    counted: Counted,
}

impl Taken<'_> {
    /// Takes more; returns whether there was enough.
    fn grow(&mut self, bytes: usize) -> bool {
        if bytes == 0 {
            return true;
        }
        let mut in_use = self.memory.in_use();
        let Usage { free, taken } = &mut *in_use;
        let is_full = self.networks().any(|network| {
            taken.get(&network).copied().unwrap_or_default() + bytes > self.memory.share
        });
        if is_full || bytes > *free {
            return false;
        }
        *free -= bytes;
        for network in self.networks() {
            *taken.entry(network).or_default() += bytes;
        }
        self.bytes += bytes;
        self.counted.grow(bytes);
        true
    }

    fn networks(&self) -> impl Iterator<Item = Network> + use<> {
        self.network.into_iter().flat_map(Network::with_wider).map(|(network, _)| network)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut in_use = self.memory.in_use();
        in_use.free += self.bytes;
        for network in self.networks() {
            if let Some(taken) = in_use.taken.get_mut(&network) {
                *taken -= self.bytes;
                if *taken == 0 {
                    in_use.taken.remove(&network);
                }
            }
        }
    }
}

/// The longest body of a request.
fn longest(request: &Request) -> usize {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let own = LIMITS.iter().find(|(path, _)| Some(*path) == route);
    own.map_or(BODY_BYTES_MAX, |(_, bytes)| *bytes)
}

/// The request with its whole body, and the memory that the body takes.
pub(super) async fn arrived(
    request: Request,
    memory: Taken<'_>,
    patience: Duration,
) -> Result<(Request, Taken<'_>), Problem> {
    let longest = longest(&request);
    if announced_length(request.headers()).is_some_and(|length| length > longest as u64) {
        if !request.headers().contains_key(header::EXPECT) {
            discard(request.into_body());
        }
        return Err(too_large(longest));
    }
    if request.body().is_end_stream() {
        return Ok((request, memory));
    }
    let (mut head, body) = request.into_parts();
    let (bytes, taken) =
        timeout(patience, receive(body, memory, longest)).await.map_err(|_| too_slow())??;
    head.extensions.insert(WholeBody(bytes.clone()));
    Ok((Request::from_parts(head, Body::from(bytes)), taken))
}

/// The bytes of a body, unless there are too many.
async fn receive(
    mut body: Body,
    mut memory: Taken<'_>,
    longest: usize,
) -> Result<(Bytes, Taken<'_>), Problem> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        // The client disconnected, so the response is not read.
        let frame = frame.map_err(|_| {
            Problem::new(Code::BadRequest, "The request body ended early. Send the whole body.")
        })?;
        let Ok(data) = frame.into_data() else { continue };
        let length = whole.len() + data.len();
        if length > longest {
            discard(body);
            return Err(too_large(longest));
        }
        let more = length.saturating_sub(UNCOUNTED_BYTES.max(whole.len()));
        if !memory.grow(more) {
            discard(body);
            return Err(overloaded());
        }
        whole.extend_from_slice(&data);
    }
    Ok((whole.into(), memory))
}

fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Discards the rest of a body, so that its client can read the response. Runs in the background: a
/// client that sends nothing does not have to wait for it.
fn discard(body: Body) {
    tokio::spawn(timeout(DISCARDING_MAX, read_and_forget(body)));
}

async fn read_and_forget(mut body: Body) {
    let mut left = DISCARDED_BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(bytes) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

fn too_large(longest: usize) -> Problem {
    Problem::new(Code::BodyTooLarge, format!("Send at most {longest} bytes."))
}

fn too_slow() -> Problem {
    Problem::new(
        Code::RequestTimeout,
        "Send the whole request body without pauses, over a faster connection if necessary.",
    )
}

fn overloaded() -> Problem {
    Problem::new(
        Code::Overloaded,
        "Too many large request bodies are being received. Try again in a few seconds.",
    )
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use futures::stream;

    use super::*;

    /// A request whose body arrives in chunks of these lengths.
    fn request(chunks: &[usize]) -> Request {
        let chunks: Vec<_> = chunks
            .iter()
            .map(|length| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; *length])))
            .collect();
        Request::new(Body::from_stream(stream::iter(chunks)))
    }

    async fn length(
        chunks: &[usize],
        memory: &BodyMemory,
    ) -> Result<(usize, usize), (axum::http::StatusCode, usize)> {
        let arrived = arrived(request(chunks), memory.of(None), Duration::from_secs(9)).await;
        let free = memory.in_use().free;
        match arrived {
            Ok((request, _memory)) => {
                let body = to_bytes(request.into_body(), usize::MAX).await.unwrap();
                Ok((body.len(), free))
            }
            Err(problem) => Err((problem.status(), free)),
        }
    }

    #[tokio::test]
    async fn bodies_take_memory_beyond_the_first_bytes_until_they_are_answered() {
        let memory = BodyMemory::new(10_000);
        assert_eq!(length(&[10], &memory).await, Ok((10, 10_000)));
        assert_eq!(length(&[8_192], &memory).await, Ok((8_192, 10_000)));
        assert_eq!(length(&[8_000, 1_000, 1_000], &memory).await, Ok((10_000, 8_192)));
        assert_eq!(length(&[18_192], &memory).await, Ok((18_192, 0)));
        assert_eq!(memory.in_use().free, 10_000, "all memory is free again");
    }

    /// Receives one of the longest bodies from this address.
    async fn receive_from<'a>(
        memory: &'a BodyMemory,
        address: &str,
    ) -> Result<Taken<'a>, axum::http::StatusCode> {
        let memory = memory.of(Network::of_text(address));
        let arriving = arrived(request(&[BODY_BYTES_MAX]), memory, Duration::from_secs(9));
        arriving.await.map(|(_, memory)| memory).map_err(|problem| problem.status())
    }

    #[tokio::test]
    async fn the_bodies_of_one_network_take_at_most_a_quarter_of_the_memory() {
        let memory = BodyMemory::new(8 * BODY_BYTES_MAX);
        let refused = Some(axum::http::StatusCode::SERVICE_UNAVAILABLE);
        let mut held = Vec::new();
        for client in ["192.0.2.1", "2001:db8::1"] {
            held.push(receive_from(&memory, client).await.unwrap());
            held.push(receive_from(&memory, client).await.unwrap());
            assert_eq!(receive_from(&memory, client).await.err(), refused);
        }
        assert_eq!(
            receive_from(&memory, "2001:db8:0:ffff::1").await.err(),
            refused,
            "it is in the same /48"
        );
        held.push(receive_from(&memory, "192.0.2.2").await.unwrap());
        held.push(receive_from(&memory, "2001:db8:1::1").await.unwrap());
        drop(held);
        assert!(memory.in_use().taken.is_empty(), "networks without bodies take no memory");
        assert_eq!(memory.in_use().free, 8 * BODY_BYTES_MAX);
    }

    #[tokio::test]
    async fn small_bodies_are_received_while_large_ones_are_refused() {
        let memory = BodyMemory::new(10_000);
        let (_request, held) =
            arrived(request(&[18_192]), memory.of(None), Duration::from_secs(9)).await.unwrap();
        assert_eq!(length(&[8_192], &memory).await, Ok((8_192, 0)));
        let refused = Err((axum::http::StatusCode::SERVICE_UNAVAILABLE, 0));
        assert_eq!(length(&[8_192, 1], &memory).await, refused);
        drop(held);
        assert_eq!(length(&[8_192, 1], &memory).await, Ok((8_193, 9_999)));
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_refused() {
        let memory = BodyMemory::new(2 * BODY_BYTES_MAX);
        let half = BODY_BYTES_MAX / 2;
        let whole = length(&[half, half], &memory).await;
        assert_eq!(whole.map(|(length, _)| length), Ok(BODY_BYTES_MAX));
        let (status, _) = length(&[half, half, 1], &memory).await.unwrap_err();
        assert_eq!(status, axum::http::StatusCode::PAYLOAD_TOO_LARGE);
    }
}
