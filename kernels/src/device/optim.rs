//! The steps of optimisers and of moving averages, and the norms that their rates are made of.
//!
//! A launch covers one parameter; its chunks of norms go to a table of all parameters, which one more launch folds. The
//! element functions are those of [`crate::optim`], the order of a norm that of `NUMERICS.md`.

#[cfg(not(target_arch = "nvptx64"))]
use crate::case::Case;
use crate::device::run::{EACH, RUN, THREADS, each};
use crate::kernel;
use crate::math::Real;
use crate::optim::{AdamW, Average, Lamb, Lars, Sgd};
use crate::order::LANES;
#[cfg(not(target_arch = "nvptx64"))]
use crate::order::NORM_CHUNK;
use crate::simt::*;

/// Elements of a chunk of a norm.
const CHUNK: u32 = crate::order::NORM_CHUNK as u32;

/// Chunks of a block: half a warp sums one.
const CHUNKS: u32 = THREADS / LANES as u32;

/// Blocks over the chunks of `n` elements.
#[cfg(not(target_arch = "nvptx64"))]
fn chunk_blocks(n: u64) -> u64 {
    n.div_ceil(NORM_CHUNK as u64).div_ceil(u64::from(CHUNKS))
}

/// Adds up this half warp's chunk of `n` elements: each lane takes its elements in order, as `add(sums, load(i))`.
/// (the chunk, whether there is one, this lane's sums).
///
/// Four elements of a lane are loaded before they are added, so that the loads overlap.
#[inline(always)]
fn over_chunk<V: Copy, S: Copy>(n: u32, start: S, load: impl Fn(u32) -> V, add: impl Fn(S, V) -> S) -> (u32, bool, S) {
    const STEP: u32 = LANES as u32;
    let chunk = block_idx().x * CHUNKS + thread_idx().x / STEP;
    let lane = thread_idx().x % STEP;
    let chunks = n.div_ceil(CHUNK);
    let here = within(chunk, chunks);
    let first = if here { chunk * CHUNK } else { 0 };
    let length = if here { CHUNK.min(n - first) } else { 0 };
    let mut sums = start;
    let fours = length - length % (4 * STEP);
    for j in strided(lane, fours, 4 * STEP) {
        let at = first + j;
        let loaded = (load(at), load(at + STEP), load(at + 2 * STEP), load(at + 3 * STEP));
        sums = add(add(add(add(sums, loaded.0), loaded.1), loaded.2), loaded.3);
    }
    for j in strided(fours + lane, length, STEP) {
        sums = add(sums, load(first + j));
    }
    (chunk, here && lane == 0, sums)
}

