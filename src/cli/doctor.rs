//! `hobnob doctor`: what is wrong with a node and its surroundings, each with what to do. Exit code 3 when something is.

use std::{fs, net::SocketAddr, process::ExitCode, time::SystemTime};

use clap::Args;
use humantime::parse_rfc3339;
use serde_json::{Value, json};

use super::{
    client::Client,
    failure::{Code, Failure},
    output::{self, Format, Shape},
};
use crate::dns;

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) async fn run(client: &Client, flags: &Flags) -> Result<ExitCode, Failure> {
    let status = client.get("/api/v1/status").await?;
    let members = client.get("/api/v1/members").await.unwrap_or_default();
    let mut found = vec![ready(&status), peers(&status, &members), agreement(&status), versions(&members)];
    found.push(certificate("certificate", &status["certificate"], ISSUE, SystemTime::now()));
    if !status["http_certificate"].is_null() {
        let next = "replace the files of http.tls";
        found.push(certificate("http certificate", &status["http_certificate"], next, SystemTime::now()));
    }
    found.push(answers(&status).await);
    found.extend([buffers(), descriptors()].into_iter().flatten());
    output::print(&SHAPE.render(&Value::Array(found.clone()), flags.format));
    let bad: Vec<_> = found.iter().filter(|finding| finding["status"] == "bad").collect();
    let Some(first) = bad.first() else { return Ok(ExitCode::SUCCESS) };
    let (what, why) = (format!("{} of {} findings are bad", bad.len(), found.len()), first["finding"].as_str());
    let next = first["next"].as_str().unwrap_or_default();
    Err(Failure::new(what, why.unwrap_or_default(), next).code(Code::Unhealthy))
}

fn finding(check: &str, status: &str, finding: impl Into<String>, next: &str) -> Value {
    json!({ "check": check, "status": status, "finding": finding.into(), "next": next })
}

fn ready(status: &Value) -> Value {
    match status["ready"].as_bool() {
        Some(true) => finding("ready", "ok", "answers are given", ""),
        _ => finding("ready", "bad", "the first sync is not done", "hobnob members; hobnob join ADDR"),
    }
}

fn peers(status: &Value, members: &Value) -> Value {
    let count = |state: &str| status["members"][state].as_u64().unwrap_or_default();
    let (alive, suspect, down) = (count("alive"), count("suspect"), count("down"));
    let said = format!("{alive} alive, {suspect} suspect, {down} down");
    let of = |state: &str| {
        let all = members.as_array().into_iter().flatten().filter(|member| member["state"] == state);
        all.filter_map(|member| member["node"].as_str()).take(FEW).collect::<Vec<_>>().join(", ")
    };
    match (alive, suspect, down) {
        (_, _, down) if down > alive => {
            finding("peers", "bad", format!("{said}: this node may be the one cut off"), "hobnob members; the network")
        }
        (.., down) if down > 0 => finding(
            "peers",
            "warning",
            format!("{said}: {}", of("down")),
            "hobnob explain NODE; hobnob force-leave NODE",
        ),
        (_, suspect, _) if suspect > 0 => {
            finding("peers", "warning", format!("{said}: {}", of("suspect")), "hobnob explain NODE")
        }
        (1, ..) => finding("peers", "warning", "this node is alone", "hobnob join ADDR"),
        _ => finding("peers", "ok", said, ""),
    }
}

fn agreement(status: &Value) -> Value {
    let agreement = status["agreement"].as_f64().unwrap_or(1.0);
    let said = format!("{:.0} % of the peers heard lately know the same", agreement * 100.0);
    if agreement >= ENOUGH {
        return finding("agreement", "ok", said, "");
    }
    finding("agreement", "warning", said, "look again in a few seconds; then hobnob members, for who is far or suspect")
}

fn versions(members: &Value) -> Value {
    let mut versions: Vec<_> =
        members.as_array().into_iter().flatten().filter_map(|member| member["version"].as_str()).collect();
    versions.sort_unstable();
    versions.dedup();
    match versions[..] {
        [] | [_] => finding("versions", "ok", versions.join(""), ""),
        _ => finding("versions", "warning", versions.join(", "), "finish the upgrade: hobnob members"),
    }
}

