//! The check `tcp`: a connection, and what is said on it if anything is expected.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    Failed, Finding, Home, MAX_OUTPUT,
    dial::{Dial, Place, Stream},
    holds, text,
};
use crate::model::TcpCheck;

pub(super) async fn run(check: &TcpCheck, home: &Home, dial: &Dial) -> Result<Finding, Failed> {
    ask(check, home, dial).await.map(Finding::passing)
}

/// Whether a connection is all that is asked for.
pub(super) const fn is_bare(check: &TcpCheck) -> bool {
    check.tls.is_none() && check.send.is_none() && check.expect.is_none()
}

async fn ask(check: &TcpCheck, home: &Home, dial: &Dial) -> Result<String, Failed> {
    let place = Place::of(&check.target, home, None)?;
    if is_bare(check) {
        dial.reach(&place).await?;
        return Ok(format!("connected to {place}"));
    }
    Box::pin(converse(check, &place, dial)).await
}

async fn converse(check: &TcpCheck, place: &Place, dial: &Dial) -> Result<String, Failed> {
    let mut stream = dial.stream(place, check.tls.as_ref(), &[]).await?;
    if let Some(words) = &check.send {
        stream.write_all(words.as_bytes()).await.map_err(|why| format!("cannot send to {place}: {why}"))?;
        stream.flush().await.map_err(|why| format!("cannot send to {place}: {why}"))?;
    }
    match &check.expect {
        Some(expected) => Ok(listen(&mut *stream, expected).await?),
        None => Ok(format!("connected to {place}")),
    }
}

/// Reads until what is expected has come, or as much as is read of anything.
async fn listen(stream: &mut dyn Stream, expected: &str) -> Result<String, String> {
    let mut heard = Vec::new();
    let mut buffer = [0; 1024];
    while heard.len() < MAX_OUTPUT {
        let count = stream.read(&mut buffer).await.map_err(|why| format!("the connection broke: {why}"))?;
        heard.extend_from_slice(&buffer[..count]);
        if holds(&heard, expected) {
            return Ok(text(&heard));
        }
        if count == 0 {
            break;
        }
    }
    Err(format!("{expected:?} is not in what it said: {}", text(&heard)))
}
