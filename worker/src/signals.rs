//! Ctrl-C and SIGTERM.

use std::io;

use tokio::sync::watch;

/// A request to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Signal {
    /// 128 plus the signal's number, as shells report it.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Signal::Interrupt => 130,
            Signal::Terminate => 143,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Signal::Interrupt => "SIGINT",
            Signal::Terminate => "SIGTERM",
        }
    }
}

/// Holds the first signal that came, once one has. From now on signals no longer end the process by
/// themselves.
///
/// # Errors
/// When the system does not let signals be listened to.
#[cfg(unix)]
pub(crate) fn listen() -> io::Result<watch::Receiver<Option<Signal>>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let first = tokio::select! {
            _ = interrupt.recv() => Signal::Interrupt,
            _ = terminate.recv() => Signal::Terminate,
        };
        sender.send_replace(Some(first));
        sender.closed().await;
    });
    Ok(receiver)
}

/// As above; there is only Ctrl-C here.
#[cfg(not(unix))]
pub(crate) fn listen() -> io::Result<watch::Receiver<Option<Signal>>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            sender.send_replace(Some(Signal::Interrupt));
        }
        sender.closed().await;
    });
    Ok(receiver)
}
