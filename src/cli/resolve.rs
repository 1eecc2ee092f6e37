//! `hobnob resolve`: what a node's DNS answers, and why each instance is or is not in it.

use std::{collections::BTreeMap, io, net::SocketAddr, process::ExitCode};

use clap::{Args, ValueEnum};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    client::{self, Client},
    failure::{Code, Failure},
    output::{self, Format},
    services,
};
use crate::dns;

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// A service, or a whole domain name to ask for as it is
    name: String,
    /// The type of records to ask for
    #[arg(long = "type", value_enum, default_value_t = Kind::A)]
    kind: Kind,
    /// The zone to ask for the service in
    #[arg(long, default_value = "mesh.internal")]
    zone: String,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    A,
    Aaaa,
    Srv,
    Txt,
}

pub(super) async fn run(client: &Client, flags: &Flags) -> Result<ExitCode, Failure> {
    let is_whole = flags.name.contains('.');
    let question = if is_whole { flags.name.clone() } else { domain_of(&flags.name, &flags.zone) };
    let server = server(client).await?;
    let kind = match flags.kind {
        Kind::A => dns::Kind::A,
        Kind::Aaaa => dns::Kind::Aaaa,
        Kind::Srv => dns::Kind::Srv,
        Kind::Txt => dns::Kind::Txt,
    };
    let reply = dns::ask(server, &question, kind).await.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => {
            Failure::new(format!("{question:?} is no domain name"), error, "hobnob resolve --help").code(Code::Usage)
        }
        _ => Failure::new(format!("no DNS answer from {server}"), error, "hobnob status").code(Code::Unreachable),
    })?;
    let (found, reasons) = match service_of(&question) {
        Some(service) => (instances(client, &service).await?, reasons(client, &service).await?),
        None => (Vec::new(), BTreeMap::new()),
    };
    // Other APIs register names with dots in them, which DNS takes for names of several labels.
    let meant = is_whole && !instances(client, &flags.name).await?.is_empty();
    let meant = meant.then(|| domain_of(&flags.name, &flags.zone));
    let explained = found.iter().map(|instance| explain(instance, &reasons, &reply, flags.kind));
    let explained: Vec<Value> = explained.collect();
    match flags.format {
        Format::Table => output::print(&tables(&reply, &explained)),
        Format::Name => output::print(&lines(reply.answers.iter().map(|record| record.data.clone()))),
        Format::Json | Format::Jsonl => {
            let all = json!({ "question": question, "server": server, "reply": reply, "instances": explained,
                              "service_of_that_name": meant });
            output::print(&if flags.format == Format::Json { format!("{all:#}") } else { all.to_string() });
        }
    }
    let name = &flags.name;
    let dots = format!("DNS takes the dots for ends of labels, and there is a service of exactly the name {name:?}");
    if reply.code == "NOERROR" {
        if let Some(meant) = &meant {
            eprintln!("hobnob: {dots}: hobnob resolve '{meant}'");
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(meant) = meant {
        let next = format!("hobnob resolve '{meant}', or hobnob service {name}");
        return Err(Failure::new(format!("{question} got {}", reply.code), dots, next));
    }
    let (why, next) = match &*reply.code {
        "REFUSED" => (
            "it is in none of this agent's zones (dns.zones), or dns.allow leaves this machine out",
            "hobnob config show",
        ),
        "SERVFAIL" => ("the agent is not ready, or the resolvers that it forwards to do not answer", "hobnob status"),
        _ if service_of(&question).is_none() => ("there is no such node", "hobnob members"),
        _ if found.is_empty() => ("nobody registers a service of that name", "hobnob services"),
        _ => ("see above", "hobnob services"),
    };
    Err(Failure::new(format!("{question} got {}", reply.code), why, next))
}

/// The service that a domain name is about: what stands before `service`, or first, as in `_web._tcp`.
fn service_of(name: &str) -> Option<String> {
    let labels = labels(name);
    let before = labels.iter().skip(1).position(|label| label.eq_ignore_ascii_case("service"));
    let label = before.and_then(|at| labels.get(at)).filter(|label| !label.starts_with('_'));
    // `_web._tcp.service` names its service by the first label that begins so.
    let label = label.or_else(|| labels.iter().find(|label| label.starts_with('_')));
    label.map(|label| label.strip_prefix('_').unwrap_or(label).to_owned())
}

/// The labels of a domain name, without their escapes (RFC 1035 section 5.1).
fn labels(name: &str) -> Vec<String> {
    let (mut labels, mut chars) = (vec![String::new()], name.chars());
    while let Some(c) = chars.next() {
        let digits = chars.as_str().get(..3).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()));
        let byte = digits.and_then(|digits| digits.parse::<u8>().ok());
        match (c, byte, labels.last_mut()) {
            ('.', ..) => labels.push(String::new()),
            ('\\', Some(byte), Some(label)) => {
                label.push(char::from(byte));
                chars = chars.as_str()[3..].chars();
            }
            ('\\', None, Some(label)) => label.extend(chars.next()),
            (_, _, Some(label)) => label.push(c),
            (_, _, None) => {}
        }
    }
    labels
}

