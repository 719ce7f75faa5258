//! The memory pool of a CPU device: blocks are kept and handed out again, so that a training step makes no page
//! faults after its first time, and every live byte has an owner.

use super::pages::Pages;
use super::shelf::{Shelf, size_class};
use crate::profile::{Ledger, MemoryLog, Owner, OwnerBytes};
use crate::{Error, ErrorKind, Result};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes in use, by operation and by owner.
#[derive(Clone, Debug, Default)]
pub struct MemoryStats {
    /// Bytes that arrays hold now.
    pub live: usize,
    /// The largest `live` since the device was opened or the peak was reset.
    pub peak: usize,
    /// Bytes kept for reuse.
    pub cached: usize,
    /// Live bytes per operation that allocated them, largest first.
    pub operations: Vec<(&'static str, usize)>,
    /// Live bytes by what they are for.
    pub by_owner: OwnerBytes,
}

impl MemoryStats {
    /// Of a ledger whose memory keeps `cached` bytes for reuse.
    pub(crate) fn of(ledger: &Ledger, cached: usize) -> MemoryStats {
        MemoryStats {
            live: ledger.live(),
            peak: ledger.peak(),
            cached,
            operations: ledger.by_op(),
            by_owner: ledger.by_owner(),
        }
    }
}

#[derive(Default)]
struct State {
    shelf: Shelf<Pages>,
    ledger: Ledger,
    limit: Option<usize>,
}

/// The pool. Blocks hold it alive, so that arrays may outlive their device handle.
#[derive(Default)]
pub struct MemoryPool(Mutex<State>);

impl MemoryPool {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the counters consistent: every update below is complete before anything can fail.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of at least `bytes`, holding arbitrary but initialised bytes, for an array of `shape` that operation
    /// `op` makes.
    ///
    /// # Errors
    /// `OutOfMemory` with the five largest operations, when the system or the limit refuses.
    pub fn take(self: &Arc<Self>, bytes: usize, op: &'static str, shape: &[usize]) -> Result<Block> {
        let wanted = size_class(bytes);
        let mut state = self.state();
        let pages = match state.shelf.reuse(wanted) {
            Some((_, pages)) => pages,
            None => {
                let (live, peak) = (state.ledger.live(), state.ledger.peak());
                if state.limit.is_some_and(|limit| live + wanted > limit) {
                    return Err(out_of_memory(&state, wanted, op));
                }
                if state.limit.is_some_and(|limit| live + state.shelf.cached() + wanted > limit) {
                    state.shelf.clear();
                }
                state.shelf.make_room(wanted, live, peak);
                match Pages::new(wanted) {
                    Some(pages) => pages,
                    None => {
                        state.shelf.clear();
                        Pages::new(wanted).ok_or_else(|| out_of_memory(&state, wanted, op))?
                    }
                }
            }
        };
        let slot = state.ledger.enter(pages.len(), bytes, op, shape);
        drop(state);
        Ok(Block { pages: Some(pages), slot, pool: Arc::clone(self) })
    }

    /// What is in use now.
    pub fn stats(&self) -> MemoryStats {
        let state = self.state();
        MemoryStats::of(&state.ledger, state.shelf.cached())
    }

    /// Starts a new measurement of the peak.
    pub fn reset_peak(&self) {
        self.state().ledger.reset_peak();
    }

    /// Makes `owner` that of new blocks and returns the one before.
    pub(crate) fn set_scope(&self, owner: Owner) -> Owner {
        self.state().ledger.set_scope(owner)
    }

    /// Begins to log every change, with what lives now at the front.
    pub(crate) fn begin_log(&self) {
        self.state().ledger.begin_log(true);
    }

    /// Ends the log, if one was begun.
    pub(crate) fn end_log(&self) -> Option<MemoryLog> {
        self.state().ledger.end_log()
    }

    /// Refuses to hold more than `bytes`; `None` lifts the limit.
    pub fn set_limit(&self, bytes: Option<usize>) {
        self.state().limit = bytes;
    }

    /// Gives kept blocks back to the system.
    pub fn trim(&self) {
        self.state().shelf.clear();
    }
}

fn out_of_memory(state: &State, wanted: usize, op: &'static str) -> Error {
    let mib = |n: usize| n as f64 / (1 << 20) as f64;
    let largest = state.ledger.by_op();
    let largest: Vec<String> = largest.iter().take(5).map(|(op, n)| format!("{op} {:.1} MiB", mib(*n))).collect();
    Error::new(ErrorKind::OutOfMemory, op, format!("{:.1} MiB more than can be had", mib(wanted)))
        .expected(format!("room beside {:.1} MiB live: {}", mib(state.ledger.live()), largest.join(", ")))
        .hint("a smaller batch, or recomputation of blocks")
}

/// A piece of the pool, given back on drop.
pub struct Block {
    /// Taken out only by `drop`.
    pages: Option<Pages>,
    /// Its number in the ledger.
    slot: u32,
    pool: Arc<MemoryPool>,
}

impl Block {
    fn pages(&self) -> &Pages {
        self.pages.as_ref().expect("present until dropped")
    }

    /// The bytes, aligned to 64.
    pub fn as_ptr(&self) -> *const u8 {
        self.pages().as_ptr()
    }

    /// The bytes, for the only owner.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.pages().as_ptr()
    }

    /// How many bytes there are: at least what was asked for.
    pub fn size(&self) -> usize {
        self.pages().len()
    }

    /// What it is for.
    pub(crate) fn owner(&self) -> Owner {
        self.pool.state().ledger.owner(self.slot)
    }

    /// Gives it to `owner`.
    pub(crate) fn assign(&self, owner: Owner) {
        self.pool.state().ledger.assign(self.slot, owner);
    }

    /// Gives it to `owner` if it is the workspace's.
    pub(crate) fn claim(&self, owner: Owner) {
        self.pool.state().ledger.claim(self.slot, owner);
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let pages = self.pages.take().expect("dropped once");
        let mut state = self.pool.state();
        state.ledger.strike(self.slot);
        state.shelf.keep(pages.len(), pages);
    }
}

#[cfg(test)]
mod tests {
    use super::super::shelf::LARGE;
    use super::*;

    #[test]
    fn blocks_are_reused_and_counted() {
        let pool = Arc::new(MemoryPool::default());
        let first = pool.take(1000, "a", &[250]).unwrap();
        let address = first.as_ptr();
        assert_eq!(pool.stats().live, first.size());
        drop(first);
        assert_eq!(pool.stats().live, 0);
        let second = pool.take(990, "b", &[990]).unwrap();
        assert_eq!(second.as_ptr(), address);
        assert_eq!(pool.stats().operations, [("b", second.size())]);
    }

    #[test]
    fn kept_blocks_of_no_use_make_room() {
        let pool = Arc::new(MemoryPool::default());
        drop(pool.take(8 * LARGE, "a", &[8 * LARGE]).unwrap());
        let second = pool.take(2 * LARGE, "b", &[2 * LARGE]).unwrap();
        let stats = pool.stats();
        assert_eq!((stats.live, stats.cached), (second.size(), 0));
        assert!(stats.live + stats.cached <= stats.peak);
    }

    #[test]
    fn limit_names_the_largest_operations() {
        let pool = Arc::new(MemoryPool::default());
        pool.set_limit(Some(4096));
        let _held = pool.take(3000, "conv2d", &[750]).unwrap();
        let error = pool.take(3000, "matmul", &[750]).err().expect("over the limit");
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        assert!(error.to_string().contains("conv2d"), "{error}");
    }
}
