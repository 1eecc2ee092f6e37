//! `hobnob doctor`: what is wrong with a node and its surroundings, each with what to do. Exit code 3 when something is.

use std::{
    collections::BTreeMap,
    fmt::Display,
    fs, io,
    net::{SocketAddr, UdpSocket},
    process::ExitCode,
    time::SystemTime,
};

use humantime::parse_rfc3339;
use serde_json::{Value, json};

use super::{
    client::Client,
    failure::{Code, Failure},
    output::{self, Reading, Shape},
    status,
};
use crate::{agent, dns};

pub(super) async fn run(client: &Client, reading: &Reading) -> Result<ExitCode, Failure> {
    let found = output::follow(reading, async || examine(client).await, |found| SHAPE.render(found, reading.format));
    let found = found.await?;
    let found = found.as_array().map(Vec::as_slice).unwrap_or_default();
    let bad: Vec<_> = found.iter().filter(|finding| finding["status"] == "bad").collect();
    let Some(first) = bad.first() else { return Ok(ExitCode::SUCCESS) };
    let (what, why) = (format!("{} of {} findings are bad", bad.len(), found.len()), first["finding"].as_str());
    let next = first["next"].as_str().unwrap_or_default();
    Err(Failure::new(what, why.unwrap_or_default(), next).code(Code::Unhealthy))
}

/// All findings of now.
async fn examine(client: &Client) -> Result<Value, Failure> {
    let status = client.get("/api/v1/status").await?;
    let members = client.get("/api/v1/members").await.unwrap_or_default();
    let mut found: Vec<_> = outcast(&status).into_iter().collect();
    found.extend([partition(&status), protected(&status)].into_iter().flatten());
    found.extend([ready(&status), peers(&status, &members), address(&status, &members)]);
    found.extend([agreement(&status), versions(&members)]);
    let next = if status["certificate"]["from_files"] == false { "hobnob reload".into() } else { issue(&status) };
    found.push(certificate("certificate", &status["certificate"], &next, SystemTime::now()));
    found.extend(ended(&status));
    let law = [decrees(&status), crowded(&status), lost(&status), unheeded(&status), unvouched(&status)];
    found.extend(law.into_iter().flatten());
    if !status["http_certificate"].is_null() {
        let next = "replace the files of http.tls";
        found.push(certificate("http certificate", &status["http_certificate"], next, SystemTime::now()));
    }
    found.push(store(&status));
    found.push(answers(&status).await);
    found.extend([buffers(), descriptors(&status)].into_iter().flatten());
    Ok(Value::Array(found))
}

fn finding(check: &str, status: &str, finding: impl Into<String>, next: &str) -> Value {
    json!({ "check": check, "status": status, "finding": finding.into(), "next": next })
}

fn ready(status: &Value) -> Value {
    match status["ready"].as_bool() {
        Some(true) => finding("ready", "ok", "answers are given", ""),
        _ => {
            let why: Vec<_> = status["unready"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let said = if why.is_empty() { "no answers are given yet".into() } else { why.join("; ") };
            finding("ready", "bad", said, "hobnob members; hobnob join ADDR")
        }
    }
}

/// That this node goes on showing nodes that it cannot reach.
fn partition(status: &Value) -> Option<Value> {
    let (since, held) = (status["partition"]["since"].as_str()?, status["partition"]["held"].as_u64()?);
    let said = format!("this node takes itself for the one cut off since {since}: it shows {held} that are down");
    let next = "the network; hobnob force-leave NODE, of who is gone for good. It ends once more are here than are held, or \
                after 15 min";
    Some(finding("partition", "bad", said, next))
}

/// That services are served as they were before most of each turned critical.
fn protected(status: &Value) -> Option<Value> {
    let services: Vec<_> = status["protected"].as_array()?.iter().filter_map(Value::as_str).take(FEW).collect();
    let said = format!("most of {} turned critical within moments: served as before", services.join(", "));
    let next =
        "what they share: hobnob events; hobnob explain SERVICE. It ends after protect_for, or once half is well";
    (!services.is_empty()).then(|| finding("protection", "warning", said, next))
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
        (1, ..) => match status["unjoined"][0].as_str() {
            Some(why) => {
                finding("peers", "warning", format!("this node is alone: {why}"), "mend that, or hobnob join ADDR")
            }
            None => finding("peers", "warning", "this node is alone", "hobnob join ADDR"),
        },
        _ => finding("peers", "ok", said, ""),
    }
}

