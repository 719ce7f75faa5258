//! The memory pool of a CPU device: blocks are kept and handed out again, so that a training step makes no page
//! faults after its first time, and every live byte has an owner.

use super::arena::{Arena, LARGE, Part};
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
    /// Small pieces.
    shelf: Shelf<Pages>,
    /// Large ones.
    arena: Arena,
    ledger: Ledger,
    limit: Option<usize>,
}

impl State {
    /// Memory of a size class; `None` when the system refuses.
    fn piece(&mut self, size: usize) -> Option<Piece> {
        if size >= LARGE {
            return self.arena.take(size).map(Piece::Large);
        }
        let kept = self.shelf.reuse(size).map(|(_, pages)| pages);
        kept.or_else(|| Pages::new(size)).map(Piece::Small)
    }

    /// Gives what is not in use back to the system.
    fn trim(&mut self) {
        self.shelf.clear();
        self.arena.trim();
    }

    /// Bytes kept for reuse.
    fn cached(&self) -> usize {
        self.shelf.cached() + self.arena.cached()
    }
}

/// Memory of a block.
enum Piece {
    Small(Pages),
    Large(Part),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Piece::Small(pages) => pages.len(),
            Piece::Large(part) => part.len(),
        }
    }

    fn as_ptr(&self) -> *mut u8 {
        match self {
            Piece::Small(pages) => pages.as_ptr(),
            Piece::Large(part) => part.as_ptr(),
        }
    }
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
        let live = state.ledger.live();
        if state.limit.is_some_and(|limit| live + wanted > limit) {
            return Err(out_of_memory(&state, wanted, op));
        }
        if state.limit.is_some_and(|limit| live + state.cached() + wanted > limit) {
            state.trim();
        }
        let mut piece = state.piece(wanted);
        if piece.is_none() {
            state.trim();
            piece = state.piece(wanted);
        }
        let piece = piece.ok_or_else(|| out_of_memory(&state, wanted, op))?;
        let slot = state.ledger.enter(piece.len(), bytes, op, shape);
        drop(state);
        Ok(Block { piece: Some(piece), slot, pool: Arc::clone(self) })
    }

    /// What is in use now.
    pub fn stats(&self) -> MemoryStats {
        let state = self.state();
        MemoryStats::of(&state.ledger, state.cached())
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

    /// Refuses to let arrays hold more than `bytes`; `None` lifts the limit.
    pub fn set_limit(&self, bytes: Option<usize>) {
        self.state().limit = bytes;
    }

    /// Gives kept memory back to the system: of large pieces, mappings of which nothing is in use.
    pub fn trim(&self) {
        self.state().trim();
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
    piece: Option<Piece>,
    /// Its number in the ledger.
    slot: u32,
    pool: Arc<MemoryPool>,
}

impl Block {
    fn piece(&self) -> &Piece {
        self.piece.as_ref().expect("present until dropped")
    }

    /// The bytes, aligned to 64.
    pub fn as_ptr(&self) -> *const u8 {
        self.piece().as_ptr()
    }

    /// The bytes, for the only owner.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.piece().as_ptr()
    }

    /// How many bytes there are: at least what was asked for.
    pub fn size(&self) -> usize {
        self.piece().len()
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
        let piece = self.piece.take().expect("dropped once");
        let mut state = self.pool.state();
        state.ledger.strike(self.slot);
        match piece {
            Piece::Small(pages) => state.shelf.keep(pages.len(), pages),
            Piece::Large(part) => state.arena.give(part),
        }
    }
}

#[cfg(test)]
mod tests {
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
    fn large_blocks_of_other_sizes_lie_where_others_lay() {
        let pool = Arc::new(MemoryPool::default());
        let first = pool.take(8 * LARGE, "a", &[8 * LARGE]).unwrap();
        let address = first.as_ptr();
        drop(first);
        let [second, third] = [2, 3].map(|n| pool.take(n * LARGE, "b", &[n * LARGE]).unwrap());
        assert_eq!([second.as_ptr(), third.as_ptr()], [address, address.wrapping_add(2 * LARGE)]);
        let stats = pool.stats();
        assert_eq!((stats.live, stats.cached), (5 * LARGE, 3 * LARGE));
        drop((second, third));
        pool.trim();
        assert_eq!((pool.stats().live, pool.stats().cached), (0, 0));
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
