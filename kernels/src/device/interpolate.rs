//! Resizing of NHWC images and its gradient.
//!
//! Positions and weights are functions of one axis: [`interpolate_taps`] computes them in f64, once per output row and
//! column, into small tables that the resizing kernels read through the cache (f64 is slow on many devices, and every
//! pixel would repeat it). The gradient gathers: [`interpolate_spans`] notes which outputs read an input position, and
//! the thread of an input walks them in row-major order, taps in order, which is the order of the definition.

use crate::kernel;
use crate::math::Real;
use crate::simt::*;
#[cfg(not(target_arch = "nvptx64"))]
use cases::*;

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] =
    &[&interpolate_taps::SPEC, &interpolate_spans::SPEC, &interpolate::SPEC, &interpolate_grad::SPEC];

const THREADS: u32 = 256;

/// Taps per output position of the nearest pixel, floor(i len / out).
pub const NEAREST: u32 = 1;
/// Taps per output position of linear interpolation.
pub const BILINEAR: u32 = 2;
/// Taps per output position of Keys' cubic with a = -0.75.
pub const BICUBIC: u32 = 4;

kernel! {
    /// The input positions that each output position along an axis reads, and their weights, `taps` of each: 1 the
    /// nearest, 2 linear, 4 cubic. Taps beyond the border read the border. With `align_corners` the centres of the end
    /// positions coincide, else their outer edges; the nearest knows only the latter.
    interpolate_taps(source: Out<u32>[out * taps], weight: Out<f32>[out * taps], len: u32, out: u32, taps: u32,
        align_corners: u32)
    grid [out.div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: out * taps * 8, special: out }
    cases interpolate_taps_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, out) {
            let last = f64::from(len - 1);
            let ratio = if align_corners == 0 {
                f64::from(len) / f64::from(out)
            } else if out > 1 {
                last / f64::from(out - 1)
            } else {
                0.0
            };
            let at = f64::from(i);
            let position = if align_corners == 0 { (at + 0.5) * ratio - 0.5 } else { at * ratio };
            let clamped = |position: f64| Real::clamp(position, 0.0, last) as u32;
            if taps == NEAREST {
                // In integers: a rounded ratio could fall just short of a whole pixel.
                source.set(i, (u64::from(i) * u64::from(len) / u64::from(out)) as u32);
                weight.set(i, 1.0);
            } else if taps == BILINEAR {
                let position = Real::max(position, 0.0);
                let left = Real::floor(position);
                let t = position - left;
                source.set(2 * i, clamped(left));
                weight.set(2 * i, (1.0 - t) as f32);
                source.set(2 * i + 1, clamped(left + 1.0));
                weight.set(2 * i + 1, t as f32);
            } else {
                let left = Real::floor(position);
                let t = position - left;
                for k in 0..4 {
                    let offset = f64::from(k) - 1.0;
                    source.set(4 * i + k, clamped(left + offset));
                    weight.set(4 * i + k, cubic(t - offset) as f32);
                }
            }
        }
    }

    /// The output positions along an axis, from `first` and below `end`, outside of which none reads the input position.
    /// Sources never decrease from one output to the next, so both are binary searches.
    interpolate_spans(source: In<u32>[out * taps], first: Out<u32>[len], end: Out<u32>[len], len: u32, out: u32,
        taps: u32)
    grid [len.div_ceil(THREADS as u64)] block [THREADS]
    cost {}
    cases interpolate_spans_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, len) {
            first.set(i, count(out, |o| source.get(o * taps + taps - 1) < i));
            end.set(i, count(out, |o| source.get(o * taps) <= i));
        }
    }

    /// x `[n, h, w, c]` resized to `[n, oh, ow, c]` by the tables of `interpolate_taps` for rows and columns: the chain
    /// fma(w_y, r, sum) over taps in y from +0, r the chain fma(w_x, x, r) over taps in x from +0.
    interpolate(x: In<f32>[n * h * w * c], row_source: In<u32>[oh * taps], row_weight: In<f32>[oh * taps],
        column_source: In<u32>[ow * taps], column_weight: In<f32>[ow * taps], y: Out<f32>[n * oh * ow * c], n: u32,
        h: u32, w: u32, c: u32, oh: u32, ow: u32, taps: u32)
    grid [(n * oh * ow * c).div_ceil(THREADS as u64)] block [THREADS]
    cost {
        flop: n * oh * ow * c * 2 * taps * (taps + 1),
        reread: (4 * n * oh * ow * c * taps * taps).saturating_sub(4 * n * h * w * c),
    }
    cases interpolate_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, n * oh * ow * c) {
            let (pixel, channel) = (i / c, i % c);
            let (image, oy, ox) = (pixel / (oh * ow), pixel / ow % oh, pixel % ow);
            let mut sum = 0.0;
            for ky in strided(0, taps, 1) {
                let row = (image * h + row_source.get(oy * taps + ky)) * w;
                let mut row_sum = 0.0;
                for kx in strided(0, taps, 1) {
                    let tap = (row + column_source.get(ox * taps + kx)) * c + channel;
                    row_sum = Real::mul_add(column_weight.get(ox * taps + kx), x.get(tap), row_sum);
                }
                sum = Real::mul_add(row_weight.get(oy * taps + ky), row_sum, sum);
            }
            y.set(i, sum);
        }
    }

    /// dx of `interpolate`, its adjoint: by outputs in row-major order and taps in order, each input takes
    /// fma(w_x, w_y dy, dx), from +0. The spans are those of `interpolate_spans`.
    interpolate_grad(dy: In<f32>[n * oh * ow * c], row_source: In<u32>[oh * taps], row_weight: In<f32>[oh * taps],
        column_source: In<u32>[ow * taps], column_weight: In<f32>[ow * taps], row_first: In<u32>[h], row_end: In<u32>[h],
        column_first: In<u32>[w], column_end: In<u32>[w], dx: Out<f32>[n * h * w * c], n: u32, h: u32, w: u32, c: u32,
        oh: u32, ow: u32, taps: u32)
    grid [(n * h * w * c).div_ceil(THREADS as u64)] block [THREADS]
    cost {
        flop: n * oh * ow * c * 3 * taps * taps,
        reread: (4 * n * oh * ow * c * taps * taps).saturating_sub(4 * n * oh * ow * c),
    }
    cases interpolate_grad_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, n * h * w * c) {
            let (pixel, channel) = (i / c, i % c);
            let (image, iy, ix) = (pixel / (h * w), pixel / w % h, pixel % w);
            let mut sum = 0.0;
            for oy in strided(row_first.get(iy), row_end.get(iy), 1) {
                for ox in strided(column_first.get(ix), column_end.get(ix), 1) {
                    let dy = dy.get(((image * oh + oy) * ow + ox) * c + channel);
                    for ky in strided(0, taps, 1) {
                        if row_source.get(oy * taps + ky) == iy {
                            let share = row_weight.get(oy * taps + ky) * dy;
                            for kx in strided(0, taps, 1) {
                                if column_source.get(ox * taps + kx) == ix {
                                    sum = Real::mul_add(column_weight.get(ox * taps + kx), share, sum);
                                }
                            }
                        }
                    }
                }
            }
            dx.set(i, sum);
        }
    }
}

