//! Reading a body within its limit.
//!
//! A client that is refused while it still sends would see a broken connection instead of the
//! answer, so what it goes on to send is read and thrown away, up to a bound, while it is answered.
//! One that asked first (`Expect: 100-continue`) has sent nothing, and is not invited to.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::header,
};
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::problem::{Code, Problem};

/// The longest body that is read, where a route does not say otherwise.
pub(crate) const BODY_BYTES_MAX: usize = 1024 * 1024;
/// The most that is thrown away of a body that is too long, before the connection is closed.
const DISCARDED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The longest that is listened to what is thrown away, before the connection is closed.
const DISCARDING_MAX: Duration = Duration::from_secs(1);

/// The whole body, if it is no longer than [`BODY_BYTES_MAX`].
pub(super) async fn read(mut body: Body) -> Result<Bytes, Problem> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        // The client broke off: nobody is there to read the answer.
        let frame = frame.map_err(|_| Problem::new(Code::BadRequest, "The body ended early."))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > BODY_BYTES_MAX {
            discard_rest(body);
            return Err(too_large());
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.into())
}

/// Reads the body of a request that is refused, so that its sender gets to read our answer.
pub(crate) fn discard(request: Request) {
    if !request.headers().contains_key(header::EXPECT) {
        discard_rest(request.into_body());
    }
}

/// Beside the answer, not before it: a client that sends nothing need not wait for it.
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

/// The answer to a body that is too long.
pub(crate) fn too_large() -> Problem {
    Problem::new(
        Code::BodyTooLarge,
        format!("The longest body read here has {BODY_BYTES_MAX} bytes."),
    )
}
