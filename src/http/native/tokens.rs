//! `/api/v1/tokens` and `/api/v1/denials`: what the mesh's authority decrees, through a node that may sign or signed
//! elsewhere. A token itself is made by whoever asks, and never sent here: its SHA-256 is.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{moment, openapi::Api, params::Segments};
use crate::{
    agent::{
        trust::{Edict, Said, Token, Word},
        unix_millis,
    },
    http::{Answer, App, FixedToken, Policy, Problem, Shared, audit::Witness, body::Parsed, token::parse_hash},
    model::NodeName,
};

/// What a token is asked to be.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    name: String,
    sha256: String,
    #[schemars(with = "String")]
    policy: Policy,
    /// In unix milliseconds.
    #[serde(default)]
    expires: Option<u64>,
}

/// A token as it is shown.
#[derive(Serialize, JsonSchema)]
struct Shown {
    name: String,
    policy: String,
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_moment")]
    expires: Option<u64>,
}

fn some_moment<S: serde::Serializer>(at: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
    moment(&at.unwrap_or_default(), to)
}

impl From<&Token> for Shown {
    fn from(token: &Token) -> Self {
        Self { name: token.name.clone(), policy: token.policy.clone(), expires: token.expires }
    }
}

pub(super) async fn list(State(app): Shared) -> Response {
    let law = app.agent.law();
    let mut tokens: Vec<Shown> = law.tokens().filter(|token| token.is_good(unix_millis())).map(Into::into).collect();
    tokens.sort_by(|a, b| a.name.cmp(&b.name));
    Json(tokens).into_response()
}

pub(super) async fn create(State(app): Shared, witness: Witness, Parsed(wanted): Parsed<Wanted>) -> Answer {
    let sha256 = parse_hash(&wanted.sha256).ok_or_else(|| Problem::field("sha256", "is not 64 hexadecimal digits"))?;
    if let Some(fixed) = app.fixed.iter().find(|fixed| fixed.name == wanted.name || fixed.sha256 == sha256) {
        return Err(of_settings(&fixed.name, ""));
    }
    if app.agent.law().tokens().any(|token| token.name == wanted.name && token.is_good(unix_millis())) {
        return Err(Problem::new(StatusCode::CONFLICT, format!("there is a token called {:?} already", wanted.name)));
    }
    if let Some(same) = app.agent.law().tokens().find(|token| token.sha256 == sha256) {
        let why = format!("this token is known already, as {:?}", same.name);
        return Err(Problem::new(StatusCode::CONFLICT, why));
    }
    if wanted.expires.is_some_and(|at| at <= unix_millis()) {
        return Err(Problem::field("expires", "is over already"));
    }
    let token = Token { name: wanted.name, sha256, policy: wanted.policy.to_string(), expires: wanted.expires };
    let shown = Shown::from(&token);
    decree(&app, &witness, Word::Token(token), false).await?;
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

pub(super) async fn revoke(State(app): Shared, witness: Witness, Segments(name): Segments<String>) -> Answer {
    let law = app.agent.law();
    let named: Vec<_> = law.tokens().filter(|token| token.name == name).cloned().collect();
    let stands = |fixed: &&FixedToken| fixed.name == name || named.iter().any(|token| token.sha256 == fixed.sha256);
    let fixed = app.fixed.iter().find(stands);
    if named.is_empty() && fixed.is_none() {
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("there is no token called {name:?}")));
    }
    let revoked = if named.is_empty() { "" } else { "; what the mesh knew by that name is revoked" };
    let mut done = Ok(());
    for token in named.iter().cloned() {
        // Each goes, whatever became of the one before.
        done = decree(&app, &witness, Word::Token(token), true).await.and(done);
    }
    done?;
    match fixed {
        Some(fixed) => Err(of_settings(&fixed.name, revoked)),
        None => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

/// A token of this node's settings stands here whatever the mesh says, and goes with them.
fn of_settings(name: &str, besides: &str) -> Problem {
    let why =
        format!("the token {name:?} stands in this node's settings, under [[http.tokens]], and is good here{besides}");
    Problem::new(StatusCode::CONFLICT, why)
}

/// Decrees a word that makes sense.
async fn decree(app: &App, witness: &Witness, word: Word, void: bool) -> Result<(), Problem> {
    let said = Said { mesh: app.agent.config().mesh.clone(), word, void, at: 0, again: None };
    said.check(unix_millis())
        .map_err(|why| Problem::new(StatusCode::BAD_REQUEST, format!("what is asked for {why}")))?;
    let done = app.agent.decree(said.word.clone(), void).await;
    witness.decreed(&said.word, void, done.as_ref().copied());
    Ok(done?)
}

/// Who is not let in: `{"node": "web-1"}` or `{"serial": "0a..."}`; `void` lets him in again.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Denial {
    #[schemars(with = "Option<String>")]
    node: Option<NodeName>,
    serial: Option<String>,
    #[serde(default)]
    void: bool,
}

