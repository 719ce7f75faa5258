//! The sizes of the canonical order, as the CPU's loops use them; and, for a measurement, sizes chosen for speed alone.
//!
//! The canonical order costs what its sizes cost: where a chain of multiply-adds ends and goes to memory, how many
//! images one sum over samples has before it joins others. `--cfg selfsame_free_order` builds the same kernels with
//! sizes that are free to be the fastest, for `benches/order` to time both. Its results differ from everybody's, golden
//! hashes included; on a GPU and in `selfsame_kernels`'s references the order stays what it was. It is no feature, so
//! that no dependant can switch it on for others.

use selfsame_kernels::order;

/// Positions of a contraction, or rows of a sum over samples, in one chain: [`order::CHUNK`].
#[cfg(not(selfsame_free_order))]
pub(crate) const CHUNK: usize = order::CHUNK;
/// Twice the canonical length: the longest chain whose part of B stays in a cache of 2 MiB.
#[cfg(selfsame_free_order)]
pub(crate) const CHUNK: usize = 2 * order::CHUNK;

/// Images in a leaf of a sum over samples: [`order::LEAF`].
#[cfg(not(selfsame_free_order))]
pub(crate) const LEAF: usize = order::LEAF;
/// A leaf for each of two threads, of 128 images.
#[cfg(selfsame_free_order)]
pub(crate) const LEAF: usize = 4 * order::LEAF;
