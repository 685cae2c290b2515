//! Deadlines for request bodies.
//!
//! A client that pauses after the head of its request would occupy a slot for as long as a request
//! may take, so the body has a deadline of its own.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};

/// Whether a body missed its deadline.
#[derive(Clone, Default)]
pub(super) struct Lateness(Arc<AtomicBool>);

impl Lateness {
    pub(super) fn has_come(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn comes(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Ends the body with an error if it is not complete after `patience`.
pub(super) fn punctual(request: Request, patience: Duration) -> (Request, Lateness) {
    let lateness = Lateness::default();
    if request.body().is_end_stream() {
        return (request, lateness);
    }
    let deadline = Box::pin(sleep(patience));
    let request =
        request.map(|body| Body::new(Punctual { body, deadline, lateness: lateness.clone() }));
    (request, lateness)
}

/// The body missed its deadline.
#[derive(Debug, Clone, Copy)]
struct Late;

impl std::fmt::Display for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the body did not arrive in time")
    }
}

impl std::error::Error for Late {}

struct Punctual {
    body: Body,
    deadline: Pin<Box<Sleep>>,
    lateness: Lateness,
}

impl HttpBody for Punctual {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        // Data that has arrived is returned, however late it is read: only waiting has a limit.
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        ready!(this.deadline.as_mut().poll(cx));
        this.lateness.comes();
        Poll::Ready(Some(Err(axum::Error::new(Late))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
