//! Softmax, log-softmax and log-sum-exp of rows, forward and backward.

use crate::kernel;
use crate::math::Real;
use crate::order::LANES;
use crate::simt::*;

#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] = &[&softmax::SPEC];

/// Threads of a block, each half warp a row.
const THREADS: u32 = 256;
const ROWS: u32 = THREADS / LANES as u32;

kernel! {
    /// Softmax of each row: exp(x - shift) / the sum of those, the shift being the row's largest element, or 0 where
    /// that is infinite or NaN.
    softmax(x: In<f32>[rows * cols], y: Out<f32>[rows * cols], rows: u32, cols: u32)
    grid [rows.div_ceil(ROWS as u64)] block [THREADS]
    cost { flop: 4 * rows * cols, special: 3 * rows * cols, reread: 8 * rows * cols }
    cases softmax_cases
    {
        let row = block_idx().x * ROWS + thread_idx().x / 16;
        let here = within(row, rows);
        let first = row * cols;
        let lane = thread_idx().x % 16;
        let end = if here { cols } else { 0 };
        let mut max = f32::NEG_INFINITY;
        for j in strided(lane, end, 16) {
            max = Real::max(max, x.get(first + j));
        }
        let max = half_warp_max(ALL_LANES, max);
        let shift = if Real::is_finite(max) { max } else { 0.0 };
        let mut sum = 0.0;
        for j in strided(lane, end, 16) {
            sum += Real::exp(x.get(first + j) - shift);
        }
        let sum = half_warp_sum(ALL_LANES, sum);
        for j in strided(lane, end, 16) {
            y.set(first + j, Real::exp(x.get(first + j) - shift) / sum);
        }
    }
}

#[cfg(not(target_arch = "nvptx64"))]
fn softmax_cases() -> Vec<crate::case::Case> {
    use crate::case::exactly;
    [(1, 1), (3, 17), (40, 5), (2, 700)]
        .map(|(rows, cols)| {
            let x: Vec<f32> = (0..rows * cols).map(|i| (i * 37 % 101) as f32 * 0.07 - 3.0).collect();
            let y = x.chunks(cols).flat_map(crate::reference::softmax::<f32>).collect();
            softmax::TestCase { x, y: exactly(y), rows: rows as u32, cols: cols as u32 }
                .named(format!("{rows} x {cols}"))
        })
        .into()
}
