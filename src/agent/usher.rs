//! Enrolment over the wire: a new machine calls, shows the key of its invitation, and is given what it needs to belong.
//!
//! On the mesh's own port, under a protocol name of its own, so that an invited machine is never taken for a member.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use humantime::format_rfc3339_seconds;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint,
    crypto::rustls::{HandshakeData, QuicClientConfig},
};
use rand::seq::IteratorRandom;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use super::{
    door::Seldom,
    gazette,
    hello::{Greeter, TLS_ALERTS, chain},
    journal::{Journal, News, Paper},
    quic::{self, Code, canonical, read_all, read_into},
    seek::resolve,
    trust::{self, Granted, Invitation, Request, Says, Trust},
    view::View,
};
use crate::model::{MemberState, NodeId, NodeName};

/// Whether a call is that of somebody who was invited.
pub(super) fn is_invited(connection: &Connection) -> bool {
    let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    data.is_some_and(|data| data.protocol.as_deref() == Some(trust::JOIN_ALPN))
}

/// Gives a guest what it needs, once, or closes with the reason, which is told now and then.
pub(super) async fn usher(trust: &Trust, view: &View, journal: &Journal, refused: &Seldom, connection: Connection) {
    let outcome = timeout(PATIENCE, serve(trust, view, journal, &connection)).await;
    match outcome.unwrap_or_else(|_| Err("it took too long".into())) {
        Ok(()) => {}
        Err(why) => {
            let from = canonical(connection.remote_address());
            if let Some(unsaid) = refused.take(Instant::now()) {
                tracing::warn!(event = "not_granted", %from, why, unsaid);
            }
            connection.close(Code::Protocol.into(), why.as_bytes());
        }
    }
    // The guest hangs up once it has all of it.
    let _ = timeout(PATIENCE, connection.closed()).await;
}

async fn serve(trust: &Trust, view: &View, journal: &Journal, connection: &Connection) -> Result<(), String> {
    let (mut to, mut from) = connection.accept_bi().await.map_err(|why| why.to_string())?;
    let asked: Request = read(&read_all(&mut from, MAX_REQUEST).await.map_err(|why| format!("its request: {why}"))?)?;
    let has = |name: &NodeName| {
        let id = NodeId::of(trust.mesh(), name);
        // Who has left may come back by that name.
        !view.nodes_where(|member| member.id == id).is_empty()
    };
    let shown = chain(connection).unwrap_or_default();
    let from = canonical(connection.remote_address());
    let granted = trust.grant(&shown, &asked, from.ip(), has).map_err(|why| why.to_string())?;
    // Whether it arrives or not: from now on there is one more, or somebody else may have it too.
    if granted.is_news {
        let node = asked.node;
        let (says, of) = (granted.says(), trust::serial_of_member(&shown));
        let serial = says.as_ref().map(|says| &*says.serial);
        let until = says.as_ref().map(|says| tracing::field::display(format_rfc3339_seconds(says.not_after)));
        tracing::info!(event = "granted", %node, %from, serial, of, until, "it may join, or has a newer certificate");
        if let Some(Says { serial, not_after: until, .. }) = says {
            journal.write(gazette::now(), News::Certificate(node, Paper::Granted { serial, of, from, until }));
        }
    }
    to.write_all(&written(&granted)?).await.map_err(|why| why.to_string())?;
    to.finish().map_err(|why| why.to_string())
}

/// Asks to join with an invitation: what was granted, and the key in PEM that was made here for it.
///
/// # Errors
/// Why no seed has granted it.
pub async fn enrol(invitation: &Invitation, node: &NodeName) -> Result<(Granted, Zeroizing<String>), String> {
    let (asked, key) = trust::request(node).map_err(|why| why.to_string())?;
    let request = written(&asked)?;
    let mut why = "the token names no seed".to_owned();
    for seed in invitation.seeds() {
        match ask(invitation, *seed, &request).await {
            Ok(granted) => match trust::flaw(invitation, &asked, &granted) {
                None => return Ok((granted, key)),
                Some(flaw) => why = format!("{seed}: {}, which made the token, grants {flaw}", invitation.by),
            },
            Err(refusal) => why = format!("{seed}: {refusal}"),
        }
    }
    Err(why)
}

