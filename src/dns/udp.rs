//! Questions over UDP: a thread and a socket for each core, so that no question waits for a lock or a scheduler. The
//! kernel spreads clients over the sockets (`SO_REUSEPORT`).

use std::{
    io,
    net::{Shutdown, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio_util::task::TaskTracker;

use super::{
    cookie::OPTION_SIZE,
    datagrams::{Batch, tell_destination},
    fast::{BUDGET, Cache, Said},
    forward::{Question, Way},
    message::{Client, Transport},
    server::Shared,
    shortage::{Advice, Shortage},
};
use crate::agent::limit::Source;

/// Opens one socket more on `address`, shared with those before it.
pub(super) fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // As much as the system grants: what a burst brings while the thread is not on a core.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.bind(&address.into())?;
    let socket = UdpSocket::from(socket);
    if address.ip().is_unspecified() {
        tell_destination(&socket)?;
    }
    Ok(socket)
}

/// How many sockets to open: one for each core that this process may use.
pub(super) fn width() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS)
}

/// A socket at work. Dropping it ends its thread, be it because it is to stop or because the runtime is gone.
pub(super) struct Worker {
    socket: Arc<UdpSocket>,
    ended: Arc<AtomicBool>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // Linux wakes who receives on a socket that is not connected, and then says that it is not.
        let _ = SockRef::from(&*self.socket).shutdown(Shutdown::Read);
    }
}

/// Answers what comes in on `socket` by a thread of its own.
pub(super) fn start(shared: &Arc<Shared>, socket: UdpSocket, tasks: &TaskTracker) -> io::Result<Worker> {
    let worker = Worker { socket: Arc::new(socket), ended: Arc::default() };
    let (socket, ended) = (Arc::clone(&worker.socket), Arc::clone(&worker.ended));
    let (shared, running) = (Arc::clone(shared), tasks.token());
    thread::Builder::new().name("dns".into()).spawn(move || {
        answer(&shared, &socket, &ended);
        // Before the token: who waits for it may bind the port anew.
        drop(socket);
        drop(running);
    })?;
    Ok(worker)
}

fn answer(shared: &Shared, socket: &Arc<UdpSocket>, ended: &AtomicBool) {
    let (mut batch, mut cache) = (Batch::new(), Cache::new(shared.seed, BUDGET / width()));
    let mut shortage = Shortage::default();
    loop {
        let received = batch.receive(socket);
        if ended.load(Ordering::Acquire) {
            return;
        }
        match received {
            Ok(count) => answer_each(shared, socket, &mut batch, &mut cache, count),
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => {
                let Advice { pause, before } = shortage.fail(Instant::now());
                if let Some(before) = before {
                    tracing::warn!(%why, before, "cannot receive DNS packets; this is told once");
                }
                thread::park_timeout(pause);
            }
        }
    }
}

/// Answers the datagrams just received, `count` of them.
fn answer_each(shared: &Shared, socket: &Arc<UdpSocket>, batch: &mut Batch, cache: &mut Cache, count: usize) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, nanos) = (since.as_secs() as u32, since.as_nanos() as u64);
    for at in 0..count {
        let Some(sender) = batch.envelope(at).sender() else { continue };
        let address = sender.ip();
        let client = Client { address, transport: Transport::of_datagram(address), now: seconds };
        let next = batch.reply(at, |packet, room| {
            let begin = room.len();
            let said = cache.respond(&shared.face, packet, client, &shared.traffic, room);
            let next = judge(shared, said, client, nanos, &mut room[begin..]);
            room.truncate(begin + next.kept(room.len() - begin));
            next
        });
        if next == Next::Forward {
            let way = Way::Datagram(Box::new(*batch.envelope(at)), Arc::clone(socket));
            let question = Question::new(batch.packet(at), client);
            match shared.answer_at_once(&question) {
                Some(reply) => way.say(reply),
                None => shared.forward(question, way),
            }
        }
    }
    shared.traffic.udp.add(count);
    shared.traffic.unsent.add(batch.send(socket));
}

/// What becomes of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Send,
    /// Only so many of its bytes.
    Cut(usize),
    /// Others know the name.
    Forward,
}

