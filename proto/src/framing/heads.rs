//! Memory for the heads of messages: a few dozen bytes each, written one behind the other.

use bytes::{Bytes, BytesMut};

/// Heads in one buffer: some two hundred.
const BUFFER_BYTES: usize = 16 << 10;

/// Where the heads of one stream's messages are written. Two buffers take turns: by the time one is
/// full, the heads in the other have long been sent, and its memory is used again.
#[derive(Debug)]
pub struct Heads {
    current: BytesMut,
    other: BytesMut,
}

impl Default for Heads {
    fn default() -> Heads {
        // Filled when first used.
        Heads { current: BytesMut::new(), other: BytesMut::new() }
    }
}

impl Heads {
    /// What `write` puts into `len` bytes or fewer.
    pub(super) fn write(&mut self, len: usize, write: impl FnOnce(&mut BytesMut)) -> Bytes {
        if self.current.capacity() < len {
            std::mem::swap(&mut self.current, &mut self.other);
            if self.current.capacity() < len {
                self.current.reserve(len.max(BUFFER_BYTES));
            }
        }
        write(&mut self.current);
        self.current.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BufMut as _;

    #[test]
    fn heads_are_apart_and_their_memory_goes_round() {
        let mut heads = Heads::default();
        let mut write = |value: u8| heads.write(100, |head| head.put_bytes(value, 100));
        let (kept, dropped) = (write(1), write(2));
        assert_eq!((&kept[..], &dropped[..]), (&[1; 100][..], &[2; 100][..]));
        let mut places = std::collections::HashSet::new();
        for value in 0..10_000_u32 {
            places.insert(write(value as u8).as_ptr() as usize);
        }
        assert!(places.len() <= 3 * BUFFER_BYTES / 100, "{} places", places.len());
        assert_eq!(kept, vec![1; 100]);
    }

    #[test]
    fn a_long_head_has_room() {
        let mut heads = Heads::default();
        assert_eq!(heads.write(3 * BUFFER_BYTES, |head| head.put_bytes(7, 3 * BUFFER_BYTES)).len(), 3 * BUFFER_BYTES);
    }
}
