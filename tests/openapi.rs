//! The OpenAPI document against a real agent: every path takes the methods it says and no others, and every answer has
//! the shape it says, with nothing left out and nothing added.

#![allow(clippy::disallowed_methods, reason = "a test of processes waits for them")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod process;

use std::collections::BTreeSet;

use process::{Agent, Mesh};
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// What is wrong with a value by its schema; empty if nothing is.
fn faults(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(name) = schema["$ref"].as_str() {
        return faults(document, document.pointer(name.trim_start_matches('#')).unwrap(), value, at);
    }
    if let Some(options) = schema["anyOf"].as_array() {
        let fits = options.iter().any(|option| faults(document, option, value, at).is_empty());
        return if fits { Vec::new() } else { vec![format!("{at}: {value} fits none of {options:?}")] };
    }
    if let Some(options) = schema["oneOf"].as_array() {
        let fits = options.iter().filter(|option| option["const"] == *value).count() == 1;
        return if fits { Vec::new() } else { vec![format!("{at}: {value} is none of {options:?}")] };
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return vec![format!("{at}: {value} is none of {words:?}")];
    }
    let types = match &schema["type"] {
        Value::String(one) => vec![one.as_str()],
        Value::Array(several) => several.iter().map(|one| one.as_str().unwrap()).collect(),
        _ => Vec::new(),
    };
    let is = |kind: &&str| match *kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    };
    if !types.is_empty() && !types.iter().any(is) {
        return vec![format!("{at}: {value} is no {types:?}")];
    }
    let mut found = Vec::new();
    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
        found.extend(faults(document, &schema["items"], item, &format!("{at}[{n}]")));
    }
    if let Some(object) = value.as_object() {
        found.extend(faults_of_object(document, schema, object, at));
    }
    found
}

fn faults_of_object(document: &Value, schema: &Value, object: &Map<String, Value>, at: &str) -> Vec<String> {
    let none = Map::new();
    let known = schema["properties"].as_object().unwrap_or(&none);
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut found: Vec<_> =
        required.filter(|key| !object.contains_key(*key)).map(|key| format!("{at}: {key} is missing")).collect();
    for (key, value) in object {
        let at = format!("{at}.{key}");
        match (known.get(key), &schema["additionalProperties"]) {
            (Some(schema), _) => found.extend(faults(document, schema, value, &at)),
            (None, rest @ Value::Object(_)) => found.extend(faults(document, rest, value, &at)),
            (None, Value::Bool(true)) => {}
            _ => found.push(format!("{at}: is not in the document")),
        }
    }
    found
}

/// Status, head in lower case, and body of one answer.
async fn exchange(agent: &Agent, method: &str, path: &str, body: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(agent.http).await.unwrap();
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_ascii_lowercase(), body.to_owned())
}

#[tokio::test]
async fn each_path_takes_the_methods_that_are_described_and_no_others() {
    let mesh = Mesh::new();
    let agent = mesh.start("a", &[]).await;
    let document = agent.get("/api/v1/openapi.json").await;
    assert_eq!(document["openapi"], "3.1.0");
    for (path, methods) in document["paths"].as_object().unwrap() {
        let concrete = path.replace(['{', '}'], "");
        let (status, head, _) = exchange(&agent, "OPTIONS", &concrete, "").await;
        let allow = head.lines().find_map(|line| line.strip_prefix("allow: ")).unwrap();
        let taken: BTreeSet<_> = allow.split(',').filter(|method| *method != "head").collect();
        let described: BTreeSet<_> = methods.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!((status, taken), (204, described), "{path}");
        let (status, head, body) = exchange(&agent, "PATCH", &concrete, "").await;
        assert!(status == 405 && head.contains("application/problem+json"), "{path}: {head}{body}");
    }
}

#[tokio::test]
async fn answers_have_the_shapes_that_are_described() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let b = mesh.start("b", &[&a]).await;
    b.until_seen("a", "alive").await;
    a.until_seen("b", "alive").await;
    let document = a.get("/api/v1/openapi.json").await;
    let registration = json!({
        "name": "web", "port": 8080, "ports": {"admin": 9000}, "address": "10.0.0.9", "tags": ["v2"], "weight": 3,
        "meta": {"k": "v"}, "checks": [{"ttl": "30s", "id": "beat", "initial": "passing", "deregister_after": "1h"}],
    });
    let wrong = r#"{"name": "web", "port": 0}"#;
    for (method, template, path, body, status) in [
        ("PUT", "registrations/{id}", "registrations/web", &*registration.to_string(), 201),
        ("PUT", "registrations/{id}", "registrations/web", &*registration.to_string(), 200),
        ("PUT", "registrations/{id}", "registrations/web", wrong, 400),
        ("GET", "registrations/{id}", "registrations/web", "", 200),
        ("GET", "registrations/{id}", "registrations/none", "", 404),
        ("GET", "registrations", "registrations", "", 200),
        ("PUT", "registrations/{id}/checks/{check}", "registrations/web/checks/beat", r#"{"status": "warning"}"#, 200),
        ("GET", "services", "services", "", 200),
        ("GET", "services/{name}", "services/web?tag=v2&near=b", "", 200),
        ("GET", "services/{name}", "services/web?colour=red", "", 400),
        ("GET", "prometheus", "prometheus?service=web&tag=v2", "", 200),
        ("GET", "members", "members", "", 200),
        ("GET", "status", "status", "", 200),
        ("POST", "join", "join", r#"{"addresses": ["127.0.0.1:1"]}"#, 200),
        ("GET", "openapi.json", "openapi.json", "", 200),
        ("DELETE", "registrations/{id}", "registrations/web", "", 204),
        ("GET", "/livez", "/livez", "", 200),
        ("GET", "/readyz", "/readyz", "", 200),
        ("GET", "/version", "/version", "", 200),
        ("POST", "leave", "leave", "", 200),
    ] {
        let full = |path: &str| if path.starts_with('/') { path.to_owned() } else { format!("/api/v1/{path}") };
        let (got, head, answer) = exchange(&a, method, &full(path), body).await;
        assert_eq!(got, status, "{method} {path}: {answer}");
        let responses = &document["paths"][full(template)][method.to_ascii_lowercase()]["responses"];
        let described = responses.get(status.to_string()).unwrap_or(&responses["default"]);
        let Some((kind, media)) = described["content"].as_object().and_then(|content| content.iter().next()) else {
            assert!(status == 204 && answer.is_empty(), "{method} {path}: {described} {answer}");
            continue;
        };
        assert!(head.contains(&format!("content-type: {kind}")), "{method} {path}: {head}");
        let value: Value = serde_json::from_str(&answer).unwrap();
        let faults = faults(&document, &media["schema"], &value, template);
        assert!(faults.is_empty(), "{method} {path}: {faults:#?}\n{value}");
    }
}
