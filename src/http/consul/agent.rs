//! `/v1/agent/…` about the agent itself: who it is, whom it knows, how it joins and leaves.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::time::timeout;

use super::{
    coordinate::Coordinate,
    failure::{Answer, Failure},
    node::{self, uuid},
    query::{Query, Tail},
    read::plain,
    service::Empty,
};
use crate::{
    agent::View,
    http::{App, Shared, metrics, native},
    mesh,
    model::MemberState,
};

/// `/v1/agent/self`
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Itself<'a> {
    config: Config<'a>,
    debug_config: Empty,
    coord: Option<Coordinate>,
    member: Option<Member<'a>>,
    stats: Empty,
    meta: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Config<'a> {
    datacenter: &'a str,
    node_name: &'a str,
    #[serde(rename = "NodeID")]
    node_id: String,
    revision: &'static str,
    /// Nobody is more of a server than the others.
    server: bool,
    version: &'static str,
    version_metadata: &'static str,
}

/// One member. The numbers of protocols are Serf's of today: clients only look whether they are there.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Member<'a> {
    name: &'a str,
    addr: String,
    port: u16,
    tags: BTreeMap<&'static str, String>,
    status: u8,
    protocol_min: u8,
    protocol_max: u8,
    protocol_cur: u8,
    delegate_min: u8,
    delegate_max: u8,
    delegate_cur: u8,
}

impl<'a> Member<'a> {
    fn of(member: &'a mesh::Member) -> Self {
        let tags = [
            ("build", format!("{SPOKEN}:hobnob-{}", member.node.version)),
            ("dc", member.node.datacenter.to_string()),
            ("id", uuid(member.id)),
            ("role", "node".to_owned()),
            ("zone", member.node.zone.to_string()),
        ];
        Self {
            name: member.node.name.as_str(),
            addr: node::address(&member.node),
            port: member.address().map_or(0, |address| address.port()),
            tags: tags.into(),
            // Serf's numbers for alive, left and failed.
            status: match member.state {
                MemberState::Alive | MemberState::Suspect => 1,
                MemberState::Left => 3,
                MemberState::Down => 4,
            },
            protocol_min: 1,
            protocol_max: 5,
            protocol_cur: 2,
            delegate_min: 2,
            delegate_max: 5,
            delegate_cur: 4,
        }
    }
}

pub(super) async fn itself(State(app): Shared, query: Query) -> Response {
    let (config, this) = (app.agent.config(), app.agent.view().this());
    let shown = Itself {
        config: Config {
            datacenter: &config.datacenter,
            node_name: config.node.as_str(),
            node_id: this.as_ref().map_or_else(String::new, |this| uuid(this.id)),
            revision: "",
            server: false,
            version: SPOKEN,
            version_metadata: concat!("hobnob-", env!("CARGO_PKG_VERSION")),
        },
        debug_config: Empty {},
        coord: this.as_ref().and_then(|this| this.place).map(Coordinate::from),
        member: this.as_deref().map(Member::of),
        stats: Empty {},
        meta: &config.meta,
    };
    plain(&query, &shown)
}

pub(super) async fn members(State(app): Shared, query: Query) -> Response {
    let all = app.agent.view().nodes();
    plain(&query, &all.iter().map(|member| Member::of(member)).collect::<Vec<_>>())
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    #[serde(rename = "SHA")]
    sha: &'static str,
    human_version: &'static str,
    #[serde(rename = "FIPS")]
    fips: &'static str,
}

pub(super) async fn version(query: Query) -> Response {
    plain(&query, &Version { sha: "", human_version: env!("CARGO_PKG_VERSION"), fips: "" })
}

/// `/v1/agent/host`: the machine, as far as the kernel tells it to anybody.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Machine {
    memory: Memory,
    host: Host,
    collection_time: u128,
    errors: Option<()>,
}

#[derive(Serialize)]
struct Memory {
    total: u64,
    free: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Host {
    hostname: String,
    uptime: u64,
    procs: u64,
    os: String,
    kernel_version: String,
    kernel_arch: String,
}

pub(super) async fn host(query: Query) -> Response {
    let (name, system) = (rustix::system::uname(), rustix::system::sysinfo());
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let unit = u64::from(system.mem_unit);
    let shown = Machine {
        memory: Memory { total: system.totalram.saturating_mul(unit), free: system.freeram.saturating_mul(unit) },
        host: Host {
            hostname: text(name.nodename()),
            uptime: u64::try_from(system.uptime).unwrap_or_default(),
            procs: system.procs.into(),
            os: text(name.sysname()).to_lowercase(),
            kernel_version: text(name.release()),
            kernel_arch: text(name.machine()),
        },
        collection_time: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos()),
        errors: None,
    };
    plain(&query, &shown)
}

