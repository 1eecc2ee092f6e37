//! Errors as RFC 9457 problem details: `{type, title, status, detail, field}`, and `reasons` where there are several.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::{agent::Refused, mesh::Rejected, model::FieldError};

/// Why a request was not carried out. Nothing was changed, unless the detail says that it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
    field: Option<String>,
    reasons: Vec<String>,
}

impl Problem {
    /// A problem of this kind, with a sentence for whoever reads the answer.
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), field: None, reasons: Vec::new() }
    }

    /// A request with a wrong field: 400.
    pub(crate) fn field(field: impl Into<String>, why: &str) -> Self {
        let field = field.into();
        Self { detail: format!("{field} {why}"), field: Some(field), ..Self::new(StatusCode::BAD_REQUEST, "") }
    }

    /// Its status.
    pub(crate) fn kind(&self) -> StatusCode {
        self.status
    }

    /// The same under another status.
    pub(crate) fn status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// Its status, and all that it says in one line, for those who write errors in another form.
    pub(crate) fn into_parts(self) -> (StatusCode, String) {
        let said: Vec<_> = std::iter::once(self.detail).chain(self.reasons).collect();
        (self.status, said.join("; "))
    }

    /// A catalogue that is not complete yet, to be read or to be written over: 503, and when to ask again.
    pub(crate) fn unready(reasons: Vec<String>) -> Self {
        const DETAIL: &str = "this node has not caught up with the mesh yet: what it has not heard of would look gone, or be \
                              written over; ask again in a second, or watch /readyz";
        Self { reasons, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, DETAIL) }
    }

    /// This node's own files cannot be used: 422, and all that is wrong with them.
    pub(crate) fn unusable(reasons: Vec<String>) -> Self {
        let detail = "the files of this node cannot be used as they are; what is wrong in them stays as it was";
        Self { reasons, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
    }
}

impl Problem {
    /// The whole answer as bytes, for a connection that ends with it.
    pub(crate) fn as_last_word(&self) -> Vec<u8> {
        let (status, body) = (self.status, self.body());
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), &body].concat()
    }

    fn body(&self) -> Vec<u8> {
        let details = Details {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: &self.detail,
            field: self.field.as_deref(),
            reasons: &self.reasons,
        };
        serde_json::to_vec(&details).unwrap_or_default()
    }
}

impl From<FieldError> for Problem {
    fn from(wrong: FieldError) -> Self {
        Self::field(wrong.field, &wrong.why)
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let status = match refused {
            Refused::Rejected(Rejected::Field(wrong)) => return wrong.into(),
            Refused::Rejected(Rejected::NotFound(_)) => StatusCode::NOT_FOUND,
            Refused::Rejected(Rejected::Large(_)) => StatusCode::PAYLOAD_TOO_LARGE,
            Refused::Rejected(Rejected::Full(_)) => StatusCode::INSUFFICIENT_STORAGE,
            Refused::Rejected(Rejected::Alive(..)) => StatusCode::CONFLICT,
            Refused::Rejected(Rejected::Leaving) | Refused::Stopped => StatusCode::SERVICE_UNAVAILABLE,
            Refused::Outdated(_) => StatusCode::PRECONDITION_FAILED,
            Refused::Defined(..) | Refused::Undecreed(_) => StatusCode::CONFLICT,
            Refused::Forbidden(_) => StatusCode::FORBIDDEN,
            Refused::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, refused.to_string())
    }
}

/// The outside shape. `about:blank` says that the status tells all there is to know of the type (RFC 9457 section 4.2.1).
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "Problem")]
pub(crate) struct Details<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    reasons: &'a [String],
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn a_problem_has_the_five_members_of_the_contract() {
        let response = Problem::from(FieldError::new("port", "is 0; a port is 1 to 65535")).into_response();
        assert_eq!(response.status(), 400);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let expected = serde_json::json!({
            "type": "about:blank", "title": "Bad Request", "status": 400,
            "detail": "port is 0; a port is 1 to 65535", "field": "port",
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn a_refusal_says_whose_fault_it_is() {
        for (refused, status) in [
            (Refused::Rejected(Rejected::NotFound("instance x".into())), 404),
            (Refused::Rejected(Rejected::Large("x".into())), 413),
            (Refused::Rejected(Rejected::Full("1000 instances")), 507),
            (Refused::Rejected(Rejected::Leaving), 503),
            (Refused::Store("disk full".into()), 500),
            (Refused::Stopped, 503),
        ] {
            assert_eq!(Problem::from(refused).status.as_u16(), status);
        }
    }
}