/// Keys' convolution kernel with a = -0.75 (*Cubic convolution interpolation for digital image processing*, 1981).
#[inline(always)]
fn cubic(distance: f64) -> f64 {
    const A: f64 = -0.75;
    let d = Real::abs(distance);
    if d <= 1.0 {
        ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0
    } else if d < 2.0 {
        ((A * d - 5.0 * A) * d + 8.0 * A) * d - 4.0 * A
    } else {
        0.0
    }
}

/// How many of 0, 1, … below `len` have the property, which holds up to some number and not beyond.
#[inline(always)]
fn count(len: u32, holds: impl Fn(u32) -> bool) -> u32 {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(not(target_arch = "nvptx64"))]
mod cases {
    use super::*;
    use crate::case::{Case, exactly, noise};

    /// The taps of every output position of an axis: input position and weight.
    type Table = Vec<Vec<(u32, f32)>>;

    /// The definition, axis by axis.
    fn table(len: usize, out: usize, taps: u32, align_corners: bool) -> Table {
        let ratio = match align_corners {
            true if out > 1 => (len - 1) as f64 / (out - 1) as f64,
            true => 0.0,
            false => len as f64 / out as f64,
        };
        let tap = |position: f64, weight: f64| (position.clamp(0.0, (len - 1) as f64) as u32, weight as f32);
        let taps_of = |i: usize| {
            let position = if align_corners { i as f64 * ratio } else { (i as f64 + 0.5) * ratio - 0.5 };
            match taps {
                NEAREST => vec![((i * len / out) as u32, 1.0)],
                BILINEAR => {
                    let left = position.max(0.0).floor();
                    let t = position.max(0.0) - left;
                    vec![tap(left, 1.0 - t), tap(left + 1.0, t)]
                }
                _ => {
                    let left = position.floor();
                    let t = position - left;
                    (-1..3).map(|k| tap(left + f64::from(k), cubic(t - f64::from(k)))).collect()
                }
            }
        };
        (0..out).map(taps_of).collect()
    }

