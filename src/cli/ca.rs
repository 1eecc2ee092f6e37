//! `hobnob ca`: a certification authority in two files, kept away from the nodes, and certificates for them.
//!
//! No file is ever overwritten: a lost authority is a mesh to be set up anew.

use std::{
    convert::Infallible,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, fchown},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    client::Client,
    failure::{Code, Failure},
    output,
    token::{Chancery, Standing},
};
use crate::{
    agent::trust::{self, Authority, Broken, Pair, Word},
    model::{MeshName, NodeName},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an authority: ca.pem for every node, ca-key.pem for none
    Init(Init),
    /// Issue a certificate that proves one node's name: NODE.pem and NODE-key.pem
    Issue(Issue),
    /// Let a node or a certificate in no more, in the whole mesh; its links are closed at once
    Revoke(Revoke),
    /// Sign anew, by another authority, all that was decreed in the mesh: denials and tokens
    SignAgain(Again),
}

#[derive(Debug, Args)]
pub(super) struct Init {
    #[command(flatten)]
    place: Place,
    /// How many days it is good for
    #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36500))]
    days: u32,
}

#[derive(Debug, Args)]
pub(super) struct Issue {
    /// The node's name
    node: NodeName,
    #[command(flatten)]
    place: Place,
    /// The mesh it belongs to
    #[arg(long, default_value = "default")]
    mesh: MeshName,
    /// How many days the certificate is good for
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36500))]
    days: u32,
    /// Where to write the two files [default: the authority's folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// The node's name; every certificate for it is refused
    #[arg(required_unless_present = "serial", conflicts_with = "serial")]
    node: Option<NodeName>,
    /// One certificate's serial number, in hexadecimal; all that come of one another by renewal are refused with it
    #[arg(long, value_name = "SERIAL", value_parser = bare)]
    serial: Option<String>,
    /// Let it in again; by a serial number, all that are refused with it
    #[arg(long)]
    undo: bool,
    /// The folder of the authority that signs, where no node holds its key
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// A number as `openssl x509 -serial` prints it, without what stands before it.
fn bare(serial: &str) -> Result<String, Infallible> {
    Ok(serial.trim().trim_start_matches("serial=").trim_start_matches("0x").into())
}

/// Decrees through an agent what holds in the whole mesh.
pub(super) async fn revoke(client: &Client, flags: Revoke) -> Result<ExitCode, Failure> {
    if let Some(dir) = flags.dir {
        let standing = if flags.undo { Standing::Void } else { Standing::Holds };
        let word = match (flags.node, flags.serial) {
            (Some(node), _) => Word::DenyNode(node),
            (None, serial) => Word::DenySerial(serial.unwrap_or_default()),
        };
        let chancery = Chancery::open(client, dir, "").await?;
        if flags.undo && !chancery.law.holds(&word) {
            let why = "nothing that this authority has signed denies it, as far as this node has heard";
            let next = "hobnob doctor, on whom the mesh does not let in: it says what is revoked";
            return Err(Failure::new("cannot let it in again", why, next));
        }
        chancery.publish(word, standing).await?;
    } else {
        let path = "/api/v1/denials";
        let body = match (flags.node, flags.serial) {
            (Some(node), _) => json!({ "node": node, "void": flags.undo }),
            (None, serial) => json!({ "serial": serial, "void": flags.undo }),
        };
        client.call(Method::POST, path, Some(&body)).await?.found()?;
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Args)]
pub(super) struct Again {
    #[command(flatten)]
    place: Place,
    /// The certificates of the authorities whose word counts, the one that goes among them: a node's `tls.ca`
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
}

/// Has all that was decreed by authorities that are believed stand by the one in this folder.
pub(super) async fn sign_again(client: &Client, flags: Again) -> Result<ExitCode, Failure> {
    let unsound = |why| Failure::new("cannot sign what was decreed", why, "hobnob ca sign-again --help");
    let believed = trust::certificates(&flags.ca).map_err(|why| unsound(why).code(Code::Usage))?;
    let chancery = Chancery::open(client, flags.place.dir, &believed).await?;
    let (mut signed, mut refused) = (0, None);
    for edict in chancery.law.edicts() {
        if let Some(edict) = chancery.authority.decree_again(edict).map_err(unsound)? {
            match chancery.hand_over(&edict).await {
                Ok(()) => signed += 1,
                Err(failure) => refused = Some(failure),
            }
        }
    }
    let left = match chancery.foreign {
        0 => String::new(),
        foreign => format!("; {foreign} left out that none of the authorities in {} has signed", flags.ca.display()),
    };
    let done = format!("{signed} signed again{left}");
    if signed == 0 && chancery.foreign > 0 && refused.is_none() {
        let next = "the same with --ca FILE, FILE the certificate of the authority that has: one that was dropped?";
        return Err(Failure::new("nothing was signed again", done, next));
    }
    output::say(done);
    refused.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// Where an authority is kept.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The authority's folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) dir: PathBuf,
}

