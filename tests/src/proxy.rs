//! A TCP proxy: one link of a cluster that a test can disturb.
//!
//! Forwards bytes both ways. A cut resets every open connection; a stalled direction forwards nothing
//! (what comes waits, as behind a partition); a delayed one forwards each piece later; halving forwards half of what comes
//! next in a direction, then resets the connection: a message is torn in the middle.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Towards or from the peer behind the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From who connected to the peer behind.
    Up,
    /// Back.
    Down,
}

/// What a link does just now.
#[derive(Debug, Default)]
struct Conditions {
    stalled: [AtomicBool; 2],
    delay_ms: AtomicU64,
    halve: [AtomicBool; 2],
}

/// A link.
#[derive(Debug, Clone)]
pub struct Proxy {
    address: SocketAddr,
    conditions: Arc<Conditions>,
    /// Rises with every cut.
    cuts: Arc<watch::Sender<u64>>,
}

impl Proxy {
    /// A port of its own that leads to `target`, which may be set later.
    pub async fn listen(target: watch::Receiver<Option<SocketAddr>>) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let proxy = Proxy { address, conditions: Arc::default(), cuts: Arc::new(watch::Sender::new(0)) };
        tokio::spawn(accept(listener, target, proxy.clone()));
        proxy
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Resets every connection that is open.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Forwards nothing in this direction, or again.
    pub fn stall(&self, direction: Direction, stalled: bool) {
        self.conditions.stalled[direction as usize].store(stalled, Ordering::Relaxed);
    }

    /// Forwards every piece so much later.
    pub fn delay(&self, delay: Duration) {
        self.conditions.delay_ms.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    /// Tears the next piece in this direction, with its connection.
    pub fn halve(&self, direction: Direction) {
        self.conditions.halve[direction as usize].store(true, Ordering::Relaxed);
    }

    /// Whether the torn piece has come.
    #[must_use]
    pub fn has_halved(&self, direction: Direction) -> bool {
        !self.conditions.halve[direction as usize].load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, mut target: watch::Receiver<Option<SocketAddr>>, proxy: Proxy) {
    while let Ok((incoming, _)) = listener.accept().await {
        let Ok(known) = target.wait_for(Option::is_some).await.map(|known| *known) else { return };
        let Some(address) = known else { continue };
        let proxy = proxy.clone();
        tokio::spawn(async move {
            // Whoever connected sees a reset if nobody is behind.
            let Ok(outgoing) = TcpStream::connect(address).await else { return };
            let _ = (incoming.set_nodelay(true), outgoing.set_nodelay(true));
            link(incoming, outgoing, proxy).await;
        });
    }
}

async fn link(near: TcpStream, far: TcpStream, proxy: Proxy) {
    let mut cuts = proxy.cuts.subscribe();
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    tokio::select! {
        () = forward(near_read, far_write, &proxy.conditions, Direction::Up) => {}
        () = forward(far_read, near_write, &proxy.conditions, Direction::Down) => {}
        _ = cuts.changed() => {}
    }
    // Dropping all halves closes both connections, with what was under way lost.
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, conditions: &Conditions, direction: Direction) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(read) = from.read(&mut buffer).await else { return };
        if read == 0 {
            return;
        }
        let delay = conditions.delay_ms.load(Ordering::Relaxed);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        while conditions.stalled[direction as usize].load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let halved = conditions.halve[direction as usize].swap(false, Ordering::Relaxed);
        let piece = if halved { &buffer[..read / 2] } else { &buffer[..read] };
        if to.write_all(piece).await.is_err() || halved {
            return;
        }
    }
}