kernel! {
    /// Sums of squares of w, of g and of fma(decay, w, g) over each 4096 elements, by lanes, into the entries from
    /// `first` on of each of three rows of `sums`.
    decayed_squares(w: In<f32>[n], g: In<f32>[n], sums: InOut<f32>[3 * chunks], decay: f32, n: u32, first: u32, chunks: u32)
    grid [chunk_blocks(n)] block [THREADS]
    cost { flop: 8 * n }
    cases decayed_squares_cases
    {
        let (chunk, writes, of) = over_chunk(
            n,
            (0.0, 0.0, 0.0),
            |i| (w.get(i), g.get(i)),
            |sums: (f32, f32, f32), (w, g): (f32, f32)| {
                let d = Real::mul_add(decay, w, g);
                (Real::mul_add(w, w, sums.0), Real::mul_add(g, g, sums.1), Real::mul_add(d, d, sums.2))
            },
        );
        let of = (half_warp_sum(ALL_LANES, of.0), half_warp_sum(ALL_LANES, of.1), half_warp_sum(ALL_LANES, of.2));
        if writes {
            sums.set(first + chunk, of.0);
            sums.set(chunks + first + chunk, of.1);
            sums.set(2 * chunks + first + chunk, of.2);
        }
    }

    /// Adds the chunks `starts[s]..starts[s + 1]` of each segment s, in each row of `sums` [rows, chunks], in the tree:
    /// `totals` [rows, segments], +0 for a segment without chunks.
    ///
    /// A block adds neighbours, then neighbouring pairs, and so on: an odd one out waits for its turn, which is the
    /// tree of `NUMERICS.md`.
    fold_segments(
        sums: InOut<f32>[rows * chunks], starts: In<u32>[segments + 1], totals: Out<f32>[rows * segments],
        rows: u32, segments: u32, chunks: u32,
    )
    grid [segments, rows] block [THREADS]
    cost { flop: rows * chunks }
    cases fold_segments_cases
    {
        let (segment, row) = (block_idx().x, block_idx().y);
        let first = starts.get(segment);
        let count = starts.get(segment + 1) - first;
        let first = row * chunks + first;
        let mut step = 1;
        while step < count {
            for right in strided(2 * step * thread_idx().x + step, count, 2 * step * THREADS) {
                let (left, right) = (first + right - step, first + right);
                sums.set(left, sums.get(left) + sums.get(right));
            }
            barrier();
            step *= 2;
        }
        if thread_idx().x == 0 {
            totals.set(row * segments + segment, if count > 0 { sums.get(first) } else { 0.0 });
        }
    }

    /// [`Sgd::step`].
    sgd_step(
        w: InOut<f32>[n], v: InOut<f32>[n], g: In<f32>[n], decay: f32, momentum: f32, ahead: f32, lr: f32, n: u32,
    )
    grid [n.div_ceil(RUN)] block [THREADS]
    cost { flop: 8 * n }
    cases sgd_step_cases
    {
        let sgd = Sgd { decay, momentum, ahead, lr };
        each::<EACH, _>(n, |i| (w.get(i), v.get(i), g.get(i)), |i, (w_i, v_i, g_i)| {
            let (w_i, v_i) = sgd.step(w_i, v_i, g_i);
            w.set(i, w_i);
            v.set(i, v_i);
        });
    }

    /// [`AdamW::step`].
    adamw_step(
        w: InOut<f32>[n], m: InOut<f32>[n], s: InOut<f32>[n], g: In<f32>[n],
        b1: f32, b2: f32, keep: f32, rate: f32, correction: f32, eps: f32, n: u32,
    )
    grid [n.div_ceil(RUN)] block [THREADS]
    cost { flop: 11 * n, special: 3 * n }
    cases adamw_step_cases
    {
        let adamw = AdamW { b1, b2, keep, rate, correction, eps };
        each::<EACH, _>(n, |i| (w.get(i), m.get(i), s.get(i), g.get(i)), |i, (w_i, m_i, s_i, g_i)| {
            let (w_i, m_i, s_i) = adamw.step(w_i, m_i, s_i, g_i);
            w.set(i, w_i);
            m.set(i, m_i);
            s.set(i, s_i);
        });
    }

    /// [`Lars::step`].
    lars_step(
        w: InOut<f32>[n], v: InOut<f32>[n], g: In<f32>[n],
        decay: f32, momentum: f32, ahead: f32, before: f32, after: f32, n: u32,
    )
    grid [n.div_ceil(RUN)] block [THREADS]
    cost { flop: 10 * n }
    cases lars_step_cases
    {
        let lars = Lars { decay, momentum, ahead, before, after };
        each::<EACH, _>(n, |i| (w.get(i), v.get(i), g.get(i)), |i, (w_i, v_i, g_i)| {
            let (w_i, v_i) = lars.step(w_i, v_i, g_i);
            w.set(i, w_i);
            v.set(i, v_i);
        });
    }

    /// [`Lars::velocity`], and the sums of squares of [`Lars::direction`] over each 4096 elements, by lanes, into the
    /// entries of `sums` from `first` on.
    lars_velocity(
        w: In<f32>[n], v: InOut<f32>[n], g: In<f32>[n], sums: InOut<f32>[chunks],
        decay: f32, momentum: f32, ahead: f32, before: f32, n: u32, first: u32, chunks: u32,
    )
    grid [chunk_blocks(n)] block [THREADS]
    cost { flop: 11 * n }
    cases lars_velocity_cases
    {
        let lars = Lars { decay, momentum, ahead, before, after: 0.0 };
        let (chunk, writes, sum) = over_chunk(
            n,
            0.0,
            |i| (i, w.get(i), v.get(i), g.get(i)),
            |sum: f32, (i, w_i, v_i, g_i): (u32, f32, f32, f32)| {
                let v_i = lars.velocity(w_i, v_i, g_i);
                v.set(i, v_i);
                let u = lars.direction(w_i, v_i, g_i);
                Real::mul_add(u, u, sum)
            },
        );
        let sum = half_warp_sum(ALL_LANES, sum);
        if writes {
            sums.set(first + chunk, sum);
        }
    }

    /// [`Lars::walk`].
    lars_walk(
        w: InOut<f32>[n], v: In<f32>[n], g: In<f32>[n], decay: f32, ahead: f32, before: f32, after: f32, n: u32,
    )
    grid [n.div_ceil(RUN)] block [THREADS]
    cost { flop: 7 * n }
    cases lars_walk_cases
    {
        let lars = Lars { decay, momentum: 0.0, ahead, before, after };
        each::<EACH, _>(
            n,
            |i| (w.get(i), v.get(i), g.get(i)),
            |i, (w_i, v_i, g_i)| w.set(i, lars.walk(w_i, v_i, g_i)),
        );
    }

    /// [`Lamb::moments`], and the sums of squares of w and of [`Lamb::direction`] over each 4096 elements, by lanes,
    /// into the entries from `first` on of both rows of `sums`.
    lamb_moments(
        w: In<f32>[n], m: InOut<f32>[n], s: InOut<f32>[n], g: In<f32>[n], sums: InOut<f32>[2 * chunks],
        b1: f32, b2: f32, b3: f32, scale: f32, l2: f32, decay: f32, correction1: f32, correction2: f32, eps: f32,
        n: u32, first: u32, chunks: u32,
    )
    grid [chunk_blocks(n)] block [THREADS]
    cost { flop: 17 * n, special: 4 * n }
    cases lamb_moments_cases
    {
        let lamb = Lamb { b1, b2, b3, scale, l2, decay, correction1, correction2, eps };
        let (chunk, writes, of) = over_chunk(
            n,
            (0.0, 0.0),
            |i| (i, w.get(i), m.get(i), s.get(i), g.get(i)),
            |sums: (f32, f32), (i, w_i, m_i, s_i, g_i): (u32, f32, f32, f32, f32)| {
                let (m_i, s_i) = lamb.moments(w_i, m_i, s_i, g_i);
                m.set(i, m_i);
                s.set(i, s_i);
                let u = lamb.direction(w_i, m_i, s_i);
                (Real::mul_add(w_i, w_i, sums.0), Real::mul_add(u, u, sums.1))
            },
        );
        let of = (half_warp_sum(ALL_LANES, of.0), half_warp_sum(ALL_LANES, of.1));
        if writes {
            sums.set(first + chunk, of.0);
            sums.set(chunks + first + chunk, of.1);
        }
    }

    /// w = fma(-rate, u, w) with u of [`Lamb::direction`].
    lamb_walk(
        w: InOut<f32>[n], m: In<f32>[n], s: In<f32>[n],
        decay: f32, correction1: f32, correction2: f32, eps: f32, rate: f32, n: u32,
    )
    grid [n.div_ceil(RUN)] block [THREADS]
    cost { flop: 5 * n, special: 4 * n }
    cases lamb_walk_cases
    {
        let lamb = Lamb { b1: 0.0, b2: 0.0, b3: 0.0, scale: 0.0, l2: 0.0, decay, correction1, correction2, eps };
        each::<EACH, _>(
            n,
            |i| (w.get(i), m.get(i), s.get(i)),
            |i, (w_i, m_i, s_i)| w.set(i, Real::mul_add(-rate, lamb.direction(w_i, m_i, s_i), w_i)),
        );
    }

    /// [`Average::step`] towards x.
    average(w: InOut<f32>[n], x: In<f32>[n], momentum: f32, share: f32, n: u32)
    grid [n.div_ceil(RUN)] block [THREADS]
    cost { flop: 3 * n }
    cases average_cases
    {
        let average = Average { momentum, share };
        each::<EACH, _>(n, |i| (w.get(i), x.get(i)), |i, (w_i, x_i)| w.set(i, average.step(w_i, x_i)));
    }
}

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] = &[
    &decayed_squares::SPEC,
    &fold_segments::SPEC,
    &sgd_step::SPEC,
    &adamw_step::SPEC,
    &lars_step::SPEC,
    &lars_velocity::SPEC,
    &lars_walk::SPEC,
    &lamb_moments::SPEC,
    &lamb_walk::SPEC,
    &average::SPEC,
];

