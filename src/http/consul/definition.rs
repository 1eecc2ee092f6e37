//! A service and its checks in Consul's words, as they are registered with an agent.

use std::{collections::BTreeMap, sync::Arc};

use axum::http::StatusCode;
use serde_json::Value;

use super::{
    check,
    document::Document,
    failure::{Answer, Failure},
};
use crate::model::{
    CheckDraft, CheckSpec, ConsulDraft, EchoCheck, Health, InstanceId, MAX_NOTES, MIN_INTERVAL, Registration,
    RegistrationDraft, TaggedAddress, TlsOptions, format_duration,
};

/// The registration that a body asks for.
pub(super) fn service(body: &Document) -> Result<Registration, Failure> {
    let weights = weights(body)?;
    let mut registration = bare(body, "name", weights)?;
    if weights.is_some_and(|(passing, _)| passing == 0) {
        return Err(Failure::bad("Invalid service definition: Passing must be greater than 0"));
    }
    let mut checks: Vec<_> = body.object("check")?.filter(|check| !check.is_empty()).into_iter().collect();
    checks.extend(body.objects("checks")?);
    let several = checks.len() > 1;
    for (at, body) in checks.iter().enumerate() {
        let own = match several {
            false => format!("service:{}", registration.id),
            true => format!("service:{}:{}", registration.id, at + 1),
        };
        let name = format!("Service '{}' check", registration.name);
        let (spec, said) = check(body, &own, &name)?;
        put_check(&mut registration, spec, said);
    }
    registration.validate()?;
    Ok(registration)
}

/// The shares of traffic while it passes and while it warns, if it names any. Who gives one of the two means nought by the
/// other, as Go has it.
pub(super) fn weights(body: &Document) -> Result<Option<(i64, i64)>, Failure> {
    let Some(weights) = body.object("weights")? else { return Ok(None) };
    let [passing, warning] = ["passing", "warning"].map(|key| weights.number(key));
    Ok(Some((passing?.unwrap_or_default(), warning?.unwrap_or_default())))
}

/// What a service's body says besides its checks; [`super::foreign`] reads the same words, but for the `key` of the name.
pub(super) fn bare(body: &Document, key: &str, weights: Option<(i64, i64)>) -> Result<Registration, Failure> {
    let Some(name) = body.text(key)? else { return Err(Failure::bad("Missing service name")) };
    refuse_proxies(body)?;
    refuse_places(body)?;
    let meta = body.pairs("meta")?;
    let (passing, warning) = weights.unzip();
    let consul = ConsulDraft {
        tagged_addresses: tagged_addresses(body)?,
        enable_tag_override: body.flag("enabletagoverride")?,
        ..ConsulDraft::default()
    };
    let draft = RegistrationDraft {
        id: body.text("id")?,
        name,
        address: body.text("address")?,
        port: body.number("port")?.filter(|port| *port != 0),
        tags: body.texts("tags")?,
        meta,
        weight: passing,
        warning_weight: warning,
        consul: Some(consul),
        ..RegistrationDraft::default()
    };
    draft.build().map_err(|wrong| Failure::bad(format!("Invalid service definition: {wrong}")))
}

/// Proxies need Consul's certificates and intentions: registered and then not served, they would fail late.
fn refuse_proxies(body: &Document) -> Result<(), Failure> {
    let connect = body.object("connect")?.unwrap_or_default();
    let is_proxy = body.text("kind")?.is_some_and(|kind| kind != "typical")
        || connect.flag("native")?
        || connect.object("sidecarservice")?.is_some();
    if !is_proxy {
        return Ok(());
    }
    Err(Failure::new(
        StatusCode::NOT_IMPLEMENTED,
        "Hobnob has no mesh of proxies: register the service without Kind, Proxy and Connect",
    ))
}

/// Nobody would be sent there: answers name a port, and prefer by the zone of the agent.
pub(super) fn refuse_places(body: &Document) -> Result<(), Failure> {
    let why = if body.text("socketpath")?.is_some() {
        "Hobnob tells addresses and ports, and no SocketPath: let the service listen at a port"
    } else if body.object("locality")?.is_some_and(|locality| !locality.is_empty()) {
        "Hobnob has no Locality of a service or a node: give the agent its zone (`zone` in its settings), or use meta data"
    } else {
        return Ok(());
    };
    Err(Failure::new(StatusCode::NOT_IMPLEMENTED, why))
}

fn tagged_addresses(body: &Document) -> Result<BTreeMap<String, TaggedAddress>, Failure> {
    let mut all = BTreeMap::new();
    for (kind, value) in body.map("taggedaddresses")? {
        let wrong = |why: &str| Failure::bad(format!("Invalid service definition: tagged address {kind:?} {why}"));
        let map = match value {
            Value::Object(map) => map,
            Value::Null => continue,
            _ => return Err(wrong("is not an object with Address and Port")),
        };
        let fields = Document::from(map);
        let (address, port) = (fields.text("address")?.unwrap_or_default(), fields.number("port")?.unwrap_or(0));
        all.insert(kind, TaggedAddress { address, port });
    }
    Ok(all)
}