/// What this node proves itself with: the mesh lets nobody in whose certificate has expired, and no client believes it.
fn certificate(check: &str, said: &Value, next: &str, now: SystemTime) -> Value {
    let until = said["not_after"].as_str().unwrap_or_default();
    match parse_rfc3339(until) {
        Err(_) => finding(check, "warning", "the agent does not say how long its own is good", "hobnob status"),
        Ok(at) if at <= now => finding(check, "bad", format!("expired at {until}"), next),
        Ok(_) if said["expires_soon"] == true => finding(check, "warning", format!("expires at {until}"), next),
        Ok(_) => finding(check, "ok", format!("good until {until}"), ""),
    }
}

/// Asks the node's DNS for itself.
async fn answers(status: &Value) -> Value {
    let server = status["addresses"]["dns"].as_str().and_then(|address| address.parse::<SocketAddr>().ok());
    let Some(server) = server else { return finding("dns", "warning", "this agent serves no DNS", "hobnob status") };
    let name = format!("{}.node.mesh.internal", status["node"].as_str().unwrap_or_default());
    match dns::ask(server, &name, dns::Kind::A).await {
        Ok(reply) if reply.code == "SERVFAIL" => {
            finding("dns", "bad", "it answers SERVFAIL: not ready", "hobnob status")
        }
        Ok(reply) => finding("dns", "ok", format!("{server} answers {}", reply.code), ""),
        Err(error) => {
            finding("dns", "bad", format!("{server} does not answer: {error}"), "the agent's log; a firewall?")
        }
    }
}

/// The most the system lets a socket keep: a burst that does not fit is lost and sent again.
fn buffers() -> Option<Value> {
    let most: u64 = fs::read_to_string("/proc/sys/net/core/rmem_max").ok()?.trim().parse().ok()?;
    Some(match most {
        most if most >= BUFFER => finding("socket buffers", "ok", format!("{most} bytes"), ""),
        most => finding("socket buffers", "warning", format!("{most} bytes"), "sysctl -w net.core.rmem_max=2097152"),
    })
}

/// How many files this machine has open of those it may.
fn descriptors() -> Option<Value> {
    let text = fs::read_to_string("/proc/sys/fs/file-nr").ok()?;
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [used, _, most] = numbers[..] else { return None };
    let said = format!("{used} of {most}");
    let full = used > most / 10 * 9;
    let next = if full { "sysctl -w fs.file-max=NUMBER" } else { "" };
    Some(finding("open files", if full { "bad" } else { "ok" }, said, next))
}

const SHAPE: Shape = Shape {
    name: "check",
    columns: &[("CHECK", "check"), ("STATUS", "status"), ("FINDING", "finding"), ("NEXT", "next")],
};
const ISSUE: &str = "hobnob ca issue NODE, and put the files where the old ones are";
/// How many names of nodes fit a line.
const FEW: usize = 5;
/// Changes are always under way in a busy mesh: agreement is seldom whole.
const ENOUGH: f64 = 0.5;
/// What the kernel must let a socket keep for a burst of datagrams: Linux grants a tenth of it unless told.
const BUFFER: u64 = 212_992;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_say_how_bad_it_is() {
        let status = |alive: u64, suspect: u64, down: u64| json!({"members": {"alive": alive, "suspect": suspect, "down": down}});
        for (members, expected) in [
            ((3, 0, 0), "ok"),
            ((1, 0, 0), "warning"),
            ((3, 1, 0), "warning"),
            ((3, 0, 1), "warning"),
            ((1, 0, 4), "bad"),
        ] {
            let (alive, suspect, down) = members;
            assert_eq!(peers(&status(alive, suspect, down), &json!([]))["status"], expected, "{members:?}");
        }
        assert_eq!(ready(&json!({"ready": false}))["status"], "bad");
        let until = |not_after: &str, soon: bool| {
            let said = json!({"not_after": not_after, "expires_soon": soon});
            certificate("certificate", &said, ISSUE, SystemTime::now())
        };
        for (not_after, soon, expected) in [
            ("2999-01-01T00:00:00Z", false, "ok"),
            ("2999-01-01T00:00:00Z", true, "warning"),
            ("2020-01-01T00:00:00Z", true, "bad"),
            ("", false, "warning"),
        ] {
            assert_eq!(until(not_after, soon)["status"], expected, "{not_after}");
        }
        assert_eq!(versions(&json!([{"version": "1"}, {"version": "2"}]))["status"], "warning");
    }
}
