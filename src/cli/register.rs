//! `hobnob register` and `hobnob deregister`: this node's own instances.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use hyper::{Method, StatusCode};
use serde_json::{Map, Value};

use super::{
    client::{self, Answer, Client},
    failure::{Code, Failure},
    output,
};
use crate::{
    config,
    model::{CheckDraft, RegistrationDraft, parse_duration},
};

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// The service it is an instance of
    #[arg(required_unless_present = "file", requires = "port")]
    name: Option<String>,
    #[command(flatten)]
    instance: Instance,
    /// Register all that stands in a service file: TOML with [[services]], or Consul's JSON
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "port", "id", "address", "tag", "meta", "check"])]
    file: Option<PathBuf>,
}

/// What an instance is made of on a command line.
#[derive(Debug, Args)]
pub(super) struct Instance {
    /// The port it listens on
    #[arg(long)]
    port: Option<i64>,
    /// What tells it from other instances on this node [default: the service's name]
    #[arg(long)]
    id: Option<String>,
    /// Where it listens [default: the node's address]
    #[arg(long)]
    address: Option<String>,
    /// A tag; may be given again
    #[arg(long)]
    tag: Vec<String>,
    /// A pair of meta data; may be given again
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    meta: Vec<(String, String)>,
    /// A check, such as ttl=30s; may be given again
    #[arg(long, value_name = "KIND=WHAT,...", value_parser = check)]
    check: Vec<CheckDraft>,
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// The instance's id
    id: String,
}

pub(super) async fn register(client: &Client, flags: Flags) -> Result<ExitCode, Failure> {
    let Some(file) = flags.file else {
        put(client, &flags.instance.draft(flags.name.unwrap_or_default())).await?;
        return Ok(ExitCode::SUCCESS);
    };
    // The file is checked as a whole before anything is sent, so that a mistake leaves nothing half-done.
    for draft in config::read_services(&file)? {
        put(client, &draft).await?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn deregister(client: &Client, which: &Which) -> Result<ExitCode, Failure> {
    remove(client, &which.id, &[]).await?;
    output::say(format_args!("deregistered {}", which.id));
    Ok(ExitCode::SUCCESS)
}

impl Instance {
    pub(super) fn draft(self, name: String) -> RegistrationDraft {
        RegistrationDraft {
            id: self.id,
            name,
            address: self.address,
            port: self.port,
            tags: self.tag,
            meta: self.meta.into_iter().collect(),
            checks: self.check,
            ..RegistrationDraft::default()
        }
    }
}

/// The id of what a draft asks for. What is wrong with it is found here, before anybody is asked.
pub(super) fn checked(draft: &RegistrationDraft) -> Result<String, Failure> {
    let wrong = |why| Failure::new("this cannot be registered", why, "hobnob register --help").code(Code::Usage);
    Ok(draft.clone().build().map_err(wrong)?.id.to_string())
}

/// Registers one instance.
async fn put(client: &Client, draft: &RegistrationDraft) -> Result<(), Failure> {
    let id = checked(draft)?;
    let before = read(client, &id).await?;
    write(client, &id, draft, &before, &[]).await
}

/// What stands under an id.
pub(super) async fn read(client: &Client, id: &str) -> Result<Answer, Failure> {
    client.call(Method::GET, &path(id), None).await
}

/// Registers under an id where `before` stood, if the agent finds what is wanted of it there.
pub(super) async fn write(
    client: &Client,
    id: &str,
    draft: &RegistrationDraft,
    before: &Answer,
    over: &[Condition<'_>],
) -> Result<(), Failure> {
    let (status, body) = write_over(client, id, draft, over).await?;
    let how = match status {
        StatusCode::CREATED => "",
        _ if before.body == body => " again",
        _ => ", changed",
    };
    output::say(format_args!("registered {id}{how}"));
    Ok(())
}

/// The same without a word.
pub(super) async fn write_over(
    client: &Client,
    id: &str,
    draft: &RegistrationDraft,
    over: &[Condition<'_>],
) -> Result<(StatusCode, Value), Failure> {
    let body = serde_json::to_value(draft).unwrap_or_default();
    let answer = client.call_with(Method::PUT, &path(id), Some(&body), over).await?;
    Ok((answer.status, answer.found()?))
}

/// A header that says what a write is to find.
pub(super) type Condition<'a> = (&'static str, Option<&'a str>);

/// Withdraws one instance.
pub(super) async fn remove(client: &Client, id: &str, over: &[Condition<'_>]) -> Result<(), Failure> {
    let answer = client.call_with(Method::DELETE, &path(id), None, over).await?;
    if answer.status == StatusCode::NOT_FOUND {
        let why = "nothing of that id is registered on this node; another node's instances are its own affair";
        return Err(Failure::new(format!("cannot deregister {id:?}"), why, "hobnob services"));
    }
    Ok(())
}

fn path(id: &str) -> String {
    format!("/api/v1/registrations/{}", client::segment(id))
}

/// A duration as people write it.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|why| format!("{text:?} {why}"))
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is not KEY=VALUE")?;
    Ok((key.into(), value.into()))
}

/// Parses `kind=what,every=10s,...`. A comma belongs to the value unless a word and `=` follow: URLs hold commas.
fn check(text: &str) -> Result<CheckDraft, String> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for part in text.split(',') {
        match (part.split_once('='), fields.last_mut()) {
            (Some((key, value)), _) if key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') => {
                let key = if key == "every" { "interval" } else { key };
                fields.push((key.into(), value.into()));
            }
            (_, Some((_, value))) => *value = format!("{value},{part}"),
            (_, None) => return Err("it is not KIND=WHAT, such as ttl=30s".into()),
        }
    }
    if fields.iter().any(|(key, _)| key == "script") {
        return Err(
            "a script is run only where a file of the agent's own machine asks for it: write the service into \
                    services.d with script = [\"/path/to/program\", \"argument\"] in its check, and set \
                    script_checks = true in the agent's settings"
                .into(),
        );
    }
    let typed = |(key, text): (String, String)| match (key.as_str(), text.parse::<u32>()) {
        ("rise" | "fall" | "pid" | "redirects", Ok(number)) => (key, number.into()),
        _ => (key, Value::String(text)),
    };
    let object: Map<String, Value> = fields.into_iter().map(typed).collect();
    serde_json::from_value(object.into()).map_err(|error| config::with_hint(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_written_in_one_word() {
        let draft = check("ttl=30s,rise=2,initial=passing").unwrap();
        assert_eq!((draft.ttl.as_deref(), draft.rise), (Some("30s"), Some(2)));
        assert!(check("ttl=a,b=c,d").unwrap_err().starts_with("unknown key `b`, and none of the"));
        assert!(check("script=/bin/true,every=5s").unwrap_err().contains("services.d"));
        assert!(check("ttl=1s,rsie=2").unwrap_err().ends_with("did you mean `rise`?"));
        assert!(check("30s").is_err());
    }
}
