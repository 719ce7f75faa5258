//! Sums over all pairs of rows and columns, and their gradients, without the matrix of pairs.
//!
//! The matrix is worked through in tiles of [`CHUNK`] rows by [`CHUNK`] columns, which is the unit of the canonical
//! order: a block of a row's sum, and a chunk of the gradient's contraction.
//!
//! - `stored`: the types of rows: f32 and f64, which are computed in themselves, and bf16, which is computed in f32.
//! - `tiles`: the dot products of a tile, by the row kernel of the contractions. `bf16`: all products of bf16 rows.
//! - `sums`: forward. Tiles are independent: each leaves a partial result per row and block, which are joined in order.
//! - `gradient`: backward. A tile adds to the gradients of its rows and columns at once, so tiles run by
//!   anti-diagonals: then each row meets its blocks in order.
//! - `terms`: the element functions over one row of a tile. `mask`: which pairs are left out.
//!
//! No thread count, split of tiles or side that a tile serves reaches a bit of the result.
#![allow(unsafe_code)]

mod bf16;
mod columns;
mod gradient;
mod mask;
mod stored;
mod sums;
mod terms;
mod tiles;

pub(crate) use gradient::{Side, pair_gradients};
pub(crate) use mask::Mask;
pub(crate) use stored::{DotProducts, DotStrips, Stored};
pub(crate) use sums::{Statistics, Sums, pair_sums};
pub(crate) use tiles::{Dots, strips, tile_len};

use super::contract;
use crate::order::CHUNK;
use selfsame_kernels::math;
use selfsame_kernels::reference::PairTerm;
use std::ops::Range;

/// The types that pairs are computed in: f32 and f64.
pub(crate) trait Num: contract::Real + math::Real {}
impl<T: contract::Real + math::Real> Num for T {}

/// Whose results are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sides {
    /// Those of the rows.
    Rows,
    /// Those of the rows over the columns, and those of the columns over the rows.
    Both,
    /// Rows are columns, and left out pairs are so both ways: tiles below the diagonal are read off those above.
    Symmetric,
}

/// Rows `[m, d]` against columns `[n, d]`.
pub(crate) struct Problem<'a, S: Stored> {
    pub(crate) rows: &'a [S],
    /// The same slice as `rows` for [`Sides::Symmetric`].
    pub(crate) columns: &'a [S],
    /// m, n, d.
    pub(crate) dims: [usize; 3],
    pub(crate) term: PairTerm<S::Num>,
    pub(crate) mask: &'a Mask,
    pub(crate) sides: Sides,
}

/// The rows of block `block` of `len`.
pub(crate) fn block_of(block: usize, len: usize) -> Range<usize> {
    block * CHUNK..len.min((block + 1) * CHUNK)
}
