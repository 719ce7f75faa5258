//! The block tile of a f32 contraction, shared by matrix products and convolutions.
//!
//! A block of 256 threads computes 16 M x 16 N elements, each thread M x N of them in registers (M and N are 4 or 8).
//! Steps of [`DEPTH`] positions pass through two pairs of shared tiles: while the threads multiply one pair, the next
//! step is on its way from global memory through registers into the other, so that there is one barrier per step.
//!
//! ```text
//!               N tile: 4 warps x 16 columns (x N/4)
//!             +------+------+------+------+        a warp: 8 x 4 threads; a thread: 4 x 4 elements, and the same
//!  M tile:    | 0    | 1    | 2    | 3    |        again 32 rows below (M = 8) and 16 columns to the right (N = 8),
//!  2 warps    +------+------+------+------+        so that the 16-byte reads of a warp are contiguous
//!  x 32 rows  | 4    | 5    | 6    | 7    |
//!  (x M/4)    +------+------+------+------+
//! ```
//!
//! **Order.** A thread takes the positions of its elements one after the other, so an element's sum is one chain of
//! fused multiply-adds per chunk of [`CHUNK`](crate::order::CHUNK) nominal positions. Nothing is padded with zeros: a
//! term 0 is not the same as no term (0 times infinity is NaN), so the last step of a chunk is shorter, and positions
//! that are no term of a line ([`Stage::real`]) are stepped over.

use crate::math::Real;
use crate::shared;
use crate::simt::*;

/// `body` for each `i` below a bound of at most 8, written out: arrays indexed by `i` stay in registers. LLVM does not
/// unroll loops of this size by itself.
#[cfg(target_arch = "nvptx64")]
macro_rules! unroll {
    ($i:ident in 0..$n:expr => $body:block) => { unroll!(@ $i $n, $body, 0 1 2 3 4 5 6 7) };
    (@ $i:ident $n:expr, $body:block, $($index:literal)+) => {
        $(if $index < $n {
            let $i: usize = $index;
            $body
        })+
    };
}

/// `body` for each `i` below a bound of at most 8. The host's arrays are in memory anyway, and a loop compiles faster.
#[cfg(not(target_arch = "nvptx64"))]
macro_rules! unroll {
    ($i:ident in 0..$n:expr => $body:block) => {
        for $i in 0..$n {
            $body
        }
    };
}

pub(super) use unroll;

/// Threads of a block.
pub(super) const THREADS: u32 = 256;

/// Positions of a step.
pub(super) const DEPTH: u32 = 8;

/// Rows or columns of a block tile with `T` of them per thread.
pub(super) const fn edge<const T: usize>() -> u32 {
    16 * T as u32
}

/// Elements from one position of a shared tile to the next. Lanes that store 4 lines x 8 positions then hit 32 banks,
/// and lines stay on 16 bytes.
const fn pitch<const T: usize>() -> u32 {
    edge::<T>() + 4
}

/// Elements of the two shared tiles of an operand.
const fn tile_len<const T: usize>() -> u32 {
    2 * DEPTH * pitch::<T>()
}

/// Words of the two shared masks of a tile of `T` rows per thread; see [`Stage::real`].
const fn mask_len<const T: usize>() -> u32 {
    2 * edge::<T>() / 4
}

/// Bytes of dynamic shared memory for the totals of a tile: none where all terms are one chunk.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) fn totals_bytes<const M: usize, const N: usize>(positions: u64) -> u64 {
    if positions > crate::order::CHUNK as u64 { 4 * (M * N) as u64 * u64::from(THREADS) } else { 0 }
}

/// Bytes that a product of `elements` results with `k` terms reads in tiles of `rows` x `columns`: each tile its rows
/// and columns.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) fn product_reread(elements: u64, k: u64, rows: u64, columns: u64) -> u64 {
    4 * k * elements.div_ceil(rows * columns) * (rows + columns)
}

/// Which elements of an operand's step a thread brings: line `line + i line_step` at position `k + i k_step` of the
/// step, for i below T / 2.
#[derive(Clone, Copy)]
pub(super) struct Share {
    pub(super) line: u32,
    pub(super) line_step: u32,
    pub(super) k: u32,
    pub(super) k_step: u32,
}

impl Share {
    /// Eight lanes run along the positions: for an operand that is contiguous there.
    #[inline(always)]
    pub(super) fn along_k() -> Share {
        let thread = thread_idx().x;
        Share { line: thread / DEPTH, line_step: THREADS / DEPTH, k: thread % DEPTH, k_step: 0 }
    }

