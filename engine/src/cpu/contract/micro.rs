//! Micro-kernels: one tile of `rows x columns` outputs, accumulated in registers over one chunk of k.
//!
//! Both kinds start every output at +0, run one chain of fused multiply-adds over the chunk, and only then touch
//! memory: the sum of a chunk is added to what `add` points at (nothing, the chunks before it, nodes of the sample
//! tree), in that order, and stored.
//!
//! AVX-512 tiles are up to 14 x 32: 28 accumulators, two vectors of B and one broadcast fill 31 of 32 registers, and 16
//! loads feed 28 multiply-adds. AVX2 has 16 registers: up to 6 x 16. Every smaller height exists too, so that rows can
//! be cut evenly: 64 are four tiles of 13 and one of 12.
#![allow(unsafe_code)]
// Index loops of constant length are what is unrolled into registers here.
#![allow(clippy::needless_range_loop)]

use super::lanes::{Lanes, Plain, Real};
use super::transpose::{self, SquareKernel};
use crate::order::CHUNK;
use selfsame_kernels::isa::Isa;
#[cfg(target_arch = "x86_64")]
use selfsame_kernels::isa::Level;
use std::ops::Range;

/// Most rows of any tile.
pub(in crate::cpu) const MAX_ROWS: usize = 14;

/// Most lanes of any vector.
pub(super) const MAX_WIDTH: usize = 16;

/// Distance between the rows of a copied tile of A, in elements: no multiple of a cache line, so that the rows do not all enter a new line at the same position.
pub(in crate::cpu) const A_STRIDE: usize = CHUNK + 21;

/// Positions `at .. at + len` of a chunk that take part, which are the `len` elements at `delta` from where a row of the
/// left operand starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cpu) struct Piece {
    pub(in crate::cpu) delta: isize,
    pub(in crate::cpu) at: usize,
    pub(in crate::cpu) len: usize,
}

impl Piece {
    /// The first `len` positions, of rows that hold a chunk.
    pub(in crate::cpu) fn whole(len: usize) -> Piece {
        Piece { delta: 0, at: 0, len }
    }
}

/// Positions that share a cache line of f32.
const LINE: usize = 16;

/// The rows of a tile of A.
pub(in crate::cpu) struct Rows<T> {
    starts: [*const T; MAX_ROWS],
    /// Where the rows start that are asked for meanwhile, a line of one at each position.
    next: [*const T; LINE],
}

impl<T> Rows<T> {
    /// Rows anywhere in memory.
    pub(in crate::cpu) fn new(starts: &[*const T; MAX_ROWS], next: &[*const T; MAX_ROWS]) -> Rows<T> {
        Rows { starts: *starts, next: std::array::from_fn(|i| next[i % MAX_ROWS]) }
    }

    /// Rows [`A_STRIDE`] apart, in the cache by now, as may be the next.
    pub(in crate::cpu) fn copied(a: *const T) -> Rows<T> {
        let starts = std::array::from_fn(|row| a.wrapping_add(row * A_STRIDE));
        Rows::new(&starts, &starts)
    }
}

/// A panel of B: the elements of position k start `k * pitch` elements from `start`.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Right<T> {
    pub(in crate::cpu) start: *const T,
    pub(in crate::cpu) pitch: usize,
}

impl<T> Right<T> {
    /// Of rows of `pitch` elements, the first of which begins `rows`.
    pub(in crate::cpu) fn new(rows: &[T], pitch: usize) -> Right<T> {
        Right { start: rows.as_ptr(), pitch }
    }
}

/// How many positions ahead the rows of B are asked for.
const B_AHEAD: usize = 8;

/// How many positions ahead the columns of A are asked for.
const A_AHEAD: usize = 8;

/// Where a tile of sums goes. Real (row, column) lies at `rows[row] + column` from each pointer.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Output<'a, T> {
    /// Added to the chunk's sum, first to last.
    pub(in crate::cpu) add: &'a [*const T],
    pub(in crate::cpu) to: *mut T,
    pub(in crate::cpu) rows: &'a [usize; MAX_ROWS],
}

/// A tile from A's rows: `a[row][delta + i]` times `b[(at + i) * pitch + column]`, over i of the pieces.
///
/// # Safety
/// The instruction set of the kernel must be there; all elements named above must be valid.
pub(in crate::cpu) type RowsKernel<T> = unsafe fn(a: &Rows<T>, b: Right<T>, pieces: &[Piece], out: &Output<'_, T>);

/// The positions that a tile of columns is summed over.
pub(in crate::cpu) struct Path<'a, T> {
    /// By position: offset in A, which may wrap around, and row of B.
    pub(in crate::cpu) at: &'a [(usize, usize)],
    /// Which positions only some rows of the tile take part in, in order, and which rows.
    pub(in crate::cpu) partial: &'a [(usize, Range<usize>)],
    /// What is asked for meanwhile: at position i the line at `ahead.0 + i * ahead.1`.
    pub(in crate::cpu) ahead: (*const T, usize),
}