/// `/v1/agent/metrics`: the few numbers that Consul's dashboards have in common; `format=prometheus` has them all.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metrics {
    timestamp: String,
    gauges: Vec<Gauge>,
    points: [(); 0],
    counters: [(); 0],
    samples: [(); 0],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Gauge {
    name: &'static str,
    value: usize,
    labels: Empty,
}

pub(super) async fn metrics(state: Shared, query: Query) -> Response {
    if query.text("format") == Some("prometheus") {
        return metrics::metrics(state).await.into_response();
    }
    let view = state.0.agent.view();
    let services = view.services();
    let alive = view.nodes_where(|member| member.state.is_shown()).len();
    let gauges = [
        ("consul.members.clients", alive),
        ("consul.state.nodes", view.nodes_where(|member| member.state != MemberState::Left).len()),
        ("consul.state.services", services.len()),
        ("consul.state.service_instances", services.iter().map(|service| service.instances.len()).sum()),
    ];
    let shown = Metrics {
        timestamp: timestamp(SystemTime::now()),
        gauges: gauges.into_iter().map(|(name, value)| Gauge { name, value, labels: Empty {} }).collect(),
        points: [],
        counters: [],
        samples: [],
    };
    plain(&query, &shown)
}

/// As Go writes a time.
fn timestamp(now: SystemTime) -> String {
    let now = humantime::format_rfc3339_seconds(now).to_string();
    format!("{} +0000 UTC", now.trim_end_matches('Z').replace('T', " "))
}

/// `PUT /v1/agent/join/:address`; a bare host gets the mesh's usual port. As Consul's, it waits until somebody answers there;
/// who does not is tried on.
pub(super) async fn join(State(app): Shared, Tail(address): Tail) -> Answer {
    let has_port = address.parse::<SocketAddr>().is_ok() || (address.matches(':').count() == 1);
    let seed = match address.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, MESH_PORT).to_string(),
        Err(_) if has_port => address,
        Err(_) => format!("{address}:{MESH_PORT}"),
    };
    let view = app.agent.view();
    let (mut changes, before) = (view.subscribe(), alive(view).len());
    app.agent.join(std::slice::from_ref(&seed)).await.map_err(Failure::internal)?;
    let wanted: Vec<_> = tokio::net::lookup_host(&seed).await.map(Iterator::collect).unwrap_or_default();
    let answered = async {
        loop {
            let alive = alive(view);
            // Who is reached by another address than he tells of shows by being new.
            let is_there = |member: &Arc<mesh::Member>| member.node.addresses.iter().any(|at| wanted.contains(at));
            if alive.len() > before || alive.iter().any(is_there) || changes.changed().await.is_err() {
                return;
            }
        }
    };
    let late = || format!("1 error occurred: nobody answers at {seed} within {ANSWERS_WITHIN:?}; it is tried on");
    timeout(ANSWERS_WITHIN, answered).await.map_err(|_| Failure::internal(late()))?;
    Ok(().into_response())
}

fn alive(view: &View) -> Vec<Arc<mesh::Member>> {
    view.nodes_where(|member| member.state == MemberState::Alive)
}

/// Answers before the agent has left: afterwards there is nobody to answer.
pub(super) async fn leave(State(app): Shared) -> Response {
    let app: Arc<App> = app;
    tokio::spawn(async move { app.agent.leave().await });
    ().into_response()
}

/// `PUT /v1/agent/force-leave/:node`: who is down is forgotten everywhere. Consul takes it for who is alive too, and has
/// him come back; here that is a mistake.
pub(super) async fn force_leave(State(app): Shared, Tail(node): Tail) -> Answer {
    app.ready()?;
    let unknown = || Failure::internal(format!("agent: No node found with name {node:?}"));
    let member = app.agent.view().node(&node).ok_or_else(unknown)?;
    if member.state != MemberState::Left {
        app.agent.force_leave(member.id).await?;
    }
    Ok(().into_response())
}

/// `PUT /v1/agent/reload`; what is wrong with the files is all said in one line.
pub(super) async fn reload(State(app): Shared) -> Answer {
    native::reloaded(&app).await?;
    Ok(().into_response())
}

/// The version of Consul whose API this is, as far as it goes: clients ask for one that they know to be young enough (Nomad
/// for 1.8.0). Ours stands beside it.
const SPOKEN: &str = "1.8.7";
/// As long as a node takes that is there, several times over.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// The mesh's usual port, which a seed without one means.
const MESH_PORT: u16 = 7946;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_go_writes_it() {
        assert_eq!(timestamp(SystemTime::UNIX_EPOCH), "1970-01-01 00:00:00 +0000 UTC");
    }
}
