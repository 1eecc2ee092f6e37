//! One question to one server, and the answer as text.

use std::{fmt, io, net::SocketAddr, time::Duration};

use hickory_proto::{
    op::{Edns, Message, Query, ResponseCode},
    rr::{Name, RData, Record as Wire, RecordType},
};
use serde::Serialize;
use tokio::time::timeout;

use super::forward;
use crate::agent::checks::stub;

/// The types of records that a service has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Targets and ports (RFC 2782).
    Srv,
    /// Pairs of text (RFC 6763 section 6).
    Txt,
}

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reply {
    /// The response code: `NOERROR`, `NXDOMAIN`, …
    pub code: String,
    /// The answer section.
    pub answers: Vec<Record>,
    /// The additional section, without OPT.
    pub additionals: Vec<Record>,
}

/// One record, as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Its owner's name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// How long it may be kept, in seconds.
    pub ttl: u32,
    /// Its data in the presentation form of its RFC.
    pub data: String,
}

impl fmt::Display for Record {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} {} {}", self.name, self.ttl, self.kind, self.data)
    }
}

/// Asks `server` for the records of `kind` that `name` has.
///
/// # Errors
/// When `name` is no domain name, nobody answers in time, or what comes is no DNS.
pub async fn ask(server: SocketAddr, name: &str, kind: Kind) -> io::Result<Reply> {
    let question = question(name, kind)?;
    let reply = timeout(PATIENCE, stub::ask(server, &question))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(Reply {
        code: code(reply.metadata.response_code),
        answers: reply.answers.iter().map(record).collect(),
        additionals: reply.additionals.iter().map(record).collect(),
    })
}

fn question(name: &str, kind: Kind) -> io::Result<Message> {
    let name = Name::from_labels(labels(name));
    let mut name = name.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    name.set_fqdn(true);
    let kind = match kind {
        Kind::A => RecordType::A,
        Kind::Aaaa => RecordType::AAAA,
        Kind::Srv => RecordType::SRV,
        Kind::Txt => RecordType::TXT,
    };
    let mut message = Message::query();
    // As every stub does (RFC 1035 section 4.1.1): who asks others for us does so when he is asked to.
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind));
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD);
    message.set_edns(edns);
    Ok(message)
}

/// The labels of a domain name in bytes, without their escapes (RFC 1035 section 5.1): any are good, as services have
/// them.
pub(crate) fn labels(name: &str) -> Vec<Vec<u8>> {
    let (mut labels, mut chars) = (vec![Vec::new()], name.chars());
    while let Some(c) = chars.next() {
        let byte = chars.as_str().get(..3).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()));
        let byte = byte.and_then(|digits| digits.parse::<u8>().ok());
        let Some(label) = labels.last_mut() else { break };
        let mut spell = |c: char| label.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        match (c, byte) {
            ('.', _) => labels.push(Vec::new()),
            ('\\', Some(byte)) => {
                label.push(byte);
                chars = chars.as_str()[3..].chars();
            }
            ('\\', None) => chars.next().into_iter().for_each(spell),
            (c, _) => spell(c),
        }
    }
    // The root's.
    labels.pop_if(|last| last.is_empty());
    if name == "." { Vec::new() } else { labels }
}

fn record(wire: &Wire) -> Record {
    let data = match &wire.data {
        RData::CNAME(alias) => spelled(&alias.0),
        RData::SRV(srv) => format!("{} {} {} {}", srv.priority, srv.weight, srv.port, spelled(&srv.target)),
        other => other.to_string(),
    };
    Record { name: spelled(&wire.name), kind: wire.record_type().to_string(), ttl: wire.ttl, data }
}

/// A name that [`labels`] reads, and every other tool: the escapes that the library itself writes are octal.
fn spelled(name: &Name) -> String {
    let escaped = |byte: &u8| match byte {
        b'.' | b'\\' | b'"' | b'(' | b')' | b';' | b'@' | b'$' => format!("\\{}", char::from(*byte)),
        b'!'..=b'~' => char::from(*byte).into(),
        _ => format!("\\{byte:03}"),
    };
    let labels: String = name.iter().map(|label| label.iter().map(escaped).collect::<String>() + ".").collect();
    if labels.is_empty() { ".".into() } else { labels }
}

/// The mnemonic of RFC 1035 and RFC 6895, as every other tool prints it.
fn code(code: ResponseCode) -> String {
    match code {
        ResponseCode::NoError => "NOERROR".into(),
        ResponseCode::FormErr => "FORMERR".into(),
        ResponseCode::ServFail => "SERVFAIL".into(),
        ResponseCode::NXDomain => "NXDOMAIN".into(),
        ResponseCode::NotImp => "NOTIMP".into(),
        ResponseCode::Refused => "REFUSED".into(),
        other => format!("RCODE{}", u16::from(other)),
    }
}

/// How long a server on this machine or in this mesh may take, having asked others first.
const PATIENCE: Duration = forward::PATIENCE.saturating_add(Duration::from_secs(2));
/// What fits into one packet on any path (the DNS flag day of 2020).
const PAYLOAD: u16 = 1232;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_has_any_bytes_and_an_end() {
        for (name, want) in [
            ("sp ace.service", &["sp ace".as_bytes(), b"service"][..]),
            ("sp\\032ace.service.", &[b"sp ace", b"service"]),
            ("b\u{fc}cher", &["b\u{fc}cher".as_bytes()]),
            ("b\\195\\188cher", &["b\u{fc}cher".as_bytes()]),
            ("a\\.b\\\\.c\\.", &[b"a.b\\", b"c."]),
            ("\\256", &[b"256"]),
            ("a..b", &[b"a", b"", b"b"]),
            (".", &[]),
            ("", &[]),
        ] {
            assert_eq!(labels(name), want, "{name}");
        }
        let asked = |name: &str| question(name, Kind::A).map(|message| spelled(&message.queries[0].name));
        for name in [".", "web.service.", "sp\\032ace.b\\195\\188cher.", "a\\.b\\\\."] {
            assert_eq!(asked(name).unwrap(), name, "as it is read");
        }
        for bad in ["a..b", "..", &"x".repeat(64), &"x.".repeat(128)] {
            assert_eq!(asked(bad).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{bad}");
        }
    }
}