impl<'a, T> Path<'a, T> {
    /// All rows at all positions, with nothing asked for that is not in the cache already: some of B.
    pub(in crate::cpu) fn new(at: &'a [(usize, usize)], b: Right<T>) -> Path<'a, T> {
        Path { at, partial: &[], ahead: (b.start, 0) }
    }
}

/// A tile from A's columns: `a[at.0 + row]` times `b[at.1 * pitch + column]`, over the positions of the path, in order.
///
/// # Safety
/// As for [`RowsKernel`].
pub(in crate::cpu) type ColumnsKernel<T> = unsafe fn(a: *const T, b: Right<T>, path: &Path<'_, T>, out: &Output<'_, T>);

/// The micro-kernels of one element type and instruction set.
pub(crate) struct Kernels<T: 'static> {
    /// Lanes of a vector. Tiles are one or two vectors wide.
    pub(in crate::cpu) width: usize,
    /// Tables by rows - 1, then by vectors - 1.
    pub(in crate::cpu) rows: &'static [[RowsKernel<T>; 2]],
    pub(in crate::cpu) columns: &'static [[ColumnsKernel<T>; 2]],
    pub(in crate::cpu) square: SquareKernel<T>,
}

impl<T> Kernels<T> {
    /// Most rows of a tile.
    pub(in crate::cpu) fn max_rows(&self) -> usize {
        self.rows.len()
    }

    /// Most columns of a tile.
    pub(in crate::cpu) fn max_columns(&self) -> usize {
        2 * self.width
    }
}

#[inline(always)]
unsafe fn finish<L: Lanes, const M: usize, const V: usize>(mut sum: [[L; V]; M], out: &Output<'_, L::Elem>) {
    for &from in out.add {
        for m in 0..M {
            for v in 0..V {
                // SAFETY: the caller vouches for the instruction set and for every element of the output tile.
                sum[m][v] = unsafe { L::load(from.add(out.rows[m] + v * L::WIDTH)).add(sum[m][v]) };
            }
        }
    }
    for m in 0..M {
        for v in 0..V {
            // SAFETY: as above.
            unsafe { sum[m][v].store(out.to.add(out.rows[m] + v * L::WIDTH)) };
        }
    }
}

#[inline(always)]
unsafe fn prefetch<L: Lanes, const M: usize, const V: usize>(out: &Output<'_, L::Elem>) {
    for m in 0..M {
        for v in 0..V {
            // SAFETY: the caller vouches for the instruction set and for every element of the output tile.
            unsafe { L::prefetch(out.to.add(out.rows[m] + v * L::WIDTH)) };
        }
    }
}

#[inline(always)]
unsafe fn rows_kernel<L: Lanes, const M: usize, const V: usize>(
    a: &Rows<L::Elem>,
    b: Right<L::Elem>,
    pieces: &[Piece],
    out: &Output<'_, L::Elem>,
) {
    // SAFETY: the caller vouches for the instruction set, for A and B over the runs, and for the output tile.
    unsafe {
        prefetch::<L, M, V>(out);
        let mut sum = [[L::zero(); V]; M];
        for piece in pieces {
            let Right { start, pitch } = b;
            let mut b = start.add(piece.at * pitch);
            let mut rows = [std::ptr::null(); M];
            for m in 0..M {
                rows[m] = a.starts[m].wrapping_offset(piece.delta);
            }
            for k in 0..piece.len {
                L::prefetch_far(a.next[k % LINE].wrapping_offset(piece.delta).wrapping_add(k / LINE * LINE));
                let mut bv = [L::zero(); V];
                for v in 0..V {
                    bv[v] = L::load(b.add(v * L::WIDTH));
                    L::prefetch(b.wrapping_add(B_AHEAD * pitch + v * L::WIDTH));
                }
                for m in 0..M {
                    let am = L::splat(rows[m].add(k));
                    for v in 0..V {
                        sum[m][v] = am.fma(bv[v], sum[m][v]);
                    }
                }
                b = b.wrapping_add(pitch);
            }
        }
        finish(sum, out);
    }
}