/// Whether others, who are told this node's address, find this node there.
fn address(status: &Value, members: &Value) -> Value {
    let (mut holders, mut own) = (BTreeMap::<SocketAddr, Vec<&str>>::new(), None);
    for member in members.as_array().into_iter().flatten().filter(|member| member["state"] == "alive") {
        let at = member["address"].as_str().and_then(|at| at.parse().ok());
        let (Some(at), Some(node)) = (at, member["node"].as_str()) else { continue };
        holders.entry(at).or_default().push(node);
        own = own.or_else(|| (member["node"] == status["node"]).then_some(at));
    }
    let bad = |status, said| finding("address", status, said, "hobnob agent --advertise ADDR, where others find it");
    let Some(own) = own else { return finding("address", "ok", "others are told of none yet", "") };
    if own.ip().is_loopback() && holders.keys().any(|at| !at.ip().is_loopback()) {
        return bad("bad", format!("others are told {own}, where each finds itself"));
    }
    if let Some((at, nodes)) = holders.iter().find(|(_, nodes)| nodes.len() > 1) {
        let nodes = nodes.iter().take(FEW).copied().collect::<Vec<_>>().join(", ");
        return bad("warning", format!("{nodes} all say that they are at {at}"));
    }
    let is_elsewhere = |why: io::Error| why.kind() == io::ErrorKind::AddrNotAvailable;
    if UdpSocket::bind((own.ip(), 0)).is_err_and(is_elsewhere) {
        return bad(
            "warning",
            format!("others are told {own}, which this machine does not have: right behind a NAT alone"),
        );
    }
    finding("address", "ok", format!("others are told {own}"), "")
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
    if let Some(why) = said["not_reloaded"].as_str() {
        let said = format!("its files are not those in use: {why}; the next start fails");
        return finding(check, "bad", said, "mend the files: they are looked at every few seconds");
    }
    let until = said["not_after"].as_str().unwrap_or_default();
    match parse_rfc3339(until) {
        Err(_) => finding(check, "warning", "the agent does not say how long its own is good", "hobnob status"),
        Ok(at) if at <= now => finding(check, "bad", format!("expired at {until}"), next),
        Ok(_) if said["not_renewed"].is_string() => {
            let why = said["not_renewed"].as_str().unwrap_or_default();
            finding(check, "warning", format!("expires at {until}, and tls.renew brings no other: {why}"), next)
        }
        Ok(_) if said["expires_soon"] == true => finding(check, "warning", format!("expires at {until}"), next),
        Ok(_) => {
            let [serial, issuer] = ["serial", "issuer"].map(|field| said[field].as_str().unwrap_or_default());
            let said_of = format!("serial {serial}, by {issuer}");
            if said["by_first"] == false {
                return finding(
                    check,
                    "warning",
                    format!("{said_of}: an authority that is not the first in tls.ca"),
                    next,
                );
            }
            finding(check, "ok", format!("good until {until}, {said_of}"), "")
        }
    }
}

/// How this node gets another certificate.
fn issue(status: &Value) -> String {
    format!("{}, and put the files where the old ones are", status::issue(status))
}

/// Authorities that have ended: nothing is believed by them.
fn ended(status: &Value) -> Option<Value> {
    let all: Vec<_> = status["ended_authorities"].as_array()?.iter().filter_map(Value::as_str).take(FEW).collect();
    let said = format!("an authority in tls.ca has ended: {}", all.join("; "));
    let next = "once no node's certificate and no tls.ca_key is of it any more, take it out of the file in tls.ca, on every \
                node: the file is looked at every few seconds";
    (!all.is_empty()).then(|| finding("authorities", "warning", said, next))
}