/// The domain name of a service, whatever it is called.
fn domain_of(service: &str, zone: &str) -> String {
    let escaped = service.chars().map(|c| match c {
        '.' | '\\' | '"' | '(' | ')' | ';' | '@' | '$' => format!("\\{c}"),
        ' ' => "\\032".into(),
        c => c.into(),
    });
    format!("{}.service.{zone}", escaped.collect::<String>())
}

/// Where the agent's DNS listens.
async fn server(client: &Client) -> Result<SocketAddr, Failure> {
    let status = client.get("/api/v1/status").await?;
    let address = status["addresses"]["dns"].as_str().and_then(|address| address.parse().ok());
    address
        .ok_or_else(|| Failure::new("this agent serves no DNS", "its status names no address of it", "hobnob status"))
}

async fn instances(client: &Client, service: &str) -> Result<Vec<Value>, Failure> {
    let answer = match client.call(Method::GET, &services::path(service), None).await {
        // Nobody can have registered such a name.
        Err(failure) if failure.is_usage() => return Ok(Vec::new()),
        answer => answer?,
    };
    match (answer.status, answer.body) {
        (StatusCode::NOT_FOUND, _) => Ok(Vec::new()),
        (_, Value::Array(all)) => Ok(all),
        (_, other) => Err(Failure::new("the agent's answer makes no sense", other, "hobnob --version")),
    }
}

/// Why the agent shows each instance or not, by node and id.
async fn reasons(client: &Client, service: &str) -> Result<BTreeMap<(String, String), String>, Failure> {
    let path = format!("/api/v1/explain/{}?kind=service", client::segment(service));
    let answer = client.call(Method::GET, &path, None).await?;
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let rows = answer.body["instances"].as_array().cloned().unwrap_or_default();
    Ok(rows.iter().map(|row| ((text(row, "node"), text(row, "id")), text(row, "why"))).collect())
}

/// One instance with whether it is in the answer, and why.
fn explain(instance: &Value, reasons: &BTreeMap<(String, String), String>, reply: &dns::Reply, kind: Kind) -> Value {
    let text = |field: &str| instance[field].as_str().unwrap_or_default();
    let address = text("address");
    let served = matches!(text("health"), "passing" | "warning");
    let answered = served && reply.answers.iter().any(|record| stands_for(record, instance, kind));
    let other = match kind {
        Kind::A => address.parse::<std::net::Ipv6Addr>().is_ok(),
        Kind::Aaaa => address.parse::<std::net::Ipv4Addr>().is_ok(),
        Kind::Srv | Kind::Txt => false,
    };
    let why = if answered {
        format!("its health is {}, its node is {}", text("health"), text("member"))
    } else if !served {
        let reason = reasons.get(&(text("node").into(), text("id").into()));
        reason.cloned().unwrap_or_else(|| format!("its health is {}", text("health")))
    } else if other {
        format!("{address} is of the other family")
    } else if kind == Kind::Srv && instance["port"].is_null() {
        "it has no port of that name".into()
    } else if kind == Kind::Txt && instance["meta"].as_object().is_none_or(serde_json::Map::is_empty) {
        "it has no meta".into()
    } else if reply.answers.is_empty() {
        format!("the answer is {} without records", reply.code)
    } else {
        let tags: Vec<&str> = instance["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        format!(
            "the name, the settings of [dns] or another at its address leave it out: health {}, tags [{}]",
            text("health"),
            tags.join(", ")
        )
    };
    json!({ "id": instance["id"], "node": instance["node"], "address": address, "port": instance["port"],
            "answered": answered, "why": why })
}

/// Whether a record of the answer tells of an instance.
fn stands_for(record: &dns::Record, instance: &Value, kind: Kind) -> bool {
    let text = |field: &str| instance[field].as_str().unwrap_or_default();
    let address = text("address");
    let is_host = |name: &str| name.trim_end_matches('.').eq_ignore_ascii_case(address.trim_end_matches('.'));
    match kind {
        Kind::A | Kind::Aaaa => record.data == address || record.kind == "CNAME" && is_host(&record.data),
        Kind::Srv => {
            // Priority, weight, port, target; without a port it is 0.
            let mut words = record.data.split(' ').skip(2);
            let (Some(port), Some(target)) = (words.next(), words.next()) else { return false };
            let label = target.split('.').next().unwrap_or_default();
            let ports = instance["ports"].as_object().into_iter().flat_map(serde_json::Map::values);
            let has_port =
                ports.chain([&instance["port"]]).any(|own| port.parse() == Ok(own.as_u64().unwrap_or_default()));
            let by_address = address.parse().is_ok_and(|address| label == dns::address_label(address));
            label == dns::label_of(text("node"), text("id")) || has_port && (by_address || is_host(target))
        }
        Kind::Txt => {
            let pairs = instance["meta"].as_object().into_iter().flatten();
            let mut pairs =
                pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).peekable();
            pairs.peek().is_some() && pairs.all(|pair| record.data.contains(&pair))
        }
    }
}

