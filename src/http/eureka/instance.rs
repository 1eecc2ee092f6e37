//! An instance in Eureka's words, and back.
//!
//! A lease is a TTL check: renewing it is its heartbeat, and one that nobody renews is hidden when it runs out and
//! withdrawn when it has been out for as long again. What the client says of its status, and what an operator says instead,
//! is a second check. Words without a meaning here travel in [`crate::model::Echo`] and are read back as they were written.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use crate::{
    http::{
        Problem,
        consul::{node_name, service_id},
    },
    mesh::{Held, Instance},
    model::{CheckDraft, ConsulDraft, Echo, Health, InstanceId, Port, Registration, RegistrationDraft},
};

/// The id of the registration that a document asks for.
pub(super) fn id_of(app: &str, document: &Value) -> Result<InstanceId, Problem> {
    let body = body(document);
    let named = needed(body, "app")?;
    if !named.eq_ignore_ascii_case(app) {
        return Err(Problem::field("app", &format!("is {named:?}, and {app:?} in the path")));
    }
    let host = needed(body, "hostName")?;
    id(app, &text(body, "instanceId").unwrap_or(host))
}

fn body(document: &Value) -> &Value {
    document.get("instance").unwrap_or(document)
}

fn needed<'a>(body: &'a Value, key: &str) -> Result<Cow<'a, str>, Problem> {
    text(body, key).ok_or_else(|| Problem::field(key, "is missing"))
}

/// The registration that a document asks for, given what was there `before`.
pub(super) fn read(app: &str, document: &Value, before: Option<&Registration>) -> Result<Registration, Problem> {
    let (id, body) = (id_of(app, document)?, body(document));
    let host = needed(body, "hostName")?;
    let (plain, secure) = (port(body, PORTS[0].0)?, port(body, PORTS[1].0)?);
    let draft = RegistrationDraft {
        id: Some(id.to_string()),
        name: app.to_ascii_lowercase(),
        address: Some(text(body, "ipAddr").unwrap_or(Cow::Borrowed(&host)).into_owned()),
        port: plain.or(secure).map(i64::from),
        ports: secure.map(|port| ("https".to_owned(), i64::from(port))).into_iter().collect(),
        meta: metadata(body)?,
        // An application may be called anything, as with Consul.
        consul: Some(ConsulDraft::default()),
        ..RegistrationDraft::default()
    };
    let mut registration = draft.build()?;
    let mut words: BTreeMap<String, String> =
        KEPT.iter().filter_map(|key| Some(((*key).to_owned(), text(body, key)?.into_owned()))).collect();
    if let Some(long) = words.iter().find(|(_, word)| word.len() > MAX_WORD) {
        return Err(Problem::field(long.0, "is longer than 512 bytes"));
    }
    for (key, usual) in [(DURATION, "90"), (INTERVAL, "30")] {
        let said = body.get("leaseInfo").and_then(|lease| text(lease, key));
        words.insert(key.into(), said.map_or_else(|| usual.into(), Cow::into_owned));
    }
    let unused = PORTS.iter().zip([plain, secure]).filter(|(_, port)| port.is_none());
    words.extend(unused.map(|((key, usual), _)| ((*key).to_owned(), number(body, key).unwrap_or(*usual).to_string())));
    words.entry(STATUS.into()).or_insert_with(|| "UP".into());
    // Clients spell it in two ways; UNKNOWN is nobody's word.
    let given = text(body, OVERRIDE).or(text(body, "overriddenstatus")).filter(|word| word != "UNKNOWN");
    if before.is_some_and(|before| !is_ours(before) || before.name != registration.name) {
        let why = format!("{} is registered on this node in other words than Eureka's", registration.id);
        return Err(Problem::new(StatusCode::CONFLICT, why));
    }
    words.extend(given.map(|word| (OVERRIDE.to_owned(), word.into_owned())));
    say(&mut registration, words)?;
    Ok(registration)
}

/// The registration with an operator's word on what was known last of its client, unless it brings its own: whoever
/// registers again, here or elsewhere, stays as the operator left him.
pub(super) fn kept(asked: Registration, last: Option<&Registration>) -> Result<Registration, Problem> {
    match last.and_then(|last| word(last, OVERRIDE)).filter(|_| word(&asked, OVERRIDE).is_none()) {
        Some(kept) => overridden(&asked, Some(kept)),
        None => Ok(asked),
    }
}

