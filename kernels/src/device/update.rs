//! In-place updates and the fused optimisers.
//!
//! An optimiser's step covers all parameters in one launch: they lie one after the other in a buffer, as do their
//! gradients and the optimiser's state. Segment s, a parameter, is `starts[s]..starts[s + 1]`; rates and decays are
//! given per segment. Each element goes through the roundings of the optimiser's definition in
//! `selfsame_autograd::optim`.

#[cfg(not(target_arch = "nvptx64"))]
use crate::case::Case;
use crate::device::run::{EACH, RUN, THREADS, each};
use crate::kernel;
use crate::math::Real;
use crate::order::LANES;
use crate::simt::*;

/// Finds the segments of a block's elements.
#[derive(Clone, Copy)]
struct Segments {
    starts: In<u32>,
    /// The segment of the block's first element.
    first: u32,
}

impl Segments {
    /// The segments as seen by a block whose first element is `block_start`; `starts` has one entry more than `count`.
    #[inline(always)]
    fn from(block_start: u32, starts: In<u32>, count: u32) -> Segments {
        let (mut first, mut behind) = (0, count);
        while behind - first > 1 {
            let middle = first + (behind - first) / 2;
            if starts.get(middle) <= block_start {
                first = middle;
            } else {
                behind = middle;
            }
        }
        Segments { starts, first }
    }

    /// The segment of element `i` of the block: few steps, as a block lies in one segment or some small ones.
    #[inline(always)]
    fn of(self, i: u32) -> u32 {
        let mut segment = self.first;
        while self.starts.get(segment + 1) <= i {
            segment += 1;
        }
        segment
    }
}