pub(super) fn run(command: &Command) -> Result<ExitCode, Failure> {
    let files = match command {
        Command::Init(flags) => {
            let broken = |why| Failure::new("cannot make an authority", why, "hobnob ca init");
            let (_, pair) = Authority::create(days(flags.days)).map_err(broken)?;
            [(flags.place.dir.join(CERTIFICATE), pair.certificate.into()), (flags.place.dir.join(KEY), pair.key)]
        }
        Command::Issue(flags) => issue(flags)?,
        Command::Revoke(_) | Command::SignAgain(_) => unreachable!("they ask an agent"),
    };
    write_new(&files)?;
    output::print(&files.map(|(path, _)| path.display().to_string()).join("\n"));
    Ok(ExitCode::SUCCESS)
}

fn issue(flags: &Issue) -> Result<[(PathBuf, Zeroizing<String>); 2], Failure> {
    let broken = |why| Failure::new(format!("cannot issue a certificate for {}", flags.node), why, "hobnob ca --help");
    let authority = flags.place.read()?;
    let now = SystemTime::now();
    let until = authority.until(now).map_err(broken)?;
    if until < now + days(flags.days) {
        let until = humantime::format_rfc3339_seconds(until);
        output::say(format_args!("the authority ends before that, at {until}, and the certificate with it"));
    }
    let Pair { certificate, key } = authority.issue(&flags.mesh, &flags.node, days(flags.days)).map_err(broken)?;
    let out = flags.out.as_ref().unwrap_or(&flags.place.dir);
    let file = |ending: &str| out.join(format!("{}{ending}", flags.node));
    Ok([(file(".pem"), certificate.into()), (file("-key.pem"), key)])
}

impl Place {
    /// The authority that is kept there.
    pub(super) fn read(&self) -> Result<Authority, Failure> {
        let read = || {
            let certificate = trust::text(&self.dir.join(CERTIFICATE))?;
            Authority::read(&certificate, &trust::secret_text(&self.dir.join(KEY))?)
        };
        read().map_err(|why| {
            let what = format!("there is no sound authority in {}", self.dir.display());
            let next = match &why {
                Broken::Readable(path, _) => format!("chmod 600 {}", path.display()),
                _ => "hobnob ca init --dir DIR".into(),
            };
            Failure::new(what, why, next).code(Code::Usage)
        })
    }
}

/// Writes files that are not there yet, for their owner alone; all of them or none.
pub(super) fn write_new(files: &[(PathBuf, Zeroizing<String>)]) -> Result<(), Failure> {
    write_for(None, files)
}

/// The same for another owner: user and group.
pub(super) fn write_for(owner: Option<(u32, u32)>, files: &[(PathBuf, Zeroizing<String>)]) -> Result<(), Failure> {
    let refuse = |path: &Path, error: &io::Error| {
        let what = format!("cannot write {}", path.display());
        let next = match path.parent().filter(|_| error.kind() == io::ErrorKind::NotFound) {
            Some(folder) => format!("mkdir -p {}, then the same again", folder.display()),
            None => format!("ls -l {}; nothing is overwritten, give another folder", path.display()),
        };
        Failure::new(what, error, next)
    };
    for (at, (path, text)) in files.iter().enumerate() {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let written = file.and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            owner.map_or(Ok(()), |(user, group)| fchown(&file, Some(user), Some(group)))?;
            file.sync_all()
        });
        if let Err(error) = written {
            // What was made for it is of no use alone; the file that was in the way stays.
            let ours = if error.kind() == io::ErrorKind::AlreadyExists { at } else { at + 1 };
            files.iter().take(ours).for_each(|(path, _)| drop(fs::remove_file(path)));
            return Err(refuse(path, &error));
        }
    }
    Ok(())
}

fn days(days: u32) -> Duration {
    Duration::from_secs(u64::from(days) * 24 * 3600)
}

/// For every node.
const CERTIFICATE: &str = "ca.pem";
/// For none.
const KEY: &str = "ca-key.pem";
