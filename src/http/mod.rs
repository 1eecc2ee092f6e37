//! Floor 3, the HTTP face: reads the view that the agent publishes, sends it commands. No state of its own but counters.
//!
//! A request waits at the `doorstep` until it is there, passes the `door` (seats, deadlines), is one of so many of its
//! `clients`, passes its `rate` (how often one client may ask) and its `guard` (Host and Origin), one handler of `native`, and leaves as JSON, as a stream of events,
//! or as a `problem`; the `budget` bounds what all of them hold, `pace` how slowly they may be taken; the `audit` tells of
//! who was refused. Each outside shape lives in the one file that serves it.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a face may read clocks; nothing depends on order"
)]

mod access;
mod audit;
mod body;
mod budget;
mod change;
mod clients;
mod consul;
mod crowd;
mod descriptors;
mod door;
mod doorstep;
mod envoy;
mod eureka;
pub mod fuzz;
mod guard;
mod gzip;
mod metrics;
mod native;
mod pace;
mod patience;
mod policy;
mod problem;
mod rate;
mod requests;
mod revocation;
mod seats;
mod server;
mod tls;
mod token;
mod word;

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, sync::Arc, time::SystemTime};

use axum::Router;
use serde::{Deserialize, Deserializer, de::Error as _};
use tokio_util::sync::CancellationToken;

pub use native::{ReloadAsk, Reloaded, state};
pub use policy::Policy;
pub use server::{Bound, Running, Unbound, bind, serve};
pub use tls::Files;
pub use token::FixedToken;

use crate::{
    agent::{Agent, Tally},
    model::Host,
};
use crowd::Crowd;
use problem::Problem;
use requests::Requests;

/// The section `[http]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A unix socket to listen on too, for the owner and the group of the process (mode 0660).
    #[serde(deserialize_with = "socket")]
    pub socket: Option<PathBuf>,
    /// Hosts, without ports, that requests on loopback, and writes of web pages, may be addressed to besides `localhost`
    /// and the node's addresses.
    pub hosts: Vec<Host>,
    /// The most connections served at a time; others wait in the system's queue.
    pub max_connections: NonZeroUsize,
    /// The most of them that one address beyond this host may hold, 0 for any number; more are answered 429 and closed.
    pub max_connections_per_client: u32,
    /// The most requests a second of one address beyond this host, 0 for any number; more are answered 429.
    pub rate_limit: u32,
    /// Whether Eureka's clients are served too, under `/eureka`.
    pub eureka: bool,
    /// What those may do who show no token. Unless it is `all`, tokens count.
    pub anonymous: Policy,
    /// Tokens that are good on this node alone; those of the whole mesh are made by `hobnob token create`.
    pub tokens: Vec<FixedToken>,
    /// The certificate that the port shows; without one it is plain text, on loopback.
    pub tls: Option<Files>,
    /// Whether plain text may be served where other machines reach it.
    pub insecure: bool,
    /// Where this node's DNS face answers, for the status to say. Not a setting: whoever starts the faces fills it in.
    #[serde(skip)]
    pub dns: Option<SocketAddr>,
    /// The zones that it answers for; filled in likewise.
    #[serde(skip)]
    pub zones: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            socket: None,
            hosts: Vec::new(),
            max_connections: MAX_CONNECTIONS,
            max_connections_per_client: MAX_CONNECTIONS_PER_CLIENT,
            rate_limit: RATE_LIMIT,
            eureka: false,
            anonymous: Policy::all(),
            tokens: Vec::new(),
            tls: None,
            insecure: false,
            dns: None,
            zones: Vec::new(),
        }
    }
}

fn socket<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(from)?;
    if path.as_os_str().is_empty() {
        return Err(D::Error::custom("is no path: name one, such as /run/hobnob/http.sock, or leave it out"));
    }
    Ok(Some(path))
}

/// Enough for a stream per client and service on a busy node, and far from what memory holds.
const MAX_CONNECTIONS: NonZeroUsize = NonZeroUsize::new(20_000).expect("more than zero");

/// The long polls of one that waits for thousands of services, or the streams of all who sit behind one proxy. Half of the
/// seats at most: as many are left to the others.
const MAX_CONNECTIONS_PER_CLIENT: u32 = 10_000;

/// What a busy proxy asks for with many clients behind it; a client in a loop asks for far more.
const RATE_LIMIT: u32 = 1_000;

/// What the handlers reach.
#[derive(Debug)]
struct App {
    agent: Agent,
    /// What the TCP port speaks, if not plain text.
    tls: Option<Arc<tls::Tls>>,
    /// Where this face listens, and where DNS does.
    addresses: (SocketAddr, Option<SocketAddr>),
    /// What names DNS answers for.
    zones: Vec<String>,
    requests: Requests,
    /// Counters of other faces.
    tallies: Vec<Tally>,
    crowd: Arc<Crowd>,
    /// The tokens of the configuration.
    fixed: Arc<[FixedToken]>,
    /// Answers in Consul's words, ready to be sent again.
    bodies: consul::Bodies,
    heard: Arc<tokio::sync::Mutex<consul::Hearing>>,
    renderings: native::Renderings,
    started: SystemTime,
    /// How to have the files read again, where somebody reads files.
    reloads: Option<native::Reloads>,
    /// Ends the streams, which would keep a graceful shutdown waiting for ever.
    stop: CancellationToken,
}

/// What all faces of HTTP serve that the configuration asks for.
fn routes(requests: &mut Requests, config: &Config) -> Router<Arc<App>> {
    let routes = native::routes(requests).merge(consul::routes(requests)).merge(envoy::routes(requests));
    if config.eureka { routes.merge(eureka::routes(requests)) } else { routes }
}

/// How a handler takes it.
type Shared = axum::extract::State<Arc<App>>;

/// What a handler gives back.
type Answer = Result<axum::response::Response, Problem>;

impl App {
    /// Stands before every read of the catalogue, and every write over what others say: a restart must not look like "all
    /// services gone".
    fn ready(&self) -> Result<(), Problem> {
        if self.agent.view().is_ready() { Ok(()) } else { Err(Problem::unready(self.agent.unready())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_takes_known_keys_with_sound_values() {
        let parse = |text: &str| toml::from_str::<Config>(text);
        assert_eq!(parse("").unwrap(), Config::default());
        let full =
            parse("socket = \"/run/hobnob/http.sock\"\nhosts = [\"ui.example\"]\nmax_connections = 7\nrate_limit = 0")
                .unwrap();
        assert_eq!((full.hosts.len(), full.max_connections.get(), full.rate_limit), (1, 7, 0));
        for bad in [
            "rate_limit = -1",
            "max_connections = 0",
            "hosts = [\"ui.example:8500\"]",
            "sokcet = \"x\"",
            "socket = \"\"",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
