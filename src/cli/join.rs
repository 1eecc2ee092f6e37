//! `hobnob join`: a running agent into the mesh by addresses, or a new machine by an invitation.
//!
//! With an invitation no agent runs yet: what it will need is written into its data directory, and its settings lie
//! below all others.

use std::{
    env, fs,
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use hyper::Method;
use rustix::process::geteuid;
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    ca::{write_for, write_new},
    client::Client,
    failure::{Code, Failure},
    output,
};
use crate::{
    agent::{
        self,
        trust::{Granted, Invitation},
    },
    config::{
        DATA_DIR, Seed,
        joined::{self, JOINED},
    },
    model::NodeName,
};

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// Where nodes of the mesh listen, host:port; or what `hobnob token create` printed, - to read that from stdin
    #[arg(required = true, value_name = "ADDR|TOKEN")]
    places: Vec<String>,
    /// With a token: this machine's name in the mesh [default: the host's]
    #[arg(long, value_name = "NAME")]
    node: Option<NodeName>,
    /// With a token: where to write what the agent needs [default: $STATE_DIRECTORY or /var/lib/hobnob]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub(super) async fn run(client: &Client, flags: &Flags) -> Result<ExitCode, Failure> {
    match flags.places.as_slice() {
        [dash] if dash == "-" => return enrol(&read_token()?, flags).await,
        [token] if Invitation::is_meant_by(token) => return enrol(token, flags).await,
        _ => {}
    }
    let wrong = |why| Failure::new("cannot join", why, "hobnob join HOST:PORT").code(Code::Usage);
    let seeds: Vec<Seed> = flags.places.iter().map(|place| place.parse()).collect::<Result<_, _>>().map_err(wrong)?;
    let path = "/api/v1/join";
    client.call(Method::POST, path, Some(&json!({ "addresses": seeds }))).await?.found()?;
    output::say("looking for the mesh there; `hobnob members` shows who was found");
    Ok(ExitCode::SUCCESS)
}

/// A token from a pipe: it stands in no list of processes.
fn read_token() -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    let read = io::stdin().lock().take(MAX_TOKEN).read_to_string(&mut text);
    read.map_err(|why| Failure::new("cannot read a token from stdin", why, "hobnob join TOKEN").code(Code::Usage))?;
    Ok(text)
}

async fn enrol(token: &str, flags: &Flags) -> Result<ExitCode, Failure> {
    let usage = |why: &str| {
        Failure::new("cannot join with this token", why, "hobnob token create, on a node of the mesh").code(Code::Usage)
    };
    let invitation = Invitation::from_text(token).ok_or_else(|| usage("it is cut off or mistyped"))?;
    let host = || NodeName::from_hostname(&rustix::system::uname().nodename().to_string_lossy());
    let node =
        flags.node.clone().or_else(host).ok_or_else(|| usage("this host's name is no DNS label: --node NAME"))?;
    let given = env::var("STATE_DIRECTORY").ok().and_then(|all| all.split(':').next().map(PathBuf::from));
    let folder = flags.data_dir.clone().or(given).unwrap_or_else(|| DATA_DIR.into());
    let folder = std::path::absolute(&folder).unwrap_or(folder);
    if folder.join(JOINED).exists() {
        let place = folder.display();
        let next = format!(
            "hobnob join TOKEN --data-dir DIR, or stop the agent and move {place} away; the token is still good"
        );
        let why = format!("{place} has joined a mesh before");
        return Err(Failure::new("cannot join with this token", why, next).code(Code::Usage));
    }
    // Before the token is spent.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|error| {
        Failure::new(format!("cannot write to {}", folder.display()), error, "hobnob join TOKEN --data-dir DIR")
    })?;
    if let Some(path) = PAPERS.map(|name| folder.join(name)).iter().find(|path| path.symlink_metadata().is_ok()) {
        let (place, why) = (path.display(), "is there already, and nothing is overwritten; the token is still good");
        let next = format!("rm {place}, if a join left it that was cut off; or hobnob join TOKEN --data-dir DIR");
        return Err(Failure::new("cannot join with this token", format!("{place} {why}"), next).code(Code::Usage));
    }
    let room = [(folder.join("joining"), Zeroizing::new(" ".repeat(ROOM)))];
    let remove = || room.iter().for_each(|(path, _)| drop(fs::remove_file(path)));
    remove();
    write_new(&room)?;
    let granted = agent::enrol(&invitation, &node).await;
    remove();
    let (granted, key) = granted.map_err(|why| {
        // It was not spent: the node that made it could not note that it was.
        let next = if why.contains("nothing was changed") {
            "mend that there, then the same again: the token is still good"
        } else {
            "hobnob token create, on a node of the mesh"
        };
        Failure::new("the mesh does not let this machine in", why, next)
    })?;
    let files: Vec<_> = files(&folder, &node, &invitation, granted, key);
    // What root writes there is for the user whom the agent runs as.
    let owner = fs::metadata(&folder).ok().filter(|_| geteuid().is_root());
    write_for(owner.map(|folder| (folder.uid(), folder.gid())), &files).map_err(|lost| {
        lost.instead(format!("hobnob token create --node {node}: the name is this machine's by now"))
    })?;
    output::print(&files.iter().map(|(path, _)| path.display().to_string()).collect::<Vec<_>>().join("\n"));
    output::say(format_args!("next: hobnob agent --data-dir {}", folder.display()));
    Ok(ExitCode::SUCCESS)
}

/// What an agent in `folder` needs, the settings that name the rest last.
fn files(
    folder: &Path,
    node: &NodeName,
    invitation: &Invitation,
    granted: Granted,
    key: Zeroizing<String>,
) -> Vec<(PathBuf, Zeroizing<String>)> {
    let path = |name: &str| folder.join(name);
    let place = |name: &str| path(name).display().to_string();
    let mut files = Vec::new();
    let [ca, cert, own, secret] = PAPERS;
    let settings = if let Some(certificate) = granted.certificate {
        files.extend([(path(ca), granted.ca.into()), (path(cert), certificate.into()), (path(own), key)]);
        let papers = [("tls.ca", place(ca)), ("tls.cert", place(cert)), ("tls.key", place(own))];
        joined::settings(node.as_str(), invitation, &papers)
    } else {
        let lines: String = granted.secrets.iter().flat_map(|secret| [secret.as_str(), "\n"]).collect();
        files.push((path(secret), lines.into()));
        joined::settings(node.as_str(), invitation, &[("secret_file", place(secret))])
    };
    files.push((path(JOINED), settings.into()));
    files
}

/// What it may write beside the settings: certificates, or a secret.
const PAPERS: [&str; 4] = ["ca.pem", "node.pem", "node-key.pem", "secret"];
/// What all that an invitation brings fits into, so that no full disk is found once the token is spent.
const ROOM: usize = 32 * 1024;
/// More than any token has letters.
const MAX_TOKEN: u64 = 8192;
