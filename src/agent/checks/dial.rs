//! From a target to a connection: the name is resolved here and only addresses that the policy admits are dialled, so
//! that a name cannot change its mind in between.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, TryFutureExt, stream::FuturesUnordered};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, join},
    net::{TcpStream, lookup_host},
    sync::Semaphore,
    time::sleep,
};

use super::{
    Home,
    failed::{Failed, is_own},
    policy::Policy,
    tls,
};
use crate::model::{Host, Target, TlsOptions};

/// A connection, with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Makes connections that the policy admits.
#[derive(Debug)]
pub(super) struct Dial {
    policy: Policy,
    lookups: Arc<Semaphore>,
}

/// A target with nothing left open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) host: Host,
    pub(super) port: u16,
}

impl Place {
    /// The target, completed by where its instance is. `port` is for targets whose protocol has one of its own.
    pub(super) fn of(target: &Target, home: &Home, port: Option<u16>) -> Result<Self, String> {
        let own = target.port.map(u16::from).or(port).or(home.port.map(u16::from));
        let port = own.ok_or("the check names no port, and its instance has none")?;
        Ok(Self { host: target.host.clone().unwrap_or_else(|| home.host.clone()), port })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            Host::Address(address) => SocketAddr::new(*address, self.port).fmt(out),
            Host::Name(name) => write!(out, "{name}:{}", self.port),
        }
    }
}

impl Dial {
    pub(super) fn new(policy: Policy) -> Self {
        Self { policy, lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)) }
    }

    /// The addresses of a place that may be reached; at least one.
    pub(super) async fn addresses(&self, place: &Place) -> Result<Vec<SocketAddr>, Failed> {
        let found = match &place.host {
            Host::Address(address) => vec![SocketAddr::new(*address, place.port)],
            Host::Name(name) => {
                let found = self.resolve(name.to_string(), place.port).await;
                found.map_err(|why| Failed::guess(&why, format!("{name} cannot be resolved: {why}")))?
            }
        };
        let (admitted, refused): (Vec<_>, Vec<_>) = found.into_iter().partition(|at| self.policy.admits(at.ip()));
        match (admitted.is_empty(), refused.first()) {
            (false, _) => Ok(admitted),
            (true, Some(at)) => Err(Failed::Target(format!(
                "{} may not be reached by checks: this node's checks.deny or checks.allow, or its default for link-local \
                 addresses, forbids it",
                at.ip()
            ))),
            (true, None) => Err(format!("{} has no address", place.host).into()),
        }
    }

    /// Asks the system's resolver, which takes a thread until it answers, whether somebody still waits for that or not.
    async fn resolve(&self, name: String, port: u16) -> io::Result<Vec<SocketAddr>> {
        let permit = Arc::clone(&self.lookups).acquire_owned().await.map_err(io::Error::other)?;
        let asked = tokio::spawn(async move {
            let found = lookup_host((name, port)).await.map(|found| found.take(MAX_ADDRESSES).collect());
            drop(permit);
            found
        });
        asked.await.map_err(io::Error::other)?
    }

    /// A connection to the first of a place's addresses that takes one.
    pub(super) async fn tcp(&self, place: &Place) -> Result<TcpStream, Failed> {
        self.first(place, TcpStream::connect).await
    }

    /// Connects to the first of a place's addresses that can be, and hangs up.
    pub(super) async fn reach(&self, place: &Place) -> Result<(), Failed> {
        self.first(place, touch).await
    }

    async fn first<T, F>(&self, place: &Place, connect: impl Fn(SocketAddr) -> F) -> Result<T, Failed>
    where
        F: Future<Output = io::Result<T>>,
    {
        let addresses = self.addresses(place).await?;
        let tried = first_of(addresses, |at| connect(at).map_err(move |why| used_up(at, why))).await;
        tried.map_err(|(at, why)| Failed::of(&why, format!("cannot connect to {at}: {why}")))
    }

    /// A connection, with TLS and one of the protocols in `alpn` if there are options for it. Who says more than anybody
    /// need say is heard no further, as if it had hung up: there are talkers that no protocol's limit stops.
    pub(super) async fn stream(
        &self,
        place: &Place,
        tls: Option<&TlsOptions>,
        alpn: &[&[u8]],
    ) -> Result<Box<dyn Stream>, Failed> {
        let (read, write) = self.tcp(place).await?.into_split();
        let stream = join(read.take(MAX_HEARD), write);
        let Some(options) = tls else { return Ok(Box::new(stream)) };
        tls::wrap(stream, &place.host, options, alpn).await
    }
}