/// A check, and what was said of it; `id` and `name` are its own unless it brings others.
pub(super) fn check(body: &Document, id: &str, name: &str) -> Result<(CheckSpec, EchoCheck), Failure> {
    let id = body.text("checkid")?.or(body.text("id")?).unwrap_or_else(|| id.to_owned());
    if check::is_reserved(&id) {
        return Err(invalid(&format!("the id {id:?} is kept for what the mesh says itself")));
    }
    refuse_output_size(body)?;
    let name = body.text("name")?.unwrap_or_else(|| name.to_owned());
    let notes = notes(body)?;
    let (draft, kind) = kind(body)?;
    let (warning, critical) = (body.number("failuresbeforewarning")?, body.number("failuresbeforecritical")?);
    // What is reported, and what others' checks say, has no thresholds in Consul.
    if !["ttl", "alias"].contains(&kind) && (1..critical.unwrap_or(0)).contains(&warning.unwrap_or(0)) {
        return Err(invalid(
            "FailuresBeforeWarning below FailuresBeforeCritical is not supported: no check warns of failures before it is critical",
        ));
    }
    let times = |count: Option<i64>| count.map(|count| u32::try_from(count.max(1)).unwrap_or(u32::MAX));
    let draft = CheckDraft {
        id: Some(id),
        name: Some(name),
        // Consul names the number of results that it takes, and means one by nought.
        rise: times(body.number("successbeforepassing")?),
        fall: times(critical),
        initial: status(body)?,
        deregister_after: body.duration("deregistercriticalserviceafter")?.map(format_duration),
        ..draft
    };
    let spec = draft.build(0, "check").map_err(|wrong| invalid(&wrong.to_string()))?;
    Ok((spec.by_consuls_rules(), EchoCheck { notes, kind: kind.to_owned(), ..EchoCheck::default() }))
}

/// What a check says is cut to one length, whichever it is: a shorter one would not be kept to.
fn refuse_output_size(body: &Document) -> Result<(), Failure> {
    match body.number("outputmaxsize")?.unwrap_or(0) {
        ..0 => Err(invalid("OutputMaxSize must be positive")),
        0 | OUTPUT_SIZE.. => Ok(()),
        _ => Err(Failure::new(
            StatusCode::NOT_IMPLEMENTED,
            format!("Hobnob keeps {OUTPUT_SIZE} bytes of what a check says, and no OutputMaxSize below: leave it away"),
        )),
    }
}

/// What people wrote of a check, as much of it as travels.
pub(super) fn notes(body: &Document) -> Result<String, Failure> {
    let mut notes = body.text("notes")?.unwrap_or_default();
    notes.truncate(notes.floor_char_boundary(MAX_NOTES));
    Ok(notes)
}

/// The status that a body claims; critical is what everything begins with.
pub(super) fn status(body: &Document) -> Result<Option<Health>, Failure> {
    match body.text("status")?.as_deref() {
        None => Ok(None),
        Some("passing") => Ok(Some(Health::Passing)),
        Some("warning") => Ok(Some(Health::Warning)),
        Some("critical") => Ok(Some(Health::Critical)),
        Some(other) => Err(Failure::bad(format!("Invalid check status: '{other}'"))),
    }
}

/// What a check does, and Consul's word for it.
fn kind(body: &Document) -> Result<(CheckDraft, &'static str), Failure> {
    let scripts = [body.texts("args")?, body.texts("scriptargs")?].concat();
    if !scripts.is_empty() || body.text("script")?.is_some() || body.text("dockercontainerid")?.is_some() {
        return Err(Failure::new(
            StatusCode::FORBIDDEN,
            "Scripts are disabled on this agent over HTTP: put the check into a file of services.d, where they may be enabled",
        ));
    }
    if body.text("h2ping")?.is_some() || body.text("osservice")?.is_some() {
        return Err(Failure::new(
            StatusCode::NOT_IMPLEMENTED,
            "Hobnob has no H2PING and OSService checks: use HTTP, TCP, UDP, GRPC, TTL or an alias",
        ));
    }
    contradictions(body)?;
    if let Some(alias) = body.text("aliasservice")? {
        let node = body.text("aliasnode")?;
        return Ok((CheckDraft { alias: Some(alias), node, ..CheckDraft::default() }, "alias"));
    }
    if let Some(node) = body.text("aliasnode")? {
        return Ok((CheckDraft { alias: Some(node), ..CheckDraft::default() }, "alias"));
    }
    let (draft, kind) = match (polled(body)?, body.duration("ttl")?) {
        (Some(polled), _) => polled,
        (None, Some(ttl)) => {
            let ttl = ttl.max(MIN_INTERVAL);
            return Ok((CheckDraft { ttl: Some(format_duration(ttl)), ..CheckDraft::default() }, "ttl"));
        }
        (None, None) => return Err(invalid("TTL must be > 0 for TTL checks")),
    };
    let Some(interval) = body.duration("interval")? else {
        return Err(invalid("Interval must be > 0 for Script, HTTP, or TCP checks"));
    };
    // As Consul does with what is more often than its least.
    let (interval, timeout) =
        (format_duration(interval.max(MIN_INTERVAL)), body.duration("timeout")?.map(format_duration));
    Ok((CheckDraft { interval: Some(interval), timeout, ..draft }, kind))
}

