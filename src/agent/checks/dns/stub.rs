//! One question to one server, as a stub resolver asks it: UDP first, TCP when the answer is cut (RFC 7766 section 5).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

/// What `server` answers. How long that may take is the caller's to say.
pub(crate) async fn ask(server: SocketAddr, question: &Message) -> io::Result<Message> {
    let bytes = question.to_vec().map_err(io::Error::other)?;
    let reply = over_udp(server, &bytes, question).await?;
    if !reply.metadata.truncation {
        return Ok(reply);
    }
    let reply = over_tcp(server, &bytes).await?;
    if answers(&reply, question) { Ok(reply) } else { Err(io::Error::other("what it says answers another question")) }
}

/// Whether a message is the answer to this question, neither to another nor the question itself (RFC 5452 section 9.1).
fn answers(reply: &Message, question: &Message) -> bool {
    // Who refuses what he has not read gives nothing back but the header.
    let is_refusal = reply.queries.is_empty() && reply.metadata.response_code != ResponseCode::NoError;
    reply.metadata.message_type == MessageType::Response
        && reply.metadata.id == question.metadata.id
        && (is_refusal || reply.queries == question.queries)
}

async fn over_udp(server: SocketAddr, bytes: &[u8], question: &Message) -> io::Result<Message> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = [0; ROOM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What makes no sense is a stranger's, as an answer to another question is.
        if let Ok(reply) = Message::from_vec(&buffer[..length])
            && answers(&reply, question)
        {
            return Ok(reply);
        }
    }
}

async fn over_tcp(server: SocketAddr, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?.to_be_bytes();
    stream.write_all(&[&length, bytes].concat()).await?;
    let mut reply = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    Message::from_vec(&reply).map_err(io::Error::other)
}

/// More than a question has announced: without EDNS an answer has at most 512 bytes (RFC 1035 section 4.2.1), and some
/// servers send more.
const ROOM: usize = 4096;

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::Query,
        rr::{Name, RecordType},
    };

    use super::*;

    #[test]
    fn an_answer_is_one_to_the_question_that_was_asked() {
        let reply = |asked: &str, id| {
            let mut message = Message::query();
            message.metadata.id = id;
            message.metadata.message_type = MessageType::Response;
            message.add_query(Query::query(Name::from_ascii(asked).unwrap(), RecordType::A));
            message
        };
        let good = reply("web.example.", 7);
        let mut question = good.clone();
        question.metadata.message_type = MessageType::Query;
        assert!(answers(&good, &question));
        for other in [question.clone(), reply("web.example.", 8), reply("db.example.", 7)] {
            assert!(!answers(&other, &question), "{other:?}");
        }
        let mut bare = good.clone();
        bare.queries.clear();
        assert!(!answers(&bare, &question), "no answer to anything");
        bare.metadata.response_code = ResponseCode::Refused;
        assert!(answers(&bare, &question));
    }

    #[tokio::test]
    async fn nonsense_on_the_way_ends_no_wait() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = server.local_addr().unwrap();
        let mut question = Message::query();
        question.add_query(Query::query(Name::root(), RecordType::NS));
        let answering = async {
            let mut packet = [0; 512];
            let (length, client) = server.recv_from(&mut packet).await.unwrap();
            packet[2] |= 0x80;
            server.send_to(b"nonsense", client).await.unwrap();
            server.send_to(&packet[..length], client).await.unwrap();
        };
        let (reply, ()) = tokio::join!(ask(at, &question), answering);
        assert_eq!(reply.unwrap().queries, question.queries);
    }
}
