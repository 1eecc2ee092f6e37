//! What `hobnob run` holds at the agent: one instance, as long as nobody else lives who holds it.

use std::time::Duration;

use hyper::{Method, StatusCode, header};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    client::{self, Answer, Client},
    failure::Failure,
    heart::{BEAT, Heart, KIND},
    output, register, services,
};
use crate::model::{CheckDraft, Health, RegistrationDraft};

/// An instance that is ours to register, feed and withdraw.
pub(super) struct Stake<'a> {
    client: &'a Client,
    id: String,
    draft: RegistrationDraft,
    heart: Heart,
}

impl<'a> Stake<'a> {
    /// What is wrong with the draft is found here, before anybody is asked.
    pub(super) fn new(client: &'a Client, mut draft: RegistrationDraft) -> Result<Self, Failure> {
        let heart = Heart::own();
        draft.checks.push(heart.check());
        Ok(Self { client, id: register::checked(&draft)?, draft, heart })
    }

    /// What stands under the id now, unless a living `run` holds it, or somebody who is none. Who cannot be seen from here, in another container
    /// say, is alive as long as he is heard of.
    pub(super) async fn survey(&self) -> Result<Answer, Failure> {
        let patience = Instant::now() + BEAT * 4;
        loop {
            let found = register::read(self.client, &self.id).await?;
            if found.status.is_success() && hearts(&found.body).next().is_none() {
                return Err(self.foreign());
            }
            let holders = || hearts(&found.body).filter(|heart| *heart != self.heart.to_string());
            let mut alive = None;
            for holder in holders() {
                alive = match holder.parse().ok().and_then(|other| self.heart.sees(&other)) {
                    Some(true) => return Err(self.held(holder)),
                    Some(false) => alive,
                    None if self.is_fed(holder).await? => Some(holder),
                    None => alive,
                };
            }
            match alive {
                None => return Ok(found),
                Some(holder) if Instant::now() > patience => return Err(self.held(holder)),
                // Who was killed a moment ago is missed soon.
                Some(_) => sleep(AGAIN).await,
            }
        }
    }

    /// Takes the id, before there is anything behind it: critical, and looked at by no check.
    pub(super) async fn claim(&self) -> Result<(), Failure> {
        let heart = CheckDraft { initial: Some(Health::Critical), ..self.heart.check() };
        let draft = RegistrationDraft { checks: vec![heart], ..self.draft.clone() };
        let found = self.survey().await?;
        register::write_over(self.client, &self.id, &draft, over(&found).as_slice()).await.map(drop)
    }

    /// Registers it, over nothing but what the survey has found.
    pub(super) async fn enter(&self) -> Result<(), Failure> {
        let found = self.survey().await?;
        if hearts(&found.body).any(|heart| heart == self.heart.to_string()) {
            register::write_over(self.client, &self.id, &self.draft, over(&found).as_slice()).await?;
            output::say(format_args!("registered {}", self.id));
            return Ok(());
        }
        register::write(self.client, &self.id, &self.draft, &found, over(&found).as_slice()).await
    }

    /// One beat; whether the agent knows the instance as ours.
    pub(super) async fn beat(&self) -> Result<bool, Failure> {
        self.report(Health::Passing).await
    }

    async fn report(&self, status: Health) -> Result<bool, Failure> {
        let [id, heart] = [&self.id, &self.heart.to_string()].map(|text| client::segment(text));
        let path = format!("/api/v1/registrations/{id}/checks/{heart}");
        let answer = self.client.call(Method::PUT, &path, Some(&json!({ "status": status }))).await?;
        Ok(answer.status != StatusCode::NOT_FOUND)
    }

    /// Takes it out of every answer, if it is still ours. Where it cannot be withdrawn, for the agent's disk is full say,
    /// it is at least sick. Tries `until` then, ever more seldom: an agent that is asked too often is not to be asked more.
    pub(super) async fn withdraw(&self, until: Instant) -> Result<(), Failure> {
        let mut pause = AGAIN;
        loop {
            let refused = match self.remove().await {
                Err(failure) if !failure.is_unreachable() => failure,
                ended => return ended,
            };
            match self.report(Health::Critical).await {
                // Who has no token to show never asked the agent, which is not to be waited for.
                Err(failure) if failure.is_transient() && !failure.is_unreachable() && !failure.is_usage() => {}
                _ => return Err(refused),
            }
            if Instant::now() + pause > until {
                return Err(refused);
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    async fn remove(&self) -> Result<(), Failure> {
        let found = register::read(self.client, &self.id).await?;
        if !hearts(&found.body).any(|heart| heart == self.heart.to_string()) {
            return Ok(());
        }
        let over = found.mark.as_deref().map(|mark| (header::IF_MATCH.as_str(), Some(mark)));
        register::remove(self.client, &self.id, over.as_slice()).await
    }

    /// Whether a heart has beaten lately, by the agent's word.
    async fn is_fed(&self, heart: &str) -> Result<bool, Failure> {
        let answer = self.client.call(Method::GET, &services::path(&self.draft.name), None).await?;
        let instances = answer.body.as_array().into_iter().flatten();
        let mut checks = instances.filter_map(|instance| instance["checks"].as_array()).flatten();
        Ok(checks.any(|check| check["id"] == heart && check["status"] == "passing"))
    }

    /// Without a heart it is there for good, until whoever registered it says otherwise.
    fn foreign(&self) -> Failure {
        let what = format!("cannot register {:?}: something else has registered this id", self.id);
        let next = format!("hobnob run {1} --id {0}-2, or hobnob deregister {0} first", self.id, self.draft.name);
        Failure::new(what, "no `hobnob run` holds it, so it is not for one to overwrite and to withdraw", next)
    }

    fn held(&self, holder: &str) -> Failure {
        let what = format!("cannot register {:?}: another `hobnob run` that is alive holds this id", self.id);
        let next = format!("hobnob run {} --id {}-2, or end the other one first", self.draft.name, self.id);
        Failure::new(what, format!("it reports to the check {holder}, and two cannot share one instance"), next)
    }
}

/// What a write must find to be one over what was found.
fn over(found: &Answer) -> Option<register::Condition<'_>> {
    match (found.status, &found.mark) {
        (StatusCode::NOT_FOUND, _) => Some((header::IF_NONE_MATCH.as_str(), Some("*"))),
        (_, mark) => mark.as_deref().map(|mark| (header::IF_MATCH.as_str(), Some(mark))),
    }
}

/// The checks of a registration that some `run` reports to.
fn hearts(registration: &Value) -> impl Iterator<Item = &str> {
    let checks = registration["checks"].as_array().into_iter().flatten();
    checks.filter_map(|check| check["id"].as_str()).filter(|id| id.split(':').next() == Some(KIND))
}

/// How soon one looks again whether somebody is missed.
const AGAIN: Duration = Duration::from_millis(250);
