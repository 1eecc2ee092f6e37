//! `GET /api/v1/status`: this node and its mesh at a glance.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::moment;
use crate::{
    agent::{Agent, Service, View, trust::Says},
    http::{Shared, descriptors::Descriptors},
    mesh::Held,
    model::{MemberState, MeshName, NodeName, ServiceName, millis},
};

use super::openapi::Api;

#[derive(Serialize, JsonSchema)]
struct Status<'a> {
    node: &'a NodeName,
    mesh: &'a MeshName,
    version: &'static str,
    ready: bool,
    members: Members,
    services: usize,
    instances: usize,
    /// In hexadecimal: most readers of JSON lose the last digits of numbers above 2^53.
    fingerprint: String,
    agreement: f64,
    addresses: Addresses,
    /// What this node proves itself with on the mesh.
    certificate: Certificate,
    /// That the mesh lets this node in no more, as far as it knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcast: Option<Outcast>,
    /// That it takes itself for the one cut off.
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<Partition>,
    /// Services most of whose instances turned critical within moments, and are served as they were; left out where none is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    protected: Vec<ServiceName>,
    /// What its HTTP port shows, where that is not plain text.
    #[serde(skip_serializing_if = "Option::is_none")]
    http_certificate: Option<Certificate>,
    /// The zones that its DNS answers for.
    zones: &'a [String],
    /// Its file descriptors.
    files: Descriptors,
    /// The authorities in `tls.ca` that have ended; left out where there are none, or no other.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ended_authorities: Vec<String>,
    /// Words of the authority whose signatures will not last; left out where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    stale_edicts: Option<Stale>,
    /// Which bounds of tokens and denials are near, and what makes room; left out where none is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    crowded_edicts: Vec<String>,
    /// The file of the authority's words that could not be read; left out once a peer has told them again.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost_edicts: Option<PathBuf>,
    /// Words of the authority that this node has heard and does not heed; left out where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_edicts: Option<RefusedEdicts>,
    /// Why it does not answer yet, as `/readyz` says; left out once it does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unready: Vec<String>,
    /// Nodes that are here and of whose services nothing is taken, since what vouches for them is not believed here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unvouched: Vec<String>,
    /// Why the last write to its store failed; left out once one has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    unstored: Option<String>,
    /// Why seeds are of no use; left out where none has failed, or it no longer matters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unjoined: Vec<String>,
}

/// A certificate of this node's.
#[derive(Serialize, JsonSchema)]
struct Certificate {
    serial: String,
    /// The name of the authority that issued it.
    issuer: String,
    /// Whether that is the first of those that this node believes: left out where the certificate is not for the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    by_first: Option<bool>,
    #[serde(serialize_with = "moment")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    not_before: u64,
    #[serde(serialize_with = "moment")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    not_after: u64,
    /// Less than a fifth of its lifetime is left.
    expires_soon: bool,
    /// Whether it comes from files; else the node makes it of the mesh's secret.
    from_files: bool,
    /// Why what the files hold now could not be taken over: the next start fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_reloaded: Option<String>,
    /// Why there is no next one, where `tls.renew` asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_renewed: Option<String>,
}

/// Words of the authority that the first of those believed here has not signed.
#[derive(Serialize, JsonSchema)]
struct Stale {
    all: usize,
    /// Of them signed by no authority that is believed here: a restart forgets them.
    by_none: usize,
}

/// Words of the authority that were heard within ten minutes and not taken.
#[derive(Serialize, JsonSchema)]
struct RefusedEdicts {
    /// By this machine's clock they are of the future.
    future: usize,
    /// No authority that is believed here has signed them.
    unsigned: usize,
}

/// That this node cannot reach most of its mesh.
#[derive(Serialize, JsonSchema)]
struct Partition {
    /// When the first of them went down.
    #[serde(serialize_with = "moment")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    since: u64,
    /// How many nodes are down, and shown as they last were.
    held: usize,
}

impl Partition {
    fn of(agent: &Agent) -> Option<Self> {
        let held = agent.view().nodes_where(|member| member.held);
        let since = agent.unix_millis(held.iter().map(|member| member.since).min()?);
        Some(Self { since, held: held.len() })
    }
}

/// That this node is let in no more.
#[derive(Serialize, JsonSchema)]
struct Outcast {
    #[serde(serialize_with = "moment")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    since: u64,
    /// Who says so, and why.
    by: String,
    /// What of this node the authority has revoked, where this node was told: `node`, its name, or `serial`, that of its
    /// certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked: Option<&'static str>,
}

