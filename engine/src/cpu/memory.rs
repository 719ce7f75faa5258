//! The memory pool of a CPU device: blocks are kept and handed out again, so that a training step makes no page
//! faults after its first time, and every live byte has an owner.

use super::pages::{ALIGN, Pages};
use crate::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A new block of this size or more makes room first: the pool then holds no more than what once lived at one time,
/// instead of blocks of sizes that a later phase of the step has no use for.
const LARGE: usize = 1 << 20;

/// Bytes in use, by owner.
#[derive(Clone, Debug, Default)]
pub struct MemoryStats {
    /// Bytes that arrays hold now.
    pub live: usize,
    /// The largest `live` since the device was opened or the peak was reset.
    pub peak: usize,
    /// Bytes kept for reuse.
    pub cached: usize,
    /// Live bytes per owner (the operation that allocated them), largest first.
    pub owners: Vec<(&'static str, usize)>,
}

#[derive(Default)]
struct State {
    free: BTreeMap<usize, Vec<Pages>>,
    owners: BTreeMap<&'static str, usize>,
    live: usize,
    peak: usize,
    cached: usize,
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

    /// A block of at least `bytes`, holding arbitrary but initialised bytes.
    ///
    /// # Errors
    /// `OutOfMemory` with the five largest owners, when the system or the limit refuses.
    pub fn take(self: &Arc<Self>, bytes: usize, owner: &'static str) -> Result<Block> {
        let wanted = size_class(bytes);
        let mut state = self.state();
        let reused = state.free.range(wanted..=wanted + wanted / 4).next().map(|(&size, _)| size);
        let pages = match reused {
            Some(size) => {
                let blocks = state.free.get_mut(&size).expect("found just above");
                let pages = blocks.pop().expect("empty lists are removed");
                if blocks.is_empty() {
                    state.free.remove(&size);
                }
                state.cached -= size;
                pages
            }
            None => {
                if state.limit.is_some_and(|limit| state.live + wanted > limit) {
                    return Err(out_of_memory(&state, wanted, owner));
                }
                if state.limit.is_some_and(|limit| state.live + state.cached + wanted > limit) {
                    release(&mut state);
                }
                if wanted >= LARGE {
                    let footprint = state.peak.max(state.live + wanted);
                    let excess = (state.live + state.cached + wanted).saturating_sub(footprint);
                    shrink(&mut state, excess);
                }
                match Pages::new(wanted) {
                    Some(pages) => pages,
                    None => {
                        release(&mut state);
                        Pages::new(wanted).ok_or_else(|| out_of_memory(&state, wanted, owner))?
                    }
                }
            }
        };
        let size = pages.len();
        state.live += size;
        state.peak = state.peak.max(state.live);
        *state.owners.entry(owner).or_default() += size;
        drop(state);
        Ok(Block { pages: Some(pages), owner, pool: Arc::clone(self) })
    }

    /// What is in use now.
    pub fn stats(&self) -> MemoryStats {
        let state = self.state();
        MemoryStats { live: state.live, peak: state.peak, cached: state.cached, owners: largest(&state) }
    }

    /// Starts a new measurement of the peak.
    pub fn reset_peak(&self) {
        let mut state = self.state();
        state.peak = state.live;
    }

    /// Refuses to hold more than `bytes`; `None` lifts the limit.
    pub fn set_limit(&self, bytes: Option<usize>) {
        self.state().limit = bytes;
    }

    /// Gives kept blocks back to the system.
    pub fn trim(&self) {
        release(&mut self.state());
    }
}

/// Sizes are rounded up in steps of an eighth of their power of two, so that slightly different shapes share blocks.
fn size_class(bytes: usize) -> usize {
    let bytes = bytes.max(ALIGN);
    let step = (1usize << bytes.ilog2()) / 8;
    bytes.next_multiple_of(step.max(ALIGN))
}

/// Gives kept blocks back to the system, largest first, until `bytes` are freed or none is left.
fn shrink(state: &mut State, bytes: usize) {
    let mut freed = 0;
    while freed < bytes
        && let Some(mut largest) = state.free.last_entry()
    {
        let size = *largest.key();
        largest.get_mut().pop();
        if largest.get().is_empty() {
            largest.remove();
        }
        freed += size;
        state.cached -= size;
    }
}

fn release(state: &mut State) {
    state.free.clear();
    state.cached = 0;
}

fn largest(state: &State) -> Vec<(&'static str, usize)> {
    let mut owners: Vec<_> = state.owners.iter().filter(|(_, n)| **n > 0).map(|(o, n)| (*o, *n)).collect();
    owners.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    owners
}

fn out_of_memory(state: &State, wanted: usize, owner: &'static str) -> Error {
    let mib = |n: usize| n as f64 / (1 << 20) as f64;
    let owners: Vec<String> = largest(state).iter().take(5).map(|(o, n)| format!("{o} {:.1} MiB", mib(*n))).collect();
    Error::new(ErrorKind::OutOfMemory, owner, format!("{:.1} MiB more than can be had", mib(wanted)))
        .expected(format!("room beside {:.1} MiB live: {}", mib(state.live), owners.join(", ")))
        .hint("a smaller batch, or recomputation of blocks")
}

/// A piece of the pool, given back on drop.
pub struct Block {
    /// Taken out only by `drop`.
    pages: Option<Pages>,
    owner: &'static str,
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
}

impl Drop for Block {
    fn drop(&mut self) {
        let pages = self.pages.take().expect("dropped once");
        let size = pages.len();
        let mut state = self.pool.state();
        state.live -= size;
        *state.owners.get_mut(self.owner).expect("counted when taken") -= size;
        state.cached += size;
        state.free.entry(size).or_default().push(pages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_reused_and_counted() {
        let pool = Arc::new(MemoryPool::default());
        let first = pool.take(1000, "a").unwrap();
        let address = first.as_ptr();
        assert_eq!(pool.stats().live, first.size());
        drop(first);
        assert_eq!(pool.stats().live, 0);
        let second = pool.take(990, "b").unwrap();
        assert_eq!(second.as_ptr(), address);
        assert_eq!(pool.stats().owners, [("b", second.size())]);
    }

    #[test]
    fn kept_blocks_of_no_use_make_room() {
        let pool = Arc::new(MemoryPool::default());
        drop(pool.take(8 * LARGE, "a").unwrap());
        let second = pool.take(2 * LARGE, "b").unwrap();
        let stats = pool.stats();
        assert_eq!((stats.live, stats.cached), (second.size(), 0));
        assert!(stats.live + stats.cached <= stats.peak);
    }

    #[test]
    fn limit_names_the_owners() {
        let pool = Arc::new(MemoryPool::default());
        pool.set_limit(Some(4096));
        let _held = pool.take(3000, "conv2d").unwrap();
        let error = pool.take(3000, "matmul").err().expect("over the limit");
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        assert!(error.to_string().contains("conv2d"), "{error}");
    }

    #[test]
    fn size_classes_waste_at_most_an_eighth() {
        for bytes in [1usize, 64, 65, 1000, 4097, 123_456, 10_000_001] {
            let class = size_class(bytes);
            assert!(class >= bytes && class <= (bytes + bytes / 8).max(2 * ALIGN).next_multiple_of(ALIGN));
        }
    }
}