/// Words of an authority that goes, or has gone.
fn decrees(status: &Value) -> Option<Value> {
    let [all, by_none] = ["all", "by_none"].map(|field| status["stale_edicts"][field].as_u64().unwrap_or_default());
    let next = |file: &str| {
        format!(
            "hobnob ca sign-again --dir DIR --ca FILE, DIR of the authority that is the first in tls.ca, FILE {file}"
        )
    };
    match (all, by_none) {
        (0, _) => None,
        (_, 0) => {
            let said =
                format!("{all} revocations and tokens are signed by an authority that is not the first in tls.ca");
            Some(finding("decrees", "warning", said, &next("that very list")))
        }
        _ => {
            let said = format!(
                "{by_none} revocations and tokens are signed by no authority believed here: a restart forgets them"
            );
            Some(finding("decrees", "bad", said, &next("the certificate of the one that was dropped")))
        }
    }
}

/// Bounds of the law that are near: past them nothing is decreed.
fn crowded(status: &Value) -> Option<Value> {
    let (count, mend) = status["crowded_edicts"][0].as_str()?.split_once(": ")?;
    Some(finding("decrees", "warning", count, mend))
}

/// A law that could not be read at the start, and that nobody has told since.
fn lost(status: &Value) -> Option<Value> {
    let file = status["lost_edicts"].as_str()?;
    let said = format!("revocations and tokens were lost: their file was damaged, and lies in {file}");
    let next = format!("hobnob join ADDR, of a node that knows them; or revoke again what was revoked, then rm {file}");
    Some(finding("decrees", "bad", said, &next))
}

/// Words of the authority that the others heed and this node does not.
fn unheeded(status: &Value) -> Option<Value> {
    let [future, unsigned] =
        ["future", "unsigned"].map(|field| status["refused_edicts"][field].as_u64().unwrap_or_default());
    match (future, unsigned) {
        (0, 0) => None,
        (0, _) => {
            let said = format!(
                "{unsigned} words (revocations, tokens) are refused here: nobody in tls.ca, or no secret of this node's, has \
                 signed them, or a member makes them up"
            );
            let next = "add the others' authority to tls.ca (their secret to secret_file), or hobnob ca sign-again; if they \
                        show no such warning, look at the peer of edict_refused in this node's log";
            Some(finding("words", "warning", said, next))
        }
        _ => {
            let said = format!(
                "{future} words of the authority (revocations, tokens) are refused here: by its clock they are of the future"
            );
            Some(finding(
                "words",
                "bad",
                said,
                "set this machine's clock: timedatectl; they are heard again within a minute",
            ))
        }
    }
}

/// Nodes that are here and whose services are not.
fn unvouched(status: &Value) -> Option<Value> {
    let nodes: Vec<_> = status["unvouched"].as_array()?.iter().filter_map(Value::as_str).take(FEW).collect();
    let said = format!("nothing of what {} serves is taken: its certificate is not believed here", nodes.join(", "));
    let next = "hobnob doctor at that node; tls.ca here and there, and both clocks";
    (!nodes.is_empty()).then(|| finding("vouchers", "warning", said, next))
}

/// That the mesh lets this node in no more: whatever else is well, it is alone.
fn outcast(status: &Value) -> Option<Value> {
    status::outcast(status).map(|(why, next)| finding("membership", "bad", why, &next))
}

/// Whether the last write to the store is on the disk.
fn store(status: &Value) -> Value {
    match status["unstored"].as_str() {
        None => finding("store", "ok", "what was written last is on the disk", ""),
        Some(why) => {
            finding("store", "bad", format!("what was written last is not on the disk: {why}"), agent::keep::mend(why))
        }
    }
}

/// Asks the node's DNS for itself.
async fn answers(status: &Value) -> Value {
    let server = status["addresses"]["dns"].as_str().and_then(|address| address.parse::<SocketAddr>().ok());
    let Some(server) = server else { return finding("dns", "warning", "this agent serves no DNS", "hobnob status") };
    let zone = status["zones"][0].as_str().unwrap_or("mesh.internal");
    let name = format!("{}.node.{zone}", status["node"].as_str().unwrap_or_default());
    answered(server, &name, dns::ask(server, &name, dns::Kind::A).await.map(|reply| reply.code))
}