impl From<Says> for Certificate {
    fn from(says: Says) -> Self {
        let millis = |at: SystemTime| millis(at.duration_since(UNIX_EPOCH).unwrap_or_default());
        Self {
            expires_soon: says.expires_soon(SystemTime::now()),
            not_before: millis(says.not_before),
            not_after: millis(says.not_after),
            serial: says.serial,
            issuer: says.issuer,
            by_first: None,
            from_files: true,
            not_reloaded: None,
            not_renewed: None,
        }
    }
}

/// Where this node answers.
#[derive(Serialize, JsonSchema)]
struct Addresses {
    mesh: SocketAddr,
    http: SocketAddr,
    dns: Option<SocketAddr>,
}

/// How many nodes are seen how, this one too.
#[derive(Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "MemberCounts")]
struct Members {
    alive: usize,
    suspect: usize,
    down: usize,
    left: usize,
}

impl Members {
    fn of(view: &View) -> Self {
        let mut count = Self::default();
        for member in view.nodes() {
            *match member.state {
                MemberState::Alive => &mut count.alive,
                MemberState::Suspect => &mut count.suspect,
                MemberState::Down => &mut count.down,
                MemberState::Left => &mut count.left,
            } += 1;
        }
        count
    }
}

pub(super) async fn status(State(app): Shared) -> Response {
    let (view, config) = (app.agent.view(), app.agent.config());
    let services = view.services();
    let status = Status {
        node: &config.node,
        mesh: &config.mesh,
        version: env!("CARGO_PKG_VERSION"),
        ready: view.is_ready(),
        members: Members::of(view),
        services: services.len(),
        instances: services.iter().map(|service| service.instances.len()).sum(),
        fingerprint: format!("{:016x}", app.agent.fingerprint()),
        agreement: app.agent.agreement(),
        certificate: Certificate {
            from_files: config.tls.is_some(),
            by_first: Some(app.agent.is_by_first()),
            not_reloaded: app.agent.not_reloaded(),
            not_renewed: app.agent.not_renewed(),
            ..app.agent.certificate().into()
        },
        outcast: app.agent.outcast().map(|known| Outcast { since: known.since, by: known.by, revoked: known.revoked }),
        partition: Partition::of(&app.agent),
        protected: services
            .iter()
            .filter(|service| is_protected(service))
            .map(|service| service.name.clone())
            .collect(),
        http_certificate: app
            .tls
            .as_ref()
            .and_then(|tls| Some(Certificate { not_reloaded: tls.not_reloaded(), ..tls.says()?.into() })),
        zones: &app.zones,
        files: Descriptors::now(),
        ended_authorities: app.agent.ended_authorities().iter().map(ended).collect(),
        stale_edicts: Some(app.agent.stale_edicts())
            .filter(|stale| stale.0 > 0)
            .map(|(all, by_none)| Stale { all, by_none }),
        crowded_edicts: app.agent.law().crowded(),
        lost_edicts: app.agent.lost_edicts(),
        refused_edicts: Some(app.agent.refused_edicts())
            .filter(|refused| *refused != (0, 0))
            .map(|(future, unsigned)| RefusedEdicts { future, unsigned }),
        unready: app.agent.unready(),
        unvouched: app.agent.unvouched(),
        unstored: app.agent.unstored(),
        unjoined: app.agent.unjoined(),
        addresses: Addresses { mesh: app.agent.address(), http: app.addresses.0, dns: app.addresses.1 },
    };
    Json(status).into_response()
}

/// Which one has ended, and when.
fn ended(Says { issuer, serial, not_after, .. }: &Says) -> String {
    format!("{issuer}, serial {serial}, at {}", humantime::format_rfc3339_seconds(*not_after))
}

fn is_protected(service: &Service) -> bool {
    service.instances.iter().any(|instance| instance.held.and_then(Held::before).is_some())
}

/// For the OpenAPI document.
pub(super) fn describe(api: &mut Api) {
    api.get("/api/v1/status", "This node and its mesh at a glance; answered before it is ready too.")
        .answers::<Status<'_>>(200, "How it is.");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::native::fixtures;

    #[test]
    fn members_count_this_node_too() {
        let expected = Members { alive: 1, suspect: 1, down: 1, left: 0 };
        assert_eq!(Members::of(&fixtures::view()), expected);
    }
}
