//! Memory that all threads share for what they unpack.

use std::sync::{Condvar, Mutex, PoisonError};

/// Bytes of all threads together.
const BYTES: u64 = 1 << 30;

/// What is left of the memory.
pub struct Budget {
    left: Mutex<u64>,
    freed: Condvar,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: Mutex::new(BYTES), freed: Condvar::new() }
    }
}

/// A part of the memory, until it is dropped.
pub struct Part<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Budget {
    /// Waits for so many bytes; who needs more than there are waits for all of them.
    pub fn take(&self, bytes: u64) -> Part<'_> {
        let bytes = bytes.min(BYTES);
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        while *left < bytes {
            left = self.freed.wait(left).unwrap_or_else(PoisonError::into_inner);
        }
        *left -= bytes;
        Part { budget: self, bytes }
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        *self.budget.left.lock().unwrap_or_else(PoisonError::into_inner) += self.bytes;
        self.budget.freed.notify_all();
    }
}
