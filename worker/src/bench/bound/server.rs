//! The servers' side of the bound: per connection a thread that reads and one that writes.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use super::share::{Share, lock};
use super::{BoundError, BoundPlan, WRITE_BYTES, inline, prepare};
use tokio::runtime::Handle;

/// Gradient chunks that a connection may be ahead of the others. With one worker none is waited for, and
/// one buffer that stays in the cache is best.
const CHUNKS_AHEAD: usize = 8;

/// Opens a port and serves a share on it until the connections end. Gives the port's address. To be called on
/// the runtime.
///
/// # Errors
/// [`BoundError`]: an optimizer with norms, or no port.
pub fn listen(plan: &BoundPlan, server: usize) -> Result<SocketAddr, BoundError> {
    let share = Share::new(plan, server)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let (workers, inline) = (plan.workers as usize, plan.is_inline().then(Handle::current));
    thread::Builder::new().name("bound-accept".to_owned()).spawn(move || {
        // Connections that fail end the measurement on the workers' side, where it is told.
        let _ = serve(&listener, share, workers, inline.as_ref());
    })?;
    Ok(address)
}

fn serve(listener: &TcpListener, share: Share, workers: usize, runtime: Option<&Handle>) -> io::Result<()> {
    let mut streams: Vec<Option<TcpStream>> = (0..workers).map(|_| None).collect();
    while streams.iter().any(Option::is_none) {
        let (mut stream, _) = listener.accept()?;
        prepare(&stream)?;
        let mut number = [0; 4];
        stream.read_exact(&mut number)?;
        let worker = u32::from_le_bytes(number) as usize;
        *streams.get_mut(worker).ok_or(io::ErrorKind::InvalidData)? = Some(stream);
    }
    let streams: Vec<TcpStream> = streams.into_iter().flatten().collect();
    if let Some(runtime) = runtime {
        let _on_it = runtime.enter();
        return inline::serve(share, streams);
    }
    let out = streams.iter().map(|stream| stream.try_clone().map(Mutex::new)).collect::<io::Result<Vec<_>>>()?;
    let buffers = if workers == 1 { 1 } else { CHUNKS_AHEAD };
    let length = share.chunks.iter().map(|chunk| chunk.elements).max().unwrap_or(0);
    let pools = (0..workers).map(|_| Pool::new(buffers, length)).collect();
    let bound = Arc::new(Bound { share, out, pools });
    for (worker, stream) in streams.into_iter().enumerate() {
        let reader = bound.clone();
        thread::Builder::new().name(format!("bound-read-{worker}")).spawn(move || reader.read(worker, stream))?;
        let writer = bound.clone();
        thread::Builder::new().name(format!("bound-write-{worker}")).spawn(move || writer.write(worker))?;
    }
    Ok(())
}

struct Bound {
    share: Share,
    /// To each worker.
    out: Vec<Mutex<TcpStream>>,
    /// Of each worker.
    pools: Vec<Pool>,
}

impl Bound {
    fn read(&self, worker: usize, mut stream: TcpStream) -> io::Result<()> {
        for step in 1.. {
            for (index, chunk) in self.share.chunks.iter().enumerate() {
                let mut gradient = self.pools[worker].take();
                stream.read_exact(bytemuck::cast_slice_mut(&mut gradient[..chunk.elements]))?;
                let Some(gradients) = self.share.contribute(index, step, worker, gradient) else { continue };
                gradients.into_iter().zip(&self.pools).for_each(|(gradient, pool)| pool.give(gradient));
            }
        }
        Ok(())
    }

    fn write(&self, worker: usize) -> io::Result<()> {
        let mut out = lock(&self.out[worker]);
        for step in 1.. {
            for index in 0..self.share.chunks.len() {
                let weights = self.share.weights(index, step);
                for part in bytemuck::cast_slice::<f32, u8>(&weights).chunks(WRITE_BYTES) {
                    out.write_all(part)?;
                }
            }
        }
        Ok(())
    }
}

/// Buffers for one connection's chunks.
struct Pool {
    free: Mutex<Vec<Vec<f32>>>,
    given: Condvar,
}

impl Pool {
    fn new(buffers: usize, elements: usize) -> Pool {
        Pool { free: Mutex::new(vec![vec![0.0; elements]; buffers]), given: Condvar::new() }
    }

    fn take(&self) -> Vec<f32> {
        let mut free = lock(&self.free);
        loop {
            match free.pop() {
                Some(buffer) => return buffer,
                None => free = self.given.wait(free).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn give(&self, buffer: Vec<f32>) {
        lock(&self.free).push(buffer);
        self.given.notify_one();
    }
}
