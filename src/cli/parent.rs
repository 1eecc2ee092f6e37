//! What an agent and its executor say to each other, over the socket that is the agent's standard input.
//!
//! The agent speaks in frames: a kind, a length of four bytes, the bytes. The executor says single bytes: the signals it
//! has heard. Signals may reach both (a terminal and systemd send them to all), so each side's are counted apart, and the
//! larger count is how often somebody asked.

use std::{fs::File, io, os::fd::AsFd, os::unix::net::UnixStream as Pair, pin::pin, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{sleep, timeout},
};

use super::failure::Failure;
use crate::agent::{Agent, Will};

/// What the executor says to the agent. On the wire: the byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Word {
    Stop = b'S',
    Reload = b'R',
}

/// What the agent says to the executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// This is my last will.
    Will(Vec<u8>),
    /// There is nothing left to say.
    Nothing,
    /// Answers are given.
    Ready,
    /// I am on my way out.
    Leaving,
}

impl Said {
    fn kind(&self) -> u8 {
        match self {
            Self::Will(_) => b'W',
            Self::Nothing => b'N',
            Self::Ready => b'R',
            Self::Leaving => b'L',
        }
    }

    fn frame(&self) -> Vec<u8> {
        let bytes: &[u8] = if let Self::Will(bytes) = self { bytes } else { &[] };
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        [&[self.kind()], &length[..], bytes].concat()
    }
}

/// Frames as they come in.
#[derive(Debug, Default)]
pub(super) struct Frames(Vec<u8>);

impl Frames {
    /// Waits for more bytes; false at their end. Cancel-safe.
    pub(super) async fn read(&mut self, line: &UnixStream) -> bool {
        while line.readable().await.is_ok() {
            match line.try_read_buf(&mut self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read.is_ok_and(|count| count > 0),
            }
        }
        false
    }

    /// Takes all the bytes that are there.
    pub(super) fn drain(&mut self, line: &UnixStream) {
        // The first read may only tell that the other end died without reading all.
        let _ = line.try_read_buf(&mut self.0);
        while line.try_read_buf(&mut self.0).is_ok_and(|count| count > 0) {}
    }

    /// The next whole frame; one of an unknown kind is skipped.
    pub(super) fn next(&mut self) -> Option<Said> {
        loop {
            let (head, rest) = self.0.split_first_chunk::<HEAD>()?;
            let [kind, length @ ..] = *head;
            let length = usize::try_from(u32::from_le_bytes(length)).ok()?;
            if length > MAX_FRAME {
                self.0.clear();
                return None;
            }
            let bytes = rest.get(..length)?.to_vec();
            self.0.drain(..HEAD + length);
            match kind {
                b'W' => return Some(Said::Will(bytes)),
                b'N' => return Some(Said::Nothing),
                b'R' => return Some(Said::Ready),
                b'L' => return Some(Said::Leaving),
                _ => {}
            }
        }
    }
}

/// An agent's executor, as the agent sees it.
#[derive(Debug)]
pub(super) struct Parent {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
}

impl Parent {
    /// Takes the socket off the standard input, so that no command this agent runs inherits it.
    pub(super) fn take() -> io::Result<Self> {
        let line = io::stdin().as_fd().try_clone_to_owned()?;
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        let line = Pair::from(line);
        line.set_nonblocking(true)?;
        let (from, to) = UnixStream::from_std(line)?.into_split();
        Ok(Self { from, to })
    }

    /// The two directions, for those who listen and those who speak.
    pub(super) fn split(self) -> (Words, Mouth) {
        (Words(self.from), Mouth { to: self.to, last: None })
    }
}

/// What the executor says.
#[derive(Debug)]
pub(super) struct Words(OwnedReadHalf);

impl Words {
    /// The next word; `None` when the executor has died. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Word> {
        let mut byte = [0];
        loop {
            self.0.readable().await.ok()?;
            match self.0.try_read(&mut byte) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(1) if byte[0] == Word::Stop as u8 => return Some(Word::Stop),
                Ok(1) if byte[0] == Word::Reload as u8 => return Some(Word::Reload),
                Ok(1) => {}
                _ => return None,
            }
        }
    }
}

/// What the executor is told.
#[derive(Debug)]
pub(super) struct Mouth {
    to: OwnedWriteHalf,
    last: Option<Will>,
}

impl Mouth {
    /// Says one thing. Whoever does not hear it has died, which [`Words::next`] tells.
    pub(super) async fn say(&mut self, said: &Said) {
        let _ = timeout(PATIENCE, self.to.write_all(&said.frame())).await;
    }

    /// Whether anybody would hear of a death: who has just begun to live waits for the first.
    fn has_heirs(&self) -> bool {
        self.last.as_ref().is_some_and(|will| will.heirs() > 0)
    }

    /// Says when the node is `announced`, and writes its last will anew as members come and go: soon after they do, since
    /// links follow, and now and then for the sake of its certificate. Ends when the agent has stopped.
    pub(super) async fn speak(
        &mut self,
        agent: &Agent,
        announced: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Failure> {
        let mut announced = pin!(announced);
        let mut waiting = true;
        let mut events = agent.journal().subscribe();
        let mut wait = AT_ONCE;
        while let Some(will) = agent.will().await {
            if self.last.as_ref() != Some(&will)
                && let Ok(bytes) = will.to_bytes()
            {
                self.say(&Said::Will(bytes.to_vec())).await;
                self.last = Some(will);
            }
            tokio::select! {
                done = &mut announced, if waiting => {
                    done?;
                    waiting = false;
                    self.say(&Said::Ready).await;
                }
                () = sleep(wait) => wait = (wait * 4).min(NOW_AND_THEN),
                event = events.changed() => match event {
                    Ok(()) => {
                        wait = if self.has_heirs() { SOON } else { AT_ONCE };
                        sleep(wait).await;
                    }
                    Err(_) => break,
                },
            }
        }
        Ok(())
    }
}

/// The word that tells an agent that its standard input leads to its executor.
pub(super) const FLAG: &str = "--has-executor";
/// A frame's kind and length.
const HEAD: usize = 5;
/// A will takes less than 8 KiB: certificates, a hello at its limit, eight addresses.
const MAX_FRAME: usize = 64 << 10;
/// An executor that does not read is stopped, and the agent has other things to do.
const PATIENCE: Duration = Duration::from_millis(500);
/// From a change to the will that heeds it.
const SOON: Duration = Duration::from_millis(50);
const AT_ONCE: Duration = Duration::from_millis(3);
const NOW_AND_THEN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_whole_however_they_come() {
        let said = [Said::Ready, Said::Will(vec![7; 300]), Said::Will(Vec::new()), Said::Nothing, Said::Leaving];
        let bytes: Vec<u8> = said.iter().flat_map(Said::frame).collect();
        for step in [1, 4, 5, 6, 400] {
            let (mut frames, mut heard) = (Frames::default(), Vec::new());
            for part in bytes.chunks(step) {
                frames.0.extend(part);
                heard.extend(std::iter::from_fn(|| frames.next()));
            }
            assert_eq!(heard, said, "in steps of {step}");
        }
    }

    #[test]
    fn a_frame_that_cannot_be_is_dropped_with_what_follows() {
        let mut frames = Frames([&b"W\xff\xff\xff\xff"[..], &Said::Ready.frame()].concat());
        assert_eq!(frames.next(), None);
        frames.0.extend([&b"?\x01\0\0\0x"[..], &Said::Ready.frame()].concat());
        assert_eq!(frames.next(), Some(Said::Ready), "an unknown kind is skipped");
    }
}