/// A newer certificate of this node's: granted here where the authority's key is, or asked for: first where it was told to
/// look for the mesh, for there it may have been invited, then other members. Whoever holds that key grants it.
///
/// # Errors
/// Why the last of them did not.
pub(super) async fn renew(greeter: &Greeter, view: &View, seeds: &[String]) -> Result<String, String> {
    // That somebody may grant one and it is of no use says more than that others may not.
    let (mut why, mut useless) = ("nobody else is there".to_owned(), None);
    match greeter.trust.grant_itself() {
        Ok(certificate) => return Ok(certificate),
        Err(trust::Broken::NoAuthority) => {}
        Err(because) => useless = Some(format!("this node grants itself none: {because}")),
    }
    let request = greeter.trust.request_again().map_err(|why| why.to_string())?;
    let (own, request) = (NodeId::of(&greeter.mesh, &request.node), written(&request)?);
    let mut tls = greeter.trust.tls().map_err(|why| why.to_string())?.client;
    tls.alpn_protocols = vec![trust::JOIN_ALPN.to_vec()];
    let tls = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).map_err(|why| why.to_string())?));
    let seeds = join_all(seeds.iter().map(|seed| resolve(seed))).await.into_iter().flatten().flatten();
    let members = view.nodes_where(|member| member.state == MemberState::Alive && member.id != own);
    let members = members
        .iter()
        .filter_map(|member| member.address())
        .sample(&mut rand_pcg::Pcg32::new(own.0 ^ gazette::now(), 0), MAX_ASKED);
    let mut asked = BTreeSet::new();
    for address in seeds.chain(members).filter(|address| asked.insert(*address)) {
        match timeout(PATIENCE, dial(&greeter.endpoint, tls.clone(), address, &request)).await {
            Ok(Ok(Granted { certificate: Some(certificate), .. })) => match greeter.trust.fits(&certificate) {
                Ok(certificate) => return Ok(certificate),
                Err(because) => useless = Some(format!("{address} grants one of no use: {because}")),
            },
            Ok(Ok(_)) => why = format!("{address} grants no certificate"),
            Ok(Err(refusal)) => why = format!("{address}: {refusal}"),
            Err(_) => why = format!("{address} does not answer within {} s", PATIENCE.as_secs()),
        }
    }
    Err(useless.unwrap_or(why))
}

async fn ask(invitation: &Invitation, seed: SocketAddr, request: &[u8]) -> Result<Granted, String> {
    let endpoint = quic::guest(seed).map_err(|why| why.to_string())?;
    let tls = trust::guest_tls(invitation).map_err(|why| why.to_string())?;
    let tls = QuicClientConfig::try_from(tls).map_err(|why| why.to_string())?;
    let granted = timeout(PATIENCE, dial(&endpoint, ClientConfig::new(Arc::new(tls)), seed, request)).await;
    // Not within that time: on a slow path the goodbye takes longer than all before, and what was granted is granted.
    let _ = timeout(GOODBYE, endpoint.wait_idle()).await;
    granted.unwrap_or_else(|_| Err(format!("no answer within {} s (UDP)", PATIENCE.as_secs())))
}

async fn dial(endpoint: &Endpoint, tls: ClientConfig, to: SocketAddr, request: &[u8]) -> Result<Granted, String> {
    let connecting = endpoint.connect_with(tls, to, "node.hobnob").map_err(|why| why.to_string())?;
    let connection = connecting.await.map_err(|why| refusal(&why))?;
    let answer = exchange(&connection, request).await;
    let granted = answer.map_err(|why| connection.close_reason().map_or(why, |closed| refusal(&closed)));
    connection.close(Code::Closed.into(), b"");
    granted
}

async fn exchange(connection: &Connection, request: &[u8]) -> Result<Granted, String> {
    let (mut to, mut from) = connection.open_bi().await.map_err(|why| why.to_string())?;
    to.write_all(request).await.map_err(|why| why.to_string())?;
    to.finish().map_err(|why| why.to_string())?;
    // All of its room at once: what has to grow leaves secrets where it was.
    let mut answer = Zeroizing::new(Vec::with_capacity(MAX_GRANT));
    read_into(&mut from, MAX_GRANT, &mut answer).await.map_err(|why| why.to_string())?;
    read(&answer)
}