    /// Lanes run along the lines.
    #[inline(always)]
    pub(super) fn along_lines<const T: usize>() -> Share {
        let thread = thread_idx().x;
        Share { line: thread % edge::<T>(), line_step: 0, k: thread / edge::<T>(), k_step: THREADS / edge::<T>() }
    }
}

/// A step of both operands on its way from global to shared memory: the elements of the thread's shares.
#[derive(Clone, Copy)]
pub(super) struct Stage {
    pub(super) left: [f32; 4],
    pub(super) right: [f32; 4],
    /// Which positions are terms: word i has a bit for each lane of the warp, which stands for line
    /// `i * 32 + thread / 8` and position `thread % 8`. So a word is about four lines, eight positions each.
    pub(super) real: [u32; 4],
}

/// The sums of a thread's elements.
#[derive(Clone, Copy)]
pub(super) struct Sums<const M: usize, const N: usize> {
    /// The chain of the current chunk.
    chunk: [[f32; N]; M],
    /// Rows of which the chunk has a term: those with a bit in their byte.
    seen: [u32; 2],
    /// Rows that have a total: row i's bit i.
    started: u32,
}

impl<const M: usize, const N: usize> Sums<M, N> {
    /// Sums without terms.
    #[inline(always)]
    pub(super) fn new() -> Sums<M, N> {
        Sums { chunk: [[0.0; N]; M], seen: [0; 2], started: 0 }
    }

    #[inline(always)]
    fn has_terms(&self, row: usize) -> bool {
        self.seen[row / 4] >> (row % 4 * 8) & 0xff != 0
    }

    #[inline(always)]
    fn has_total(&self, row: usize) -> bool {
        self.started >> row & 1 != 0
    }

    /// Where the total of an element lies: lanes side by side.
    #[inline(always)]
    fn place(row: usize, column: usize) -> u32 {
        (row * N + column) as u32 * THREADS + thread_idx().x
    }

    /// Ends a chunk: adds it to the totals, which lie in shared memory because registers hold the chain; the first
    /// chunk with a term is the start.
    #[inline(always)]
    pub(super) fn close_chunk(&mut self, totals: Shared<f32>) {
        unroll!(row in 0..M => {
            if self.has_terms(row) {
                unroll!(column in 0..N => {
                    let (at, chunk) = (Self::place(row, column), self.chunk[row][column]);
                    totals.set(at, if self.has_total(row) { totals.get(at) + chunk } else { chunk });
                    self.chunk[row][column] = 0.0;
                });
                self.started |= 1 << row;
            }
        });
        self.seen = [0; 2];
    }

    /// The sums, after the last chunk.
    #[inline(always)]
    pub(super) fn finish(mut self, totals: Shared<f32>) -> [[f32; N]; M] {
        unroll!(row in 0..M => {
            if self.has_total(row) {
                unroll!(column in 0..N => {
                    let total = totals.get(Self::place(row, column));
                    let chunk = self.chunk[row][column];
                    self.chunk[row][column] = if self.has_terms(row) { total + chunk } else { total };
                });
            }
        });
        self.chunk
    }
}

/// The shared tiles of a block, and the part of each that this thread multiplies.
#[derive(Clone, Copy)]
pub(super) struct Tiles<const M: usize, const N: usize> {
    left: Shared<f32>,
    right: Shared<f32>,
    /// Masks; `None`: every position is a term of every line.
    masks: Option<Shared<u32>>,
    left_share: Share,
    right_share: Share,
}

impl<const M: usize, const N: usize> Tiles<M, N> {
    /// The tiles of this block, filled by these shares; `masked` where terms may be missing.
    #[inline(always)]
    pub(super) fn new(left_share: Share, right_share: Share, masked: bool) -> Tiles<M, N> {
        let left = shared!(f32; tile_len::<M>());
        let right = shared!(f32; tile_len::<N>());
        let masks = if masked { Some(shared!(u32; mask_len::<M>())) } else { None };
        Tiles { left, right, masks, left_share, right_share }
    }

    /// The first row of this thread in the block's tile; the others are [`Tiles::row`].
    #[inline(always)]
    fn first_row() -> u32 {
        warp() / 4 * (8 * M as u32) + lane() / 4 * 4
    }

    #[inline(always)]
    fn first_column() -> u32 {
        warp() % 4 * (4 * N as u32) + lane() % 4 * 4
    }

    /// Adds the terms at positions `start..end` (not empty) to the chunk. `load(at)` brings this thread's share of the
    /// step at `at`; positions from `end` on are loaded and not used.
    #[inline(always)]
    pub(super) fn multiply(&self, sums: &mut Sums<M, N>, start: u32, end: u32, load: impl Fn(u32) -> Stage) {
        self.store(0, load(start));
        barrier();
        let mut buffer = 0;
        for at in strided(start, end, DEPTH) {
            let left = end - at;
            let more = left > DEPTH;
            let next = if more { load(at + DEPTH) } else { Stage { left: [0.0; 4], right: [0.0; 4], real: [0; 4] } };
            self.step(sums, buffer, if more { DEPTH } else { left });
            buffer = 1 - buffer;
            if more {
                self.store(buffer, next);
            }
            barrier();
        }
    }

