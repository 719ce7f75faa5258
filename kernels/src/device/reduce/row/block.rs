//! Rows that a block works on: all threads compute terms, the first warp has the chains.

use super::{ROWS, Row, THREADS, WIDTH, unrolled};
use crate::simt::*;

/// Elements that a thread loads before it uses the first.
const BATCH: usize = 8;

/// Elements of all tiles together.
const TILES: u32 = 2 * THREADS * BATCH as u32;

/// Shared memory of a block, in elements: the tiles and one result.
pub(super) const SHARED: u32 = TILES + 1;

/// A row that a block works on, loaded anew wherever it is used; its cache holds it.
pub(in crate::device) struct Streamed<const N: usize, F> {
    len: u32,
    shared: Shared<f32>,
    load: F,
}

impl<const N: usize, F: Fn(u32) -> [f32; N]> Streamed<N, F> {
    /// The block's row of `len` elements, at least one; `shared` has [`SHARED`] elements.
    #[inline(always)]
    pub(in crate::device) fn new(len: u32, shared: Shared<f32>, load: F) -> Streamed<N, F> {
        Streamed { len, shared, load }
    }

    /// Gives the first warp's result to the block.
    #[inline(always)]
    fn broadcast(&self, result: f32) -> f32 {
        if thread_idx().x == 0 {
            self.shared.set(TILES, result);
        }
        barrier();
        self.shared.get(TILES)
    }
}

impl<const N: usize, F: Fn(u32) -> [f32; N]> Row<N> for Streamed<N, F> {
    #[inline(always)]
    fn map<const M: usize>(self, f: impl Fn(u32, [f32; N]) -> [f32; M]) -> impl Row<M> {
        let Streamed { len, shared, load } = self;
        Streamed { len, shared, load: move |j| f(j, load(j)) }
    }

    #[inline(always)]
    fn chains<const P: usize>(
        &self,
        start: f32,
        neutral: [f32; P],
        terms: impl Fn([f32; N]) -> [f32; P],
        step: impl Fn(f32, [f32; P]) -> f32,
        fold: impl Fn(f32) -> f32,
    ) -> f32 {
        let thread = thread_idx().x;
        let tile = TILES / (2 * P as u32);
        let plane = |which: u32, p: usize| (which * P as u32 + p as u32) * tile;
        let mut s = start;
        let mut which = 0;
        for first in strided(0, self.len, tile) {
            let mut staged = [neutral; BATCH];
            unrolled::<BATCH>(|i| {
                let j = first + thread + THREADS * i as u32;
                if i < BATCH / P && within(j, self.len) {
                    staged[i] = terms((self.load)(j));
                }
            });
            unrolled::<BATCH>(|i| {
                if i < BATCH / P {
                    unrolled::<P>(|p| self.shared.set(plane(which, p) + thread + THREADS * i as u32, staged[i][p]));
                }
            });
            // One barrier per tile: who writes this tile again has passed the next tile's barrier, to which the first
            // warp comes with this one's chain behind it.
            barrier();
            if warp() == 0 {
                // Both halves of the warp do the same.
                let lane = thread % WIDTH;
                let present = if tile < self.len - first { tile } else { self.len - first };
                for row in strided(0, present, WIDTH * BATCH as u32) {
                    let mut ready = [[0.0; P]; BATCH];
                    unrolled::<BATCH>(|i| {
                        unrolled::<P>(|p| {
                            ready[i][p] = self.shared.get(plane(which, p) + row + WIDTH * i as u32 + lane)
                        });
                    });
                    unrolled::<BATCH>(|i| s = step(s, ready[i]));
                }
            }
            which ^= 1;
        }
        if warp() == 0 {
            s = fold(s);
        }
        self.broadcast(s)
    }

    /// Each lane's elements are cut into 16 consecutive parts, one per half warp.
    #[inline(always)]
    fn extremum(
        &self,
        start: f32,
        value: impl Fn([f32; N]) -> f32,
        join: impl Fn(f32, f32) -> f32,
        fold: impl Fn(f32) -> f32,
    ) -> f32 {
        let (lane, part) = (thread_idx().x % WIDTH, thread_idx().x / WIDTH);
        let each = self.len.div_ceil(WIDTH).div_ceil(ROWS);
        let mut best = start;
        for first in strided(part * each, (part + 1) * each, BATCH as u32) {
            let mut values = [start; BATCH];
            unrolled::<BATCH>(|i| {
                let (q, j) = (first + i as u32, (first + i as u32) * WIDTH + lane);
                if within(q, (part + 1) * each) && within(j, self.len) {
                    values[i] = value((self.load)(j));
                }
            });
            unrolled::<BATCH>(|i| best = join(best, values[i]));
        }
        self.shared.set(thread_idx().x, best);
        barrier();
        if warp() == 0 {
            best = start;
            unrolled::<{ ROWS as usize }>(|part| best = join(best, self.shared.get(part as u32 * WIDTH + lane)));
            best = fold(best);
        }
        self.broadcast(best)
    }

    #[inline(always)]
    fn store(&self, value: impl Fn(u32, [f32; N]) -> f32, put: impl Fn(u32, f32)) {
        for first in strided(thread_idx().x, self.len, THREADS * BATCH as u32) {
            let mut results = [0.0; BATCH];
            unrolled::<BATCH>(|i| {
                let j = first + THREADS * i as u32;
                if within(j, self.len) {
                    results[i] = value(j, (self.load)(j));
                }
            });
            unrolled::<BATCH>(|i| {
                let j = first + THREADS * i as u32;
                if within(j, self.len) {
                    put(j, results[i]);
                }
            });
        }
    }

    #[inline(always)]
    fn once(&self, f: impl FnOnce()) {
        if thread_idx().x == 0 {
            f();
        }
    }
}