#[cfg(not(target_arch = "nvptx64"))]
use cases::{
    adamw_step_cases, average_cases, decayed_squares_cases, fold_segments_cases, lamb_moments_cases, lamb_walk_cases,
    lars_step_cases, lars_velocity_cases, lars_walk_cases, sgd_step_cases,
};

/// Expected values are written out from the formulas' rounded operations, not taken from [`crate::optim`].
#[cfg(not(target_arch = "nvptx64"))]
mod cases {
    use super::*;
    use crate::case::{change, exactly, noise};
    use crate::device::run::cases::SIZES;
    use crate::reference;
    use crate::tree::fold_tree;

    /// Sizes at the edges of chunks, of lanes and of blocks of chunks.
    const CHUNKED: [usize; 4] = [1, 2 * NORM_CHUNK + 21, NORM_CHUNK, 17 * NORM_CHUNK + 4];

    fn fma(a: f32, b: f32, c: f32) -> f32 {
        Real::mul_add(a, b, c)
    }

    /// `f` of each index.
    fn map(n: usize, f: impl Fn(usize) -> f32) -> Vec<f32> {
        (0..n).map(f).collect()
    }

    /// The chunk sums of each row of terms, at `first` in rows of `chunks`, where 7 stands elsewhere.
    fn table(terms: &[&[f32]], first: usize, chunks: usize) -> (Vec<f32>, Vec<f32>) {
        let before = vec![7.0; terms.len() * chunks];
        let mut after = before.clone();
        for (row, terms) in terms.iter().enumerate() {
            for (i, chunk) in terms.chunks(NORM_CHUNK).enumerate() {
                after[row * chunks + first + i] = reference::lane_sum_sq(chunk);
            }
        }
        (before, after)
    }