kernel! {
    /// y = y + x.
    add_assign(x: In<f32>[n], y: InOut<f32>[n], n: u32)
    grid [n.div_ceil(RUN)] block [THREADS]
    cost { flop: n }
    cases add_assign_cases
    {
        each::<EACH, _>(n, |i| (x.get(i), y.get(i)), |i, (x_i, y_i)| y.set(i, y_i + x_i));
    }

    /// y = alpha x + y, one fused multiply-add per element.
    axpy(alpha: f32, x: In<f32>[n], y: InOut<f32>[n], n: u32)
    grid [n.div_ceil(RUN)] block [THREADS]
    cost { flop: 2 * n }
    cases axpy_cases
    {
        each::<EACH, _>(n, |i| (x.get(i), y.get(i)), |i, (x_i, y_i)| y.set(i, Real::mul_add(alpha, x_i, y_i)));
    }

    /// y = y alpha.
    scale(alpha: f32, y: InOut<f32>[n], n: u32)
    grid [n.div_ceil(RUN)] block [THREADS]
    cost { flop: n }
    cases scale_cases
    {
        each::<EACH, _>(n, |i| y.get(i), |i, y_i| y.set(i, y_i * alpha));
    }

    /// Gradient descent with momentum: g' = fma(decay, w, g); v = fma(momentum, v, g'); the step is v where `ahead` is
    /// 0 (no Nesterov form), else fma(ahead, v, g'); w = fma(-lr, step, w).
    sgd_step(
        w: InOut<f32>[n], v: InOut<f32>[n], g: In<f32>[n], starts: In<u32>[segments + 1], decay: In<f32>[segments],
        lr: In<f32>[segments], segments: u32, momentum: f32, ahead: f32, n: u32,
    )
    grid [n.div_ceil(RUN)] block [THREADS]
    cost { flop: 8 * n }
    cases sgd_step_cases
    {
        let table = Segments::from(block_idx().x * RUN as u32, starts, segments);
        each::<EACH, _>(
            n,
            |i| {
                let segment = table.of(i);
                (w.get(i), v.get(i), g.get(i), decay.get(segment), lr.get(segment))
            },
            |i, (weight, velocity, gradient, decay, lr)| {
                let gradient = Real::mul_add(decay, weight, gradient);
                let velocity = Real::mul_add(momentum, velocity, gradient);
                let step = if ahead == 0.0 { velocity } else { Real::mul_add(ahead, velocity, gradient) };
                v.set(i, velocity);
                w.set(i, Real::mul_add(-lr, step, weight));
            },
        );
    }

    /// AdamW: m = fma(b1, m, (1 - b1) g); v = fma(b2, v, (1 - b2) (g g));
    /// w = fma(-rate, m / (sqrt(v / correction) + eps), keep w). Per segment, computed in f64 and rounded, at its t-th
    /// update: keep = 1 - lr decay, rate = lr / (1 - b1^t), correction = 1 - b2^t.
    adamw_step(
        w: InOut<f32>[n], m: InOut<f32>[n], v: InOut<f32>[n], g: In<f32>[n], starts: In<u32>[segments + 1],
        keep: In<f32>[segments], rate: In<f32>[segments], correction: In<f32>[segments], segments: u32,
        b1: f32, b2: f32, eps: f32, n: u32,
    )
    grid [n.div_ceil(RUN)] block [THREADS]
    cost { flop: 11 * n, special: 3 * n }
    cases adamw_step_cases
    {
        let table = Segments::from(block_idx().x * RUN as u32, starts, segments);
        each::<EACH, _>(
            n,
            |i| {
                let segment = table.of(i);
                let rates = (keep.get(segment), rate.get(segment), correction.get(segment));
                (w.get(i), m.get(i), v.get(i), g.get(i), rates)
            },
            |i, (weight, first, second, gradient, (keep, rate, correction))| {
                let first = Real::mul_add(b1, first, (1.0 - b1) * gradient);
                let second = Real::mul_add(b2, second, (1.0 - b2) * (gradient * gradient));
                let direction = first / (Real::sqrt(second / correction) + eps);
                m.set(i, first);
                v.set(i, second);
                w.set(i, Real::mul_add(-rate, direction, keep * weight));
            },
        );
    }

    /// LARS, first launch: sums of squares of w and of g' = fma(decay, w, g) over chunks of at most `NORM_CHUNK`
    /// elements of a segment, by lanes: half a warp sums a chunk. The chunks are those of the segments that adapt, in
    /// order.
    lars_norms(
        w: In<f32>[n], g: In<f32>[n], chunk_starts: In<u32>[chunks], chunk_lengths: In<u32>[chunks],
        chunk_decay: In<f32>[chunks], w_sq: Out<f32>[chunks], g_sq: Out<f32>[chunks], n: u32, chunks: u32,
    )
    grid [chunks.div_ceil(THREADS as u64 / LANES as u64)] block [THREADS]
    cost { flop: 6 * n }
    cases lars_norms_cases
    {
        let chunk = block_idx().x * (THREADS / LANES as u32) + thread_idx().x / LANES as u32;
        let lane = thread_idx().x % LANES as u32;
        let here = within(chunk, chunks);
        let (start, length, decay) = if here {
            (chunk_starts.get(chunk), chunk_lengths.get(chunk), chunk_decay.get(chunk))
        } else {
            (0, 0, 0.0)
        };
        const STEP: u32 = LANES as u32;
        let load = |j: u32| (w.get(start + j), g.get(start + j));
        let add = |(w_sum, g_sum): (f32, f32), (weight, gradient): (f32, f32)| {
            let gradient = Real::mul_add(decay, weight, gradient);
            (Real::mul_add(weight, weight, w_sum), Real::mul_add(gradient, gradient, g_sum))
        };
        let mut sums = (0.0, 0.0);
        // Four elements of a lane at a time, loaded before they are added in order.
        let fours = length - length % (4 * STEP);
        for j in strided(lane, fours, 4 * STEP) {
            let loaded = (load(j), load(j + STEP), load(j + 2 * STEP), load(j + 3 * STEP));
            sums = add(add(add(add(sums, loaded.0), loaded.1), loaded.2), loaded.3);
        }
        for j in strided(fours + lane, length, STEP) {
            sums = add(sums, load(j));
        }
        let (w_sum, g_sum) = (half_warp_sum(ALL_LANES, sums.0), half_warp_sum(ALL_LANES, sums.1));
        if here && lane == 0 {
            w_sq.set(chunk, w_sum);
            g_sq.set(chunk, g_sum);
        }
    }

    /// LARS, second launch: adds the chunks `first_chunk[s]..first_chunk[s + 1]` of each segment in the tree, which
    /// leaves the segment's sum in its first chunk, and makes of the norms the trust ratio, trust |w| / |g'| or 1 where
    /// a norm is 0 or the segment has no chunks, and the rate lr ratio; in f64, the rate rounded.
    ///
    /// A block adds neighbours, then neighbouring pairs, and so on: an odd one out waits for its turn, which is the
    /// tree of `NUMERICS.md`.
    lars_rates(
        w_sq: InOut<f32>[chunks], g_sq: InOut<f32>[chunks], first_chunk: In<u32>[segments + 1],
        ratio: Out<f64>[segments], rate: Out<f32>[segments], segments: u32, chunks: u32, trust: f64, lr: f64,
    )
    grid [segments] block [THREADS]
    cost { flop: 2 * chunks + 2 * segments, special: 3 * segments }
    cases lars_rates_cases
    {
        let segment = block_idx().x;
        let first = first_chunk.get(segment);
        let count = first_chunk.get(segment + 1) - first;
        let mut step = 1;
        while step < count {
            for right in strided(2 * step * thread_idx().x + step, count, 2 * step * THREADS) {
                let (left, right) = (first + right - step, first + right);
                w_sq.set(left, w_sq.get(left) + w_sq.get(right));
                g_sq.set(left, g_sq.get(left) + g_sq.get(right));
            }
            barrier();
            step *= 2;
        }
        if thread_idx().x == 0 {
            let mut trusted = 1.0;
            if count > 0 {
                let w_norm = Real::sqrt(f64::from(w_sq.get(first)));
                let g_norm = Real::sqrt(f64::from(g_sq.get(first)));
                if w_norm > 0.0 && g_norm > 0.0 {
                    trusted = trust * w_norm / g_norm;
                }
            }
            ratio.set(segment, trusted);
            rate.set(segment, (lr * trusted) as f32);
        }
    }

    /// LARS, third launch: v = fma(rate, g', momentum v) with g' = fma(decay, w, g) in segments whose `adapts` is not
    /// 0, elsewhere g; w = w - v.
    lars_step(
        w: InOut<f32>[n], v: InOut<f32>[n], g: In<f32>[n], starts: In<u32>[segments + 1], decay: In<f32>[segments],
        adapts: In<u32>[segments], rate: In<f32>[segments], segments: u32, momentum: f32, n: u32,
    )
    grid [n.div_ceil(RUN)] block [THREADS]
    cost { flop: 6 * n }
    cases lars_step_cases
    {
        let table = Segments::from(block_idx().x * RUN as u32, starts, segments);
        each::<EACH, _>(
            n,
            |i| {
                let segment = table.of(i);
                let rates = (decay.get(segment), adapts.get(segment), rate.get(segment));
                (w.get(i), v.get(i), g.get(i), rates)
            },
            |i, (weight, velocity, gradient, (decay, adapts, rate))| {
                let gradient = if adapts != 0 { Real::mul_add(decay, weight, gradient) } else { gradient };
                let velocity = Real::mul_add(rate, gradient, momentum * velocity);
                v.set(i, velocity);
                w.set(i, weight - velocity);
            },
        );
    }
}

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] = &[
    &add_assign::SPEC,
    &axpy::SPEC,
    &scale::SPEC,
    &sgd_step::SPEC,
    &adamw_step::SPEC,
    &lars_norms::SPEC,
    &lars_rates::SPEC,
    &lars_step::SPEC,
];

