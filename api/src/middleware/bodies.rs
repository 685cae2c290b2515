//! Request bodies: each arrives completely before anything else happens to its request.
//!
//! A client may take seconds to send a body. Until it is complete, its request occupies no slot for
//! concurrent requests and no handler, but only the memory of what has arrived, which is limited
//! for all requests together. Small bodies are always received: the number of connections limits
//! them.
//!
//! A client that is refused while it is still sending would see a broken connection instead of the
//! response. The rest of its body is therefore read and discarded, up to a bound, while it is
//! answered. A client that asked first (`Expect: 100-continue`) has not started to send.

use std::time::Duration;

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
    http::{HeaderMap, header},
};
use http_body_util::BodyExt;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use crate::problem::{Code, Problem};

/// The longest request body that is read.
pub(crate) const BODY_BYTES_MAX: usize = 1024 * 1024;
/// The first bytes of a body, which do not count: about what a connection's own buffer takes.
const UNCOUNTED_BYTES: usize = 8 * 1024;
/// The most bytes of a refused body that are discarded before the connection is closed.
const DISCARDED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The longest time that a refused body is discarded before the connection is closed.
const DISCARDING_MAX: Duration = Duration::from_secs(1);

/// The request with its whole body, and the memory that the body takes. `memory` has a permit for
/// each byte that is free.
pub(super) async fn arrived(
    request: Request,
    memory: &Semaphore,
    patience: Duration,
) -> Result<(Request, Option<SemaphorePermit<'_>>), Problem> {
    if announced_length(request.headers()).is_some_and(|length| length > BODY_BYTES_MAX as u64) {
        if !request.headers().contains_key(header::EXPECT) {
            discard(request.into_body());
        }
        return Err(too_large());
    }
    if request.body().is_end_stream() {
        return Ok((request, None));
    }
    let (head, body) = request.into_parts();
    let (bytes, taken) =
        timeout(patience, receive(body, memory)).await.map_err(|_| too_slow())??;
    Ok((Request::from_parts(head, Body::from(bytes)), taken))
}

/// The bytes of a body, unless there are too many.
async fn receive(
    mut body: Body,
    memory: &Semaphore,
) -> Result<(Bytes, Option<SemaphorePermit<'_>>), Problem> {
    let (mut whole, mut taken) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        // The client disconnected, so the response is not read.
        let frame = frame.map_err(|_| {
            Problem::new(Code::BadRequest, "The request body ended early. Send the whole body.")
        })?;
        let Ok(data) = frame.into_data() else { continue };
        let length = whole.len() + data.len();
        if length > BODY_BYTES_MAX {
            discard(body);
            return Err(too_large());
        }
        let more = length.saturating_sub(UNCOUNTED_BYTES.max(whole.len()));
        // At most the longest body, which fits.
        let more = memory.try_acquire_many(u32::try_from(more).unwrap_or(u32::MAX));
        let Ok(more) = more else {
            discard(body);
            return Err(overloaded());
        };
        match &mut taken {
            Some(taken) => SemaphorePermit::merge(taken, more),
            None => taken = Some(more),
        }
        whole.extend_from_slice(&data);
    }
    Ok((whole.into(), taken))
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

fn too_large() -> Problem {
    Problem::new(Code::BodyTooLarge, format!("Send at most {BODY_BYTES_MAX} bytes."))
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
        memory: &Semaphore,
    ) -> Result<(usize, usize), (axum::http::StatusCode, usize)> {
        let arrived = arrived(request(chunks), memory, Duration::from_secs(9)).await;
        let free = memory.available_permits();
        match arrived {
            Ok((request, _taken)) => {
                let body = to_bytes(request.into_body(), usize::MAX).await.unwrap();
                Ok((body.len(), free))
            }
            Err(problem) => Err((problem.status(), free)),
        }
    }

    #[tokio::test]
    async fn bodies_take_memory_beyond_the_first_bytes_until_they_are_answered() {
        let memory = Semaphore::new(10_000);
        assert_eq!(length(&[10], &memory).await, Ok((10, 10_000)));
        assert_eq!(length(&[8_192], &memory).await, Ok((8_192, 10_000)));
        assert_eq!(length(&[8_000, 1_000, 1_000], &memory).await, Ok((10_000, 8_192)));
        assert_eq!(length(&[18_192], &memory).await, Ok((18_192, 0)));
        assert_eq!(memory.available_permits(), 10_000, "all memory is free again");
    }

    #[tokio::test]
    async fn small_bodies_are_received_while_large_ones_are_refused() {
        let memory = Semaphore::new(10_000);
        let (_request, held) =
            arrived(request(&[18_192]), &memory, Duration::from_secs(9)).await.unwrap();
        assert_eq!(length(&[8_192], &memory).await, Ok((8_192, 0)));
        let refused = Err((axum::http::StatusCode::SERVICE_UNAVAILABLE, 0));
        assert_eq!(length(&[8_192, 1], &memory).await, refused);
        drop(held);
        assert_eq!(length(&[8_192, 1], &memory).await, Ok((8_193, 9_999)));
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_refused() {
        let memory = Semaphore::new(2 * BODY_BYTES_MAX);
        let half = BODY_BYTES_MAX / 2;
        let whole = length(&[half, half], &memory).await;
        assert_eq!(whole.map(|(length, _)| length), Ok(BODY_BYTES_MAX));
        let (status, _) = length(&[half, half, 1], &memory).await.unwrap_err();
        assert_eq!(status, axum::http::StatusCode::PAYLOAD_TOO_LARGE);
    }
}