    /// (first chunk, chunks of the table) of a parameter of `n` elements among others.
    fn place(n: usize) -> (usize, usize) {
        (2, n.div_ceil(NORM_CHUNK) + 3)
    }

    pub(super) fn decayed_squares_cases() -> Vec<Case> {
        let case = |n: usize| {
            let (decay, w, g) = (0.1, noise(n, 8), noise(n, 9));
            let decayed = map(n, |i| fma(decay, w[i], g[i]));
            let (first, chunks) = place(n);
            let (before, after) = table(&[&w, &g, &decayed], first, chunks);
            let sums = change(before, exactly(after));
            let (n, first, chunks) = (n as u32, first as u32, chunks as u32);
            decayed_squares::TestCase { w, g, sums, decay, n, first, chunks }.named(format!("{n} elements"))
        };
        CHUNKED.map(case).into()
    }

    pub(super) fn fold_segments_cases() -> Vec<Case> {
        let case = |rows: usize, counts: &[usize]| {
            let mut starts = vec![0];
            counts.iter().for_each(|&count| starts.push(starts[starts.len() - 1] + count as u32));
            let (segments, chunks) = (counts.len(), starts[counts.len()] as usize);
            let before = noise(rows * chunks, 10);
            let (mut after, mut totals) = (before.clone(), Vec::new());
            for row in 0..rows {
                for (s, &count) in counts.iter().enumerate() {
                    let first = row * chunks + starts[s] as usize;
                    // Every left end of a pair of the tree holds the sum of its node.
                    let total = fold_tree(count, &mut |i| (i, before[first + i]), &mut |(i, a), (_, b)| {
                        after[first + i] = a + b;
                        (i, a + b)
                    });
                    totals.push(total.map_or(0.0, |(_, total)| total));
                }
            }
            let (sums, totals) = (change(before, exactly(after)), exactly(totals));
            let (rows, segments, chunks) = (rows as u32, segments as u32, chunks as u32);
            fold_segments::TestCase { sums, starts, totals, rows, segments, chunks }
                .named(format!("{rows} rows of {counts:?} chunks"))
        };
        vec![case(1, &[1]), case(3, &[3, 1, 0, 7, 2, 16]), case(2, &[700, 5])]
    }

