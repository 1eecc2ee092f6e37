//! What bodies may hold in memory, all together: requests while they are read and handled, answers until the last byte
//! is sent. Limits for each connection do not bound twenty thousand of them; this does.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use axum::{
    BoxError,
    body::{Body, HttpBody},
    http::{Request, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::{
    Problem,
    crowd::{Crowd, CutOff},
};

/// The two purses, in units of [`UNIT`].
#[derive(Debug)]
pub(super) struct Budget {
    requests: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    crowd: Arc<Crowd>,
}

/// What one request has taken; returned when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Taken(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

/// Why a body broke off: the purse is empty.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("too much is being sent to this node at once; try again in a moment")]
pub(super) struct Spent;

impl From<Spent> for Problem {
    fn from(spent: Spent) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, spent.to_string())
    }
}

impl Budget {
    pub(super) fn new(crowd: Arc<Crowd>) -> Self {
        let purse = |bytes: usize| Arc::new(Semaphore::new(bytes / UNIT));
        Self { requests: purse(REQUESTS), answers: purse(ANSWERS), crowd }
    }

    fn take(&self, purse: &Arc<Semaphore>, bytes: u64) -> Result<OwnedSemaphorePermit, Spent> {
        let units = u32::try_from(bytes.div_ceil(UNIT as u64)).map_err(|_| Spent)?;
        Arc::clone(purse).try_acquire_many_owned(units).map_err(|_: TryAcquireError| {
            self.crowd.cut_off(CutOff::Memory);
            Spent
        })
    }

    /// The request with a body that pays for what it brings. Keep what is taken until the answer is made.
    pub(super) fn meter(self: &Arc<Self>, request: Request<Body>) -> (Request<Body>, Taken) {
        let taken = Taken::default();
        if request.body().size_hint().upper().is_some_and(|most| most <= FREE) {
            return (request, taken);
        }
        let shared = Arc::clone(&taken.0);
        let metered = |body| Body::new(Metered { body, budget: Arc::clone(self), taken: shared });
        (request.map(metered), taken)
    }

    /// The answer with a body that is paid for until its last byte is sent.
    ///
    /// # Errors
    /// [`Spent`] when slow readers hold all there is.
    pub(super) async fn hold(&self, response: Response) -> Result<Response, Spent> {
        let Some(length) = response.body().size_hint().exact().filter(|length| *length > FREE) else {
            return Ok(response);
        };
        let paid = self.take(&self.answers, length)?;
        let (mut parts, body) = response.into_parts();
        // A body of known length is in memory already.
        let bytes = body.collect().await.map_err(|_| Spent)?.to_bytes();
        parts.headers.entry(header::CONTENT_LENGTH).or_insert(bytes.len().into());
        Ok(Response::from_parts(parts, Body::from(Bytes::from_owner(Paid { bytes, _paid: paid }))))
    }
}

/// Bytes that give back what was paid for them.
struct Paid {
    bytes: Bytes,
    _paid: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Paid {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A request's body that pays for each piece as it comes.
struct Metered {
    body: Body,
    budget: Arc<Budget>,
    taken: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) else { return Poll::Ready(None) };
        let frame = frame?;
        if let Some(data) = frame.data_ref() {
            let more = self.budget.take(&self.budget.requests, data.len() as u64)?;
            let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            match taken.as_mut() {
                Some(taken) => taken.merge(more),
                None => *taken = Some(more),
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What one permit of a purse stands for.
const UNIT: usize = 1024;
/// Bodies up to this size are free: twenty thousand of them fit.
const FREE: u64 = 4 * 1024;
/// All larger bodies of requests together: sixty-four of the largest at once.
const REQUESTS: usize = 64 << 20;
/// All larger answers together.
const ANSWERS: usize = 256 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Arc<Budget> {
        Arc::new(Budget::new(Arc::default()))
    }

    #[tokio::test]
    async fn requests_pay_while_they_are_handled() {
        let budget = budget();
        let all = budget.requests.available_permits();
        let (request, taken) = budget.meter(Request::new(Body::from(vec![7; 100_000])));
        assert_eq!(request.into_body().collect().await.unwrap().to_bytes().len(), 100_000);
        assert_eq!(all - budget.requests.available_permits(), 98);
        let rest = Arc::clone(&budget.requests).try_acquire_many_owned(u32::try_from(all - 98).unwrap()).unwrap();
        let (refused, _) = budget.meter(Request::new(Body::from(vec![7; 100_000])));
        assert!(refused.into_body().collect().await.unwrap_err().to_string().contains("at once"));
        let (small, _) = budget.meter(Request::new(Body::from(vec![7; 4096])));
        assert!(small.into_body().collect().await.is_ok());
        drop((taken, rest));
        assert_eq!(budget.requests.available_permits(), all);
    }

    #[tokio::test]
    async fn answers_pay_until_their_last_byte_is_dropped() {
        let budget = budget();
        let all = budget.answers.available_permits();
        let held = budget.hold(Response::new(Body::from(vec![7; ANSWERS - 100]))).await.unwrap();
        assert!(budget.hold(Response::new(Body::from(vec![7; 5000]))).await.is_err());
        assert!(budget.hold(Response::new(Body::from("small"))).await.is_ok());
        let bytes = held.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(budget.answers.available_permits(), 0);
        drop(bytes);
        assert_eq!(budget.answers.available_permits(), all);
        assert!(budget.crowd.each().any(|counted| counted == ("memory", 1)));
    }
}