fn tables(reply: &dns::Reply, explained: &[Value]) -> String {
    let mut records = output::table(["NAME", "TTL", "TYPE", "DATA"]);
    for record in reply.answers.iter().chain(&reply.additionals) {
        records.add_row([&record.name, &record.ttl.to_string(), &record.kind, &record.data]);
    }
    let answer = if reply.answers.is_empty() { format!("{}, no records", reply.code) } else { records.trim_fmt() };
    if explained.is_empty() { answer } else { format!("{answer}\n\n{}", WHY.render(&explained.into(), Format::Table)) }
}

fn lines(all: impl Iterator<Item = String>) -> String {
    all.collect::<Vec<_>>().join("\n")
}

const WHY: output::Shape = output::Shape {
    name: "id",
    columns: &[
        ("INSTANCE", "id"),
        ("NODE", "node"),
        ("ADDRESS", "address"),
        ("PORT", "port"),
        ("ANSWERED", "answered"),
        ("WHY", "why"),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_service() {
        for name in ["web.service.mesh.internal", "v2.web.service.dc1.consul", "_web._tcp.mesh.internal"] {
            assert_eq!(service_of(name).as_deref(), Some("web"), "{name}");
        }
        for service in ["web", "a.b", "a b", "a\\b.", "\\032"] {
            assert_eq!(service_of(&domain_of(service, "mesh.internal")).as_deref(), Some(service));
        }
        for name in ["a.b", "web.node.mesh.internal", "0a000001.addr.mesh.internal", "www.example.com", "."] {
            assert_eq!(service_of(name), None, "{name}");
        }
        for name in ["_web._tcp.service.consul", "_http._tcp.web.service.mesh.internal", "i-1.Web.Service.consul"] {
            assert!(service_of(name).is_some_and(|name| name.eq_ignore_ascii_case("web")), "{name}");
        }
    }

    #[test]
    fn an_answer_shows_which_instances_it_is_about() {
        let record = |data: &str| dns::Record { name: "web.".into(), kind: "SRV".into(), ttl: 0, data: data.into() };
        let own = format!("1 256 80 {}.web.service.mesh.internal.", dns::label_of("n1", "web"));
        for (data, kind, answered) in [
            (&*own, Kind::Srv, true),
            ("1 256 80 i-000000000000.web.service.mesh.internal.", Kind::Srv, false),
            ("1 1 80 0a000001.addr.dc1.consul.", Kind::Srv, true),
            ("1 1 81 0a000001.addr.dc1.consul.", Kind::Srv, false),
            ("1 1 80 0a000002.addr.dc1.consul.", Kind::Srv, false),
            ("10.0.0.2", Kind::A, false),
            ("\"a=b\"", Kind::Txt, true),
            ("\"a=c\"", Kind::Txt, false),
        ] {
            let instance =
                json!({ "id": "web", "node": "n1", "address": "10.0.0.1", "port": 80, "meta": { "a": "b" } });
            assert_eq!(stands_for(&record(data), &instance, kind), answered, "{data}");
        }
    }

    #[test]
    fn each_instance_has_its_reason() {
        let record = dns::Record { name: "web.".into(), kind: "A".into(), ttl: 0, data: "10.0.0.1".into() };
        let reply = dns::Reply { code: "NOERROR".into(), answers: vec![record], additionals: Vec::new() };
        let why = |address: &str, health: &str| {
            let instance = json!({ "id": "web", "address": address, "port": 80, "health": health, "member": "alive" });
            let reasons = BTreeMap::from([((String::new(), "down".into()), "check http-1 is critical".into())]);
            let explained = explain(&instance, &reasons, &reply, Kind::A);
            (explained["answered"] == true, explained["why"].as_str().unwrap().to_owned())
        };
        assert_eq!(why("10.0.0.1", "passing"), (true, "its health is passing, its node is alive".into()));
        assert_eq!(why("10.0.0.1", "critical"), (false, "its health is critical".into()));
        assert_eq!(why("fd00::1", "passing"), (false, "fd00::1 is of the other family".into()));
    }
}
