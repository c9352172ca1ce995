//! Arenas that go round: page faults on fresh memory cost more than the sums made in it.

use std::sync::{Arc, Mutex, PoisonError};

/// Arenas kept for reuse at most; more are given back to the system.
const BUFFERS_MAX: usize = 4;

/// A bounded stock of arenas of one length. Clones share the stock.
#[derive(Clone, Debug)]
pub struct BufferPool {
    elements: usize,
    free: Arc<Mutex<Vec<Vec<f32>>>>,
}

impl BufferPool {
    /// An empty stock of arenas of `elements` elements.
    #[must_use]
    pub fn new(elements: usize) -> BufferPool {
        BufferPool { elements, free: Arc::default() }
    }

    /// An arena of the pool's length. Its content is arbitrary.
    #[must_use]
    pub fn take(&self) -> Vec<f32> {
        // A panic while the lock is held leaves a valid list behind.
        let recycled = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        recycled.unwrap_or_else(|| vec![0.0; self.elements])
    }

    /// Gives an arena back; one of another length is dropped.
    pub fn give(&self, buffer: Vec<f32>) {
        if buffer.len() != self.elements {
            return;
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < BUFFERS_MAX {
            free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_arena_is_taken_again() {
        let pool = BufferPool::new(3);
        let buffer = pool.take();
        let address = buffer.as_ptr();
        pool.give(vec![1.0; 2]);
        pool.give(buffer);
        let (recycled, fresh) = (pool.take(), pool.take());
        assert_eq!(recycled.as_ptr(), address);
        assert_eq!(fresh.len(), 3);
    }
}
