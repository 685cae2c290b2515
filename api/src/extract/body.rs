//! Reads request bodies up to a limit.
//!
//! A client that is refused while it is still sending would see a broken connection instead of the
//! response. The rest of its body is therefore read and discarded, up to a bound, while it is
//! answered. A client that asked first (`Expect: 100-continue`) has not started to send.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::header,
};
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::problem::{Code, Problem};

/// The longest request body that is read.
pub(crate) const BODY_BYTES_MAX: usize = 1024 * 1024;
/// The most bytes of a refused body that are discarded before the connection is closed.
const DISCARDED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The longest time that a refused body is discarded before the connection is closed.
const DISCARDING_MAX: Duration = Duration::from_secs(1);

/// The whole body, unless it is longer than [`BODY_BYTES_MAX`].
pub(super) async fn read(mut body: Body) -> Result<Bytes, Problem> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        // The client disconnected, so the response is not read.
        let frame = frame.map_err(|_| {
            Problem::new(Code::BadRequest, "The request body ended early. Send the whole body.")
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > BODY_BYTES_MAX {
            discard_rest(body);
            return Err(too_large());
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.into())
}

/// Discards the body of a refused request, so that its client can read the response.
pub(crate) fn discard(request: Request) {
    if !request.headers().contains_key(header::EXPECT) {
        discard_rest(request.into_body());
    }
}

/// Runs in the background: a client that sends nothing does not have to wait for it.
fn discard_rest(body: Body) {
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

/// The problem for a request body that is too long.
pub(crate) fn too_large() -> Problem {
    Problem::new(Code::BodyTooLarge, format!("Send at most {BODY_BYTES_MAX} bytes."))
}
