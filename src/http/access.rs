//! Who may do what: a token's policy, or that of those who show none, against what a request needs.
//!
//! One table says what each call needs, for all faces of HTTP; what it does not know needs the right to operate, so that
//! a new route is closed before it is open. Tokens are known by their SHA-256 and compared in constant time. Every write
//! and every refusal is an audit event in the log while tokens count.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use subtle::ConstantTimeEq;

use super::{
    FixedToken, Policy, Problem,
    audit::{ANONYMOUS, Audit, Caller, UNKNOWN},
    body, consul,
    guard::Via,
    requests::Classes,
    revocation::Held,
    token,
};
use crate::agent::Agent;

/// What stands between the door and the handlers.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) agent: Agent,
    pub(super) anonymous: Policy,
    pub(super) fixed: Arc<[FixedToken]>,
    pub(super) audit: Arc<Audit>,
    /// Counts those who are sent away here.
    pub(super) refused: Arc<Classes>,
}

/// Whoever asks.
struct Who {
    name: String,
    policy: Policy,
    is_anonymous: bool,
    /// Where it is a token that the mesh may take back.
    held: Option<Held>,
}

impl Who {
    /// That somebody may not: 401 for those who have shown no token, since one might help.
    fn forbidden(&self, what: &str) -> Problem {
        let (name, policy) = (&self.name, &self.policy);
        let status = if self.is_anonymous { StatusCode::UNAUTHORIZED } else { StatusCode::FORBIDDEN };
        Problem::new(status, format!("{name} has the policy {policy}, which does not allow {what}"))
    }
}

/// What a request needs.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    /// Nothing: whether the process lives is no secret.
    Nothing,
    Read,
    /// To write the services that it is about.
    Write(Aim),
    Operate,
    /// To hand out rights.
    All,
}

/// Where a request says which services it is about.
#[derive(Debug, PartialEq, Eq)]
enum Aim {
    /// This one.
    Service(String),
    /// This one, of which an instance says in Eureka's words that it lives.
    Lease(String),
    /// That of the registration of this id.
    Instance(String),
    /// That of the registration of this id, or of the one in the body, and the one that the body names.
    Body(Option<String>),
    /// That of the registration whose check this is.
    Beat(String),
    /// The same, in Consul's way of calling checks.
    Check(String),
    /// That of the registration that the body gives a check to, in Consul's words.
    NewCheck,
    /// Those on the node without an agent that the body names, and the one that the body puts there. Nodes are the
    /// operator's.
    Foreign,
}

impl Need {
    /// Whether it is an answer of a program that it lives: too many of them for the audit.
    fn is_beat(&self) -> bool {
        matches!(self, Self::Write(Aim::Beat(_) | Aim::Check(_) | Aim::Lease(_)))
    }
}

/// The layer over all routes.
pub(super) async fn check(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let via = request.extensions().get().copied().unwrap_or(Via::Unix);
    let need = Need::of(&method, &path);
    let (is_beat, is_read) = (need.is_beat(), matches!(method, Method::GET | Method::HEAD | Method::OPTIONS));
    let (who, held, outcome) = match access.who(&request) {
        Ok(who) => {
            request.extensions_mut().insert(Caller(who.name.clone()));
            let allowed = access.allow(&who, need, request).await;
            (who.name, who.held, allowed)
        }
        // What needs nothing is told to whoever asks, whatever is shown.
        Err(_) if need == Need::Nothing => (UNKNOWN.into(), None, Ok(request)),
        Err(why) => (UNKNOWN.into(), None, Err(Problem::new(StatusCode::UNAUTHORIZED, why))),
    };
    let outcome = match outcome {
        // A write is not broken off: nobody could tell whether it was done.
        Ok(request) => match held.filter(|_| is_read) {
            Some(held) => held.during(next.run(request)).await,
            None => Ok(next.run(request).await),
        },
        Err(problem) => Err(problem),
    };
    match outcome {
        Ok(response) => {
            if !is_read && !is_beat {
                access.audit.wrote(via, &who, &method, &path, response.status());
            }
            response
        }
        Err(problem) => {
            let refused = refuse(problem, &path);
            access.refused.add(&refused);
            access.audit.refused(via, Some(&who), &method, &path, refused.status());
            refused
        }
    }
}