#[cfg(not(target_arch = "nvptx64"))]
use cases::{
    adamw_step_cases, add_assign_cases, axpy_cases, lars_norms_cases, lars_rates_cases, lars_step_cases, scale_cases,
    sgd_step_cases,
};

#[cfg(not(target_arch = "nvptx64"))]
mod cases {
    use super::*;
    use crate::case::{change, exactly, noise};
    use crate::device::run::cases::{SIZES, pairs};
    use crate::order::NORM_CHUNK;
    use crate::reference;
    use crate::tree::fold_tree;

    pub(super) fn add_assign_cases() -> Vec<Case> {
        SIZES
            .map(|n| {
                let (x, y) = pairs(n, 1);
                let after = x.iter().zip(&y).map(|(x, y)| y + x).collect();
                add_assign::TestCase { x, y: change(y, exactly(after)), n: n as u32 }.named(format!("{n} elements"))
            })
            .into()
    }

    pub(super) fn axpy_cases() -> Vec<Case> {
        SIZES
            .map(|n| {
                let (alpha, (x, y)) = (0.3, pairs(n, 2));
                let after = x.iter().zip(&y).map(|(&x, &y)| Real::mul_add(alpha, x, y)).collect();
                axpy::TestCase { alpha, x, y: change(y, exactly(after)), n: n as u32 }.named(format!("{n} elements"))
            })
            .into()
    }

    pub(super) fn scale_cases() -> Vec<Case> {
        SIZES
            .map(|n| {
                let (alpha, y) = (-0.7, pairs(n, 3).0);
                let after = y.iter().map(|y| y * alpha).collect();
                scale::TestCase { alpha, y: change(y, exactly(after)), n: n as u32 }.named(format!("{n} elements"))
            })
            .into()
    }

