//! `hobnob token`: rights for programs and people, decreed for the whole mesh. A token is made here and shown once; the
//! mesh knows its SHA-256.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use super::{
    ca::Place,
    client::{Client, segment},
    failure::{Code, Failure},
    output::{self, Reading, Shape},
};
use crate::{
    agent::{
        Secret,
        trust::{Authority, Edict, Law, Token, Word},
        unix_millis,
    },
    http::Policy,
    model::{MeshName, NodeName, millis, parse_duration},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a token and print it, once: for HTTP with --policy, else for one new machine to join with
    Create(Create),
    /// The tokens that are good in this mesh
    List(Reading),
    /// Take a token's rights back, everywhere
    Revoke(Revoke),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// What it allows: read, write, write:NAME, write:PREFIX*, operate or all; several with commas
    #[arg(long, value_name = "POLICY")]
    policy: Option<Policy>,
    /// What to call it, in lists and in the audit
    #[arg(long, value_name = "NAME", requires = "policy")]
    name: Option<String>,
    /// The only name that the new machine may take; it may be that of one whose place it takes [default: any free one]
    #[arg(long, value_name = "NAME", conflicts_with = "policy")]
    node: Option<NodeName>,
    /// For how long it is good, such as 30d [default: until it is revoked]; to join with, 24h at most [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    ttl: Option<Duration>,
    /// Ask no agent: print the token, and what to put into a node's hobnob.toml
    #[arg(long, conflicts_with_all = ["ttl", "dir"], requires = "policy")]
    offline: bool,
    /// The folder of the authority that signs, where no node holds its key
    #[arg(long, value_name = "DIR", requires = "policy")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// What it is called
    name: String,
    /// The folder of the authority that signs, where no node holds its key
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) async fn run(client: &Client, command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Create(flags) => return create(client, &flags).await,
        Command::List(reading) => drop(output::read(client, &reading, "/api/v1/tokens", &SHAPE).await?),
        Command::Revoke(Revoke { name, dir: Some(dir) }) => {
            let chancery = Chancery::open(client, dir, "").await?;
            let tokens: Vec<_> = chancery.law.tokens().filter(|token| token.name == name).cloned().collect();
            if tokens.is_empty() {
                let why = format!("there is no token called {name:?} in this mesh that this authority has signed");
                return Err(Failure::new("cannot revoke it", why, "hobnob token list, to see which there are"));
            }
            for token in tokens {
                chancery.publish(Word::Token(token), Standing::Void).await?;
            }
        }
        Command::Revoke(Revoke { name, dir: None }) => {
            let path = format!("/api/v1/tokens/{}", segment(&name));
            client.call(Method::DELETE, &path, None).await?.found()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(client: &Client, flags: &Create) -> Result<ExitCode, Failure> {
    let Some(policy) = &flags.policy else { return invite(client, flags).await };
    if flags.ttl.is_some_and(|ttl| ttl.is_zero()) {
        let (why, next) = ("--ttl: it would be over at once", "hobnob token create --policy POLICY --ttl 30d");
        return Err(Failure::new("cannot make such a token", why, next).code(Code::Usage));
    }
    let policy = policy.to_string();
    let text = Secret::random().reveal();
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    let digits: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    let name = flags.name.clone().unwrap_or_else(|| format!("token-{}", &digits[..8]));
    if flags.offline {
        output::print(&text);
        output::say(format_args!("[[http.tokens]]\nname = {name:?}\nsha256 = {digits:?}\npolicy = {policy:?}"));
        return Ok(ExitCode::SUCCESS);
    }
    let expires = flags.ttl.map(|ttl| unix_millis().saturating_add(millis(ttl)));
    if let Some(dir) = &flags.dir {
        let chancery = Chancery::open(client, dir.clone(), "").await?;
        if chancery.law.tokens().any(|token| token.name == name && token.is_good(unix_millis())) {
            let why = format!("there is a token called {name:?} already");
            return Err(Failure::new("cannot make the token", why, "hobnob token list; or choose another --name"));
        }
        let token = Token { name, sha256, policy, expires };
        chancery.publish(Word::Token(token), Standing::Holds).await?;
    } else {
        let mut asked = json!({ "name": name, "sha256": digits, "policy": policy });
        if let Some(at) = expires {
            asked["expires"] = at.into();
        }
        let path = "/api/v1/tokens";
        client.call(Method::POST, path, Some(&asked)).await?.found()?;
    }
    output::print(&text);
    Ok(ExitCode::SUCCESS)
}

/// An invitation for one new machine.
async fn invite(client: &Client, flags: &Create) -> Result<ExitCode, Failure> {
    let path = "/api/v1/joins";
    let ttl = flags.ttl.unwrap_or(AN_HOUR);
    if !(1..=MAX_SECONDS).contains(&ttl.as_secs()) {
        let why = "--ttl: a token to join with is good for one second to 24 hours";
        let next = "hobnob token create --ttl 24h";
        return Err(Failure::new("cannot make such a token", why, next).code(Code::Usage));
    }
    let mut asked = json!({ "seconds": ttl.as_secs() });
    if let Some(node) = &flags.node {
        asked["node"] = node.as_str().into();
    }
    let answer = client.call(Method::POST, path, Some(&asked)).await?.found()?;
    output::print(answer["token"].as_str().unwrap_or_default());
    Ok(ExitCode::SUCCESS)
}

const AN_HOUR: Duration = Duration::from_secs(3600);
/// A day: whoever is not there by then asks again.
const MAX_SECONDS: u64 = 24 * 3600;

/// Whether a word holds, or is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Holds,
    Void,
}

/// An authority that signs here what an agent hands on, and what it has decreed before.
pub(super) struct Chancery<'c> {
    client: &'c Client,
    pub(super) authority: Authority,
    mesh: MeshName,
    /// Only what it has signed, or an authority beside it: the agent asked may lie.
    pub(super) law: Law,
    /// How much else the agent told of.
    pub(super) foreign: usize,
}