    #[inline(always)]
    fn store(&self, buffer: u32, stage: Stage) {
        let place = |share: &Share, pitch: u32, i: u32| {
            (buffer * DEPTH + share.k + i * share.k_step) * pitch + share.line + i * share.line_step
        };
        for i in 0..M / 2 {
            self.left.set(place(&self.left_share, pitch::<M>(), i as u32), stage.left[i]);
        }
        for i in 0..N / 2 {
            self.right.set(place(&self.right_share, pitch::<N>(), i as u32), stage.right[i]);
        }
        if let Some(masks) = self.masks
            && lane() == 0
        {
            for i in 0..M / 2 {
                masks.set(buffer * (mask_len::<M>() / 2) + i as u32 * (THREADS / WARP) + warp(), stage.real[i]);
            }
        }
    }

    /// One step of `depth` positions.
    #[inline(always)]
    fn step(&self, sums: &mut Sums<M, N>, buffer: u32, depth: u32) {
        let mut real = [u32::MAX; 2];
        if let Some(masks) = self.masks {
            let first = buffer * (mask_len::<M>() / 2) + Self::first_row() / 4;
            for (part, real) in real.iter_mut().enumerate().take(M / 4) {
                *real = masks.get(first + 8 * part as u32);
            }
        }
        sums.seen = [sums.seen[0] | real[0], sums.seen[1] | real[1]];
        let left = buffer * DEPTH * pitch::<M>() + Self::first_row();
        let right = buffer * DEPTH * pitch::<N>() + Self::first_column();
        let whole = depth == DEPTH && (self.masks.is_none() || all(ALL_LANES, real[0] & real[1] == u32::MAX));
        if whole {
            for k in 0..DEPTH {
                let x = fragment::<M>(self.left, left + k * pitch::<M>(), 32);
                let y = fragment::<N>(self.right, right + k * pitch::<N>(), 16);
                unroll!(i in 0..M => {
                    unroll!(j in 0..N => {
                        sums.chunk[i][j] = Real::mul_add(x[i], y[j], sums.chunk[i][j]);
                    });
                });
            }
        } else {
            for k in strided(0, depth, 1) {
                let x = fragment::<M>(self.left, left + k * pitch::<M>(), 32);
                let y = fragment::<N>(self.right, right + k * pitch::<N>(), 16);
                unroll!(i in 0..M => {
                    if real[i / 4] >> (i % 4 * 8) as u32 >> k & 1 != 0 {
                        unroll!(j in 0..N => {
                            sums.chunk[i][j] = Real::mul_add(x[i], y[j], sums.chunk[i][j]);
                        });
                    }
                });
            }
        }
    }

    /// Writes the elements of the block's tile that lie in its matrix: row `first_row + r` of `rows` goes to `out` from
    /// element `place(row)` on. `aligned`: these and `columns` are multiples of 4.
    #[inline(always)]
    pub(super) fn write(
        values: [[f32; N]; M],
        out: Out<f32>,
        [first_row, rows]: [u32; 2],
        [first_column, columns]: [u32; 2],
        aligned: bool,
        place: impl Fn(u32) -> u32,
    ) {
        unroll!(i in 0..M => {
            let row = first_row + Self::first_row() + (i / 4 * 32 + i % 4) as u32;
            let here = if within(row, rows) { columns } else { 0 };
            let start = place(row.min(rows - 1));
            for part in 0..N / 4 {
                let column = first_column + Self::first_column() + 16 * part as u32;
                let four = [0, 1, 2, 3].map(|j| values[i][4 * part + j]);
                if aligned {
                    if within(column, here) {
                        out.set4(start + column, four);
                    }
                } else {
                    for j in 0..4 {
                        if within(column + j, here) {
                            out.set(start + column + j, four[j as usize]);
                        }
                    }
                }
            }
        });
    }
}

/// Four lines from `at` on, and where `T` is 8 four more `gap` further on.
#[inline(always)]
fn fragment<const T: usize>(tile: Shared<f32>, at: u32, gap: u32) -> [f32; T] {
    let mut values = [0.0; T];
    for part in 0..T / 4 {
        let four = tile.get4(at + part as u32 * gap);
        for j in 0..4 {
            values[4 * part + j] = four[j];
        }
    }
    values
}
