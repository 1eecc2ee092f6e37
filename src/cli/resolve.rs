//! `hobnob resolve`: what a node's DNS answers, and why each instance is or is not in it.

use std::{collections::BTreeMap, io, net::SocketAddr, process::ExitCode};

use clap::{Args, ValueEnum};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    asked::{Asked, Places, domain_of},
    client::{self, Client},
    failure::{Code, Failure},
    output::{self, Format, Reading},
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
    /// The zone to ask for the service in [default: the agent's first]
    #[arg(long)]
    zone: Option<String>,
    #[command(flatten)]
    reading: Reading,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    A,
    Aaaa,
    Srv,
    Txt,
}

impl From<Kind> for dns::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::A => Self::A,
            Kind::Aaaa => Self::Aaaa,
            Kind::Srv => Self::Srv,
            Kind::Txt => Self::Txt,
        }
    }
}

pub(super) async fn run(client: &Client, flags: &Flags) -> Result<ExitCode, Failure> {
    let is_whole = flags.name.contains('.');
    let status = client.get("/api/v1/status").await?;
    let server = server(client, &status).await?;
    let zones: Vec<&str> = status["zones"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let zone = flags.zone.as_deref().or(zones.first().copied()).unwrap_or("mesh.internal");
    let is_served = |zone: &str| zones.iter().any(|own| own.trim_end_matches('.').eq_ignore_ascii_case(zone));
    if !is_whole && !is_served(zone.trim_end_matches('.')) {
        let what = format!("{zone} is none of the agent's zones, which are {}", zones.join(", "));
        let why = "others would be asked for it, who do not know the mesh";
        return Err(Failure::new(what, why, "dns.zones in the agent's settings").code(Code::Usage));
    }
    let question = if is_whole { flags.name.clone() } else { domain_of(&flags.name, zone) };
    let asked = Asked::of(&question, zones.iter().copied());
    let look = async || {
        let mut reply = ask(server, &question, flags.kind.into()).await?;
        if flags.reading.watch {
            // That equals take turns is no news.
            reply.answers.sort_by(|a, b| a.data.cmp(&b.data));
        }
        let (mut known, mut found) = (Known::default(), Vec::new());
        if let Some(service) = &asked.service {
            (found, known.reasons) = (instances(client, service).await?, reasons(client, service).await?);
        }
        if asked.has_datacenter() {
            known.datacenters = datacenters(client).await?;
            known.agent = status["node"].as_str().and_then(|node| known.datacenters.get(node)).cloned();
        }
        // Other APIs register names with dots in them, which DNS takes for names of several labels.
        let meant = is_whole && !instances(client, &flags.name).await?.is_empty();
        let meant = meant.then(|| domain_of(&flags.name, zone));
        let explained = found.iter().map(|instance| explain(instance, &asked, &known, &reply, flags.kind));
        let mut explained: Vec<Value> = explained.collect();
        explained.extend(unlisted(&known, &found));
        Ok(json!({ "question": question, "service": asked.service, "server": server, "reply": reply,
                   "instances": explained, "service_of_that_name": meant, "in_zone": asked.is_within }))
    };
    let seen = output::follow(&flags.reading, look, |seen| show(seen, flags.reading.format)).await?;
    outcome(&flags.name, &seen)
}

async fn ask(server: SocketAddr, question: &str, kind: dns::Kind) -> Result<dns::Reply, Failure> {
    dns::ask(server, question, kind).await.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => {
            Failure::new(format!("{question:?} is no domain name"), error, "hobnob resolve --help").code(Code::Usage)
        }
        _ => Failure::new(format!("no DNS answer from {server}"), error, "hobnob status").code(Code::Unreachable),
    })
}

fn show(seen: &Value, format: Format) -> String {
    match format {
        Format::Table => tables(seen),
        Format::Name => {
            let answers = seen["reply"]["answers"].as_array().into_iter().flatten();
            answers.map(|record| output::cell(&record["data"])).collect::<Vec<_>>().join("\n")
        }
        Format::Json => format!("{seen:#}"),
        Format::Jsonl => seen.to_string(),
    }
}