impl<'c> Chancery<'c> {
    /// The one in `dir`, with what it decreed, and those whose certificates are in `also` (PEM).
    pub(super) async fn open(client: &'c Client, dir: PathBuf, also: &str) -> Result<Self, Failure> {
        let authority = Place { dir }.read()?;
        let status = client.get("/api/v1/status").await?;
        let mesh: Result<MeshName, _> = status["mesh"].as_str().unwrap_or_default().try_into();
        let mesh = mesh.map_err(|why| odd(&format_args!("{why:?}")))?;
        let texts = client.get(EDICTS).await?;
        let edicts: Vec<_> =
            texts.as_array().into_iter().flatten().filter_map(|text| Edict::from_text(text.as_str()?)).collect();
        let told = edicts.len();
        let law = authority.law(&mesh, edicts, also, unix_millis());
        let foreign = told - law.edicts().count();
        Ok(Self { client, authority, mesh, law, foreign })
    }

    /// Signs a word, and hands it to the agent's mesh.
    pub(super) async fn publish(&self, word: Word, standing: Standing) -> Result<(), Failure> {
        // Later than what stands, whoever's clock was ahead when that was said.
        let at = unix_millis().max(self.law.free_from(&word));
        let edict = self.authority.decree(&self.mesh, word, standing == Standing::Void, at).map_err(|why| odd(&why))?;
        self.hand_over(&edict).await
    }

    /// Hands what was signed here to the agent's mesh.
    pub(super) async fn hand_over(&self, edict: &Edict) -> Result<(), Failure> {
        let body: Value = json!({ "edict": edict.to_text() });
        self.client.call(Method::POST, EDICTS, Some(&body)).await?.found()?;
        Ok(())
    }
}

fn odd(why: &dyn std::fmt::Display) -> Failure {
    Failure::new("cannot sign for this mesh", why, "hobnob status")
}

const EDICTS: &str = "/api/v1/edicts";

fn lifetime(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|why| format!("{text:?} {why}"))
}

const SHAPE: Shape = Shape { name: "name", columns: &[("NAME", "name"), ("POLICY", "policy"), ("EXPIRES", "expires")] };