/// Why the other side hung up, or we did.
fn refusal(why: &ConnectionError) -> String {
    match why {
        ConnectionError::ApplicationClosed(closed) => {
            String::from_utf8_lossy(&closed.reason).chars().filter(|letter| !letter.is_control()).collect()
        }
        ConnectionError::ConnectionClosed(theirs) if TLS_ALERTS.contains(&u64::from(theirs.error_code)) => {
            trust::Broken::Uninvited.to_string()
        }
        ConnectionError::TransportError(ours) if TLS_ALERTS.contains(&u64::from(ours.code)) => {
            format!(
                "whoever answers there is not the node that made the token, or not of the mesh that the token was made \
                 in, or its secrets or authorities were changed since, as in a rotation: then make another token ({ours})"
            )
        }
        other => other.to_string(),
    }
}

fn written(message: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, String> {
    rmp_serde::to_vec_named(message).map(Zeroizing::new).map_err(|why| why.to_string())
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut from = rmp_serde::Deserializer::from_read_ref(bytes);
    from.set_max_depth(MAX_DEPTH);
    T::deserialize(&mut from).map_err(|_| "what it says makes no sense".into())
}

/// Members asked in one go for a newer certificate.
const MAX_ASKED: usize = 32;
/// For each seed.
const PATIENCE: Duration = Duration::from_secs(5);
/// So that the word of it leaves before the process ends.
const GOODBYE: Duration = Duration::from_secs(1);
/// A name and a public key.
const MAX_REQUEST: usize = 1024;
/// Some authorities and a certificate, or some secrets.
const MAX_GRANT: usize = 64 * 1024;
const MAX_DEPTH: usize = 8;

#[cfg(test)]
mod tests {
    use tokio::net::UdpSocket;

    use super::*;
    use crate::agent::{Agent, Secret};

    #[tokio::test]
    async fn a_request_that_makes_no_sense_is_refused_and_the_token_stays_good() {
        let builder = Agent::builder().node("a").secret(Secret::random()).listen("127.0.0.1:0".parse().unwrap());
        let host = builder.start().await.unwrap();
        let invitation = host.invite(None, Duration::from_secs(3600)).unwrap();
        let seed = host.address();
        for bad in [&b""[..], &[0x93; 600], &[b'x'; MAX_REQUEST + 1]] {
            let why = ask(&invitation, seed, bad).await.unwrap_err();
            assert!(why.contains("makes no sense") || why.contains("its request"), "{why}");
        }
        let (granted, _) = enrol(&invitation, &"b".try_into().unwrap()).await.unwrap();
        assert_eq!(granted.secrets.len(), 1);
        let why = enrol(&invitation, &"c".try_into().unwrap()).await.unwrap_err();
        assert!(why.contains("was used, has expired"), "{why}");
        host.leave().await;
    }

    /// An address behind which `host` is, as far away as the other side of the world on a bad day.
    async fn far_from(host: SocketAddr) -> SocketAddr {
        let [front, back] = [(); 2].map(|()| async { Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap()) });
        let (front, back) = (front.await, back.await);
        let at = front.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut there, mut here, mut caller) = ([0; 2048], [0; 2048], host);
            loop {
                let (from, to, packet) = tokio::select! {
                    Ok((length, from)) = front.recv_from(&mut there) => {
                        caller = from;
                        (&back, host, there[..length].to_vec())
                    }
                    Ok((length, _)) = back.recv_from(&mut here) => (&front, caller, here[..length].to_vec()),
                };
                let from = Arc::clone(from);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(350)).await;
                    from.send_to(&packet, to).await
                });
            }
        });
        at
    }

    #[tokio::test]
    async fn what_is_granted_over_a_slow_path_is_not_lost() {
        let builder = Agent::builder().node("a").secret(Secret::random()).listen("127.0.0.1:0".parse().unwrap());
        let host = builder.start().await.unwrap();
        let mut invitation = host.invite(None, Duration::from_secs(3600)).unwrap();
        invitation.seeds = vec![far_from(host.address()).await];
        assert_eq!(enrol(&invitation, &"b".try_into().unwrap()).await.unwrap().0.secrets.len(), 1);
        host.leave().await;
    }
}