/// The registration as the last word of a client that has gone, which stands until the leases that `others` granted it are
/// over, and one of which would show instead. `None` where there are none.
pub(super) fn gone<'a>(own: &Registration, others: impl Iterator<Item = &'a Instance>) -> Option<Registration> {
    let granted = others.map(|row| &*row.registration).filter(|row| !row.is_taken_back());
    // Over at first, and withdrawn when it has been so for as long again.
    let lease = granted.map(|row| 2 * seconds(row, DURATION, 90).min(MAX_LEASE)).max()?.min(MAX_LEASE).to_string();
    let mut gone = own.clone();
    let mut words = words(own).clone();
    words.remove(OVERRIDE);
    words.extend([(Echo::TAKEN_BACK, "true".into()), (DURATION, lease)].map(|(key, word)| (key.to_owned(), word)));
    say(&mut gone, words).ok()?;
    Some(gone)
}

/// One of its numbers of seconds.
fn seconds(registration: &Registration, key: &str, usual: u64) -> u64 {
    word(registration, key).and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Puts words into a registration, and the checks that they mean.
fn say(registration: &mut Registration, words: BTreeMap<String, String>) -> Result<(), Problem> {
    for key in [STATUS, OVERRIDE] {
        if let Some(word) = words.get(key).filter(|word| !STATUSES.contains(&&***word)) {
            return Err(Problem::field(key, &format!("is {word:?}; it is one of {}", STATUSES.join(", "))));
        }
    }
    let seconds = |key: &str, usual| {
        let said = words.get(key).map_or(Some(usual), |text| text.parse::<u64>().ok());
        let said = said.filter(|seconds| (1..=MAX_LEASE).contains(seconds));
        said.ok_or_else(|| Problem::field(format!("leaseInfo.{key}"), "is not a number of seconds from 1 to 86400"))
    };
    seconds(INTERVAL, 30)?;
    let lease = Duration::from_secs(seconds(DURATION, 90)?);
    registration.echo = Some(Arc::new(Echo { eureka: words, ..Echo::default() }));
    let is_up = status_word(registration) == "UP";
    registration.checks = vec![
        CheckDraft { deregister_after: Some(format!("{}s", lease.as_secs())), ..check(LEASE, Health::Passing, lease) }
            .build(0, "lease")?,
        check(STATUS, if is_up { Health::Passing } else { Health::Critical }, FOR_EVER).build(1, STATUS)?,
    ];
    registration.validate()?;
    Ok(())
}

fn check(id: &str, initial: Health, ttl: Duration) -> CheckDraft {
    CheckDraft { id: Some(id.into()), initial: Some(initial), ..CheckDraft::ttl(ttl) }
}

/// The same registration under an operator's word on its status, or under none.
pub(super) fn overridden(own: &Registration, status: Option<&str>) -> Result<Registration, Problem> {
    let mut changed = own.clone();
    let mut words = words(own).clone();
    words.remove(OVERRIDE);
    words.extend(status.map(|word| (OVERRIDE.to_owned(), word.to_owned())));
    say(&mut changed, words)?;
    Ok(changed)
}

/// Unlike those of Hobnob, Eureka's ids tell apart what is within one application.
pub(super) fn id(app: &str, instance: &str) -> Result<InstanceId, Problem> {
    let id = format!("{}/{instance}", app.to_ascii_lowercase());
    InstanceId::try_from(&*id).map_err(|wrong| Problem::field("instanceId", &format!("{instance:?} {}", wrong.why)))
}

/// Whether a registration came in Eureka's words.
pub(super) fn is_ours(registration: &Registration) -> bool {
    !words(registration).is_empty()
}

fn words(registration: &Registration) -> &BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    registration.echo.as_ref().map_or(&NONE, |echo| &echo.eureka)
}

/// One of a client's words.
pub(super) fn word<'a>(registration: &'a Registration, key: &str) -> Option<&'a str> {
    words(registration).get(key).map(String::as_str)
}

