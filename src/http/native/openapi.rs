//! `GET /api/v1/openapi.json`: the native API as OpenAPI 3.1. Each handler's file describes what it serves, with schemas
//! derived from the very types that are written and read; tests hold the document against the router and real answers.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::http::problem::Details;

/// The document as it grows.
#[derive(Debug)]
pub(in crate::http) struct Api {
    paths: Map<String, Value>,
    /// What is read and what is written can differ for one type: a default makes a field optional for readers alone.
    answers: SchemaGenerator,
    bodies: SchemaGenerator,
}

/// One operation, described while it is borrowed from the [`Api`].
#[derive(Debug)]
pub(in crate::http) struct Operation<'a> {
    described: &'a mut Value,
    answers: &'a mut SchemaGenerator,
    bodies: &'a mut SchemaGenerator,
}

impl Api {
    fn new() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.meta_schema = None;
            settings.definitions_path = "/components/schemas".into();
        });
        let answers = settings.clone().for_serialize().into_generator();
        Self { paths: Map::new(), answers, bodies: settings.for_deserialize().into_generator() }
    }

    pub(in crate::http) fn get(&mut self, path: &str, summary: &str) -> Operation<'_> {
        self.operation("get", path, summary)
    }

    pub(super) fn put(&mut self, path: &str, summary: &str) -> Operation<'_> {
        self.operation("put", path, summary)
    }

    pub(super) fn post(&mut self, path: &str, summary: &str) -> Operation<'_> {
        self.operation("post", path, summary)
    }

    pub(super) fn delete(&mut self, path: &str, summary: &str) -> Operation<'_> {
        self.operation("delete", path, summary)
    }

    /// An operation; the variable segments of its path are its first parameters.
    fn operation(&mut self, method: &str, path: &str, summary: &str) -> Operation<'_> {
        let names = path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
        let parameter =
            |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}});
        let parameters: Vec<_> = names.map(parameter).collect();
        let problem = media("application/problem+json", &self.answers.subschema_for::<Details<'_>>());
        let failed = json!({"description": "It was not done; nothing was changed.", "content": problem});
        let described = json!({
            "operationId": operation_id(method, path),
            "summary": summary,
            "parameters": parameters,
            "responses": {"default": failed},
        });
        let methods = self.paths.entry(path).or_insert_with(|| json!({}));
        methods[method] = described;
        Operation { described: &mut methods[method], answers: &mut self.answers, bodies: &mut self.bodies }
    }

    fn finish(mut self) -> Value {
        let mut schemas = self.bodies.take_definitions(true);
        schemas.extend(self.answers.take_definitions(true));
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "Hobnob",
                "version": env!("CARGO_PKG_VERSION"),
                "description": "The native API of one node. Until it is ready, reads of the catalogue answer 503, and so do \
                                writes over what other nodes may have said.",
                "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
            },
            "paths": self.paths,
            "components": {"schemas": schemas},
        })
    }
}

impl Operation<'_> {
    /// With a parameter of the query.
    pub(super) fn query(self, name: &str, about: &str) -> Self {
        self.parameter(name, about, &json!({"type": "string"}))
    }

    /// With a parameter of the query that may be repeated.
    pub(super) fn each(self, name: &str, about: &str) -> Self {
        self.parameter(name, about, &json!({"type": "array", "items": {"type": "string"}}))
    }

    /// With a switch in the query: its name alone is enough.
    pub(super) fn switch(self, name: &str, about: &str) -> Self {
        self.parameter(name, about, &json!({"type": "string", "enum": ["", "true", "false", "1", "0"]}))
    }

    /// With a header.
    pub(super) fn header(self, name: &str, about: &str) -> Self {
        self.parameter_in("header", name, about, &json!({"type": "string"}))
    }

    fn parameter(self, name: &str, about: &str, schema: &Value) -> Self {
        self.parameter_in("query", name, about, schema)
    }

    fn parameter_in(self, place: &str, name: &str, about: &str, schema: &Value) -> Self {
        let parameter = json!({"name": name, "in": place, "description": about, "schema": schema});
        if let Some(parameters) = self.described["parameters"].as_array_mut() {
            parameters.push(parameter);
        }
        self
    }

    /// With a body.
    pub(super) fn takes<T: JsonSchema>(self) -> Self {
        let schema = self.bodies.subschema_for::<T>();
        self.described["requestBody"] = json!({"required": true, "content": media("application/json", &schema)});
        self
    }

    /// Answered with a body of JSON.
    pub(super) fn answers<T: JsonSchema>(self, status: u16, about: &str) -> Self {
        let schema = self.answers.subschema_for::<T>();
        self.response(status, about, Some(("application/json", schema)))
    }

    /// Answered with a stream of events, each of whose data is a `T`.
    pub(super) fn streams<T: JsonSchema>(self, about: &str) -> Self {
        let event = self.answers.subschema_for::<T>();
        let schema =
            schemars::json_schema!({"type": "string", "contentMediaType": "text/event-stream", "contentSchema": event});
        self.response(200, about, Some(("text/event-stream", schema)))
    }

    /// Answered with text.
    pub(in crate::http) fn text(self, kind: &str, about: &str) -> Self {
        self.response(200, about, Some((kind, schemars::json_schema!({"type": "string"}))))
    }

    /// Answered without a body.
    pub(super) fn empty(self, status: u16, about: &str) -> Self {
        self.response(status, about, None)
    }

    fn response(self, status: u16, about: &str, content: Option<(&str, Schema)>) -> Self {
        let mut response = json!({"description": about});
        if let Some((kind, schema)) = content {
            response["content"] = media(kind, &schema);
        }
        self.described["responses"][status.to_string()] = response;
        self
    }
}

fn media(kind: &str, schema: &Schema) -> Value {
    json!({kind: {"schema": schema}})
}

/// `getServicesName` of `get` and `/api/v1/services/{name}`.
fn operation_id(method: &str, path: &str) -> String {
    let words = path.trim_start_matches("/api/v1").split(|c: char| !c.is_ascii_alphanumeric());
    words
        .filter_map(|word| word.split_at_checked(1))
        .fold(method.to_owned(), |id, (first, rest)| id + &first.to_ascii_uppercase() + rest)
}

/// The whole document.
pub(super) fn document() -> Value {
    let mut api = Api::new();
    super::describe(&mut api);
    api.get("/api/v1/openapi.json", "This document.").answers::<Map<String, Value>>(200, "OpenAPI 3.1.");
    api.finish()
}

pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document().to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{native, requests::Requests};
    use std::collections::BTreeSet;

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let mut requests = Requests::default();
        drop(native::routes(&mut requests));
        let served: BTreeSet<_> = requests.paths().filter(|path| path.starts_with('/')).collect();
        let document = document();
        let described: BTreeSet<_> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            described, served,
            "describe a route in the file that serves it, and call that from native::describe"
        );
    }

    #[test]
    fn operations_have_names_of_their_own() {
        let document = document();
        let mut seen = BTreeSet::new();
        for methods in document["paths"].as_object().unwrap().values() {
            for operation in methods.as_object().unwrap().values() {
                assert!(seen.insert(operation["operationId"].as_str().unwrap()), "{operation}");
            }
        }
        assert!(seen.contains("getServicesName"), "{seen:?}");
    }
}
