//! Ctrl-C and SIGTERM, for whoever asks at any time.

use std::io;

use halflife_server::signals::{Signal, first_signal};
use tokio::sync::watch;

/// Holds the first signal that came, once one has. From now on signals no longer end the process by
/// themselves.
///
/// # Errors
/// When the system does not let signals be listened to.
pub(crate) fn listen() -> io::Result<watch::Receiver<Option<Signal>>> {
    let first = first_signal()?;
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        sender.send_replace(Some(first.await));
        sender.closed().await;
    });
    Ok(receiver)
}
