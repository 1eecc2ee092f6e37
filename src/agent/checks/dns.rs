//! The check `dns`: one question over UDP, over TCP when the answer is cut (RFC 7766 section 5).

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use hickory_proto::{
    op::{Message, MessageType, Query, ResponseCode},
    rr::{Name, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

use super::{
    Finding, Home,
    dial::{Dial, Place, first_of},
};
use crate::model::{DnsCheck, DnsRecord};

pub(super) async fn run(check: &DnsCheck, home: &Home, dial: &Dial) -> Finding {
    match ask(check, home, dial).await {
        Ok(reply) => judge(check, &reply),
        Err(why) => Finding::critical(why),
    }
}

async fn ask(check: &DnsCheck, home: &Home, dial: &Dial) -> Result<Message, String> {
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
    let bytes = question.to_vec().map_err(|why| format!("the question cannot be made: {why}"))?;
    let asked = first_of(servers, |server| ask_one(server, &bytes, &question));
    asked.await.map_err(|(server, why)| format!("{server} does not answer: {why}"))
}

async fn ask_one(server: SocketAddr, bytes: &[u8], question: &Message) -> io::Result<Message> {
    let reply = over_udp(server, bytes, question).await?;
    if !reply.metadata.truncation {
        return Ok(reply);
    }
    let reply = over_tcp(server, bytes).await?;
    if answers(&reply, question) { Ok(reply) } else { Err(io::Error::other("what it says answers another question")) }
}

/// Whether a message is the answer to this question, neither to another nor the question itself (RFC 5452 section 9.1).
fn answers(reply: &Message, question: &Message) -> bool {
    reply.metadata.message_type == MessageType::Response
        && (reply.metadata.id, &reply.queries) == (question.metadata.id, &question.queries)
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
    let is_there = reply.answers.iter().any(|answer| answer.record_type() == record_type(check.record));
    match &check.expect {
        _ if answers.is_empty() => Finding::critical(format!("{query} has no such record")),
        // An alias that leads nowhere.
        None if !is_there => Finding::critical(format!("{query} has no such record: {shown}")),
        Some(expected)
            if !answers.iter().any(|answer| answer.trim_end_matches('.') == expected.trim_end_matches('.')) =>
        {
            Finding::critical(format!("{expected} is not among the answers: {shown}"))
        }
        _ => Finding::passing(format!("{query}: {shown}")),
    }
}

async fn over_udp(server: SocketAddr, bytes: &[u8], question: &Message) -> io::Result<Message> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = [0; PAYLOAD];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let reply = Message::from_vec(&buffer[..length]).map_err(io::Error::other)?;
        if answers(&reply, question) {
            return Ok(reply);
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], question].concat()).await?;
    let mut reply = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    Message::from_vec(&reply).map_err(io::Error::other)
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
/// Without EDNS an answer has at most 512 bytes (RFC 1035 section 4.2.1); some servers send more.
const PAYLOAD: usize = 4096;

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

    fn reply(asked: &str, id: u16) -> Message {
        let mut message = Message::query();
        message.metadata.id = id;
        message.metadata.message_type = MessageType::Response;
        message.add_query(Query::query(name(asked), RecordType::A));
        message
    }

    #[test]
    fn an_answer_is_one_to_the_question_that_was_asked() {
        let good = reply("web.example.", 7);
        let mut question = good.clone();
        question.metadata.message_type = MessageType::Query;
        assert!(answers(&good, &question));
        for other in [question.clone(), reply("web.example.", 8), reply("db.example.", 7)] {
            assert!(!answers(&other, &question), "{other:?}");
        }
    }

    #[test]
    fn an_alias_alone_is_not_the_record_that_was_asked_for() {
        let alias = RData::CNAME(CNAME(name("b.example.")));
        let found = |expect: Option<&str>, data: &[RData]| {
            let mut reply = reply("web.example.", 7);
            for data in data {
                reply.add_answer(Record::from_rdata(name("web.example."), 1, data.clone()));
            }
            let (query, expect) = (Some("web.example".into()), expect.map(Into::into));
            judge(&DnsCheck { server: None, query, record: DnsRecord::A, expect }, &reply).status
        };
        assert_eq!(found(None, std::slice::from_ref(&alias)), Health::Critical);
        assert_eq!(found(None, &[alias.clone(), RData::A(A::new(10, 0, 0, 1))]), Health::Passing);
        assert_eq!(found(Some("b.example"), &[alias]), Health::Passing);
    }
}