/// What the answer to a question for the node itself tells.
fn answered(server: SocketAddr, name: &str, code: Result<String, impl Display>) -> Value {
    match code.as_deref() {
        Ok(code @ "NOERROR") => finding("dns", "ok", format!("{server} answers {code} for {name}"), ""),
        Ok("SERVFAIL") => finding("dns", "bad", "it answers SERVFAIL: not ready", "hobnob status"),
        Ok(code) => finding(
            "dns",
            "warning",
            format!("{server} answers {code} for {name}"),
            "hobnob config show; the agent's log",
        ),
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

/// How many files the agent has open of those it may.
fn descriptors(status: &Value) -> Option<Value> {
    let (open, limit) = (status["files"]["open"].as_u64()?, status["files"]["limit"].as_u64()?);
    let said = format!("{open} of {limit}");
    Some(match open > limit / 10 * 9 {
        true => {
            finding("open files", "bad", said, "ulimit -Hn NUMBER, or LimitNOFILE=NUMBER in its unit; then a restart")
        }
        false => finding("open files", "ok", said, ""),
    })
}

const SHAPE: Shape = Shape {
    name: "check",
    columns: &[("CHECK", "check"), ("STATUS", "status"), ("FINDING", "finding"), ("NEXT", "next")],
};
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
        let alone = json!({"members": {"alive": 1}, "unjoined": ["seed a:1 cannot be joined: their clocks differ"]});
        assert!(peers(&alone, &json!([]))["finding"].as_str().unwrap().ends_with("their clocks differ"));
        assert_eq!(ready(&json!({"ready": false}))["status"], "bad");
        let apart = partition(&json!({"partition": {"since": "2026", "held": 3}})).unwrap();
        assert!(apart["finding"].as_str().unwrap().ends_with("since 2026: it shows 3 that are down"), "{apart}");
        assert_eq!((&apart["status"], partition(&json!({}))), (&"bad".into(), None));
        let kept = protected(&json!({"protected": ["db", "web"]})).unwrap();
        assert!(kept["finding"].as_str().unwrap().starts_with("most of db, web turned"), "{kept}");
        assert_eq!((&kept["status"], protected(&json!({}))), (&"warning".into(), None));
        let member = |node: &str, address: &str| json!({"node": node, "address": address, "state": "alive"});
        for (own, other, expected) in [
            ("127.0.0.1:7946", "127.0.0.1:7947", "ok"),
            ("127.0.0.1:7946", "127.0.0.1:7946", "warning"),
            ("127.0.0.1:7946", "10.9.0.2:7946", "bad"),
            // Of nobody's machine (RFC 5737).
            ("192.0.2.1:7946", "10.9.0.2:7946", "warning"),
        ] {
            let told = address(&json!({"node": "a"}), &json!([member("a", own), member("b", other)]));
            assert_eq!(told["status"], expected, "{told}");
        }
        for (code, expected) in
            [(Ok("NOERROR"), "ok"), (Ok("REFUSED"), "warning"), (Ok("SERVFAIL"), "bad"), (Err("timed out"), "bad")]
        {
            let told = answered(([127, 0, 0, 1], 53).into(), "a.node.mesh.internal", code.map(String::from));
            assert_eq!(told["status"], expected, "{told}");
        }
        for (open, expected) in [(10, "ok"), (90, "ok"), (95, "bad")] {
            let told = descriptors(&json!({"files": {"open": open, "limit": 100}})).unwrap();
            assert_eq!(told["status"], expected, "{told}");
        }
        for (refused, expected) in [((0, 2), "warning"), ((1, 2), "bad")] {
            let told = unheeded(&json!({"refused_edicts": {"future": refused.0, "unsigned": refused.1}})).unwrap();
            assert_eq!(told["status"], expected, "{told}");
        }
        assert!(unheeded(&json!({})).is_none() && unvouched(&json!({})).is_none());
        assert!(unvouched(&json!({"unvouched": ["c"]})).unwrap()["finding"].as_str().unwrap().contains(" c serves"));
        assert_eq!(store(&json!({"unstored": "no space"}))["status"], "bad");
        let next = store(&json!({"unstored": "Too many open files (os error 24)"}))["next"].clone();
        assert!(next.as_str().unwrap().contains("LimitNOFILE"), "{next}");
        assert_eq!(store(&json!({}))["status"], "ok");
        assert_eq!(versions(&json!([{"version": "1"}, {"version": "2"}]))["status"], "warning");
    }

    #[test]
    fn what_a_node_proves_itself_with_is_looked_at() {
        let until = |not_after: &str, soon: bool| {
            let said = json!({"not_after": not_after, "expires_soon": soon});
            certificate("certificate", &said, "issue", SystemTime::now())
        };
        for (not_after, soon, expected) in [
            ("2999-01-01T00:00:00Z", false, "ok"),
            ("2999-01-01T00:00:00Z", true, "warning"),
            ("2020-01-01T00:00:00Z", true, "bad"),
            ("", false, "warning"),
        ] {
            assert_eq!(until(not_after, soon)["status"], expected, "{not_after}");
        }
        let alone = json!({"not_after": "2999-01-01T00:00:00Z", "not_renewed": "nobody else is there"});
        let told = certificate("certificate", &alone, "issue", SystemTime::now());
        assert!(told["status"] == "warning" && told["finding"].as_str().unwrap().contains("nobody else"), "{told}");
        let wrong = json!({"not_after": "2999-01-01T00:00:00Z", "not_reloaded": "key is not the key of cert"});
        assert_eq!(certificate("certificate", &wrong, "issue", SystemTime::now())["status"], "bad");
        for (revoked, expected) in [
            (json!("node"), "revoke c --undo,"),
            (json!("serial"), "revoke --serial 0a --undo,"),
            (json!(null), "or --serial 0a"),
        ] {
            let out = json!({"since": "2026", "by": "b, which says: it is revoked", "revoked": revoked});
            let next = outcast(&json!({"node": "c", "certificate": {"serial": "0a"}, "outcast": out})).unwrap();
            assert!(next["next"].as_str().unwrap().contains(expected), "{next}");
        }
        let out = json!({"since": "2026", "by": "b, which says: your certificate is not accepted any more"});
        let next = outcast(&json!({"node": "c", "certificate": {"issuer": "CN=old"}, "outcast": out})).unwrap();
        assert!(next["next"].as_str().unwrap().contains("hobnob ca issue c,"), "{next}");
        for (mesh, expected) in [("default", "issue c, and"), ("prod", "issue c --mesh prod, and")] {
            assert!(issue(&json!({"node": "c", "mesh": mesh})).contains(expected));
        }
        let other = json!({"not_after": "2999-01-01T00:00:00Z", "by_first": false, "issuer": "CN=old"});
        assert_eq!(certificate("certificate", &other, "issue", SystemTime::now())["status"], "warning");
        assert_eq!((decrees(&json!({})), lost(&json!({})), ended(&json!({}))), (None, None, None));
        let over = ended(&json!({"ended_authorities": ["CN=old, serial 0a, at 2026"]})).unwrap();
        assert_eq!((&over["status"], over["finding"].as_str().unwrap().contains("CN=old")), (&"warning".into(), true));
        let told = crowded(&json!({"crowded_edicts": ["1700 of 2048 tokens stand: revoke some"]})).unwrap();
        assert_eq!((&told["status"], &told["next"]), (&"warning".into(), &"revoke some".into()));
        assert_eq!(lost(&json!({"lost_edicts": "/d/edicts.damaged"})).unwrap()["status"], "bad");
        for (by_none, expected) in [(0, "warning"), (1, "bad")] {
            let told = decrees(&json!({"stale_edicts": {"all": 2, "by_none": by_none}})).unwrap();
            let was_dropped = told["next"].as_str().unwrap().contains("was dropped");
            assert_eq!((&told["status"], was_dropped), (&expected.into(), by_none > 0), "{told}");
        }
    }
}