/// The operator's word on the status, else the client's.
fn status_word(registration: &Registration) -> &str {
    word(registration, OVERRIDE).or(word(registration, STATUS)).unwrap_or("UP")
}

/// Whether its lease has run out: Eureka shows it no more, unless most of them have at once.
pub(super) fn is_over(instance: &Instance) -> bool {
    let has_run_out = lease(instance).is_some_and(|(status, _)| status == Health::Critical);
    has_run_out && is_ours(&instance.registration) && instance.held.and_then(Held::before).is_none()
}

/// Where a lease stands, and since when.
fn lease(instance: &Instance) -> Option<(Health, u64)> {
    let check = instance.report.checks.iter().find(|check| check.id.as_str() == LEASE)?;
    Some((check.status, check.since))
}

/// What it is called: its own id, or for what came in other words one that is unique within the mesh.
pub(super) fn name(instance: &Instance) -> String {
    let asked = &*instance.registration;
    let own = asked.id.as_str().split_once('/').filter(|_| is_ours(asked));
    own.map_or_else(|| format!("{}:{}", node_name(instance), service_id(asked)), |(_, id)| id.to_owned())
}

/// Its status in Eureka's words.
pub(super) fn status(instance: &Instance) -> &str {
    match (instance.health(), status_word(&instance.registration)) {
        (Health::Passing | Health::Warning, _) => "UP",
        (Health::Maintenance, _) => "OUT_OF_SERVICE",
        (Health::Critical, "UP") => "DOWN",
        (Health::Critical, word) => word,
    }
}

/// The names under which clients look for it.
pub(super) fn vips<'a>(instance: &'a Instance, key: &str) -> impl Iterator<Item = &'a str> {
    let asked = &*instance.registration;
    let own = if is_ours(asked) { word(asked, key).unwrap_or_default() } else { asked.name.as_str() };
    own.split(',')
}

/// An instance as Eureka shows it.
pub(super) fn show(instance: &Instance) -> Value {
    let asked = &*instance.registration;
    let address = instance.address().to_string();
    let since = lease(instance).map_or(0, |(_, since)| since);
    let secure = asked.ports.iter().find(|(name, _)| name.as_str() == "https").map(|(_, port)| *port);
    // Of one number for both only a client of Eureka's says that both are in use.
    let plain = asked.port.filter(|port| is_ours(asked) || Some(*port) != secure);
    let mut shown = json!({
        "instanceId": name(instance),
        "hostName": address,
        "app": asked.name.as_str().to_ascii_uppercase(),
        "ipAddr": address,
        "status": status(instance),
        "overriddenStatus": word(asked, OVERRIDE).unwrap_or("UNKNOWN"),
        "port": show_port(plain, asked, PORTS[0]),
        "securePort": show_port(secure, asked, PORTS[1]),
        "countryId": 1,
        "dataCenterInfo": {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
        "leaseInfo": {
            "renewalIntervalInSecs": seconds(asked, INTERVAL, 30), "durationInSecs": seconds(asked, DURATION, 90),
            "registrationTimestamp": since, "lastRenewalTimestamp": since, "evictionTimestamp": 0,
            "serviceUpTimestamp": since,
        },
        "metadata": asked.meta,
        "vipAddress": asked.name.folded(),
        "isCoordinatingDiscoveryServer": "false",
        "lastUpdatedTimestamp": since.to_string(),
        "lastDirtyTimestamp": since.to_string(),
        "actionType": "ADDED",
    });
    for key in KEPT.iter().filter(|key| **key != STATUS) {
        if let Some(word) = word(asked, key) {
            shown[*key] = word.into();
        }
    }
    shown
}

/// Ports that are not in use have a number all the same: the one that the client named, else Eureka's own.
fn show_port(port: Option<Port>, asked: &Registration, (key, usual): (&str, u16)) -> Value {
    let unused = word(asked, key).and_then(|text| text.parse().ok());
    let port = port.filter(|_| unused.is_none());
    json!({"$": port.map_or(unused.unwrap_or(usual), Port::get), "@enabled": port.is_some().to_string()})
}

/// `{"$": 8080, "@enabled": "true"}`, or the bare number; `None` where it is not in use.
fn port(body: &Value, key: &str) -> Result<Option<u16>, Problem> {
    let Some(given) = body.get(key) else { return Ok(None) };
    // Python's clients write True.
    if text(given, "@enabled").is_some_and(|enabled| !enabled.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    let number = text(given, "$").or_else(|| scalar(given)).and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| Problem::field(key, "is not a port with its number under `$`"))
}

/// The number of a port, in use or not, if it has one.
fn number(body: &Value, key: &str) -> Option<u16> {
    text(body.get(key)?, "$")?.parse().ok()
}

fn metadata(body: &Value) -> Result<BTreeMap<String, String>, Problem> {
    let none = Map::new();
    let pairs = match body.get("metadata") {
        None | Some(Value::Null) => &none,
        Some(Value::String(text)) if text.is_empty() => &none,
        Some(Value::Object(pairs)) => pairs,
        Some(_) => return Err(Problem::field("metadata", "is not an object of texts")),
    };
    // Java's serializers say which class of map it was.
    let pair = |(key, value): (&String, &Value)| match scalar(value) {
        Some(text) => Ok((key.clone(), text.into_owned())),
        None if value.is_null() => Ok((key.clone(), String::new())),
        None => Err(Problem::field(format!("metadata.{key}"), "is not a text")),
    };
    pairs.iter().filter(|(key, _)| !key.starts_with('@')).map(pair).collect()
}

/// A field that says something, as text.
fn text<'a>(body: &'a Value, key: &str) -> Option<Cow<'a, str>> {
    scalar(body.get(key)?).filter(|text| !text.is_empty())
}