    pub(super) fn sgd_step_cases() -> Vec<Case> {
        let case = |n: usize, ahead: f32| {
            let (decay, momentum, lr) = (0.01, 0.9, 0.3);
            let (w, v, g) = (noise(n, 1), noise(n, 2), noise(n, 3));
            let decayed = map(n, |i| fma(decay, w[i], g[i]));
            let v_after = map(n, |i| fma(momentum, v[i], decayed[i]));
            let step = map(n, |i| if ahead == 0.0 { v_after[i] } else { fma(ahead, v_after[i], decayed[i]) });
            let w_after = map(n, |i| fma(-lr, step[i], w[i]));
            let (w, v) = (change(w, exactly(w_after)), change(v, exactly(v_after)));
            let name = format!("{n} elements, {ahead} ahead");
            sgd_step::TestCase { w, v, g, decay, momentum, ahead, lr, n: n as u32 }.named(name)
        };
        SIZES.into_iter().flat_map(|n| [case(n, 0.0), case(n, 0.9)]).collect()
    }

    pub(super) fn adamw_step_cases() -> Vec<Case> {
        let case = |n: usize| {
            let (b1, b2, keep, rate, correction, eps) = (0.9, 0.999, 0.99, 0.01, 0.004, 1e-8);
            let (w, m, g) = (noise(n, 4), noise(n, 5), noise(n, 7));
            let s: Vec<f32> = noise(n, 6).iter().map(|x| x * x).collect();
            let m_after = map(n, |i| fma(b1, m[i], (1.0 - b1) * g[i]));
            let s_after = map(n, |i| fma(b2, s[i], (1.0 - b2) * (g[i] * g[i])));
            let step = map(n, |i| m_after[i] / ((s_after[i] / correction).sqrt() + eps));
            let w_after = map(n, |i| fma(-rate, step[i], keep * w[i]));
            let [w, m, s] = [(w, w_after), (m, m_after), (s, s_after)].map(|(x, after)| change(x, exactly(after)));
            adamw_step::TestCase { w, m, s, g, b1, b2, keep, rate, correction, eps, n: n as u32 }
                .named(format!("{n} elements"))
        };
        SIZES.map(case).into()
    }

    /// (w, v, g, what enters the buffer, v after, the direction) of a step of LARS.
    fn lars(n: usize, [decay, momentum, ahead, before]: [f32; 4]) -> [Vec<f32>; 5] {
        let (w, v, g) = (noise(n, 12), noise(n, 13), noise(n, 14));
        let decayed = map(n, |i| fma(decay, w[i], g[i]));
        let v_after = map(n, |i| fma(before, decayed[i], momentum * v[i]));
        let direction = map(n, |i| if ahead == 0.0 { v_after[i] } else { fma(ahead, v_after[i], before * decayed[i]) });
        [w, v, g, v_after, direction]
    }

    pub(super) fn lars_step_cases() -> Vec<Case> {
        let case = |n: usize, ahead: f32| {
            let (decay, momentum, before, after) = (0.01, 0.9, 0.3, 0.7);
            let [w, v, g, v_after, direction] = lars(n, [decay, momentum, ahead, before]);
            let w_after = map(n, |i| fma(-after, direction[i], w[i]));
            let (w, v) = (change(w, exactly(w_after)), change(v, exactly(v_after)));
            let name = format!("{n} elements, {ahead} ahead");
            lars_step::TestCase { w, v, g, decay, momentum, ahead, before, after, n: n as u32 }.named(name)
        };
        SIZES.into_iter().flat_map(|n| [case(n, 0.0), case(n, 0.9)]).collect()
    }

    pub(super) fn lars_velocity_cases() -> Vec<Case> {
        let case = |n: usize, ahead: f32| {
            let (decay, momentum, before) = (0.01, 0.9, 0.3);
            let [w, v, g, v_after, direction] = lars(n, [decay, momentum, ahead, before]);
            let (first, chunks) = place(n);
            let (sums_before, sums_after) = table(&[&direction], first, chunks);
            let (v, sums) = (change(v, exactly(v_after)), change(sums_before, exactly(sums_after)));
            let (n, first, chunks) = (n as u32, first as u32, chunks as u32);
            lars_velocity::TestCase { w, v, g, sums, decay, momentum, ahead, before, n, first, chunks }
                .named(format!("{n} elements, {ahead} ahead"))
        };
        CHUNKED.into_iter().zip([0.9, 0.9, 0.0, 0.0]).map(|(n, ahead)| case(n, ahead)).collect()
    }