/// What the first of these addresses says that says anything, or why the last failed. Each is tried when the one before it
/// has failed, or has been silent for a while, and none is given up for another (RFC 8305 section 5).
pub(super) async fn first_of<T, F>(
    addresses: Vec<SocketAddr>,
    try_one: impl Fn(SocketAddr) -> F,
) -> Result<T, (SocketAddr, io::Error)>
where
    F: Future<Output = io::Result<T>>,
{
    let attempt = |address| try_one(address).map_err(move |why| (address, why));
    if let [only] = addresses[..] {
        return attempt(only).await;
    }
    let mut untried = addresses.into_iter();
    let mut tried = FuturesUnordered::new();
    tried.extend(untried.next().map(attempt));
    loop {
        tokio::select! {
            Some(said) = tried.next() => match (said, untried.next()) {
                (Ok(said), _) => return Ok(said),
                (Err(failed), _) if is_own(&failed.1) => return Err(failed),
                (Err(_), Some(next)) => tried.push(attempt(next)),
                (Err(failed), None) if tried.is_empty() => return Err(failed),
                (Err(_), None) => {}
            },
            () = sleep(HEAD_START), if !untried.as_slice().is_empty() => tried.extend(untried.next().map(attempt)),
        }
    }
}

/// The kernel says the same where no port is left to come from, which is this node's own lack, and where it has no address
/// of the target's kind (connect(2)): a datagram's socket, whose ports are others, tells them apart, and sends nothing.
fn used_up(to: SocketAddr, why: io::Error) -> io::Error {
    let any = if to.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let has_address = || UdpSocket::bind((any, 0)).is_ok_and(|socket| socket.connect(to).is_ok());
    if why.kind() == io::ErrorKind::AddrNotAvailable && has_address() {
        return io::Error::new(io::ErrorKind::AddrInUse, "no local port is left");
    }
    why
}

/// Connects and hangs up. What is on this machine has answered when the call returns: asked a second time, the kernel says
/// so (connect(2)), and the socket is never waited for.
async fn touch(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    let try_it = || socket.connect(&address.into()).map_err(|why| (Errno::from_io_error(&why), why));
    let mut tried = try_it();
    if let Err((Some(Errno::INPROGRESS), _)) = tried {
        tried = try_it();
    }
    match tried {
        Ok(()) | Err((Some(Errno::ISCONN), _)) => Ok(()),
        Err((Some(Errno::ALREADY), _)) => {
            let stream = TcpStream::from_std(socket.into())?;
            stream.writable().await?;
            stream.take_error()?.map_or(Ok(()), Err)
        }
        Err((_, why)) => Err(why),
    }
}

/// As much as a server may say on one connection: many times what is read of an answer.
const MAX_HEARD: u64 = 1 << 20;
/// As many addresses of one name as are tried.
const MAX_ADDRESSES: usize = 8;
/// How long an address may be silent before the next is tried as well (RFC 8305 section 8).
const HEAD_START: Duration = Duration::from_millis(250);
/// Questions to the system's resolver at a time: half the threads that wait for such things, so that a resolver that hangs
/// stops nothing else.
const MAX_LOOKUPS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_port_left_lacks_it_and_who_has_no_address_cannot_get_there() {
        let told = |to: &str| used_up(to.parse().unwrap(), Errno::ADDRNOTAVAIL.into());
        let lack = told("127.0.0.1:1");
        assert!(is_own(&lack) && lack.to_string() == "no local port is left", "{lack}");
        // Nobody comes from anywhere to there unless he asks for it.
        assert!(!is_own(&told("255.255.255.255:1")));
        assert!(!is_own(&used_up("127.0.0.1:1".parse().unwrap(), Errno::CONNREFUSED.into())));
    }
}