fn scalar(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(number.to_string().into()),
        Value::Bool(flag) => Some(flag.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// When the client says that it changed last.
pub(super) const DIRTY: &str = "lastDirtyTimestamp";
/// The id of the check that is the lease.
pub(super) const LEASE: &str = "lease";
/// The ports, with what Eureka calls them where nobody does.
const PORTS: [(&str, u16); 2] = [("port", 7001), ("securePort", 7002)];
const STATUS: &str = "status";
const OVERRIDE: &str = "overriddenStatus";
const DURATION: &str = "durationInSecs";
const INTERVAL: &str = "renewalIntervalInSecs";
/// What is read back as it was written.
const KEPT: [&str; 11] = [
    "hostName",
    "appGroupName",
    "vipAddress",
    "secureVipAddress",
    "homePageUrl",
    "statusPageUrl",
    "healthCheckUrl",
    "secureHealthCheckUrl",
    "sid",
    STATUS,
    DIRTY,
];
const STATUSES: [&str; 5] = ["UP", "DOWN", "STARTING", "OUT_OF_SERVICE", "UNKNOWN"];
/// As long as a value of meta data may be.
const MAX_WORD: usize = 512;
/// A day: whoever is silent for longer is gone.
const MAX_LEASE: u64 = 86_400;
/// A hundred years: nobody reports it.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::eureka::xml;

    const XML: &str = "<instance><instanceId>h:web:80</instanceId><hostName>h.example</hostName><app>WEB</app>\
        <ipAddr>10.0.0.9</ipAddr><status>STARTING</status><port enabled=\"true\">80</port>\
        <securePort enabled=\"true\">443</securePort><vipAddress>web</vipAddress>\
        <leaseInfo><durationInSecs>30</durationInSecs></leaseInfo><metadata><zone>a</zone><none></none></metadata></instance>";

    fn why(document: Value) -> String {
        format!("{:?}", read("WEB", &document, None).unwrap_err())
    }

    #[test]
    fn both_forms_ask_for_the_same() {
        let json = json!({"instance": {
            "instanceId": "h:web:80", "hostName": "h.example", "app": "WEB", "ipAddr": "10.0.0.9", "status": "STARTING",
            "port": {"$": 80, "@enabled": "true"}, "securePort": {"$": "443", "@enabled": true}, "vipAddress": "web",
            "leaseInfo": {"durationInSecs": 30}, "metadata": {"@class": "x", "zone": "a", "none": null}, "overriddenstatus": "UNKNOWN",
        }});
        let asked = read("web", &json, None).unwrap();
        assert_eq!(asked, read("WEB", &xml::parse(XML).unwrap(), None).unwrap());
        assert_eq!((asked.id.as_str(), asked.name.as_str()), ("web/h:web:80", "web"));
        assert_eq!(asked.meta.len(), 2);
        let [lease, status] = &*asked.checks else { panic!("{:?}", asked.checks) };
        assert_eq!(lease.kind.ttl(), Some(Duration::from_secs(30)));
        assert_eq!((lease.initial, status.initial), (Some(Health::Passing), Some(Health::Critical)));
    }

    #[test]
    fn a_port_that_is_not_in_use_keeps_its_number() {
        let both = |port: Value, secure: Value| {
            let document =
                json!({"app": "WEB", "hostName": "h", "ipAddr": "10.0.0.9", "port": port, "securePort": secure});
            let mut row = crate::http::native::fixtures::web().instances.remove(0);
            row.registration = std::sync::Arc::new(read("WEB", &document, None).unwrap());
            let shown = show(&row);
            [shown["port"].clone(), shown["securePort"].clone()]
        };
        let port = |number: u16, enabled: bool| json!({"$": number, "@enabled": enabled.to_string()});
        for given in [
            [port(80, true), port(443, false)],
            [port(80, false), port(443, true)],
            [port(80, true), port(80, true)],
            [port(80, false), port(80, true)],
            [port(80, true), port(80, false)],
            [port(80, false), port(443, false)],
        ] {
            assert_eq!(both(given[0].clone(), given[1].clone()), given);
        }
        for spelled in [json!("True"), json!("TRUE"), json!(true)] {
            assert_eq!(both(json!({"$": 80, "@enabled": spelled}), port(443, false))[0], port(80, true), "{spelled}");
        }
        assert_eq!(both(json!({"$": 80, "@enabled": "False"}), port(443, true))[0], port(80, false));
        let unnamed = json!({"@enabled": "false"});
        assert_eq!(both(unnamed.clone(), port(443, true))[0], port(7001, false));
        assert_eq!(both(port(80, true), unnamed)[1], port(7002, false));
    }

    #[test]
    fn an_operator_s_word_outlives_the_client_s() {
        let first = read("WEB", &xml::parse(XML).unwrap(), None).unwrap();
        let out = overridden(&first, Some("OUT_OF_SERVICE")).unwrap();
        let up = xml::parse(&XML.replace("STARTING", "UP")).unwrap();
        let again = kept(read("WEB", &up, Some(&out)).unwrap(), Some(&out)).unwrap();
        assert_eq!((status_word(&out), status_word(&again)), ("OUT_OF_SERVICE", "OUT_OF_SERVICE"));
        assert_eq!(status_word(&overridden(&again, None).unwrap()), "UP");
        assert!(overridden(&first, Some("great")).is_err());
        let native = Registration::new("web", 80).unwrap();
        assert!(format!("{:?}", read("WEB", &up, Some(&native)).unwrap_err()).contains("409"));
    }

    #[test]
    fn a_wrong_document_names_its_field() {
        let good = || xml::parse(XML).unwrap()["instance"].clone();
        for (field, value) in [
            ("app", json!("OTHER")),
            ("hostName", json!("")),
            ("ipAddr", json!("not an address")),
            ("port", json!({"$": "http", "@enabled": "true"})),
            ("securePort", json!(70_000)),
            ("status", json!("GREAT")),
            ("metadata", json!([])),
            ("metadata", json!({"a": {}})),
            ("vipAddress", json!("x".repeat(513))),
            ("leaseInfo", json!({"durationInSecs": 0})),
            ("leaseInfo", json!({"durationInSecs": "soon"})),
            ("leaseInfo", json!({"renewalIntervalInSecs": -1})),
            ("instanceId", json!("x".repeat(300))),
        ] {
            let mut document = good();
            document[field] = value;
            let field = if field == "ipAddr" { "address" } else { field };
            assert!(why(document).contains(field), "{field}");
        }
        for document in [json!(null), json!([]), json!("text"), json!({"instance": []})] {
            assert!(why(document).contains("app is missing"));
        }
    }
}
