//! Cuts off who takes an answer too slowly: each stalled write spends an allowance of time, each byte taken earns some
//! back. Without it, a reader of a byte a second keeps an answer in memory for days.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::{
    crowd::{Crowd, CutOff},
    patience::Ear,
};

/// A connection whose client must take what is sent to it.
#[derive(Debug)]
pub(super) struct Paced<I> {
    io: I,
    crowd: Arc<Crowd>,
    ear: Arc<Ear>,
    /// How much longer writes may stall.
    allowance: Duration,
    stall: Option<Stall>,
}

/// A write that waits.
#[derive(Debug)]
struct Stall {
    since: Instant,
    alarm: Pin<Box<Sleep>>,
}

impl<I> Paced<I> {
    pub(super) fn new(io: I, crowd: Arc<Crowd>, ear: Arc<Ear>) -> Self {
        Self { io, crowd, ear, allowance: ALLOWANCE, stall: None }
    }

    /// Settles the account after a try to write.
    fn settle(&mut self, tried: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(done) = tried {
            if let Some(stall) = self.stall.take() {
                let earned = PER_BYTE.saturating_mul(u32::try_from(*done.as_ref().unwrap_or(&0)).unwrap_or(u32::MAX));
                let left = self.allowance.saturating_sub(stall.since.elapsed());
                self.allowance = left.saturating_add(earned).min(ALLOWANCE);
            }
            return Poll::Ready(done);
        }
        let allowance = self.allowance;
        let begin = || Stall { since: Instant::now(), alarm: Box::pin(sleep(allowance)) };
        ready!(self.stall.get_or_insert_with(begin).alarm.as_mut().poll(context));
        self.crowd.cut_off(CutOff::SlowReader);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Paced<I> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, into);
        self.ear.hear(into.filled().len() > before);
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Paced<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let tried = Pin::new(&mut self.io).poll_write(context, from);
        self.settle(tried, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let tried = Pin::new(&mut self.io).poll_write_vectored(context, from);
        self.settle(tried, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// How long a client may take nothing at all: a line may be down for that long.
const ALLOWANCE: Duration = Duration::from_secs(30);
/// 16 KiB a second: below that a client falls behind, and is cut off within a minute.
const PER_BYTE: Duration = Duration::from_nanos(1_000_000_000 / (16 * 1024));

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    /// How long a megabyte takes to a client that takes `step` bytes each second, or until it is cut off.
    async fn sent(step: usize) -> (bool, Duration) {
        let (mut client, server) = duplex(1024);
        let mut server = Paced::new(server, Arc::default(), Arc::default());
        let start = Instant::now();
        let reader = tokio::spawn(async move {
            let mut taken = vec![0; step];
            while client.read_exact(&mut taken).await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        });
        let sent = server.write_all(&[7; 1 << 20]).await;
        reader.abort();
        (sent.is_ok(), start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_cut_off_and_a_fair_one_is_not() {
        let (done, took) = sent(1024).await;
        assert!(!done && took < Duration::from_secs(60), "{took:?}");
        let (done, took) = sent(20 * 1024).await;
        assert!(done && took > Duration::from_secs(50), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_is_cut_off_and_counted() {
        let crowd = Arc::<Crowd>::default();
        let (_client, server) = duplex(16);
        let mut server = Paced::new(server, Arc::clone(&crowd), Arc::default());
        assert_eq!(server.write_all(&[7; 100]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(crowd.each().any(|counted| counted == ("slow_reader", 1)));
    }
}