/// Who could do better with another token is told so (RFC 6750 section 3). Consul's clients know but 403, and its words.
fn refuse(problem: Problem, path: &str) -> Response {
    let is_about_rights = matches!(problem.kind(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    if is_about_rights && path.starts_with("/v1/") {
        let (_, why) = problem.into_parts();
        return (StatusCode::FORBIDDEN, format!("Permission denied: {why}")).into_response();
    }
    let mut response = problem.into_response();
    if response.status() == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer realm=\"hobnob\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

impl Access {
    /// Whose token a request shows, this node's own before the mesh's. All are looked at: the time tells nothing.
    fn who(&self, request: &Request) -> Result<Who, &'static str> {
        let Some(token) = token::shown(request)? else {
            let (name, policy) = (ANONYMOUS.into(), self.anonymous.clone());
            return Ok(Who { name, policy, is_anonymous: true, held: None });
        };
        let hash = digest(&SHA256, token.as_bytes());
        let same = |known: &[u8; 32]| bool::from(known.as_slice().ct_eq(hash.as_ref()));
        let mut found = None;
        for token in &*self.fixed {
            if same(&token.sha256) {
                let (name, policy) = (token.name.clone(), token.policy.clone());
                found = Some(Who { name, policy, is_anonymous: false, held: None });
            }
        }
        let now = crate::agent::unix_millis();
        for token in self.agent.law().tokens() {
            if same(&token.sha256)
                && token.is_good(now)
                && let Ok(policy) = token.policy.parse()
            {
                let held = Held { agent: self.agent.clone(), sha256: token.sha256, expires: token.expires };
                found.get_or_insert(Who { name: token.name.clone(), policy, is_anonymous: false, held: Some(held) });
            }
        }
        found.ok_or("the token is not known here, or has expired")
    }

    /// Gives the request back if the policy allows what it needs.
    async fn allow(&self, who: &Who, need: Need, request: Request) -> Result<Request, Problem> {
        let policy = &who.policy;
        let (is_enough, right) = match &need {
            Need::Nothing => (true, ""),
            Need::Read => (policy.may_read(), "read"),
            Need::Write(Aim::Foreign) => (policy.may_operate(), "operate"),
            Need::Write(_) => (policy.may_write_some(), "write"),
            Need::Operate => (policy.may_operate(), "operate"),
            Need::All => (policy.is_all(), "all"),
        };
        if !is_enough {
            return Err(who.forbidden(&format!("this: it needs {right}")));
        }
        match need {
            Need::Write(aim) => self.allow_write(who, aim, request).await,
            _ => Ok(request),
        }
    }

    async fn allow_write(&self, who: &Who, aim: Aim, mut request: Request) -> Result<Request, Problem> {
        let view = self.agent.view();
        let of_id = |id: &str| view.row(&id.try_into().ok()?).map(|own| own.name.to_string());
        // Who names a check's id takes it from the service that had it.
        let of_check = |id: &String| consul::service_of_check(view, id);
        let services: Vec<String> = match aim {
            Aim::Service(name) | Aim::Lease(name) => vec![name],
            Aim::Instance(id) | Aim::Beat(id) => of_id(&id).into_iter().collect(),
            Aim::Check(id) => consul::service_of_check(view, &id).into_iter().collect(),
            Aim::Body(id) => {
                let said = Said::of(&mut request).await?;
                let ids = id.iter().chain(&said.ids).chain(&said.names);
                let named = ids.clone().filter_map(|id| of_id(id)).chain(said.names.iter().cloned());
                let derived = ids.filter(|_| said.derives).flat_map(|id| consul::services_of_derived(view, id));
                named.chain(said.checks.iter().filter_map(of_check)).chain(derived).collect()
            }
            Aim::NewCheck => {
                let said = Said::of(&mut request).await?;
                let taken = said.names.iter().chain(&said.ids).chain(&said.checks).filter_map(of_check);
                match &*said.services {
                    [] => taken.chain([consul::node_checks().to_string()]).collect(),
                    ids => taken.chain(ids.iter().filter_map(|id| of_id(id))).collect(),
                }
            }
            Aim::Foreign => {
                let said = Said::of(&mut request).await?;
                // Whoever moves a node moves all that stands there, whichever agents took it in.
                let there = said.nodes.iter().flat_map(|node| view.on_foreign_node(node, |_| true));
                let there = there.map(|row| row.registration).filter(|row| !row.has_role());
                there.map(|row| row.name.to_string()).chain(said.names.iter().cloned()).collect()
            }
        };
        match services.iter().find(|service| !who.policy.may_write(service)) {
            Some(service) => Err(who.forbidden(&format!("to write the service {service:?}"))),
            None => Ok(request),
        }
    }
}

/// What a body says of where it belongs. A body that makes no sense changes nothing, and its handler says what is wrong
/// with it.
#[derive(Default)]
struct Said {
    names: Vec<String>,
    ids: Vec<String>,
    services: Vec<String>,
    checks: Vec<String>,
    nodes: Vec<String>,
    /// Whether checks may be called by the registration's id.
    derives: bool,
}

impl Said {
    /// Reads the body, and puts it back.
    async fn of(request: &mut Request) -> Result<Self, Problem> {
        let bytes = body::collect(std::mem::take(request.body_mut())).await?;
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        *request.body_mut() = Body::from(bytes);
        let mut said = Self::default();
        // Consul's clients write a key as they like; all spellings of it are held to the policy.
        for (key, value) in value.as_object().into_iter().flatten() {
            let text = value.as_str().filter(|text| !text.is_empty());
            match (&*consul::folded(key), text) {
                ("name", Some(text)) => said.names.push(text.into()),
                ("id", Some(text)) => said.ids.push(text.into()),
                ("serviceid", Some(text)) => said.services.push(text.into()),
                ("checkid", Some(text)) => said.checks.push(text.into()),
                ("node", Some(text)) => said.nodes.push(text.into()),
                ("service", None) => said.name_service(value),
                ("check", None) => said.name_checks(std::slice::from_ref(value)),
                ("checks", None) => said.name_checks(value.as_array().map_or(&[], Vec::as_slice)),
                _ => {}
            }
        }
        Ok(said)
    }

    fn name_service(&mut self, service: &Value) {
        let named = service.as_object().into_iter().flatten().filter(|(key, _)| consul::folded(key) == "service");
        self.names.extend(named.filter_map(|(_, name)| name.as_str().map(String::from)));
    }

    fn name_checks(&mut self, checks: &[Value]) {
        self.derives = true;
        for (key, value) in checks.iter().filter_map(Value::as_object).flatten() {
            if matches!(&*consul::folded(key), "id" | "checkid") {
                self.checks.extend(value.as_str().map(String::from));
            }
        }
    }
}

impl Need {
    /// The table.
    fn of(method: &Method, path: &str) -> Self {
        let decoded = |segment: &str| percent_decode_str(segment).decode_utf8_lossy().into_owned();
        let segments: Vec<_> = path.split('/').skip(1).map(decoded).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        match segments.as_slice() {
            [""] | ["livez" | "readyz" | "version"] if reads => Self::Nothing,
            ["api", "v1", "tokens" | "joins", ..] => Self::All,
            // Who signs them anew asks for them: names, rights and all.
            ["api", "v1", "edicts"] => Self::Operate,
            _ if reads => Self::Read,
            // A question that Envoy asks by POST.
            ["v3", "discovery:endpoints"] => Self::Read,
            // Refused to everybody, with the reason.
            ["v1", "kv" | "session" | "txn" | "query" | "connect" | "discovery-chain", ..]
            | ["v1", "config" | "operator" | "snapshot" | "acl", ..]
            | ["v1", "agent", "connect" | "token", ..] => Self::Read,
            ["api", "v1", "registrations", id] if *method == Method::PUT => Self::Write(Aim::Body(Some((*id).into()))),
            ["api", "v1", "registrations" | "maintenance", id] => Self::Write(Aim::Instance((*id).into())),
            ["api", "v1", "registrations", id, "checks", _] => Self::Write(Aim::Beat((*id).into())),
            ["v1", "agent", "service", "register"] => Self::Write(Aim::Body(None)),
            ["v1", "agent", "service", "deregister" | "maintenance", id @ ..] if !id.is_empty() => {
                Self::Write(Aim::Instance(id.join("/")))
            }
            ["v1", "agent", "check", "register"] => Self::Write(Aim::NewCheck),
            ["v1", "catalog", "register" | "deregister"] => Self::Write(Aim::Foreign),
            ["v1", "agent", "check", "pass" | "warn" | "fail" | "update" | "deregister", id @ ..] if !id.is_empty() => {
                Self::Write(Aim::Check(id.join("/")))
            }
            ["eureka", "apps", name, _] | ["eureka", "v2", "apps", name, _] if *method == Method::PUT => {
                Self::Write(Aim::Lease((*name).into()))
            }
            ["eureka", "apps", name, ..] | ["eureka", "v2", "apps", name, ..] => {
                Self::Write(Aim::Service((*name).into()))
            }
            _ => Self::Operate,
        }
    }
}

/// Whether a call needs no right, or only that to read.
pub(super) fn is_open(method: &Method, path: &str) -> bool {
    matches!(Need::of(method, path), Need::Nothing | Need::Read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Config, requests::Requests, routes};

    #[test]
    fn what_is_not_in_the_table_needs_the_right_to_operate() {
        let need = |method: Method, path| Need::of(&method, path);
        assert_eq!(need(Method::GET, "/livez"), Need::Nothing);
        assert_eq!(need(Method::GET, "/v1/health/service/web"), Need::Read);
        assert_eq!(need(Method::POST, "/api/v1/leave"), Need::Operate);
        assert_eq!(need(Method::PUT, "/api/v1/maintenance"), Need::Operate);
        assert_eq!(need(Method::PUT, "/v1/agent/service/register/x"), Need::Operate);
        assert_eq!(need(Method::GET, "/api/v1/tokens"), Need::All);
        assert_eq!(need(Method::POST, "/v3/discovery:endpoints"), Need::Read);
        let instance = |id: &str| Need::Write(Aim::Instance(id.into()));
        assert_eq!(need(Method::PUT, "/api/v1/registrations/web%2F1"), Need::Write(Aim::Body(Some("web/1".into()))));
        assert_eq!(need(Method::DELETE, "/api/v1/registrations/a"), instance("a"));
        assert_eq!(need(Method::PUT, "/v1/agent/service/deregister/a/b"), instance("a/b"));
    }

    /// What writing there needs, for every route: one that is missing here is one that nobody has thought about.
    const WRITES: [(&str, &[&str]); 11] = [
        (
            "service",
            &[
                "/eureka/apps/",
                "/eureka/apps/delta",
                "/eureka/apps/{app}",
                "/eureka/apps/{app}/{id}/status",
                "/eureka/apps/{app}/{id}/metadata",
            ],
        ),
        ("lease", &["/eureka/apps/{app}/{id}"]),
        (
            "question",
            &[
                "/v3/discovery:endpoints",
                "/v1/acl",
                "/v1/acl/{*rest}",
                "/v1/agent/connect/{*rest}",
                "/v1/agent/token/{*rest}",
                "/v1/config",
                "/v1/config/{*rest}",
                "/v1/connect/{*rest}",
                "/v1/discovery-chain/{*rest}",
                "/v1/kv/",
                "/v1/kv/{*key}",
                "/v1/operator",
                "/v1/operator/{*rest}",
                "/v1/query",
                "/v1/query/{*rest}",
                "/v1/session",
                "/v1/session/{*rest}",
                "/v1/snapshot",
                "/v1/txn",
            ],
        ),
        ("body", &["/api/v1/registrations/{id}", "/v1/agent/service/register"]),
        (
            "instance",
            &[
                "/api/v1/maintenance/{id}",
                "/v1/agent/service/deregister/",
                "/v1/agent/service/deregister/{*id}",
                "/v1/agent/service/maintenance/",
                "/v1/agent/service/maintenance/{*id}",
            ],
        ),
        ("beat", &["/api/v1/registrations/{id}/checks/{check}"]),
        (
            "check",
            &[
                "/v1/agent/check/deregister/{*id}",
                "/v1/agent/check/fail/{*id}",
                "/v1/agent/check/pass/{*id}",
                "/v1/agent/check/update/{*id}",
                "/v1/agent/check/warn/{*id}",
            ],
        ),
        ("new check", &["/v1/agent/check/register"]),
        ("all", &["/api/v1/joins", "/api/v1/tokens", "/api/v1/tokens/{name}"]),
        (
            "operate",
            &[
                "/api/v1/denials",
                "/api/v1/edicts",
                "/api/v1/force-leave/{node}",
                "/api/v1/join",
                "/api/v1/leave",
                "/api/v1/maintenance",
                "/api/v1/ping/{node}",
                "/api/v1/reload",
                "/v1/agent/force-leave/{*node}",
                "/v1/agent/join/{*address}",
                "/v1/agent/leave",
                "/v1/agent/maintenance",
                "/v1/agent/reload",
                "/v1/event/fire/{*name}",
            ],
        ),
        ("foreign", &["/v1/catalog/deregister", "/v1/catalog/register"]),
    ];

    #[test]
    fn every_route_needs_what_it_should() {
        let mut requests = Requests::default();
        drop(routes(&mut requests, &Config { eureka: true, ..Config::default() }));
        let paths: Vec<_> = requests.paths().filter(|path| path.starts_with('/')).collect();
        assert!(paths.len() > 60, "{paths:?}");
        for (_, listed) in WRITES {
            assert!(listed.iter().all(|path| paths.contains(path)), "a route that is gone: {listed:?}");
        }
        for path in paths {
            let asked = path.replace("{*", "").replace(['{', '}'], "");
            let open = matches!(path, "/" | "/livez" | "/readyz" | "/version");
            let all = path.starts_with("/api/v1/tokens") || path == "/api/v1/joins";
            let reads = if open {
                Need::Nothing
            } else if all {
                Need::All
            } else if path == "/api/v1/edicts" {
                Need::Operate
            } else {
                Need::Read
            };
            for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
                assert_eq!(Need::of(&method, &asked), reads, "{method} {path}");
            }
            let listed = WRITES.iter().find(|(_, listed)| listed.contains(&path)).map(|(what, _)| *what);
            let what = match Need::of(&Method::PUT, &asked) {
                Need::Write(Aim::Body(_)) => "body",
                Need::Write(Aim::Instance(_)) => "instance",
                Need::Write(Aim::Beat(_)) => "beat",
                Need::Write(Aim::Check(_)) => "check",
                Need::Write(Aim::NewCheck) => "new check",
                Need::Write(Aim::Foreign) => "foreign",
                Need::Write(Aim::Service(_)) => "service",
                Need::Write(Aim::Lease(_)) => "lease",
                Need::Operate => "operate",
                Need::All => "all",
                Need::Read => "question",
                Need::Nothing => "nothing",
            };
            // Where there is nothing to write, it is refused as if there were.
            assert_eq!(what, listed.unwrap_or("operate"), "PUT {path}");
            for method in [Method::POST, Method::DELETE, Method::PATCH] {
                let is_open = matches!(Need::of(&method, &asked), Need::Nothing | Need::Read);
                assert!(!is_open || what == "question", "{method} {path}");
            }
        }
    }
}
