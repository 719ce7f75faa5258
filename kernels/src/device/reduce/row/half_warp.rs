//! Rows that half a warp works on: element j is in lane j mod 16 of it, so lanes of the order are lanes of the warp.

use super::{Row, WIDTH, unrolled};
use crate::simt::*;

/// Elements that a lane loads before it uses the first, where the row is not held.
const BATCH: usize = 16;

/// A row in the registers of half a warp: `K` elements per lane.
pub(in crate::device) struct Held<const N: usize, const K: usize> {
    lane: u32,
    exists: bool,
    len: u32,
    values: [[f32; N]; K],
}

impl<const N: usize, const K: usize> Held<N, K> {
    /// Loads this half warp's row of `cols` elements, if it has one.
    #[inline(always)]
    pub(in crate::device) fn load(exists: bool, cols: u32, load: impl Fn(u32) -> [f32; N]) -> Held<N, K> {
        let lane = thread_idx().x % WIDTH;
        let len = if exists { cols } else { 0 };
        // What most chains take for absent elements; where it is, they need not put it there.
        let mut absent = [0.0; N];
        absent[0] = -0.0;
        let mut values = [absent; K];
        unrolled::<K>(|i| {
            let j = lane + WIDTH * i as u32;
            if within(j, len) {
                values[i] = load(j);
            }
        });
        Held { lane, exists, len, values }
    }
}

impl<const N: usize, const K: usize> Row<N> for Held<N, K> {
    #[inline(always)]
    fn map<const M: usize>(self, f: impl Fn(u32, [f32; N]) -> [f32; M]) -> impl Row<M> {
        let mut values = [[0.0; M]; K];
        unrolled::<K>(|i| values[i] = f(self.lane + WIDTH * i as u32, self.values[i]));
        Held { lane: self.lane, exists: self.exists, len: self.len, values }
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
        let mut s = start;
        unrolled::<K>(|i| {
            let present = within(self.lane + WIDTH * i as u32, self.len);
            let terms = terms(self.values[i]);
            s = step(s, if present { terms } else { neutral });
        });
        fold(s)
    }

    #[inline(always)]
    fn extremum(
        &self,
        start: f32,
        value: impl Fn([f32; N]) -> f32,
        join: impl Fn(f32, f32) -> f32,
        fold: impl Fn(f32) -> f32,
    ) -> f32 {
        self.chains(start, [start], |v| [value(v)], |m, [v]| join(m, v), fold)
    }

    #[inline(always)]
    fn store(&self, value: impl Fn(u32, [f32; N]) -> f32, put: impl Fn(u32, f32)) {
        let mut results = [0.0; K];
        unrolled::<K>(|i| {
            let j = self.lane + WIDTH * i as u32;
            if within(j, self.len) {
                results[i] = value(j, self.values[i]);
            }
        });
        unrolled::<K>(|i| {
            let j = self.lane + WIDTH * i as u32;
            if within(j, self.len) {
                put(j, results[i]);
            }
        });
    }

    #[inline(always)]
    fn once(&self, f: impl FnOnce()) {
        if self.exists && self.lane == 0 {
            f();
        }
    }
}

/// A row that half a warp works on, loaded anew wherever it is used; the cache holds it.
pub(in crate::device) struct Batched<const N: usize, F> {
    lane: u32,
    exists: bool,
    len: u32,
    load: F,
}

impl<const N: usize, F: Fn(u32) -> [f32; N]> Batched<N, F> {
    /// This half warp's row of `cols` elements, if it has one.
    #[inline(always)]
    pub(in crate::device) fn new(exists: bool, cols: u32, load: F) -> Batched<N, F> {
        Batched { lane: thread_idx().x % WIDTH, exists, len: if exists { cols } else { 0 }, load }
    }

    /// `ready(values)` of each batch of `value(position, numbers)`, `absent` past the end.
    #[inline(always)]
    fn batches<T: Copy>(&self, absent: T, value: impl Fn(u32, [f32; N]) -> T, mut ready: impl FnMut(u32, [T; BATCH])) {
        for first in strided(self.lane, self.len, WIDTH * BATCH as u32) {
            let mut values = [absent; BATCH];
            unrolled::<BATCH>(|i| {
                let j = first + WIDTH * i as u32;
                if within(j, self.len) {
                    values[i] = value(j, (self.load)(j));
                }
            });
            ready(first, values);
        }
    }
}

impl<const N: usize, F: Fn(u32) -> [f32; N]> Row<N> for Batched<N, F> {
    #[inline(always)]
    fn map<const M: usize>(self, f: impl Fn(u32, [f32; N]) -> [f32; M]) -> impl Row<M> {
        let Batched { lane, exists, len, load } = self;
        Batched { lane, exists, len, load: move |j| f(j, load(j)) }
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
        let mut s = start;
        let add = |_, batch: [[f32; P]; BATCH]| unrolled::<BATCH>(|i| s = step(s, batch[i]));
        self.batches(neutral, |_, values| terms(values), add);
        fold(s)
    }

    #[inline(always)]
    fn extremum(
        &self,
        start: f32,
        value: impl Fn([f32; N]) -> f32,
        join: impl Fn(f32, f32) -> f32,
        fold: impl Fn(f32) -> f32,
    ) -> f32 {
        self.chains(start, [start], |v| [value(v)], |m, [v]| join(m, v), fold)
    }

    #[inline(always)]
    fn store(&self, value: impl Fn(u32, [f32; N]) -> f32, put: impl Fn(u32, f32)) {
        self.batches(0.0, value, |first, results| {
            unrolled::<BATCH>(|i| {
                let j = first + WIDTH * i as u32;
                if within(j, self.len) {
                    put(j, results[i]);
                }
            });
        });
    }

    #[inline(always)]
    fn once(&self, f: impl FnOnce()) {
        if self.exists && self.lane == 0 {
            f();
        }
    }
}
