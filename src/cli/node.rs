//! A whole node: the agent and its two faces, started and stopped as one.

use std::net::SocketAddr;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::failure::{Code, Failure};
use crate::{
    agent::{Agent, StartError},
    config::Config,
    dns, http,
};

/// An agent with its faces.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) agent: Agent,
    dns: dns::Running,
    http: http::Running,
    stop: CancellationToken,
}

/// Where a node listens, as its ready file says it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Ready {
    node: String,
    pid: u32,
    pub(super) mesh: SocketAddr,
    pub(super) http: SocketAddr,
    pub(super) dns: SocketAddr,
}

impl Node {
    /// Starts all three. Where a face cannot start, the agent leaves again.
    pub(super) async fn start(config: &Config) -> Result<Self, Failure> {
        let agent = Agent::start(config.agent.clone()).await;
        let agent = agent.map_err(|error| {
            let code = if let StartError::Config { .. } = error { Code::Usage } else { Code::Runtime };
            Failure::new("the node did not start", error, "hobnob config show").code(code)
        })?;
        let stop = CancellationToken::new();
        match faces(&agent, config, &stop).await {
            Ok((dns, http)) => Ok(Self { agent, dns, http, stop }),
            Err(failure) => {
                stop.cancel();
                agent.leave().await;
                Err(failure)
            }
        }
    }

    /// Where it listens.
    pub(super) fn ready(&self) -> Ready {
        let node = self.agent.config().node.to_string();
        let (mesh, http, dns) = (self.agent.address(), self.http.address(), self.dns.address());
        Ready { node, pid: std::process::id(), mesh, http, dns }
    }

    /// Stops the faces, once what they are in the middle of is said.
    pub(super) async fn close(self) {
        self.stop.cancel();
        self.dns.stopped().await;
        self.http.stopped().await;
    }
}

async fn faces(
    agent: &Agent,
    config: &Config,
    stop: &CancellationToken,
) -> Result<(dns::Running, http::Running), Failure> {
    let taken = |face: &str, flag: &str, address: SocketAddr, why: &dyn std::fmt::Display| {
        let next = format!("hobnob agent {flag} {}:0, or stop what listens there", address.ip());
        Failure::new(format!("cannot serve {face} on {address}"), why, next)
    };
    let (listen, view) = (config.listen, agent.view().clone());
    let dns = dns::serve(view, config.dns.clone(), listen.dns, stop.clone());
    let dns = dns.await.map_err(|error| taken("DNS", "--dns", listen.dns, &error))?;
    let settings = http::Config { dns: Some(dns.address()), ..config.http.clone() };
    let http = http::serve(agent.clone(), settings, listen.http, stop.clone());
    let http = http.await.map_err(|error| taken("HTTP", "--http", listen.http, &error))?;
    Ok((dns, http))
}
