//! Sums over all pairs of rows and columns, and their gradients, without the matrix of pairs.
//!
//! The matrix is worked through in tiles of [`CHUNK`] rows by [`CHUNK`] columns, which is the unit of the canonical
//! order: a block of a row's sum, and a chunk of the gradient's contraction.
//!
//! - `tiles`: the dot products of a tile, by the row kernel of the contractions.
//! - `sums`: forward. Tiles are independent: each leaves a partial result per row and block, which are joined in order.
//! - `gradient`: backward. A tile adds to the gradients of its rows and columns at once, so tiles run by
//!   anti-diagonals: then each row meets its blocks in order.
//! - `terms`: the element functions over one row of a tile. `mask`: which pairs are left out.
//!
//! No thread count, split of tiles or side that a tile serves reaches a bit of the result.
#![allow(unsafe_code)]

mod columns;
mod gradient;
mod mask;
mod sums;
mod terms;
mod tiles;

pub(crate) use gradient::{Side, pair_gradients};
pub(crate) use mask::Mask;
pub(crate) use sums::{Statistics, Sums, pair_sums};

use super::contract;
use selfsame_kernels::math;
use selfsame_kernels::order::CHUNK;
use std::ops::Range;

/// What is added up over the columns of a row; `T` is the type of its parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PairTerm<T = f64> {
    /// e^x with x = dot scale, computed as exp(fma(dot, scale, -shift)). For similarities of known bound: where
    /// 2 shift is not far from 88 in f32, sums underflow, and [`PairTerm::Exp`] is the form to take.
    ExpShifted {
        /// Multiplies the dot product: 1 / temperature.
        scale: T,
        /// The same for all pairs: the largest x that can occur.
        shift: T,
    },
    /// e^x with x = dot scale, shifted by the largest x of each block of columns. For all similarities.
    Exp {
        /// Multiplies the dot product: 1 / temperature.
        scale: T,
    },
    /// softplus(x) with x = fma(dot, scale, bias).
    Softplus {
        /// Multiplies the dot product.
        scale: T,
        /// Added to it.
        bias: T,
    },
}

impl PairTerm {
    /// The same with parameters of another type.
    pub(crate) fn cast<T: math::Real>(self) -> PairTerm<T> {
        let to = <T as math::Real>::from_f64;
        match self {
            PairTerm::ExpShifted { scale, shift } => PairTerm::ExpShifted { scale: to(scale), shift: to(shift) },
            PairTerm::Exp { scale } => PairTerm::Exp { scale: to(scale) },
            PairTerm::Softplus { scale, bias } => PairTerm::Softplus { scale: to(scale), bias: to(bias) },
        }
    }
}

impl<T: Copy> PairTerm<T> {
    /// What multiplies the dot product.
    pub fn scale(&self) -> T {
        match *self {
            PairTerm::ExpShifted { scale, .. } | PairTerm::Exp { scale } | PairTerm::Softplus { scale, .. } => scale,
        }
    }
}

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
pub(crate) struct Problem<'a, T> {
    pub(crate) rows: &'a [T],
    /// The same slice as `rows` for [`Sides::Symmetric`].
    pub(crate) columns: &'a [T],
    /// m, n, d.
    pub(crate) dims: [usize; 3],
    pub(crate) term: PairTerm<T>,
    pub(crate) mask: &'a Mask,
    pub(crate) sides: Sides,
}

/// The rows of block `block` of `len`.
fn block_of(block: usize, len: usize) -> Range<usize> {
    block * CHUNK..len.min((block + 1) * CHUNK)
}