    fn flat(table: &Table) -> (Vec<u32>, Vec<f32>) {
        table.iter().flatten().copied().unzip()
    }

    /// The outputs whose first and last tap enclose each input.
    fn spans(table: &Table, len: usize) -> (Vec<u32>, Vec<u32>) {
        let last = |taps: &Vec<(u32, f32)>| taps[taps.len() - 1].0;
        let span = |i: u32| {
            let before = table.iter().filter(|taps| last(taps) < i).count();
            let until = table.iter().filter(|taps| taps[0].0 <= i).count();
            (before as u32, until as u32)
        };
        (0..len as u32).map(span).unzip()
    }

    /// len, out, taps, corners aligned: growing, shrinking, one of either, the same, every mode.
    const AXES: [(usize, usize, u32, bool); 10] = [
        (5, 13, NEAREST, false),
        (13, 5, NEAREST, false),
        (5, 13, BILINEAR, false),
        (5, 13, BILINEAR, true),
        (13, 5, BILINEAR, false),
        (7, 1, BILINEAR, true),
        (1, 3, BICUBIC, false),
        (7, 300, BICUBIC, true),
        (300, 7, BICUBIC, false),
        (6, 6, BICUBIC, false),
    ];

    fn axis_name((len, out, taps, align_corners): (usize, usize, u32, bool)) -> String {
        format!("{len} to {out}, {taps} taps, corners aligned: {align_corners}")
    }

    pub(super) fn interpolate_taps_cases() -> Vec<Case> {
        let case = |axis @ (len, out, taps, align_corners)| {
            let (source, weight) = flat(&table(len, out, taps, align_corners));
            interpolate_taps::TestCase {
                source: exactly(source),
                weight: exactly(weight),
                len: len as u32,
                out: out as u32,
                taps,
                align_corners: u32::from(align_corners),
            }
            .named(axis_name(axis))
        };
        AXES.map(case).into()
    }

    pub(super) fn interpolate_spans_cases() -> Vec<Case> {
        let case = |axis @ (len, out, taps, align_corners)| {
            let table = table(len, out, taps, align_corners);
            let (first, end) = spans(&table, len);
            interpolate_spans::TestCase {
                source: flat(&table).0,
                first: exactly(first),
                end: exactly(end),
                len: len as u32,
                out: out as u32,
                taps,
            }
            .named(axis_name(axis))
        };
        AXES.map(case).into()
    }

