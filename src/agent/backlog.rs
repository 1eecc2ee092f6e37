//! Room for those who knock faster than they are let in.

use std::os::fd::AsFd;

use socket2::SockRef;

/// Lets as many connections wait at a listening socket as the system allows; the default of 128 is full within
/// milliseconds when all clients of a restarted agent come back at once, and who finds it full tries again a second later.
pub(crate) fn deepen(listener: &impl AsFd) {
    // Where that is refused, they wait that second.
    let _ = SockRef::from(listener).listen(MOST);
}

/// The system takes it as its own bound, `net.core.somaxconn`.
const MOST: i32 = i32::MAX;

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn more_may_wait_than_the_default() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        super::deepen(&listener);
        let address = listener.local_addr().unwrap();
        let bound: usize = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
        // One more than allowed would have to wait for its second try.
        let waiting: Vec<_> = (0..bound.min(500)).map(|_| TcpStream::connect(address).unwrap()).collect();
        assert!(waiting.iter().all(|stream| stream.peer_addr().is_ok()));
    }
}
