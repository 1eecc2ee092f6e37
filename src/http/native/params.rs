//! What comes in the target: the query's parameters and the path's segments, percent-decoded. An unknown parameter is an
//! error, since a filter that is misspelt and ignored gives a wrong answer.

use axum::{
    extract::{FromRequestParts, Path, Query},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use crate::{
    agent::View,
    http::Problem,
    model::{Invalid, ServiceName},
};

/// The parameters of a query, taken out by name; [`Params::end`] refuses what is left.
#[derive(Debug)]
pub(super) struct Params(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Query(pairs) = Query::try_from_uri(&parts.uri).map_err(|why| Problem::field("query", &why.body_text()))?;
        Ok(Self(pairs))
    }
}

impl Params {
    /// All values of a parameter that may be repeated.
    pub(super) fn all(&mut self, name: &str) -> Vec<String> {
        self.0.extract_if(.., |(key, _)| key == name).map(|(_, value)| value).collect()
    }

    /// The value of a parameter that may stand once.
    pub(super) fn one(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let mut values = self.all(name);
        match values.len() {
            0 | 1 => Ok(values.pop()),
            _ => Err(Problem::field(name, "is given twice")),
        }
    }

    /// Whether a switch is on: `passing`, `passing=true`, `passing=1`.
    pub(super) fn switch(&mut self, name: &str) -> Result<bool, Problem> {
        match self.one(name)?.as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(_) => Err(Problem::field(name, "is a switch: leave its value away, or give true or false")),
        }
    }

    /// Refuses parameters that nobody has asked for.
    pub(super) fn end(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((key, _)) => Err(Problem::field(key, "is not a parameter of this path")),
        }
    }
}

/// The variable segments of a path.
#[derive(Debug)]
pub(in crate::http) struct Segments<T>(pub(in crate::http) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segments<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(segments) =
            Path::from_request_parts(parts, state).await.map_err(|why| Problem::field("path", &why.body_text()))?;
        Ok(Self(segments))
    }
}

/// Makes a text a word of the model, or blames `field`.
pub(super) fn word<T: for<'a> TryFrom<&'a str, Error = Invalid>>(field: &str, text: &str) -> Result<T, Problem> {
    text.try_into().map_err(|wrong: Invalid| blame(field, &wrong))
}

/// The name of a service as it is known, or as any API may make it known: what is asked for by it need not be there.
pub(super) fn service(view: &View, field: &str, text: &str) -> Result<ServiceName, Problem> {
    let unknown = || ServiceName::any(text).map_err(|wrong| blame(field, &wrong));
    view.service(text).map_or_else(unknown, |found| Ok(found.name.clone()))
}

fn blame(field: &str, wrong: &Invalid) -> Problem {
    Problem::field(field, &format!("{:?} {}", wrong.text, wrong.why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Params {
        Params(pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect())
    }

    #[test]
    fn a_switch_needs_no_value() {
        for (value, on) in [("", true), ("true", true), ("1", true), ("false", false), ("0", false)] {
            assert_eq!(params(&[("passing", value)]).switch("passing"), Ok(on), "{value}");
        }
        assert!(params(&[("passing", "maybe")]).switch("passing").is_err());
        assert!(params(&[("passing", ""), ("passing", "")]).switch("passing").is_err());
    }

    #[test]
    fn what_is_left_over_is_refused() {
        let mut some = params(&[("tag", "a"), ("tga", "b"), ("tag", "c")]);
        assert_eq!(some.all("tag"), ["a", "c"]);
        assert_eq!(some.end(), Err(Problem::field("tga", "is not a parameter of this path")));
    }
}