#[inline(always)]
unsafe fn columns_kernel<L: Lanes, const M: usize, const V: usize>(
    a: *const L::Elem,
    Right { start: b, pitch }: Right<L::Elem>,
    path: &Path<'_, L::Elem>,
    out: &Output<'_, L::Elem>,
) {
    // SAFETY: the caller vouches for the instruction set, for A and B at the positions, and for the output tile.
    unsafe {
        let &Path { at, partial, ahead: (ahead, step) } = path;
        let mut sum = [[L::zero(); V]; M];
        let mut start = 0;
        for p in 0..=partial.len() {
            let end = partial.get(p).map_or(at.len(), |(end, _)| *end);
            for i in start..end {
                // The M elements touch at most two lines (f64: rarely a third).
                let soon = a.wrapping_add(at[(i + A_AHEAD).min(at.len() - 1)].0);
                L::prefetch(soon);
                L::prefetch(soon.wrapping_add(M - 1));
                L::prefetch_far(ahead.wrapping_add(i * step));
                let (from_a, from_b) = at[i];
                let (a, b) = (a.wrapping_add(from_a), b.add(from_b * pitch));
                let mut bv = [L::zero(); V];
                for v in 0..V {
                    bv[v] = L::load(b.add(v * L::WIDTH));
                    L::prefetch(b.wrapping_add(B_AHEAD * pitch + v * L::WIDTH));
                }
                for m in 0..M {
                    let am = L::splat(a.add(m));
                    for v in 0..V {
                        sum[m][v] = am.fma(bv[v], sum[m][v]);
                    }
                }
            }
            if let Some((_, rows)) = partial.get(p) {
                let (from_a, from_b) = at[end];
                let (a, b) = (a.wrapping_add(from_a), b.add(from_b * pitch));
                for m in 0..M {
                    if rows.contains(&m) {
                        let am = L::splat(a.wrapping_add(m));
                        for v in 0..V {
                            sum[m][v] = am.fma(L::load(b.add(v * L::WIDTH)), sum[m][v]);
                        }
                    }
                }
                start = end + 1;
            }
        }
        finish(sum, out);
    }
}

/// Instantiates both kernels for every tile size of one instruction set.
macro_rules! kernels {
    ($name:ident, $lanes:ty, [$($rows:literal)*] $(, $feature:literal)?) => {
        pub(super) static $name: Kernels<<$lanes as Lanes>::Elem> = {
            type L = $lanes;
            type T = <$lanes as Lanes>::Elem;
            $(#[target_feature(enable = $feature)])?
            unsafe fn rows<const M: usize, const V: usize>(
                a: &Rows<T>, b: Right<T>, pieces: &[Piece], out: &Output<'_, T>,
            ) {
                // SAFETY: passed on from the caller; the feature of this function is the one the lanes need.
                unsafe { rows_kernel::<L, M, V>(a, b, pieces, out) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn columns<const M: usize, const V: usize>(
                a: *const T, b: Right<T>, path: &Path<'_, T>, out: &Output<'_, T>,
            ) {
                // SAFETY: passed on from the caller; the feature of this function is the one the lanes need.
                unsafe { columns_kernel::<L, M, V>(a, b, path, out) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn square(
                from: *const T, from_pitch: usize, to: *mut T, to_pitch: usize, rows: usize, columns: usize,
            ) {
                // SAFETY: passed on from the caller; the feature of this function is the one the lanes need.
                unsafe { transpose::square::<L, { L::WIDTH }>(from, from_pitch, to, to_pitch, rows, columns) }
            }
            const { assert!(L::WIDTH <= MAX_WIDTH) };
            Kernels {
                width: L::WIDTH,
                rows: &[$([rows::<$rows, 1>, rows::<$rows, 2>]),*],
                columns: &[$([columns::<$rows, 1>, columns::<$rows, 2>]),*],
                square,
            }
        };
    };
}

/// Six rows of two eight-lane vectors fill 24 of AArch64's 32 registers.
mod plain {
    use super::*;
    kernels!(F32, Plain<f32, 8>, [1 2 3 4 5 6]);
    kernels!(F64, Plain<f64, 4>, [1 2 3 4 5 6]);
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::*;
    use std::arch::x86_64::{__m256, __m256d};
    kernels!(F32, __m256, [1 2 3 4 5 6], "avx2,fma");
    kernels!(F64, __m256d, [1 2 3 4 5 6], "avx2,fma");
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::*;
    use std::arch::x86_64::{__m512, __m512d};
    kernels!(F32, __m512, [1 2 3 4 5 6 7 8 9 10 11 12 13 14], "avx512f");
    kernels!(F64, __m512d, [1 2 3 4 5 6 7 8 9 10 11 12 13 14], "avx512f");
}

macro_rules! element {
    ($elem:ty, $name:ident) => {
        impl Real for $elem {
            const ZERO: $elem = 0.0;
            fn kernels(isa: Isa) -> &'static Kernels<$elem> {
                match isa.level() {
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512 => &avx512::$name,
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx2 => &avx2::$name,
                    _ => &plain::$name,
                }
            }
        }
    };
}
element!(f32, F32);
element!(f64, F64);
