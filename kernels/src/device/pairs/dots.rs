//! The tile of dot products that every strict kernel of this family starts from.
//!
//! 256 threads stand in a square of 16 x 16. A thread has the dot products of R rows, `y + 16 i`, with N columns,
//! `x + 16 j`: its columns are one lane of the canonical order, its rows one lane of the transposed problem, so that
//! sums over either side go on in registers. Steps of [`DEPTH`] positions of both operands pass through two pairs of
//! shared tiles, line after line, so that a thread reads four positions at once.
//!
//! **Order.** A dot product is one chain of fused multiply-adds per chunk of [`CHUNK`] positions. Nothing is padded with
//! zeros; lines behind the last repeat the last, and what they give is not used.

use crate::device::tile::unroll;
use crate::math::Real;
use crate::order::CHUNK;
use crate::shared;
use crate::simt::*;

/// Threads of a block.
pub(super) const THREADS: u32 = 256;

/// Threads along each side of the square: the lanes of the canonical order.
pub(super) const SIDE: u32 = 16;

/// Positions of a step.
const DEPTH: u32 = 16;

/// Elements from one line of a shared tile to the next: eight lines, 16 bytes of each, lie in 32 banks.
const PITCH: u32 = DEPTH + 4;

/// Rows or columns of a tile with `T` of them per thread.
pub(super) const fn edge<const T: usize>() -> u32 {
    SIDE * T as u32
}

/// Elements of the two shared tiles of an operand.
pub(super) const fn tile_len<const T: usize>() -> u32 {
    2 * edge::<T>() * PITCH
}

/// Where element (i, j) of this thread lies in memory that holds a tile of N columns thread by thread.
#[inline(always)]
pub(super) fn slot<const N: usize>(i: usize, j: usize) -> u32 {
    (i * N + j) as u32 * THREADS + thread_idx().x
}

/// Bytes of such memory for a tile of `elements` per thread, where chunks of a dot product must be added up: it holds
/// the sums while registers hold a chain.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) fn totals_bytes(elements: u64, d: u64) -> u64 {
    if d > CHUNK as u64 { 4 * elements * u64::from(THREADS) } else { 0 }
}

/// The column (and the place in the fold over rows) that this thread stands for.
#[inline(always)]
pub(super) fn thread_x() -> u32 {
    thread_idx().x % SIDE
}

/// The row.
#[inline(always)]
pub(super) fn thread_y() -> u32 {
    thread_idx().x / SIDE
}

/// Vectors `[count, d]`.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    pub(super) data: In<f32>,
    pub(super) count: u32,
    pub(super) d: u32,
}

impl Lines {
    /// This thread's share of a step: of lines `first + y + 16 i` the position `at + x`.
    #[inline(always)]
    fn load<const T: usize>(&self, first: u32, at: u32) -> [f32; T] {
        let position = (at + thread_x()).min(self.d - 1);
        let mut elements = [0.0; T];
        unroll!(i in 0..T => {
            let line = (first + thread_y() + SIDE * i as u32).min(self.count - 1);
            elements[i] = self.data.get(line * self.d + position);
        });
        elements
    }
}

/// The shared tiles of a block.
#[derive(Clone, Copy)]
pub(super) struct Tiles<const R: usize, const N: usize> {
    rows: Shared<f32>,
    columns: Shared<f32>,
}

impl<const R: usize, const N: usize> Tiles<R, N> {
    /// The tiles of this block.
    #[inline(always)]
    pub(super) fn new() -> Tiles<R, N> {
        Tiles { rows: shared!(f32; tile_len::<R>()), columns: shared!(f32; tile_len::<N>()) }
    }

    /// The dot products of rows `first[0] ..` with columns `first[1] ..`. `totals` has room for this thread's elements
    /// where d is more than [`CHUNK`]. All threads of the block call it, and none of them reads the tiles any more.
    #[inline(always)]
    pub(super) fn dots(&self, rows: Lines, columns: Lines, first: [u32; 2], totals: Shared<f32>) -> [[f32; N]; R] {
        const LEN: u32 = CHUNK as u32;
        let mut sums = [[0.0; N]; R];
        for chunk in strided(0, rows.d, LEN) {
            if chunk > 0 {
                unroll!(i in 0..R => {
                    unroll!(j in 0..N => {
                        let (at, sum) = (slot::<N>(i, j), sums[i][j]);
                        totals.set(at, if chunk > LEN { totals.get(at) + sum } else { sum });
                        sums[i][j] = 0.0;
                    });
                });
            }
            let end = rows.d.min(chunk + LEN);
            self.chain(&mut sums, [chunk, end], |at| (rows.load(first[0], at), columns.load(first[1], at)));
        }
        if rows.d > LEN {
            unroll!(i in 0..R => {
                unroll!(j in 0..N => {
                    sums[i][j] += totals.get(slot::<N>(i, j));
                });
            });
        }
        sums
    }

    /// Goes on with the chains over the positions from `start` to `end`, which are not none.
    #[inline(always)]
    fn chain(&self, sums: &mut [[f32; N]; R], [start, end]: [u32; 2], load: impl Fn(u32) -> ([f32; R], [f32; N])) {
        self.store(0, load(start));
        barrier();
        let mut buffer = 0;
        for at in strided(start, end, DEPTH) {
            let left = end - at;
            let more = left > DEPTH;
            let next = if more { load(at + DEPTH) } else { ([0.0; R], [0.0; N]) };
            self.step(sums, buffer, if more { DEPTH } else { left });
            buffer = 1 - buffer;
            if more {
                self.store(buffer, next);
            }
            barrier();
        }
    }

    #[inline(always)]
    fn store(&self, buffer: u32, (rows, columns): ([f32; R], [f32; N])) {
        let place = |edge: u32, i: usize| (buffer * edge + thread_y() + SIDE * i as u32) * PITCH + thread_x();
        unroll!(i in 0..R => {
            self.rows.set(place(edge::<R>(), i), rows[i]);
        });
        unroll!(j in 0..N => {
            self.columns.set(place(edge::<N>(), j), columns[j]);
        });
    }

    #[inline(always)]
    fn step(&self, sums: &mut [[f32; N]; R], buffer: u32, depth: u32) {
        let row = |i: usize| (buffer * edge::<R>() + thread_y() + SIDE * i as u32) * PITCH;
        let column = |j: usize| (buffer * edge::<N>() + thread_x() + SIDE * j as u32) * PITCH;
        // Written with an end that only the launch knows: unrolled, the loop takes twice the registers.
        let fours = depth / 4 * 4;
        for p in strided(0, fours, 4) {
            let mut q = [[0.0; 4]; R];
            unroll!(i in 0..R => {
                q[i] = self.rows.get4(row(i) + p);
            });
            unroll!(j in 0..N => {
                let k = self.columns.get4(column(j) + p);
                unroll!(i in 0..R => {
                    unroll!(next in 0..4 => {
                        sums[i][j] = Real::mul_add(q[i][next], k[next], sums[i][j]);
                    });
                });
            });
        }
        for p in strided(fours, depth, 1) {
            let mut q = [0.0; R];
            unroll!(i in 0..R => {
                q[i] = self.rows.get(row(i) + p);
            });
            unroll!(j in 0..N => {
                let k = self.columns.get(column(j) + p);
                unroll!(i in 0..R => {
                    sums[i][j] = Real::mul_add(q[i], k, sums[i][j]);
                });
            });
        }
    }
}
