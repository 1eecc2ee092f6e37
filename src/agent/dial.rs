//! Reaching a machine that may be at any of several addresses.

use std::{net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::sleep;

use super::hello::{Greeter, Met, Missed};
use crate::model::NodeId;

/// Dials one address after the other, the next as soon as the one before has failed or had its head start: some of a
/// machine's addresses may lead nowhere, and silently (RFC 8305 section 5). The first that answers wins.
pub(super) async fn dial_any(
    greeter: &Greeter,
    addresses: &[SocketAddr],
    expected: Option<NodeId>,
) -> Result<Met, Missed> {
    let mut missed = Missed::Protocol("has no address");
    let (mut rest, mut dials) = (addresses.iter(), FuturesUnordered::new());
    loop {
        match rest.next() {
            Some(address) => dials.push(greeter.dial(*address, expected)),
            None if dials.is_empty() => return Err(missed),
            None => {}
        }
        tokio::select! {
            Some(met) = dials.next() => match met {
                Ok(met) => return Ok(met),
                Err(why @ Missed::NameInUse(_)) => return Err(why),
                // Whoever else is found at an address of the one who is looked for may say what he likes: he goes on being
                // looked for.
                Err(why @ Missed::NameSaidInUse(by, _)) if expected.is_none_or(|expected| expected == by) => {
                    return Err(why);
                }
                Err(_) if matches!(missed, Missed::NameSaidInUse(..)) => {}
                Err(why) => missed = why,
            },
            () = sleep(HEAD_START), if rest.len() > 0 => {}
        }
    }
}

/// How long an address has to answer before the next is tried too (RFC 8305 section 8).
const HEAD_START: Duration = Duration::from_millis(250);
