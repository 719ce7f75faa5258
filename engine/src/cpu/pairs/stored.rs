//! The types that rows are stored in, and what computes the products of each.

use super::super::contract::{Context, Plain, SharedMut};
use super::bf16::{RoundedDots, RoundedProducts};
use super::gradient::FullProducts;
use super::tiles::Dots;
use super::{Num, Sides};
use std::ops::Range;

/// A type of rows.
pub(crate) trait Stored: Copy + Send + Sync + 'static {
    /// What they are computed in.
    type Num: Num;
    /// Their dot products.
    type Dots<'a>: DotProducts<Self::Num>;
    /// The products of a gradient.
    type Products<'a>: GradientProducts<Self::Num>;

    /// The dot products of `rows` `[m, d]` with `columns` `[n, d]`; nothing is empty.
    fn dots<'a>(cx: &Context<'a>, operands: [&'a [Self]; 2], dims: [usize; 3]) -> Self::Dots<'a>;

    /// The products of their gradients, of those that `sides` asks for.
    fn products<'a>(cx: &Context<'a>, operands: [&'a [Self]; 2], dims: [usize; 3], sides: Sides) -> Self::Products<'a>;
}

/// Dot products of rows with columns, tile by tile.
pub(crate) trait DotProducts<T: 'static>: Sync {
    /// A strip of rows starts at a multiple of this.
    const UNIT: usize;

    /// Those with the columns of one block.
    type Block<'b>: DotStrips<T>
    where
        Self: 'b;

    /// Most rows of a strip.
    fn max_rows(&self) -> usize;

    /// Elements of scratch that a block needs.
    fn scratch_len(&self) -> usize;

    /// Makes the columns of `block` ready.
    fn block<'b>(&'b self, block: usize, scratch: &'b mut [T]) -> Self::Block<'b>;
}

/// Dot products with the columns of one block, strip by strip.
pub(crate) trait DotStrips<T> {
    /// Those of `rows`, row i at `to[i * STRIDE]`.
    fn strip(&mut self, rows: Range<usize>, to: &mut [T]);
}

/// Products of G with columns, and of its transpose with rows, tile by tile.
pub(crate) trait GradientProducts<T>: Sync {
    /// What G of a tile is kept in for its columns.
    type Kept: Plain;
    /// Elements of it.
    const TILE: usize;

    /// The gradient of some rows of tile `at`, added to what earlier blocks of columns left in `to`. `weigh` turns the
    /// dot products of a row with the tile's columns into G, which `g` keeps unless it is None.
    ///
    /// # Safety
    /// No other task has these rows of `g` and of `to` while this runs.
    unsafe fn rows(
        &self,
        cx: &Context<'_>,
        at: [usize; 2],
        rows: Range<usize>,
        weigh: impl Fn(usize, &mut [T]),
        g: Option<SharedMut<Self::Kept>>,
        to: SharedMut<T>,
    );

    /// The gradient of some columns of tile `at`, whose rows `g` keeps, added to what earlier blocks of rows left in
    /// `to`.
    ///
    /// # Safety
    /// No other task has these columns of `to`, and none writes `g`, while this runs.
    unsafe fn columns(
        &self,
        cx: &Context<'_>,
        at: [usize; 2],
        columns: Range<usize>,
        g: SharedMut<Self::Kept>,
        to: SharedMut<T>,
    );
}

macro_rules! own_type {
    ($($type:ty)+) => {$(
        impl Stored for $type {
            type Num = $type;
            type Dots<'a> = Dots<'a, $type>;
            type Products<'a> = FullProducts<'a, $type>;

            fn dots<'a>(cx: &Context<'a>, operands: [&'a [$type]; 2], dims: [usize; 3]) -> Dots<'a, $type> {
                Dots::new(cx, operands, dims)
            }

            fn products<'a>(
                cx: &Context<'a>, operands: [&'a [$type]; 2], dims: [usize; 3], sides: Sides,
            ) -> FullProducts<'a, $type> {
                FullProducts::new(cx, operands, dims, sides)
            }
        }
    )+};
}
own_type!(f32 f64);

impl Stored for crate::bf16 {
    type Num = f32;
    type Dots<'a> = RoundedDots<'a>;
    type Products<'a> = RoundedProducts<'a>;

    fn dots<'a>(cx: &Context<'a>, operands: [&'a [crate::bf16]; 2], dims: [usize; 3]) -> RoundedDots<'a> {
        RoundedDots::new(cx, operands, dims)
    }

    fn products<'a>(
        cx: &Context<'a>,
        operands: [&'a [crate::bf16]; 2],
        dims: [usize; 3],
        sides: Sides,
    ) -> RoundedProducts<'a> {
        RoundedProducts::new(cx, operands, dims, sides)
    }
}