    pub(super) fn lars_walk_cases() -> Vec<Case> {
        let case = |n: usize, ahead: f32| {
            let (decay, before, after) = (0.01, 0.3, 0.7);
            let [w, _, g, v, direction] = lars(n, [decay, 0.9, ahead, before]);
            let w_after = map(n, |i| fma(-after, direction[i], w[i]));
            let w = change(w, exactly(w_after));
            let name = format!("{n} elements, {ahead} ahead");
            lars_walk::TestCase { w, v, g, decay, ahead, before, after, n: n as u32 }.named(name)
        };
        SIZES.into_iter().flat_map(|n| [case(n, 0.0), case(n, 0.9)]).collect()
    }

    /// m and s of a step of LAMB, positive where it takes roots, and the direction that they give.
    fn direction(w: &[f32], m: &[f32], s: &[f32], [decay, correction1, correction2, eps]: [f32; 4]) -> Vec<f32> {
        map(w.len(), |i| fma(decay, w[i], (m[i] / correction1) / ((s[i] / correction2).sqrt() + eps)))
    }

    pub(super) fn lamb_moments_cases() -> Vec<Case> {
        let case = |n: usize, l2: f32| {
            let (b1, b2, b3, scale) = (0.9, 0.999, 0.1, 0.5);
            let (decay, correction1, correction2, eps) = (0.01, 0.2, 0.004, 1e-6);
            let (w, m, g) = (noise(n, 15), noise(n, 16), noise(n, 18));
            let s: Vec<f32> = noise(n, 17).iter().map(|x| x * x).collect();
            let used = map(n, |i| fma(l2, w[i], scale * g[i]));
            let m_after = map(n, |i| fma(b1, m[i], b3 * used[i]));
            let s_after = map(n, |i| fma(b2, s[i], (1.0 - b2) * (used[i] * used[i])));
            let u = direction(&w, &m_after, &s_after, [decay, correction1, correction2, eps]);
            let (first, chunks) = place(n);
            let (before, after) = table(&[&w, &u], first, chunks);
            let [m, s, sums] =
                [(m, m_after), (s, s_after), (before, after)].map(|(x, after)| change(x, exactly(after)));
            let (n, first, chunks) = (n as u32, first as u32, chunks as u32);
            lamb_moments::TestCase {
                w,
                m,
                s,
                g,
                sums,
                b1,
                b2,
                b3,
                scale,
                l2,
                decay,
                correction1,
                correction2,
                eps,
                n,
                first,
                chunks,
            }
            .named(format!("{n} elements, decay {l2} of the gradient"))
        };
        CHUNKED.into_iter().zip([0.0, 0.1, 0.1, 0.0]).map(|(n, l2)| case(n, l2)).collect()
    }

    pub(super) fn lamb_walk_cases() -> Vec<Case> {
        let case = |n: usize| {
            let (decay, correction1, correction2, eps, rate) = (0.01, 0.2, 0.004, 1e-6, 0.3);
            let (w, m) = (noise(n, 19), noise(n, 20));
            let s: Vec<f32> = noise(n, 21).iter().map(|x| x * x).collect();
            let u = direction(&w, &m, &s, [decay, correction1, correction2, eps]);
            let w_after = map(n, |i| fma(-rate, u[i], w[i]));
            let w = change(w, exactly(w_after));
            lamb_walk::TestCase { w, m, s, decay, correction1, correction2, eps, rate, n: n as u32 }
                .named(format!("{n} elements"))
        };
        SIZES.map(case).into()
    }

    pub(super) fn average_cases() -> Vec<Case> {
        let case = |n: usize| {
            let (momentum, share, w, x) = (0.99, 0.01, noise(n, 22), noise(n, 23));
            let w_after = map(n, |i| fma(momentum, w[i], share * x[i]));
            let w = change(w, exactly(w_after));
            average::TestCase { w, x, momentum, share, n: n as u32 }.named(format!("{n} elements"))
        };
        SIZES.map(case).into()
    }
}
