//! Errors as Consul's clients expect them: a status and one line of plain text.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{
    agent::Refused,
    http::Problem,
    model::{FieldError, Invalid},
};

/// Why a request was not carried out. Nothing was changed, unless the text says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    status: StatusCode,
    text: String,
    /// Headers that say that no catalogue could be asked.
    lost: bool,
}

/// What a handler gives back.
pub(super) type Answer = Result<Response, Failure>;

impl Failure {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), lost: false }
    }

    /// The client's mistake.
    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// There is no such thing.
    pub(super) fn absent(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    /// Nobody in the mesh stands in the datacenter that was asked for.
    pub(super) fn no_path() -> Self {
        Self { lost: true, ..Self::internal("No path to datacenter") }
    }

    /// What Consul says for most of its own trouble, and its clients know.
    pub(super) fn internal(text: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let (status, text) = problem.into_parts();
        Self::new(status, text)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Problem::from(refused).into()
    }
}

impl From<FieldError> for Failure {
    fn from(wrong: FieldError) -> Self {
        Self::bad(wrong.to_string())
    }
}

impl From<Invalid> for Failure {
    fn from(wrong: Invalid) -> Self {
        Self::bad(wrong.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.text).into_response();
        if self.lost {
            let words = [("x-consul-index", "1"), ("x-consul-knownleader", "false"), ("x-consul-lastcontact", "0")];
            response
                .headers_mut()
                .extend(words.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
