//! The check `dns`: one question, to the server that it names or to this machine's own.

pub(crate) mod stub;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};

use super::{
    Failed, Finding, Home,
    dial::{Dial, Place, first_of},
};
use crate::model::{DnsCheck, DnsRecord};

pub(super) async fn run(check: &DnsCheck, home: &Home, dial: &Dial) -> Result<Finding, Failed> {
    ask(check, home, dial).await.map(|reply| judge(check, &reply))
}

async fn ask(check: &DnsCheck, home: &Home, dial: &Dial) -> Result<Message, Failed> {
    let servers = match &check.server {
        Some(target) => dial.addresses(&Place::of(target, home, Some(PORT))?).await?,
        // The operator chose them, not who registered the check.
        None => resolvers(),
    };
    let mut name = Name::from_ascii(check.query.as_deref().unwrap_or("."))
        .map_err(|why| format!("that is no domain name: {why}"))?;
    name.set_fqdn(true);
    let record = if check.query.is_some() { record_type(check.record) } else { RecordType::NS };
    let mut question = Message::query();
    // Resolvers refuse who does not ask them to find out (RFC 1035 section 4.1.1).
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name, record));
    let asked = first_of(servers, |server| stub::ask(server, &question));
    asked.await.map_err(|(server, why)| Failed::of(&why, format!("{server} does not answer: {why}")))
}

fn judge(check: &DnsCheck, reply: &Message) -> Finding {
    let code = reply.metadata.response_code;
    let answers: Vec<String> = reply.answers.iter().map(|record| record.data.to_string()).collect();
    let Some(query) = &check.query else {
        return match code {
            ResponseCode::ServFail => Finding::critical("it answers SERVFAIL"),
            code => Finding::passing(format!("it answers: {code}")),
        };
    };
    if code != ResponseCode::NoError {
        return Finding::critical(format!("{query}: {code}"));
    }
    let shown = answers.join(" ");
    // Case tells no names apart (RFC 4343), and does texts.
    let is_same = if check.record == DnsRecord::Txt { str::eq } else { str::eq_ignore_ascii_case };
    let is_there = reply.answers.iter().any(|answer| answer.record_type() == record_type(check.record));
    match &check.expect {
        _ if answers.is_empty() => Finding::critical(format!("{query} has no such record")),
        // An alias that leads nowhere.
        None if !is_there => Finding::critical(format!("{query} has no such record: {shown}")),
        Some(expected)
            if !answers.iter().any(|answer| is_same(answer.trim_end_matches('.'), expected.trim_end_matches('.'))) =>
        {
            Finding::critical(format!("{expected} is not among the answers: {shown}"))
        }
        _ => Finding::passing(format!("{query}: {shown}")),
    }
}

/// The servers that this machine asks (resolv.conf(5)); without one, the machine itself.
fn resolvers() -> Vec<SocketAddr> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok());
    let mut servers: Vec<IpAddr> = servers.take(MAX_RESOLVERS).collect();
    if servers.is_empty() {
        servers.push(Ipv4Addr::LOCALHOST.into());
    }
    servers.into_iter().map(|server| SocketAddr::new(server, PORT)).collect()
}

const fn record_type(record: DnsRecord) -> RecordType {
    match record {
        DnsRecord::A => RecordType::A,
        DnsRecord::Aaaa => RecordType::AAAA,
        DnsRecord::Cname => RecordType::CNAME,
        DnsRecord::Mx => RecordType::MX,
        DnsRecord::Ns => RecordType::NS,
        DnsRecord::Ptr => RecordType::PTR,
        DnsRecord::Soa => RecordType::SOA,
        DnsRecord::Srv => RecordType::SRV,
        DnsRecord::Txt => RecordType::TXT,
    }
}

const PORT: u16 = 53;
/// As many as the system's own resolver asks (MAXNS).
const MAX_RESOLVERS: usize = 3;

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{
        RData, Record,
        rdata::{A, CNAME},
    };

    use super::*;
    use crate::model::Health;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    #[test]
    fn an_alias_alone_is_not_the_record_that_was_asked_for() {
        let alias = RData::CNAME(CNAME(name("b.example.")));
        let found = |expect: Option<&str>, data: &[RData]| {
            let mut reply = Message::query();
            for data in data {
                reply.add_answer(Record::from_rdata(name("web.example."), 1, data.clone()));
            }
            let (query, expect) = (Some("web.example".into()), expect.map(Into::into));
            judge(&DnsCheck { server: None, query, record: DnsRecord::A, expect }, &reply).status
        };
        assert_eq!(found(None, std::slice::from_ref(&alias)), Health::Critical);
        assert_eq!(found(None, &[alias.clone(), RData::A(A::new(10, 0, 0, 1))]), Health::Passing);
        assert_eq!(found(Some("B.example"), &[alias]), Health::Passing);
    }
}