    /// Lengths of parameters: one alone, many small ones to a block, an empty one, and some over several blocks.
    const LENGTHS: [&[usize]; 3] = [&[1], &[3, 1, 1000, 0, 19], &[700, 1, 1, 900, 64]];

    /// The segments of parameters of these lengths, and to which each element belongs.
    fn segments_of(lengths: &[usize]) -> (Vec<u32>, Vec<usize>) {
        let mut starts = vec![0];
        for &length in lengths {
            starts.push(starts[starts.len() - 1] + length as u32);
        }
        let owner = lengths.iter().enumerate().flat_map(|(s, &length)| std::iter::repeat_n(s, length)).collect();
        (starts, owner)
    }

    /// A number per segment.
    fn per_segment(lengths: &[usize], scale: f32) -> Vec<f32> {
        (0..lengths.len()).map(|s| scale * (s as f32 + 1.0)).collect()
    }

    pub(super) fn sgd_step_cases() -> Vec<Case> {
        let case = |lengths: &'static [usize], ahead: f32| {
            let (starts, owner) = segments_of(lengths);
            let (n, momentum) = (owner.len(), 0.9);
            let (w, v, g) = (noise(n, 1), noise(n, 2), noise(n, 3));
            let (decay, lr) = (per_segment(lengths, 0.01), per_segment(lengths, 0.3));
            let (mut w_after, mut v_after) = (w.clone(), v.clone());
            for i in 0..n {
                let gradient = Real::mul_add(decay[owner[i]], w[i], g[i]);
                v_after[i] = Real::mul_add(momentum, v[i], gradient);
                let step = if ahead == 0.0 { v_after[i] } else { Real::mul_add(ahead, v_after[i], gradient) };
                w_after[i] = Real::mul_add(-lr[owner[i]], step, w[i]);
            }
            let (segments, n) = (lengths.len() as u32, n as u32);
            let (w, v) = (change(w, exactly(w_after)), change(v, exactly(v_after)));
            sgd_step::TestCase { w, v, g, starts, decay, lr, segments, momentum, ahead, n }
                .named(format!("parameters of {lengths:?} elements, looking {ahead} ahead"))
        };
        vec![case(LENGTHS[0], 0.9), case(LENGTHS[1], 0.0), case(LENGTHS[2], 0.9)]
    }

    pub(super) fn adamw_step_cases() -> Vec<Case> {
        LENGTHS
            .map(|lengths| {
                let (starts, owner) = segments_of(lengths);
                let (n, b1, b2, eps) = (owner.len(), 0.9f32, 0.999f32, 1e-8f32);
                let (w, m, g) = (noise(n, 4), noise(n, 5), noise(n, 6));
                let v: Vec<f32> = noise(n, 7).into_iter().map(|v| v * v).collect();
                let keep: Vec<f32> = per_segment(lengths, 0.01).into_iter().map(|decay| 1.0 - decay).collect();
                let (rate, correction) = (per_segment(lengths, 0.02), per_segment(lengths, 0.001));
                let (mut w_after, mut m_after, mut v_after) = (w.clone(), m.clone(), v.clone());
                for i in 0..n {
                    let s = owner[i];
                    m_after[i] = Real::mul_add(b1, m[i], (1.0 - b1) * g[i]);
                    v_after[i] = Real::mul_add(b2, v[i], (1.0 - b2) * (g[i] * g[i]));
                    let direction = m_after[i] / (Real::sqrt(v_after[i] / correction[s]) + eps);
                    w_after[i] = Real::mul_add(-rate[s], direction, keep[s] * w[i]);
                }
                let (segments, n) = (lengths.len() as u32, n as u32);
                let [w, m, v] = [(w, w_after), (m, m_after), (v, v_after)].map(|(x, after)| change(x, exactly(after)));
                adamw_step::TestCase { w, m, v, g, starts, keep, rate, correction, segments, b1, b2, eps, n }
                    .named(format!("parameters of {lengths:?} elements"))
            })
            .into()
    }

    pub(super) fn lars_norms_cases() -> Vec<Case> {
        let case = |lengths: &[usize]| {
            let (starts, decays) = (segments_of(lengths).0, per_segment(lengths, 0.1));
            let n: usize = lengths.iter().sum();
            let (w, g) = (noise(n, 8), noise(n, 9));
            let (mut chunk_starts, mut chunk_lengths, mut chunk_decay) = (Vec::new(), Vec::new(), Vec::new());
            let (mut w_sq, mut g_sq) = (Vec::new(), Vec::new());
            for (s, &length) in lengths.iter().enumerate() {
                for first in (0..length).step_by(NORM_CHUNK) {
                    let (start, length) = (starts[s] as usize + first, NORM_CHUNK.min(length - first));
                    let range = start..start + length;
                    let decayed: Vec<f32> = range.clone().map(|i| Real::mul_add(decays[s], w[i], g[i])).collect();
                    chunk_starts.push(start as u32);
                    chunk_lengths.push(length as u32);
                    chunk_decay.push(decays[s]);
                    w_sq.push(reference::lane_sum_sq(&w[range]));
                    g_sq.push(reference::lane_sum_sq(&decayed));
                }
            }
            let (n, chunks, w_sq, g_sq) = (n as u32, w_sq.len() as u32, exactly(w_sq), exactly(g_sq));
            lars_norms::TestCase { w, g, chunk_starts, chunk_lengths, chunk_decay, w_sq, g_sq, n, chunks }
                .named(format!("parameters of {lengths:?} elements"))
        };
        let small: Vec<usize> = (1..20).collect();
        vec![case(&[1]), case(&[2 * NORM_CHUNK + 21, NORM_CHUNK, 15]), case(&small)]
    }

    pub(super) fn lars_rates_cases() -> Vec<Case> {
        let (trust, lr) = (0.001, 0.3);
        let case = |counts: &[usize], zero: Option<usize>| {
            let first_chunk = segments_of(counts).0;
            let chunks = counts.iter().sum();
            let squares = |seed| noise(chunks, seed).into_iter().map(|x| x * x).collect::<Vec<f32>>();
            let (mut w_sq, g_sq) = (squares(10), squares(11));
            if let Some(segment) = zero {
                w_sq[first_chunk[segment] as usize..first_chunk[segment + 1] as usize].fill(0.0);
            }
            let (mut w_after, mut g_after) = (w_sq.clone(), g_sq.clone());
            let (mut ratio, mut rate) = (Vec::new(), Vec::new());
            for (s, &count) in counts.iter().enumerate() {
                let first = first_chunk[s] as usize;
                // Every left end of a pair of the tree holds the sum of its node.
                let fold = |x: &[f32], after: &mut [f32]| {
                    fold_tree(count, &mut |i| (i, x[first + i]), &mut |(i, a), (_, b)| {
                        after[first + i] = a + b;
                        (i, a + b)
                    })
                    .map_or(0.0, |(_, sum)| f64::from(sum).sqrt())
                };
                let (w_norm, g_norm) = (fold(&w_sq, &mut w_after), fold(&g_sq, &mut g_after));
                let trusted = if w_norm > 0.0 && g_norm > 0.0 { trust * w_norm / g_norm } else { 1.0 };
                ratio.push(trusted);
                rate.push((lr * trusted) as f32);
            }
            let (segments, chunks) = (counts.len() as u32, chunks as u32);
            let (w_sq, g_sq) = (change(w_sq, exactly(w_after)), change(g_sq, exactly(g_after)));
            let (ratio, rate) = (exactly(ratio), exactly(rate));
            lars_rates::TestCase { w_sq, g_sq, first_chunk, ratio, rate, segments, chunks, trust, lr }
                .named(format!("parameters of {counts:?} chunks"))
        };
        vec![case(&[1], None), case(&[3, 1, 0, 7, 2, 16], Some(1)), case(&[700, 5], None)]
    }

    pub(super) fn lars_step_cases() -> Vec<Case> {
        LENGTHS
            .map(|lengths| {
                let (starts, owner) = segments_of(lengths);
                let (n, momentum) = (owner.len(), 0.9);
                let (w, v, g) = (noise(n, 12), noise(n, 13), noise(n, 14));
                let (decay, rate) = (per_segment(lengths, 0.01), per_segment(lengths, 0.3));
                let adapts: Vec<u32> = (0..lengths.len()).map(|s| u32::from(s % 2 == 0)).collect();
                let (mut w_after, mut v_after) = (w.clone(), v.clone());
                for i in 0..n {
                    let s = owner[i];
                    let gradient = if adapts[s] == 1 { Real::mul_add(decay[s], w[i], g[i]) } else { g[i] };
                    v_after[i] = Real::mul_add(rate[s], gradient, momentum * v[i]);
                    w_after[i] = w[i] - v_after[i];
                }
                let (segments, n) = (lengths.len() as u32, n as u32);
                let (w, v) = (change(w, exactly(w_after)), change(v, exactly(v_after)));
                lars_step::TestCase { w, v, g, starts, decay, adapts, rate, segments, momentum, n }
                    .named(format!("parameters of {lengths:?} elements"))
            })
            .into()
    }
}