impl Next {
    /// How many bytes of a reply are sent.
    const fn kept(self, length: usize) -> usize {
        match self {
            Self::Send => length,
            Self::Cut(length) => length,
            Self::Forward => 0,
        }
    }
}

/// Who asks too much and has not proved to be where it says gets every other answer cut short, so that an honest client
/// asks again over TCP, and none of the rest.
fn judge(shared: &Shared, said: Option<Said>, client: Client, now: u64, reply: &mut [u8]) -> Next {
    let Some(said) = said else {
        shared.traffic.ignored.add(1);
        return Next::Cut(0);
    };
    let trusted = client.transport == Transport::Loopback || said.proven;
    if !trusted && !shared.limiter.admits(Source::network(client.address), now) {
        shared.traffic.limited.add(1);
        // The id is the client's own randomness: it tosses the coin.
        let slips = reply.get(1).is_some_and(|byte| byte & 1 == 1);
        if said.foreign
            && let Some(code) = reply.get_mut(3)
        {
            // It is not known yet, and a resolver that is refused does not look whether that was cut.
            *code &= 0xf0;
        }
        return Next::Cut(if slips { cut(reply) } else { 0 });
    }
    if said.foreign { Next::Forward } else { Next::Send }
}

/// Cuts a reply behind its question, but for its OPT record (RFC 6891 section 6.1.1), and marks it so. Returns its new
/// length; 0 for one without a question.
fn cut(reply: &mut [u8]) -> usize {
    if reply.get(4..6) != Some(&[0, 1]) {
        return 0;
    }
    let mut end = HEADER;
    while let Some(length) = reply.get(end).filter(|length| **length > 0) {
        end += 1 + usize::from(*length);
    }
    // The root label, the type, the class.
    let end = (end + 5).min(reply.len());
    let opt = opt_of(reply).filter(|opt| *opt >= end);
    reply[2] |= TC;
    // Answers, authorities, additional records: none.
    reply[6..HEADER].fill(0);
    let Some(opt) = opt else { return end };
    reply[HEADER - 1] = 1;
    let length = reply.len() - opt;
    reply.copy_within(opt.., end);
    end + length
}

/// Where the OPT record of one of our replies begins: it is the last, with a cookie or with nothing.
fn opt_of(reply: &[u8]) -> Option<usize> {
    let is_opt = |at: &usize| {
        let Some(fixed) = reply.get(*at..at + OPT_FIXED) else { return false };
        let rest = usize::from(u16::from_be_bytes([fixed[9], fixed[10]]));
        fixed[..3] == [0, 0, 41] && at + OPT_FIXED + rest == reply.len()
    };
    let counted = reply.get(10..HEADER)? != [0, 0];
    let sizes = [OPT_FIXED, OPT_FIXED + usize::from(OPTION_SIZE)];
    sizes.iter().filter(|_| counted).filter_map(|size| reply.len().checked_sub(*size)).find(is_opt)
}

const HEADER: usize = 12;
const TC: u8 = 0x02;
/// Root, type, size, TTL, length (RFC 6891 section 6.1.2).
const OPT_FIXED: usize = 11;
/// Two megabytes hold ten thousand questions.
const RECEIVE_BUFFER: usize = 2 << 20;
/// More than this no network card feeds with questions.
const MAX_THREADS: usize = 16;

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::{Message, Query},
        rr::{Name, RecordType},
    };

    use super::*;

    #[test]
    fn what_is_cut_is_a_message_that_asks_for_tcp() {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii("web.service.mesh.internal.").unwrap(), RecordType::A));
        let question = message.to_vec().unwrap();
        let mut reply = [&question[..], &[0; 40]].concat();
        reply[7] = 2;
        let length = cut(&mut reply);
        let parsed = Message::from_vec(&reply[..length]).unwrap();
        assert!(length == question.len() && parsed.metadata.truncation && parsed.answers.is_empty());
        assert_eq!(cut(&mut [0; 12]), 0);
        let mut with_opt = [&question[..], &[7; 40], &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]].concat();
        (with_opt[7], with_opt[11]) = (2, 1);
        let length = cut(&mut with_opt);
        let parsed = Message::from_vec(&with_opt[..length]).unwrap();
        assert_eq!((length, parsed.edns.map(|edns| edns.max_payload())), (question.len() + 11, Some(1232)));
    }
}