/// What to say of it besides, and what the command ends with.
fn outcome(name: &str, seen: &Value) -> Result<ExitCode, Failure> {
    let text = |value: &Value| value.as_str().map(String::from);
    let code = text(&seen["reply"]["code"]).unwrap_or_default();
    let meant = text(&seen["service_of_that_name"]);
    let dots = format!("DNS takes the dots for ends of labels, and there is a service of exactly the name {name:?}");
    if code == "NOERROR" {
        if let Some(meant) = &meant {
            output::say(format_args!("hobnob: {dots}: hobnob resolve '{meant}'"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let what = format!("{} got {code}", text(&seen["question"]).unwrap_or_default());
    if let Some(meant) = meant {
        return Err(Failure::new(what, dots, format!("hobnob resolve '{meant}', or hobnob service {name}")));
    }
    let (why, next) = match &*code {
        "REFUSED" => (
            "it is in none of this agent's zones (dns.zones), or dns.allow leaves this machine out",
            "hobnob config show",
        ),
        "SERVFAIL" => ("the agent is not ready, or the resolvers that it forwards to do not answer", "hobnob status"),
        _ if seen["in_zone"] == false => (
            "it is in none of the agent's zones (dns.zones), and so say the resolvers in dns.forward",
            "hobnob config show",
        ),
        _ if seen["service"].is_null() => ("there is no such node", "hobnob members"),
        _ if seen["instances"] == json!([]) => ("nobody registers a service of that name", "hobnob services"),
        _ => ("the name leaves out all of its instances, or none is healthy: see above", "hobnob services"),
    };
    Err(Failure::new(what, why, next))
}

/// Where the agent's DNS listens, as this machine reaches it.
async fn server(client: &Client, status: &Value) -> Result<SocketAddr, Failure> {
    let address = status["addresses"]["dns"].as_str().and_then(|address| address.parse::<SocketAddr>().ok());
    let address = address.ok_or_else(|| {
        Failure::new("this agent serves no DNS", "its status names no address of it", "hobnob status")
    })?;
    let Some(agent) = client.address().await.filter(|agent| !agent.is_loopback()) else { return Ok(address) };
    if address.ip().is_loopback() {
        let why = format!("it listens on {address} there, which nobody else reaches");
        let next = format!(
            "hobnob resolve on {agent} itself, or listen.dns = \"{}\" there",
            SocketAddr::new(agent, address.port())
        );
        return Err(Failure::new("the DNS of that agent cannot be asked from here", why, next).code(Code::Unreachable));
    }
    Ok(if address.ip().is_unspecified() { SocketAddr::new(agent, address.port()) } else { address })
}

/// The datacenter of each node.
async fn datacenters(client: &Client) -> Result<BTreeMap<String, String>, Failure> {
    let members = client.get("/api/v1/members").await?;
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    Ok(members.as_array().into_iter().flatten().map(|row| (text(row, "node"), text(row, "datacenter"))).collect())
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
async fn reasons(client: &Client, service: &str) -> Result<BTreeMap<(String, String), Reason>, Failure> {
    let path = format!("/api/v1/explain/{}?kind=service", client::segment(service));
    let answer = client.call(Method::GET, &path, None).await?;
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let rows = answer.body["instances"].as_array().cloned().unwrap_or_default();
    let reason = |row: &Value| Reason { shown: row["shown"] == true, why: text(row, "why") };
    Ok(rows.iter().map(|row| ((text(row, "node"), text(row, "id")), reason(row))).collect())
}

/// Why the agent shows an instance or not.
struct Reason {
    shown: bool,
    why: String,
}

/// What is known of the instances besides themselves.
#[derive(Default)]
struct Known {
    /// Why the agent shows each or not, by node and id.
    reasons: BTreeMap<(String, String), Reason>,
    datacenters: BTreeMap<String, String>,
    /// The datacenter of the agent itself.
    agent: Option<String>,
}

/// One instance with whether it is in the answer, and why.
fn explain(instance: &Value, asked: &Asked, known: &Known, reply: &dns::Reply, kind: Kind) -> Value {
    let text = |field: &str| instance[field].as_str().unwrap_or_default();
    let address = text("address");
    let served = matches!(text("health"), "passing" | "warning");
    let answered = served && reply.answers.iter().any(|record| stands_for(record, instance, kind));
    let other = match kind {
        Kind::A => address.parse::<std::net::Ipv6Addr>().is_ok(),
        Kind::Aaaa => address.parse::<std::net::Ipv4Addr>().is_ok(),
        Kind::Srv | Kind::Txt => false,
    };
    let reason = known.reasons.get(&(text("node").into(), text("id").into())).map(|reason| reason.why.clone());
    let places =
        Places { instance: known.datacenters.get(text("node")).map(String::as_str), agent: known.agent.as_deref() };
    let left_out = asked.leaves_out(instance, places);
    let is_name = matches!(kind, Kind::A | Kind::Aaaa) && !other && address.parse::<std::net::IpAddr>().is_err();
    let why = if answered {
        let seen = format!("its health is {}, its node is {}", text("health"), text("member"));
        reason.filter(|_| text("member") != "alive" || instance["held"].is_string()).unwrap_or(seen)
    } else if !served {
        reason.unwrap_or_else(|| format!("its health is {}", text("health")))
    } else if let Some(why) = left_out {
        why
    } else if is_name && !reply.answers.is_empty() {
        format!("{address} is a host name, which beside addresses has no place (RFC 1034 section 3.6.2)")
    } else if other {
        format!("{address} is of the other family")
    } else if kind == Kind::Srv && instance["port"].is_null() {
        "it has no port".into()
    } else if kind == Kind::Txt && instance["meta"].as_object().is_none_or(serde_json::Map::is_empty) {
        "it has no meta".into()
    } else if reply.answers.is_empty() {
        format!("the answer is {} without records", reply.code)
    } else {
        "the settings of [dns] leave it out, or another at its address stands for it".into()
    };
    json!({ "id": instance["id"], "node": instance["node"], "address": address, "port": asked.port_of(instance),
            "answered": answered, "why": why })
}

/// Those that no list shows, since their nodes are down or came back too often.
fn unlisted(known: &Known, found: &[Value]) -> Vec<Value> {
    let is_listed = |(node, id): &(String, String)| found.iter().any(|one| one["node"] == **node && one["id"] == **id);
    let hidden = known.reasons.iter().filter(|(place, reason)| !reason.shown && !is_listed(place));
    let row = |((node, id), reason): (&(String, String), &Reason)| json!({ "id": id, "node": node, "address": null, "port": null, "answered": false, "why": reason.why });
    hidden.map(row).collect()
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

fn tables(seen: &Value) -> String {
    let records = |section: &str| seen["reply"][section].as_array().into_iter().flatten();
    let mut table = output::table(["NAME", "TTL", "TYPE", "DATA"]);
    for record in records("answers").chain(records("additionals")) {
        table.add_row(["name", "ttl", "type", "data"].map(|field| output::cell(&record[field])));
    }
    let is_empty = records("answers").next().is_none();
    let answer =
        if is_empty { format!("{}, no records", output::cell(&seen["reply"]["code"])) } else { table.trim_fmt() };
    let explained = &seen["instances"];
    if *explained == json!([]) { answer } else { format!("{answer}\n\n{}", WHY.render(explained, Format::Table)) }
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
    fn who_is_kept_is_not_said_to_pass() {
        let record = dns::Record { name: "web.".into(), kind: "A".into(), ttl: 0, data: "10.0.0.1".into() };
        let reply = dns::Reply { code: "NOERROR".into(), answers: vec![record], additionals: Vec::new() };
        let mut instance =
            json!({ "id": "web", "node": "n1", "address": "10.0.0.1", "health": "passing", "member": "alive" });
        let reason = Reason { shown: true, why: "kept: most of its service turned critical".into() };
        let known = Known { reasons: [(("n1".into(), "web".into()), reason)].into(), ..Known::default() };
        let why = |instance: &Value| explain(instance, &Asked::default(), &known, &reply, Kind::A)["why"].clone();
        assert_eq!(why(&instance), "its health is passing, its node is alive");
        instance["held"] = "protected".into();
        assert_eq!(why(&instance), "kept: most of its service turned critical");
    }

    #[test]
    fn each_instance_has_its_reason() {
        let record = dns::Record { name: "web.".into(), kind: "A".into(), ttl: 0, data: "10.0.0.1".into() };
        let reply = dns::Reply { code: "NOERROR".into(), answers: vec![record], additionals: Vec::new() };
        let why = |address: &str, health: &str| {
            let instance = json!({ "id": "web", "address": address, "port": 80, "health": health, "member": "alive" });
            let reason = Reason { shown: false, why: "check http-1 is critical".into() };
            let reasons = BTreeMap::from([((String::new(), "down".into()), reason)]);
            let known = Known { reasons, ..Known::default() };
            let explained = explain(&instance, &Asked::default(), &known, &reply, Kind::A);
            (explained["answered"] == true, explained["why"].as_str().unwrap().to_owned())
        };
        assert_eq!(why("10.0.0.1", "passing"), (true, "its health is passing, its node is alive".into()));
        assert_eq!(why("10.0.0.1", "critical"), (false, "its health is critical".into()));
        assert_eq!(why("fd00::1", "passing"), (false, "fd00::1 is of the other family".into()));
    }
}
