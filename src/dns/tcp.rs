//! Questions over TCP, as RFC 7766 wants it: a connection carries many, pipelined, and is closed when it idles. Connections are counted, all of them and those of each client; whoever comes when his are taken is turned
//! away, and may come again.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::oneshot,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;

use super::{
    forward::{Question, Way},
    message::{Client, Transport},
    server::Shared,
    shortage::{Advice, Shortage},
};

/// Who sits on how many connections.
#[derive(Debug, Default)]
struct Seats {
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by: BTreeMap<IpAddr, usize>,
}

/// One connection's place, given back when it is dropped.
#[derive(Debug)]
struct Seat {
    seats: Arc<Seats>,
    client: IpAddr,
}

impl Seats {
    /// A seat for `client`. On this host many programs share an address, so there only the total counts.
    fn take(self: &Arc<Self>, client: IpAddr) -> Option<Seat> {
        let client = client.to_canonical();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let (limit, most) =
            if client.is_loopback() { (MAX_CONNECTIONS, usize::MAX) } else { (MAX_REMOTE, MAX_PER_CLIENT) };
        let own = taken.by.get(&client).copied().unwrap_or_default();
        if taken.total >= limit || own >= most {
            return None;
        }
        taken.total += 1;
        taken.by.insert(client, own + 1);
        Some(Seat { seats: Arc::clone(self), client })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.total -= 1;
        if let Some(own) = taken.by.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                taken.by.remove(&self.client);
            }
        }
    }
}

pub(super) async fn accept(shared: &Arc<Shared>, listener: &TcpListener, tasks: &TaskTracker) {
    let (seats, mut shortage) = (Arc::new(Seats::default()), Shortage::default());
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            // Its client has thought better of it.
            Err(why) if why.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(why) => {
                let Advice { pause, before } = shortage.fail(Instant::now());
                if let Some(before) = before {
                    tracing::warn!(%why, before, "cannot accept DNS connections; this is told once");
                }
                sleep(pause).await;
                continue;
            }
        };
        let Some(seat) = seats.take(client.ip()) else {
            shared.traffic.turned_away.add(1);
            continue;
        };
        shared.traffic.connections.add(1);
        let shared = Arc::clone(shared);
        tasks.spawn(async move {
            // How a connection ends is its client's business.
            shared.stop.run_until_cancelled(converse(&shared, stream, client.ip())).await.map(Result::ok);
            drop(seat);
        });
    }
}

/// Answers the questions of one connection until it idles, ends or makes no sense: in order, but for the names of others,
/// which no question waits behind (RFC 7766 section 6.2.1.1).
async fn converse(shared: &Shared, stream: TcpStream, address: IpAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, writer) = stream.into_split();
    let writer = Arc::new(Writer::new(Some(writer)));
    // Ended with the connection. The socket closes when all of them are done.
    let mut abroad = JoinSet::new();
    let ended = listen(shared, &mut reader, &writer, &mut abroad, address).await;
    while abroad.join_next().await.is_some() {}
    ended
}

async fn listen(
    shared: &Shared,
    reader: &mut OwnedReadHalf,
    writer: &Arc<Writer>,
    abroad: &mut JoinSet<io::Result<()>>,
    address: IpAddr,
) -> io::Result<()> {
    let mut question = Vec::new();
    loop {
        let length = timeout(IDLE, reader.read_u16()).await??;
        if usize::from(length) > MAX_QUESTION {
            return Ok(());
        }
        question.resize(usize::from(length), 0);
        timeout(IDLE, reader.read_exact(&mut question)).await??;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as u32;
        let client = Client { address, transport: Transport::Tcp, now };
        let Some(written) = shared.face.respond(&question, client) else { return Ok(()) };
        shared.traffic.tcp.add(1);
        if !written.foreign {
            say(writer, &written.bytes).await?;
            continue;
        }
        while let Some(said) = abroad.try_join_next() {
            said??;
        }
        let asked = Question::new(&question, client);
        if let Some(reply) = shared.answer_at_once(&asked) {
            say(writer, &reply).await?;
            continue;
        }
        if abroad.len() >= MAX_ABROAD {
            shared.traffic.unforwarded.add(1);
            say(writer, &failed(written.bytes)).await?;
            continue;
        }
        let (back, answer) = oneshot::channel();
        shared.forward(asked, Way::Stream(back));
        let writer = Arc::clone(writer);
        abroad.spawn(async move {
            // Dropped where it was not forwarded.
            let reply = answer.await.unwrap_or_else(|_| failed(written.bytes));
            say(&writer, &reply).await
        });
    }
}

/// What others know cannot be found out now: the same with that status, which is not for us to say with authority.
fn failed(mut reply: Vec<u8>) -> Vec<u8> {
    if let Some([high, low]) = reply.get_mut(2..4) {
        *high &= !AUTHORITATIVE;
        *low = *low & !RCODE | SERVFAIL;
    }
    reply
}

/// Where replies go, until one could not be written whole: what came after it would make no sense.
type Writer = tokio::sync::Mutex<Option<OwnedWriteHalf>>;

/// One write for length and reply: RFC 7766 section 8 asks for it, since some clients read but once.
async fn say(writer: &Writer, reply: &[u8]) -> io::Result<()> {
    let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes()[..], reply].concat();
    let mut place = writer.lock().await;
    let mut stream = place.take().ok_or(io::ErrorKind::BrokenPipe)?;
    timeout(IDLE, stream.write_all(&framed)).await??;
    *place = Some(stream);
    Ok(())
}

/// A question of one name with every EDNS option in use takes less than 1 KiB.
const MAX_QUESTION: usize = 4096;
/// Questions of one connection that others are asked about at a time; those beyond fail at once, for no other may wait
/// behind them.
const MAX_ABROAD: usize = 128;
/// RFC 1035 section 4.1.1.
const AUTHORITATIVE: u8 = 0x04;
const RCODE: u8 = 0x0f;
const SERVFAIL: u8 = 2;
/// Caddy and the like hold one connection for each worker; each costs us 4 KiB while it idles.
const MAX_CONNECTIONS: usize = 1_024;
/// What other hosts can take of them: the programs on this one keep the rest.
const MAX_REMOTE: usize = 768;
/// What one other host can take of them.
const MAX_PER_CLIENT: usize = 64;
/// RFC 7766 section 6.2.3 wants seconds; also how long a reply may lie unread.
const IDLE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_client_takes_the_seats_of_others() {
        let seats = Arc::new(Seats::default());
        let take =
            |client: [u8; 4], count: usize| (0..count).filter_map(|_| seats.take(client.into())).collect::<Vec<_>>();
        let greedy = take([192, 0, 2, 1], 100);
        assert_eq!(greedy.len(), MAX_PER_CLIENT);
        let crowd: Vec<_> = (0..=255).flat_map(|at| take([198, 51, 100, at], 4)).collect();
        assert_eq!(greedy.len() + crowd.len(), MAX_REMOTE);
        let local = take([127, 0, 0, 1], 2_000);
        assert_eq!(local.len(), MAX_CONNECTIONS - MAX_REMOTE);
        drop((greedy, crowd));
        assert_eq!(take([192, 0, 2, 1], 100).len(), MAX_PER_CLIENT);
        drop(local);
        assert!(seats.taken.lock().unwrap().by.is_empty());
    }
}