#[derive(Default, Serialize, JsonSchema)]
struct Denied {
    nodes: Vec<String>,
    serials: Vec<String>,
}

pub(super) async fn denied(State(app): Shared) -> Response {
    let mut denied = Denied::default();
    for said in app.agent.law().standing() {
        match &said.word {
            Word::DenyNode(name) => denied.nodes.push(name.to_string()),
            Word::DenySerial(serial) => denied.serials.push(serial.clone()),
            Word::Token(_) => {}
        }
    }
    Json(denied).into_response()
}

pub(super) async fn deny(State(app): Shared, witness: Witness, Parsed(denial): Parsed<Denial>) -> Answer {
    let (field, word) = match (denial.node, denial.serial) {
        (Some(node), None) => ("node", Word::DenyNode(node)),
        (None, Some(serial)) => ("serial", Word::DenySerial(serial)),
        _ => return Err(Problem::field("node", "or serial must be given, and not both")),
    };
    // Whom nobody lets in any more can tell nobody.
    if app.agent.is_own(&word) {
        return Err(Problem::field(field, "names this node itself; ask another"));
    }
    if denial.void && !app.agent.law().holds(&word) {
        return Err(Problem::new(StatusCode::NOT_FOUND, "nothing denies it, as far as this node has heard"));
    }
    decree(&app, &witness, word, denial.void).await?;
    Ok(denied(State(app)).await)
}

/// An edict signed where the authority's key is kept.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Signed {
    edict: String,
}

/// All edicts that stand, and those that took others back, as they were signed.
pub(super) async fn edicts(State(app): Shared) -> Response {
    Json(app.agent.law().edicts().map(Edict::to_text).collect::<Vec<_>>()).into_response()
}

pub(super) async fn publish(State(app): Shared, witness: Witness, Parsed(signed): Parsed<Signed>) -> Answer {
    let edict = Edict::from_text(&signed.edict).ok_or_else(|| Problem::field("edict", "is no edict"))?;
    // Whom nobody lets in any more can tell nobody; to repeat what stands is to sign it again.
    let said = edict.said();
    let own = said.as_ref().filter(|said| !said.void && app.agent.is_own(&said.word));
    if own.is_some_and(|said| !app.agent.law().holds(&said.word)) {
        return Err(Problem::field("edict", "names this node itself; ask another"));
    }
    let done = app.agent.publish(edict).await;
    said.iter().for_each(|said| witness.decreed(&said.word, said.void, done.as_ref().copied()));
    done?;
    Ok(StatusCode::CREATED.into_response())
}

/// For the OpenAPI document.
pub(super) fn describe(api: &mut Api) {
    api.get("/api/v1/tokens", "The tokens that are good in this mesh; needs the right to do all.")
        .answers::<Vec<Shown>>(200, "By name; never the tokens themselves.");
    api.post("/api/v1/tokens", "Decrees a token, of which the SHA-256 is told; needs the right to do all.")
        .takes::<Wanted>()
        .answers::<Shown>(201, "It is on its way to every node.");
    api.delete("/api/v1/tokens/{name}", "Takes a token's rights back.").empty(204, "It is good no more.");
    api.get("/api/v1/denials", "Who is not let into the mesh.").answers::<Denied>(200, "Names and serial numbers.");
    api.post("/api/v1/denials", "Lets a node or a certificate in no more, or again.")
        .takes::<Denial>()
        .answers::<Denied>(200, "All that are denied now.");
    api.get("/api/v1/edicts", "All that the authority has decreed, as it was signed; needs the right to operate.")
        .answers::<Vec<String>>(200, "In base64, for who signs it anew.");
    api.post("/api/v1/edicts", "Publishes what was signed where the authority's key is kept.")
        .takes::<Signed>()
        .empty(201, "It is on its way to every node.");
}
