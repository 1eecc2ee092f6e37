//! Server-Sent Events as an agent sends them (WHATWG HTML, section 9.2): a stream of small texts, each with an id to go on
//! from.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{Method, body::Incoming};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{
    client::{Client, PATIENCE},
    failure::Failure,
};

/// A running stream.
#[derive(Debug)]
pub(super) struct Stream {
    body: Incoming,
    lines: Lines,
    client: Client,
    _connection: AbortOnDropHandle<()>,
}

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// What it is called; `message` unless the stream says so.
    pub(super) name: String,
    /// What to resume from.
    pub(super) id: Option<String>,
    pub(super) data: String,
}

impl Client {
    /// Opens a stream; `last` is the id of the last event that was seen.
    pub(super) async fn stream(&self, path: &str, last: Option<&str>) -> Result<Stream, Failure> {
        let headers = [("accept", Some("text/event-stream")), ("last-event-id", last)];
        let (response, connection) = self.open(&Method::GET, path, &headers).await?;
        let connection: JoinHandle<()> = connection;
        Ok(Stream {
            body: response.into_body(),
            lines: Lines::default(),
            client: self.clone(),
            _connection: AbortOnDropHandle::new(connection),
        })
    }
}

impl Stream {
    /// The next event. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Event, Failure> {
        loop {
            if let Some(event) = self.lines.event() {
                return Ok(event);
            }
            let silent = |_| self.client.unreachable(&"it has been silent for a minute");
            let frame = timeout(SILENCE, self.body.frame()).await.map_err(silent)?;
            let frame = frame.ok_or_else(|| self.client.unreachable(&"it has ended the stream"))?;
            let frame = frame.map_err(|error| self.client.unreachable(&error))?;
            self.lines.take(&frame.into_data().unwrap_or_default());
            if self.lines.buffer.len() > MAX_EVENT {
                return Err(Failure::new("the agent's stream makes no sense", "a line is endless", "hobnob --version"));
            }
        }
    }
}

/// The lines of a stream as they come in.
#[derive(Debug, Default)]
struct Lines {
    buffer: BytesMut,
    /// What is known of the event that is not whole yet.
    event: Event,
}

impl Lines {
    fn take(&mut self, bytes: &Bytes) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next event that is whole.
    fn event(&mut self) -> Option<Event> {
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line = self.buffer.split_to(end + 1);
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                if !event.data.is_empty() {
                    return Some(event);
                }
                continue;
            }
            // A line that begins with a colon is there to keep proxies awake.
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => self.event.name = value.into(),
                "id" => self.event.id = Some(value.into()),
                "data" if self.event.data.is_empty() => self.event.data = value.into(),
                "data" if self.event.data.len() < MAX_EVENT => {
                    self.event.data.push('\n');
                    self.event.data.push_str(value);
                }
                _ => {}
            }
        }
        None
    }
}

/// Agents say something every 15 seconds.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(60);
/// The most of one event: a service with 100,000 instances fits.
const MAX_EVENT: usize = 64 * 1024 * 1024;
const _: () = assert!(SILENCE.as_secs() > PATIENCE.as_secs());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_they_are_cut() {
        let text = ": hello\n\nevent: snapshot\nid: 7-1\ndata: {\"a\":\ndata: 1}\n\r\nid: 7-2\ndata: x\n\n";
        for size in [1, 2, 7, text.len()] {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for part in text.as_bytes().chunks(size) {
                lines.take(&Bytes::copy_from_slice(part));
                found.extend(std::iter::from_fn(|| lines.event()));
            }
            let [first, second] = &found[..] else { panic!("{found:?}") };
            assert_eq!((&*first.name, first.id.as_deref(), &*first.data), ("snapshot", Some("7-1"), "{\"a\":\n1}"));
            assert_eq!((&*second.name, second.id.as_deref(), &*second.data), ("", Some("7-2"), "x"));
        }
    }
}
