//! Ctrl-C and SIGTERM: what they are called, and how none is lost while a program starts.
//!
//! The first process of a container, or of any process namespace, has no default way to end: a signal that it
//! neither handles nor blocks is thrown away by the kernel. So one that came before the handlers were there would
//! change nothing, and whoever sent it would wait in vain. Blocked, it waits until they are.

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;

use tokio::signal::unix::{SignalKind, signal};

/// A request to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Signal {
    /// 128 plus the signal's number, as shells report it.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Signal::Interrupt => 130,
            Signal::Terminate => 143,
        }
    }

    /// As the system calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Signal::Interrupt => "SIGINT",
            Signal::Terminate => "SIGTERM",
        }
    }
}

/// Resolves to the first of them that comes. From this call on, not from the first poll, they no longer end the process by
/// themselves.
///
/// # Errors
/// When the system does not let signals be listened to.
pub fn first_signal() -> io::Result<impl Future<Output = Signal>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => Signal::Interrupt,
            _ = terminate.recv() => Signal::Terminate,
        }
    })
}

/// While this lives, signals to end wait. To be made first in `main` and dropped, on the same thread, once there are
/// handlers. Threads that are started meanwhile never take such signals; this one does.
#[derive(Debug)]
#[must_use = "signals wait only while it lives"]
pub struct HeldSignals {
    /// The mask is a thread's own.
    not_send: PhantomData<*const ()>,
}

impl HeldSignals {
    /// Holds signals back from now on.
    pub fn hold() -> HeldSignals {
        set_mask(libc::SIG_BLOCK);
        HeldSignals { not_send: PhantomData }
    }
}

impl Drop for HeldSignals {
    /// Not the mask from before: a process that `bench` starts inherits one in which they are blocked.
    fn drop(&mut self) {
        set_mask(libc::SIG_UNBLOCK);
    }
}

fn set_mask(how: libc::c_int) {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the set is made empty before it is used, and lives for the calls. They fail only for numbers that are
    // no signals, and change this thread alone.
    #[allow(unsafe_code)]
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
        libc::pthread_sigmask(how, set.as_ptr(), ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// To this thread alone: others of the test would die of it.
    #[allow(unsafe_code)]
    fn raise(signal: libc::c_int) {
        // SAFETY: sends a signal to the calling thread.
        assert_eq!(unsafe { libc::raise(signal) }, 0);
    }

    #[tokio::test]
    async fn a_signal_that_came_before_its_handler_is_told_once_there_is_one() {
        let held = HeldSignals::hold();
        raise(libc::SIGTERM);
        let first = first_signal().unwrap();
        drop(held);
        assert_eq!(first.await, Signal::Terminate);
    }
}
