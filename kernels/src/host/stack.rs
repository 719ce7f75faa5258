//! Stacks of a block's threads.
#![allow(unsafe_code)]

use corosensei::stack::{DefaultStack, Stack, StackPointer};

/// Bytes of a stack.
const BYTES: usize = 128 << 10;

/// Stacks start at pages; without a shift of their own, the frames of a block's threads would all fall into the same
/// few sets of the caches.
const SHIFTS: usize = 61;
const SHIFT: usize = 64;

/// A stack whose base is shifted by some cache lines.
pub(super) struct ThreadStack {
    stack: DefaultStack,
    shift: usize,
}

impl ThreadStack {
    /// The `number`-th stack of a worker.
    pub(super) fn new(number: usize) -> std::io::Result<ThreadStack> {
        Ok(ThreadStack { stack: DefaultStack::new(BYTES)?, shift: number % SHIFTS * SHIFT })
    }
}

// SAFETY: the stack is `stack`'s, guard page included, without its first few KiB.
unsafe impl Stack for ThreadStack {
    fn base(&self) -> StackPointer {
        let base = self.stack.base();
        StackPointer::new(base.get() - self.shift).unwrap_or(base)
    }

    fn limit(&self) -> StackPointer {
        self.stack.limit()
    }

    #[cfg(windows)]
    fn teb_fields(&self) -> corosensei::stack::StackTebFields {
        self.stack.teb_fields()
    }

    #[cfg(windows)]
    fn update_teb_fields(&mut self, stack_limit: usize, guaranteed_stack_bytes: usize) {
        self.stack.update_teb_fields(stack_limit, guaranteed_stack_bytes);
    }
}
