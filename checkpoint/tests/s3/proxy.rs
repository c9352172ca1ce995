//! A proxy in front of a server, which misbehaves with the requests it is told to.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
pub enum Mischief {
    /// The connection ends after so many bytes of the request.
    CutRequest(usize),
    /// The request arrives, the answer does not.
    LoseAnswer,
    /// The connection ends after so many bytes of the answer.
    CutAnswer(usize),
    /// Each waits until the one before is answered.
    InTurn,
}

/// Applies `mischief` to requests that begin with `start`, the first `times` of them.
#[derive(Clone, Debug)]
pub struct Plan {
    pub start: &'static str,
    pub mischief: Mischief,
    pub times: usize,
}

/// A proxy on a port of its own. Its threads end with their connections, the listener with the test.
pub struct Proxy {
    pub port: u16,
    done: Arc<AtomicUsize>,
}

impl Proxy {
    pub fn start(to: u16, plan: Plan) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let done = Arc::new(AtomicUsize::new(0));
        let (counter, left) = (done.clone(), Arc::new(Mutex::new(plan.times)));
        let turn = Arc::new(Mutex::new(()));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (plan, left, counter, turn) = (plan.clone(), left.clone(), counter.clone(), turn.clone());
                std::thread::spawn(move || {
                    // An end that goes away ends the connection; that is all an error means here.
                    let _ = serve(client, to, &plan, &left, &counter, &turn);
                });
            }
        });
        Proxy { port, done }
    }

    /// How often something went wrong so far.
    pub fn mischiefs(&self) -> usize {
        self.done.load(Ordering::SeqCst)
    }
}

/// Forwards one connection. The server closes it after each answer, so it is one request.
fn serve(
    mut client: TcpStream,
    to: u16,
    plan: &Plan,
    left: &Mutex<usize>,
    counter: &AtomicUsize,
    turn: &Mutex<()>,
) -> std::io::Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut start = vec![0; 1 << 16];
    let read = client.read(&mut start)?;
    start.truncate(read);
    let mischief = {
        let mut left = left.lock().unwrap();
        let hit = *left > 0 && start.starts_with(plan.start.as_bytes());
        *left -= usize::from(hit);
        hit.then_some(plan.mischief)
    };
    counter.fetch_add(usize::from(mischief.is_some()), Ordering::SeqCst);
    let _turn = matches!(mischief, Some(Mischief::InTurn)).then(|| turn.lock().unwrap());
    let mut server = TcpStream::connect(("127.0.0.1", to))?;
    if let Some(Mischief::CutRequest(bytes)) = mischief {
        server.write_all(&start[..bytes.min(start.len())])?;
        let mut more = vec![0; bytes.saturating_sub(start.len())];
        client.read_exact(&mut more)?;
        server.write_all(&more)?;
        return client.shutdown(Shutdown::Both);
    }
    server.write_all(&start)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
    match mischief {
        Some(Mischief::LoseAnswer) => {
            std::io::copy(&mut server, &mut std::io::sink())?;
        }
        Some(Mischief::CutAnswer(bytes)) => {
            std::io::copy(&mut server.take(bytes as u64), &mut client)?;
        }
        _ => {
            std::io::copy(&mut server, &mut client)?;
        }
    }
    client.shutdown(Shutdown::Both)
}
