//! Parts: a bounded queue of aligned buffers between who produces an object and who writes it.
//!
//! The producer hashes and copies while the store writes: at most [`QUEUED_PARTS_MAX`] parts wait, one
//! is being filled, and the store holds those it writes. Buffers come back to the producer when the
//! store drops them, since fresh pages cost more than the copy into them.

use std::fmt;
use std::sync::mpsc as returns;

use bytemuck::{Pod, Zeroable};
use thiserror::Error;
use tokio::sync::mpsc;

/// Bytes of a part unless the store wants others: O_DIRECT reaches the disk's speed from here on.
pub const PART_BYTES: usize = 8 << 20;
/// Alignment of a part in memory, and of its place and size in the object: what O_DIRECT asks for.
pub const PART_ALIGNMENT: usize = 4096;
/// Parts that may wait for the store.
const QUEUED_PARTS_MAX: usize = 2;

/// One page. Its alignment is what aligns a `Vec` of them.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(4096))]
struct Page([u8; PART_ALIGNMENT]);

/// The filled bytes of one part, aligned to [`PART_ALIGNMENT`]. Dropping it returns the memory to the
/// producer.
pub struct PartBuffer {
    pages: Vec<Page>,
    filled: usize,
    home: returns::Sender<Vec<Page>>,
}

impl AsRef<[u8]> for PartBuffer {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.pages)[..self.filled]
    }
}

impl fmt::Debug for PartBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartBuffer").field("filled", &self.filled).finish_non_exhaustive()
    }
}

impl Drop for PartBuffer {
    fn drop(&mut self) {
        // A producer that has finished takes nothing back; the pages are freed then.
        let _ = self.home.send(std::mem::take(&mut self.pages));
    }
}

/// The store stopped taking parts; its own error says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the store stopped taking parts")]
pub struct StoreGone;

/// The producer's end. Blocks: belongs on a thread that may.
#[derive(Debug)]
pub struct PartSender {
    part_bytes: usize,
    current: Option<PartBuffer>,
    parts: mpsc::Sender<PartBuffer>,
    home: returns::Sender<Vec<Page>>,
    returned: returns::Receiver<Vec<Page>>,
}

impl PartSender {
    /// Appends bytes, waiting for the store when a part is full.
    ///
    /// # Errors
    /// [`StoreGone`] when the store has given up.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreGone> {
        while !bytes.is_empty() {
            let mut part = self.current.take().unwrap_or_else(|| self.blank());
            let taken = bytes.len().min(self.part_bytes - part.filled);
            let memory: &mut [u8] = bytemuck::cast_slice_mut(&mut part.pages);
            memory[part.filled..part.filled + taken].copy_from_slice(&bytes[..taken]);
            part.filled += taken;
            bytes = &bytes[taken..];
            if part.filled == self.part_bytes {
                self.parts.blocking_send(part).map_err(|_| StoreGone)?;
            } else {
                self.current = Some(part);
            }
        }
        Ok(())
    }

    /// Sends what is left and ends the object.
    ///
    /// # Errors
    /// [`StoreGone`] when the store has given up.
    pub fn finish(mut self) -> Result<(), StoreGone> {
        match self.current.take() {
            Some(part) => self.parts.blocking_send(part).map_err(|_| StoreGone),
            None => Ok(()),
        }
    }

    fn blank(&self) -> PartBuffer {
        let pages =
            self.returned.try_recv().unwrap_or_else(|_| vec![Page::zeroed(); self.part_bytes.div_ceil(PART_ALIGNMENT)]);
        PartBuffer { pages, filled: 0, home: self.home.clone() }
    }
}

/// The store's end.
#[derive(Debug)]
pub struct Parts {
    parts: mpsc::Receiver<PartBuffer>,
}

impl Parts {
    /// The next part; all but the last are of the size agreed. `None` when the producer has ended, or
    /// has failed: the store compares the bytes that came with those announced.
    pub async fn next(&mut self) -> Option<PartBuffer> {
        self.parts.recv().await
    }

    /// [`Parts::next`] for a thread that may block.
    pub fn next_blocking(&mut self) -> Option<PartBuffer> {
        self.parts.blocking_recv()
    }
}

/// A queue of parts of `part_bytes` bytes, a multiple of [`PART_ALIGNMENT`].
#[must_use]
pub fn parts(part_bytes: usize) -> (PartSender, Parts) {
    assert!(part_bytes > 0 && part_bytes.is_multiple_of(PART_ALIGNMENT), "parts of {part_bytes} bytes are not aligned");
    let (sender, receiver) = mpsc::channel(QUEUED_PARTS_MAX);
    let (home, returned) = returns::channel();
    (PartSender { part_bytes, current: None, parts: sender, home, returned }, Parts { parts: receiver })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_in_order_and_aligned_whatever_the_cuts() {
        let (mut sender, mut parts) = parts(2 * PART_ALIGNMENT);
        let bytes: Vec<u8> = (0..5 * PART_ALIGNMENT + 17).map(|i| (i % 251) as u8).collect();
        let expected = bytes.clone();
        let producer = std::thread::spawn(move || {
            for run in bytes.chunks(777) {
                sender.write(run).unwrap();
            }
            sender.finish().unwrap();
        });
        let (mut all, mut sizes) = (Vec::new(), Vec::new());
        while let Some(part) = parts.next_blocking() {
            assert_eq!(part.as_ref().as_ptr() as usize % PART_ALIGNMENT, 0);
            sizes.push(part.as_ref().len());
            all.extend_from_slice(part.as_ref());
        }
        producer.join().unwrap();
        assert_eq!(all, expected);
        assert_eq!(sizes, [2 * PART_ALIGNMENT, 2 * PART_ALIGNMENT, PART_ALIGNMENT + 17]);
    }

    #[test]
    fn a_store_that_gives_up_ends_the_producer() {
        let (mut sender, parts) = parts(PART_ALIGNMENT);
        drop(parts);
        assert_eq!(sender.write(&[0; PART_ALIGNMENT]), Err(StoreGone));
    }
}