/// What cannot be meant together, in Consul's own words.
fn contradictions(body: &Document) -> Result<(), Failure> {
    let (interval, ttl) = (body.duration("interval")?.is_some(), body.duration("ttl")?.is_some());
    let is_alias = body.text("aliasservice")?.is_some() || body.text("aliasnode")?.is_some();
    if interval && ttl {
        return Err(invalid("Interval and TTL cannot both be specified"));
    }
    if is_alias && interval {
        return Err(invalid("Interval cannot be set for Alias checks"));
    }
    if is_alias && ttl {
        return Err(invalid("TTL must be not be set for Alias checks"));
    }
    Ok(())
}

/// The kinds that are asked again and again.
fn polled(body: &Document) -> Result<Option<(CheckDraft, &'static str)>, Failure> {
    let tls = |speaks: bool| -> Result<Option<TlsOptions>, Failure> {
        let server_name = body.text("tlsservername")?;
        let options = TlsOptions { server_name, verify: !body.flag("tlsskipverify")?, ..TlsOptions::default() };
        Ok(speaks.then_some(options))
    };
    let none = CheckDraft::default();
    if let Some(url) = body.text("http")? {
        let method = body.text("method")?;
        let tls = tls(url.starts_with("https:"))?;
        // As many as Go's client follows, which is Consul's.
        let redirects = (!body.flag("disableredirects")?).then_some(10);
        let (body, headers) = (body.text("body")?, headers(body)?);
        return Ok(Some((CheckDraft { method, body, headers, redirects, tls, http: Some(url), ..none }, "http")));
    }
    if let Some(target) = body.text("tcp")? {
        return Ok(Some((CheckDraft { tcp: Some(target), tls: tls(body.flag("tcpusetls")?)?, ..none }, "tcp")));
    }
    if let Some(target) = body.text("udp")? {
        return Ok(Some((CheckDraft { udp: Some(target), ..none }, "udp")));
    }
    if let Some(target) = body.text("grpc")? {
        return Ok(Some((CheckDraft { grpc: Some(target), tls: tls(body.flag("grpcusetls")?)?, ..none }, "grpc")));
    }
    Ok(None)
}

/// Headers to send. Consul gives each a list; more than one value is one line of them (RFC 9110 section 5.3).
fn headers(body: &Document) -> Result<Option<BTreeMap<String, String>>, Failure> {
    let mut all = BTreeMap::new();
    for (name, value) in body.map("header")? {
        let values = match &value {
            Value::String(text) => vec![text.as_str()],
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            _ => return Err(invalid("Header holds what is not a list of texts")),
        };
        all.insert(name, values.join(", "));
    }
    Ok((!all.is_empty()).then_some(all))
}

/// Puts a check into a registration, in place of the one of its id.
pub(super) fn put_check(registration: &mut Registration, spec: CheckSpec, said: EchoCheck) {
    let mut echo = Arc::unwrap_or_clone(registration.echo.take().unwrap_or_default());
    echo.checks.insert(spec.id.clone(), said);
    registration.echo = Some(Arc::new(echo));
    match registration.checks.iter_mut().find(|check| check.id == spec.id) {
        Some(check) => *check = spec,
        None => registration.checks.push(spec),
    }
}

/// Takes a check out of a registration.
pub(super) fn take_check(registration: &mut Registration, id: &InstanceId) {
    registration.checks.retain(|check| check.id != *id);
    if let Some(echo) = &mut registration.echo {
        Arc::make_mut(echo).checks.remove(id);
    }
}

fn invalid(why: &str) -> Failure {
    Failure::bad(format!("Invalid check: {why}"))
}

/// As with Consul's clients, an empty answer says that all went well.
pub(super) fn done() -> Answer {
    Ok(axum::response::IntoResponse::into_response(()))
}

/// As much of what a check says as is kept, which is as much as Consul keeps.
const OUTPUT_SIZE: i64 = 4096;
