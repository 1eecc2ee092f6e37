//! `/v1/health/…`: instances with their node and all their checks, and the checks alone.

use axum::extract::State;
use serde::Serialize;

use super::{
    check::{self, Check, NodeRows},
    failure::{Answer, Failure},
    fields,
    filter::Filter,
    near,
    node::Node,
    query::{Query, Tail},
    read::{json, read},
    service::Service,
};
use crate::{
    agent::{Topic, View},
    http::{App, Shared},
    mesh::Instance,
    model::{Health, MemberState},
};

/// An instance, its node, and what is known of the health of both.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry<'a> {
    node: Node<'a>,
    service: Service<'a>,
    checks: Vec<Check<'a>>,
}

/// Which instances are asked for; [`super::catalog`] takes the same.
pub(super) struct Asked<'a> {
    datacenter: &'a str,
    tags: Vec<&'a str>,
    node_meta: Vec<(&'a str, &'a str)>,
    pub(super) filter: Option<Filter>,
}

impl<'a> Asked<'a> {
    pub(super) fn of(app: &'a App, query: &'a Query, fields: fields::Fields) -> Result<Self, Failure> {
        let tags = query.all("tag").filter(|tag| !tag.is_empty()).collect();
        let filter = Filter::of(query, fields)?;
        Ok(Self { datacenter: query.datacenter(app)?, tags, node_meta: query.node_meta(), filter })
    }

    /// Whether a row is an instance that was asked for.
    pub(super) fn admits(&self, row: &Instance, node: &Node<'_>) -> bool {
        self.is_here(node)
            && !row.registration.has_role()
            && self
                .tags
                .iter()
                .all(|asked| row.registration.tags.iter().any(|tag| tag.as_str().eq_ignore_ascii_case(asked)))
    }

    /// Whether more than its datacenter decides whether a row is shown.
    pub(super) fn is_narrow(&self) -> bool {
        !(self.node_meta.is_empty() && self.tags.is_empty()) || self.filter.is_some()
    }

    /// Whether a node stands where it was asked for.
    pub(super) fn is_here(&self, node: &Node<'_>) -> bool {
        node.datacenter.eq_ignore_ascii_case(self.datacenter) && node.has(&self.node_meta)
    }

    /// Whether what is shown passes the filter.
    pub(super) fn passes(&self, shown: &impl Serialize) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.admits(shown))
    }
}

pub(super) async fn service(State(app): Shared, Tail(name): Tail, query: Query) -> Answer {
    let asked = Asked::of(&app, &query, fields::HEALTH)?;
    let passing = query.switch("passing")?;
    read(&app, &query, Topic::Service(name.to_ascii_lowercase()), |mark| {
        let view = app.agent.view();
        let (found, registered) = (view.service(&name), NodeRows::of_view(view));
        let mut entries: Vec<_> = found
            .iter()
            .flat_map(|service| service.ordered())
            .filter_map(|row| {
                let node = Node::of(row, mark);
                if !asked.admits(row, &node) {
                    return None;
                }
                let mut checks = check::of_node(row, &registered, mark);
                checks.extend(check::of_row(row, mark));
                if passing && check::worst(&checks) != Health::Passing {
                    return None;
                }
                let entry = Entry { node, service: Service::of(&row.registration, mark), checks };
                asked.passes(&entry).then_some(entry)
            })
            .collect();
        near::sort(&app, &query, &mut entries, |entry| entry.node.name);
        json(&query, &entries)
    })
    .await
}

pub(super) async fn checks(State(app): Shared, Tail(name): Tail, query: Query) -> Answer {
    let asked = Asked::of(&app, &query, fields::CHECK)?;
    read(&app, &query, Topic::Service(name.to_ascii_lowercase()), |mark| {
        let found = app.agent.view().service(&name);
        let rows = found.iter().flat_map(|service| service.ordered());
        let rows = rows.filter(|row| asked.admits(row, &Node::of(row, mark)));
        let mut all: Vec<_> = rows.flat_map(|row| check::of_row(row, mark)).collect();
        finish(&app, &query, &asked, &mut all);
        json(&query, &all)
    })
    .await
}

pub(super) async fn node(State(app): Shared, Tail(name): Tail, query: Query) -> Answer {
    let asked = Asked::of(&app, &query, fields::CHECK)?;
    read(&app, &query, topic(app.agent.view(), &name), |mark| {
        every_check(app.agent.view(), mark, |mut all| {
            all.retain(|(node, check)| asked.is_here(node) && check.node.eq_ignore_ascii_case(&name));
            let mut all: Vec<_> = all.into_iter().map(|(_, check)| check).collect();
            finish(&app, &query, &asked, &mut all);
            json(&query, &all)
        })
    })
    .await
}

pub(super) async fn state(State(app): Shared, Tail(state): Tail, query: Query) -> Answer {
    let asked = Asked::of(&app, &query, fields::CHECK)?;
    read(&app, &query, Topic::Checks, |mark| {
        every_check(app.agent.view(), mark, |mut all| {
            all.retain(|(node, check)| asked.is_here(node) && (state == "any" || check.status.as_str() == state));
            let mut all: Vec<_> = all.into_iter().map(|(_, check)| check).collect();
            finish(&app, &query, &asked, &mut all);
            json(&query, &all)
        })
    })
    .await
}

/// There is no mesh of proxies here: nobody offers one.
pub(super) async fn connect(State(app): Shared, Tail(name): Tail, query: Query) -> Answer {
    query.datacenter(&app)?;
    read(&app, &query, Topic::Service(name.to_ascii_lowercase()), |_| json(&query, &[(); 0])).await
}

/// What to wait for to learn of a node and all on it.
pub(super) fn topic(view: &View, node: &str) -> Topic {
    // Who has left is absent: a node without an agent may have taken the name.
    let is_member = view.node(node).is_some_and(|member| member.state != MemberState::Left);
    if is_member { Topic::Node(node.to_ascii_lowercase()) } else { Topic::Nodes }
}

/// Filters and sorts a list of checks.
fn finish(app: &App, query: &Query, asked: &Asked<'_>, all: &mut Vec<Check<'_>>) {
    all.retain(|check| asked.passes(check));
    all.sort_by(|a, b| (a.node, &a.id).cmp(&(b.node, &b.id)));
    near::sort(app, query, all, |check| check.node);
}

/// All checks there are, each with its node, in no order.
fn every_check<T>(view: &View, mark: u64, then: impl FnOnce(Vec<(Node<'_>, Check<'_>)>) -> T) -> T {
    let members = view.nodes_where(|member| member.state != MemberState::Left);
    let services = view.rows();
    let known = members.iter().flat_map(|member| {
        let checks = Check::of_member(&member.node, member.state.is_shown(), mark);
        checks.map(|check| (Node::member(member.id, &member.node, mark), check))
    });
    let registered = services.iter().flat_map(|service| service.rows()).flat_map(|row| {
        let checks = check::of_row(row, mark).into_iter().chain(check::of_left(view, row, mark));
        checks.map(move |check| (Node::of(row, mark), check))
    });
    then(known.chain(registered).collect())
}