    /// A resized batch: n, [h, w], c, [oh, ow], taps, corners aligned.
    type Resize = (usize, [usize; 2], usize, [usize; 2], u32, bool);

    const RESIZES: [Resize; 6] = [
        (2, [5, 7], 3, [8, 4], NEAREST, false),
        (2, [5, 7], 3, [8, 4], BILINEAR, false),
        (1, [4, 3], 5, [7, 9], BILINEAR, true),
        (1, [9, 7], 3, [4, 5], BICUBIC, false),
        (1, [3, 4], 7, [8, 6], BICUBIC, false),
        (3, [1, 1], 1, [2, 1], BICUBIC, true),
    ];

    fn tables((_, [h, w], _, [oh, ow], taps, align_corners): Resize) -> [Table; 2] {
        [table(h, oh, taps, align_corners), table(w, ow, taps, align_corners)]
    }

    fn name((n, size, c, out, taps, align_corners): Resize) -> String {
        format!("{n} images of {size:?} x {c} to {out:?}, {taps} taps, corners aligned: {align_corners}")
    }

    pub(super) fn interpolate_cases() -> Vec<Case> {
        let case = |resize: Resize| {
            let (n, [h, w], c, [oh, ow], taps, _) = resize;
            let x = noise(n * h * w * c, 31);
            let [rows, columns] = tables(resize);
            let output = |i: usize| {
                let (image, oy, ox, channel) = (i / (oh * ow * c), i / (ow * c) % oh, i / c % ow, i % c);
                rows[oy].iter().fold(0.0, |sum, &(iy, weight)| {
                    let at = |ix: u32| ((image * h + iy as usize) * w + ix as usize) * c + channel;
                    let row_sum = columns[ox].iter().fold(0.0, |sum, &(ix, wx)| f32::mul_add(wx, x[at(ix)], sum));
                    f32::mul_add(weight, row_sum, sum)
                })
            };
            let y = exactly((0..n * oh * ow * c).map(output).collect());
            let (row_source, row_weight) = flat(&rows);
            let (column_source, column_weight) = flat(&columns);
            let [n, h, w, c, oh, ow] = [n, h, w, c, oh, ow].map(|extent| extent as u32);
            interpolate::TestCase {
                x,
                row_source,
                row_weight,
                column_source,
                column_weight,
                y,
                n,
                h,
                w,
                c,
                oh,
                ow,
                taps,
            }
            .named(name(resize))
        };
        RESIZES.map(case).into()
    }

    pub(super) fn interpolate_grad_cases() -> Vec<Case> {
        let case = |resize: Resize| {
            let (n, [h, w], c, [oh, ow], taps, _) = resize;
            let dy = noise(n * oh * ow * c, 32);
            let [rows, columns] = tables(resize);
            let mut dx = vec![0.0; n * h * w * c];
            for (i, dy) in dy.iter().enumerate() {
                let (image, oy, ox, channel) = (i / (oh * ow * c), i / (ow * c) % oh, i / c % ow, i % c);
                for &(iy, wy) in &rows[oy] {
                    for &(ix, wx) in &columns[ox] {
                        let to = &mut dx[((image * h + iy as usize) * w + ix as usize) * c + channel];
                        *to = f32::mul_add(wx, wy * dy, *to);
                    }
                }
            }
            let (row_first, row_end) = spans(&rows, h);
            let (column_first, column_end) = spans(&columns, w);
            let (row_source, row_weight) = flat(&rows);
            let (column_source, column_weight) = flat(&columns);
            let [n, h, w, c, oh, ow] = [n, h, w, c, oh, ow].map(|extent| extent as u32);
            interpolate_grad::TestCase {
                dy,
                row_source,
                row_weight,
                column_source,
                column_weight,
                row_first,
                row_end,
                column_first,
                column_end,
                dx: exactly(dx),
                n,
                h,
                w,
                c,
                oh,
                ow,
                taps,
            }
            .named(name(resize))
        };
        RESIZES.map(case).into()
    }
}
