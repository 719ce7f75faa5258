//! Pooling of NHWC images, forward and backward.
//!
//! One thread per element of the result, channels fastest, so that a warp reads neighbouring channels of one pixel.
//! Forward kernels walk the taps of their window; backward kernels *gather*: the thread of an input element walks the
//! outputs whose windows hold it, in row-major order, which is the order in which the definition adds them. No output
//! is written by two threads, so no atomics are needed and the order is fixed by the shapes.
//!
//! Everywhere `[n, h, w, c]` is the input, `[n, oh, ow, c]` the output, the window `kh x kw`, moved by `sh, sw`, with a
//! border of `ph, pw` pixels (at most half the window).

use crate::order::LANES;
use crate::simt::*;
use crate::{kernel, shared};
#[cfg(not(target_arch = "nvptx64"))]
use cases::*;

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] = &[
    &max_pool2d::SPEC,
    &max_pool2d_grad::SPEC,
    &max_pool2d_grad_by_index::SPEC,
    &avg_pool2d::SPEC,
    &avg_pool2d_grad::SPEC,
    &global_avg_pool::SPEC,
    &global_avg_pool_grad::SPEC,
];

const THREADS: u32 = 256;

/// Channels of a block of [`global_avg_pool`], one warp wide; its other dimension are the lanes.
const COLUMNS: u32 = WARP;

/// How windows lie along one axis.
#[derive(Clone, Copy)]
struct Axis {
    /// Input positions.
    len: u32,
    /// Output positions.
    outputs: u32,
    kernel: u32,
    stride: u32,
    padding: u32,
}

impl Axis {
    /// The input positions, from and below, inside the window of output `at`.
    #[inline(always)]
    fn taps(self, at: u32) -> (u32, u32) {
        let start = at * self.stride;
        (start.saturating_sub(self.padding), (start + self.kernel - self.padding).min(self.len))
    }

    /// The outputs, from and below, whose windows hold input `at`.
    #[inline(always)]
    fn readers(self, at: u32) -> (u32, u32) {
        let padded = at + self.padding;
        let first = if padded >= self.kernel { (padded - self.kernel) / self.stride + 1 } else { 0 };
        (first, (padded / self.stride + 1).min(self.outputs))
    }
}

/// What the sum of the window of output (`oy`, `ox`) is divided by.
#[inline(always)]
fn taps_counted(rows: Axis, columns: Axis, oy: u32, ox: u32, count_padding: u32) -> f32 {
    if count_padding != 0 {
        return (rows.kernel * columns.kernel) as f32;
    }
    let ((top, bottom), (left, right)) = (rows.taps(oy), columns.taps(ox));
    ((bottom - top) * (right - left)) as f32
}

kernel! {
    /// The largest element of each window and its pixel y w + x in the image: NaN is largest, of equals the first in
    /// row-major order.
    max_pool2d(x: In<f32>[n * h * w * c], y: Out<f32>[n * oh * ow * c], index: Out<i32>[n * oh * ow * c], n: u32,
        h: u32, w: u32, c: u32, oh: u32, ow: u32, kh: u32, kw: u32, sh: u32, sw: u32, ph: u32, pw: u32)
    grid [(n * oh * ow * c).div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: n * oh * ow * c * kh * kw, reread: 4 * (n * oh * ow * c * kh * kw).saturating_sub(n * h * w * c) }
    cases max_pool2d_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, n * oh * ow * c) {
            let (pixel, channel) = (i / c, i % c);
            let (image, oy, ox) = (pixel / (oh * ow), pixel / ow % oh, pixel % ow);
            let (top, bottom) = Axis { len: h, outputs: oh, kernel: kh, stride: sh, padding: ph }.taps(oy);
            let (left, right) = Axis { len: w, outputs: ow, kernel: kw, stride: sw, padding: pw }.taps(ox);
            let first = image * h * w * c + channel;
            let mut winner = top * w + left;
            let mut largest = x.get(first + winner * c);
            for iy in strided(top, bottom, 1) {
                for ix in strided(left, right, 1) {
                    let tap = x.get(first + (iy * w + ix) * c);
                    if (tap > largest) | (tap.is_nan() & !largest.is_nan()) {
                        largest = tap;
                        winner = iy * w + ix;
                    }
                }
            }
            y.set(i, largest);
            index.set(i, winner as i32);
        }
    }

    /// dx of `max_pool2d` from its `index`: each input takes dy of the outputs it won, in row-major order, from +0.
    max_pool2d_grad(dy: In<f32>[n * oh * ow * c], index: In<i32>[n * oh * ow * c], dx: Out<f32>[n * h * w * c], n: u32,
        h: u32, w: u32, c: u32, oh: u32, ow: u32, kh: u32, kw: u32, sh: u32, sw: u32, ph: u32, pw: u32)
    grid [(n * h * w * c).div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: n * oh * ow * c, reread: 4 * n * oh * ow * c * (kh * kw - 1) }
    cases max_pool2d_grad_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, n * h * w * c) {
            let (pixel, channel) = (i / c, i % c);
            let (image, iy, ix) = (pixel / (h * w), pixel / w % h, pixel % w);
            let (top, bottom) = Axis { len: h, outputs: oh, kernel: kh, stride: sh, padding: ph }.readers(iy);
            let (left, right) = Axis { len: w, outputs: ow, kernel: kw, stride: sw, padding: pw }.readers(ix);
            let first = image * oh * ow * c + channel;
            let own = (iy * w + ix) as i32;
            let mut sum = 0.0;
            for oy in strided(top, bottom, 1) {
                for ox in strided(left, right, 1) {
                    let at = first + (oy * ow + ox) * c;
                    if index.get(at) == own {
                        sum += dy.get(at);
                    }
                }
            }
            dx.set(i, sum);
        }
    }

    /// As `max_pool2d_grad` where the windows are not known: one thread per image and channel hands dy to the winners,
    /// outputs in row-major order. `dx` is zero before; an index outside the image is passed over.
    max_pool2d_grad_by_index(dy: In<f32>[n * outputs * c], index: In<i32>[n * outputs * c],
        dx: InOut<f32>[n * pixels * c], n: u32, pixels: u32, outputs: u32, c: u32)
    grid [(n * c).div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: n * outputs * c }
    cases max_pool2d_grad_by_index_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, n * c) {
            let (image, channel) = (i / c, i % c);
            for output in strided(0, outputs, 1) {
                let at = (image * outputs + output) * c + channel;
                let winner = index.get(at) as u32;
                if within(winner, pixels) {
                    let to = (image * pixels + winner) * c + channel;
                    dx.set(to, dx.get(to) + dy.get(at));
                }
            }
        }
    }

    /// The mean of each window: a chain of additions over its taps in row-major order from +0, divided by their number;
    /// with `count_padding` divided by the size of the window everywhere.
    avg_pool2d(x: In<f32>[n * h * w * c], y: Out<f32>[n * oh * ow * c], n: u32, h: u32, w: u32, c: u32, oh: u32,
        ow: u32, kh: u32, kw: u32, sh: u32, sw: u32, ph: u32, pw: u32, count_padding: u32)
    grid [(n * oh * ow * c).div_ceil(THREADS as u64)] block [THREADS]
    cost {
        flop: n * oh * ow * c * kh * kw, special: n * oh * ow * c,
        reread: 4 * (n * oh * ow * c * kh * kw).saturating_sub(n * h * w * c),
    }
    cases avg_pool2d_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, n * oh * ow * c) {
            let (pixel, channel) = (i / c, i % c);
            let (image, oy, ox) = (pixel / (oh * ow), pixel / ow % oh, pixel % ow);
            let rows = Axis { len: h, outputs: oh, kernel: kh, stride: sh, padding: ph };
            let columns = Axis { len: w, outputs: ow, kernel: kw, stride: sw, padding: pw };
            let ((top, bottom), (left, right)) = (rows.taps(oy), columns.taps(ox));
            let first = image * h * w * c + channel;
            let mut sum = 0.0;
            for iy in strided(top, bottom, 1) {
                for ix in strided(left, right, 1) {
                    sum += x.get(first + (iy * w + ix) * c);
                }
            }
            y.set(i, sum / taps_counted(rows, columns, oy, ox, count_padding));
        }
    }

    /// dx of `avg_pool2d`: each input takes dy / count of the outputs that read it, in row-major order, from +0.
    avg_pool2d_grad(dy: In<f32>[n * oh * ow * c], dx: Out<f32>[n * h * w * c], n: u32, h: u32, w: u32, c: u32, oh: u32,
        ow: u32, kh: u32, kw: u32, sh: u32, sw: u32, ph: u32, pw: u32, count_padding: u32)
    grid [(n * h * w * c).div_ceil(THREADS as u64)] block [THREADS]
    cost {
        flop: n * oh * ow * c * kh * kw, special: n * oh * ow * c * kh * kw,
        reread: 4 * n * oh * ow * c * (kh * kw - 1),
    }
    cases avg_pool2d_grad_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, n * h * w * c) {
            let (pixel, channel) = (i / c, i % c);
            let (image, iy, ix) = (pixel / (h * w), pixel / w % h, pixel % w);
            let rows = Axis { len: h, outputs: oh, kernel: kh, stride: sh, padding: ph };
            let columns = Axis { len: w, outputs: ow, kernel: kw, stride: sw, padding: pw };
            let ((top, bottom), (left, right)) = (rows.readers(iy), columns.readers(ix));
            let first = image * oh * ow * c + channel;
            let mut sum = 0.0;
            for oy in strided(top, bottom, 1) {
                for ox in strided(left, right, 1) {
                    let share = dy.get(first + (oy * ow + ox) * c);
                    sum += share / taps_counted(rows, columns, oy, ox, count_padding);
                }
            }
            dx.set(i, sum);
        }
    }

    /// The mean over all pixels of each image and channel: the lanes' sum, divided by their number. A block takes 32
    /// channels of an image; its 16 warps are the 16 lanes, so that every read is a full line.
    global_avg_pool(x: In<f32>[n * pixels * c], y: Out<f32>[n * c], n: u32, pixels: u32, c: u32)
    grid [n * c.div_ceil(COLUMNS as u64)] block [COLUMNS, LANES]
    cost { flop: n * pixels * c, special: n * c }
    cases global_avg_pool_cases
    {
        let tile = shared!(f32; LANES as u32 * COLUMNS);
        let groups = c.div_ceil(COLUMNS);
        let image = block_idx().x / groups;
        let channel = block_idx().x % groups * COLUMNS + thread_idx().x;
        let here = within(channel, c);
        let end = if here { pixels } else { 0 };
        let mut sum = 0.0;
        for pixel in strided(thread_idx().y, end, LANES as u32) {
            sum += x.get((image * pixels + pixel) * c + channel);
        }
        tile.set(thread_idx().y * COLUMNS + thread_idx().x, sum);
        barrier();
        if thread_idx().y == 0 && here {
            y.set(image * c + channel, fold_lanes(tile, thread_idx().x, COLUMNS, |a, b| a + b) / pixels as f32);
        }
    }

    /// dx of `global_avg_pool`: dy / pixels at every pixel.
    global_avg_pool_grad(dy: In<f32>[n * c], dx: Out<f32>[n * pixels * c], n: u32, pixels: u32, c: u32)
    grid [(n * pixels * c).div_ceil(THREADS as u64)] block [THREADS]
    cost { special: n * pixels * c, reread: 4 * n * c * pixels.saturating_sub(1) }
    cases global_avg_pool_grad_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, n * pixels * c) {
            dx.set(i, dy.get(i / (pixels * c) * c + i % c) / pixels as f32);
        }
    }
}

/// Joins the 16 lanes of a column in canonical order: lane i takes lane i + 8, then i + 4, i + 2, i + 1. Lane l of the
/// column lies at `column + l * pitch`.
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
#[inline(always)]
pub(super) fn fold_lanes(tile: Shared<f32>, column: u32, pitch: u32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let lane = |l: u32| tile.get(column + l * pitch);
    let eight = |i| join(lane(i), lane(i + 8));
    let four = |i| join(eight(i), eight(i + 4));
    let two = |i| join(four(i), four(i + 2));
    join(two(0), two(1))
}

#[cfg(not(target_arch = "nvptx64"))]
mod cases {
    use super::*;
    use crate::case::{Case, change, exactly, noise};
    use crate::reference::lane_sum;

    /// A pooled batch: n, [h, w], c, window, stride, padding.
    struct Shape {
        n: usize,
        size: [usize; 2],
        c: usize,
        kernel: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
    }

    /// Overlapping, ragged, gappy and global windows; several blocks; one pixel.
    const SHAPES: [Shape; 5] = [
        Shape { n: 2, size: [7, 9], c: 5, kernel: [3, 3], stride: [2, 2], padding: [1, 1] },
        Shape { n: 1, size: [6, 5], c: 3, kernel: [2, 3], stride: [1, 2], padding: [1, 0] },
        Shape { n: 1, size: [8, 8], c: 2, kernel: [1, 2], stride: [3, 3], padding: [0, 1] },
        Shape { n: 3, size: [4, 4], c: 33, kernel: [4, 4], stride: [4, 4], padding: [0, 0] },
        Shape { n: 1, size: [1, 1], c: 1, kernel: [1, 1], stride: [1, 1], padding: [0, 0] },
    ];

    impl Shape {
        fn out(&self) -> [usize; 2] {
            std::array::from_fn(|i| (self.size[i] + 2 * self.padding[i] - self.kernel[i]) / self.stride[i] + 1)
        }

        fn inputs(&self) -> usize {
            self.n * self.size[0] * self.size[1] * self.c
        }

        fn outputs(&self) -> usize {
            self.n * self.out()[0] * self.out()[1] * self.c
        }

        /// n, h, w, c, oh, ow, kh, kw, sh, sw, ph, pw.
        fn numbers(&self) -> [u32; 12] {
            let ([h, w], [oh, ow], [kh, kw]) = (self.size, self.out(), self.kernel);
            let ([sh, sw], [ph, pw]) = (self.stride, self.padding);
            [self.n, h, w, self.c, oh, ow, kh, kw, sh, sw, ph, pw].map(|extent| extent as u32)
        }

        fn name(&self) -> String {
            let Shape { n, size, c, kernel, stride, padding } = self;
            format!("{n} images of {size:?} x {c}, window {kernel:?} by {stride:?}, border {padding:?}")
        }

        /// Every output in row-major order with the input elements its window reads.
        fn windows(&self) -> Vec<Vec<usize>> {
            let ([h, w], [oh, ow]) = (self.size, self.out());
            (0..self.outputs())
                .map(|i| {
                    let (pixel, channel) = (i / self.c, i % self.c);
                    let (image, oy, ox) = (pixel / (oh * ow), pixel / ow % oh, pixel % ow);
                    let inside = |i: usize, at: usize, len: usize| {
                        (0..self.kernel[i])
                            .filter_map(move |k| (at * self.stride[i] + k).checked_sub(self.padding[i]))
                            .filter(move |&at| at < len)
                    };
                    inside(0, oy, h)
                        .flat_map(|y| inside(1, ox, w).map(move |x| (y, x)))
                        .map(|(y, x)| ((image * h + y) * w + x) * self.c + channel)
                        .collect()
                })
                .collect()
        }
    }

    fn images(shape: &Shape) -> Vec<f32> {
        let mut x = noise(shape.inputs(), 11);
        // Ties, both zeros and NaNs, where there is room for them.
        for (i, x) in x.iter_mut().enumerate().skip(1) {
            *x = match i % 13 {
                3 | 4 => 1.5,
                7 => -0.0,
                8 => 0.0,
                11 if i % 26 == 11 => f32::NAN,
                _ => *x,
            };
        }
        x
    }

    /// The input element that wins each window.
    fn winners(shape: &Shape, x: &[f32]) -> Vec<usize> {
        let beats = |a: f32, b: f32| a > b || (a.is_nan() && !b.is_nan());
        let winner =
            |taps: &Vec<usize>| taps.iter().skip(1).fold(taps[0], |w, &t| if beats(x[t], x[w]) { t } else { w });
        shape.windows().iter().map(winner).collect()
    }

    fn indices(shape: &Shape, winners: &[usize]) -> Vec<i32> {
        winners.iter().map(|winner| (winner / shape.c % (shape.size[0] * shape.size[1])) as i32).collect()
    }

    fn winners_take(shape: &Shape, winners: &[usize], dy: &[f32]) -> Vec<f32> {
        let mut dx = vec![0.0; shape.inputs()];
        winners.iter().zip(dy).for_each(|(&winner, dy)| dx[winner] += dy);
        dx
    }

    pub(super) fn max_pool2d_cases() -> Vec<Case> {
        let case = |shape: &Shape| {
            let x = images(shape);
            let winners = winners(shape, &x);
            let (y, index) = (winners.iter().map(|&w| x[w]).collect(), indices(shape, &winners));
            let [n, h, w, c, oh, ow, kh, kw, sh, sw, ph, pw] = shape.numbers();
            let (y, index) = (exactly(y), exactly(index));
            max_pool2d::TestCase { x, y, index, n, h, w, c, oh, ow, kh, kw, sh, sw, ph, pw }.named(shape.name())
        };
        SHAPES.iter().map(case).collect()
    }

    pub(super) fn max_pool2d_grad_cases() -> Vec<Case> {
        let case = |shape: &Shape| {
            let winners = winners(shape, &images(shape));
            let dy = noise(shape.outputs(), 12);
            let dx = exactly(winners_take(shape, &winners, &dy));
            let index = indices(shape, &winners);
            let [n, h, w, c, oh, ow, kh, kw, sh, sw, ph, pw] = shape.numbers();
            max_pool2d_grad::TestCase { dy, index, dx, n, h, w, c, oh, ow, kh, kw, sh, sw, ph, pw }.named(shape.name())
        };
        SHAPES.iter().map(case).collect()
    }

    pub(super) fn max_pool2d_grad_by_index_cases() -> Vec<Case> {
        let case = |shape: &Shape| {
            let winners = winners(shape, &images(shape));
            let dy = noise(shape.outputs(), 12);
            let dx = change(vec![0.0; shape.inputs()], exactly(winners_take(shape, &winners, &dy)));
            let index = indices(shape, &winners);
            let [n, h, w, c, oh, ow, ..] = shape.numbers();
            max_pool2d_grad_by_index::TestCase { dy, index, dx, n, pixels: h * w, outputs: oh * ow, c }
                .named(shape.name())
        };
        let strays = max_pool2d_grad_by_index::TestCase {
            dy: vec![1.0, 2.0, 4.0],
            index: vec![-1, 2, 1],
            dx: change(vec![0.0; 2], exactly(vec![0.0, 4.0])),
            n: 1,
            pixels: 2,
            outputs: 3,
            c: 1,
        };
        SHAPES.iter().map(case).chain([strays.named("indices outside the image")]).collect()
    }

    /// What each window's sum is divided by.
    fn counts(shape: &Shape, count_padding: bool) -> Vec<f32> {
        let whole = shape.kernel[0] * shape.kernel[1];
        shape.windows().iter().map(|taps| if count_padding { whole } else { taps.len() } as f32).collect()
    }

    pub(super) fn avg_pool2d_cases() -> Vec<Case> {
        let case = |shape: &Shape, count_padding: bool| {
            let x = noise(shape.inputs(), 13);
            let sums = shape.windows().into_iter().map(|taps| taps.iter().fold(0.0, |sum, &tap| sum + x[tap]));
            let y = exactly(sums.zip(counts(shape, count_padding)).map(|(sum, count)| sum / count).collect());
            let [n, h, w, c, oh, ow, kh, kw, sh, sw, ph, pw] = shape.numbers();
            let name = format!("{}, padding counted: {count_padding}", shape.name());
            let count_padding = count_padding.into();
            avg_pool2d::TestCase { x, y, n, h, w, c, oh, ow, kh, kw, sh, sw, ph, pw, count_padding }.named(name)
        };
        SHAPES.iter().flat_map(|shape| [false, true].map(|count_padding| case(shape, count_padding))).collect()
    }

    pub(super) fn avg_pool2d_grad_cases() -> Vec<Case> {
        let case = |shape: &Shape, count_padding: bool| {
            let dy = noise(shape.outputs(), 14);
            let mut dx = vec![0.0; shape.inputs()];
            for ((taps, dy), count) in shape.windows().iter().zip(&dy).zip(counts(shape, count_padding)) {
                taps.iter().for_each(|&tap| dx[tap] += dy / count);
            }
            let dx = exactly(dx);
            let [n, h, w, c, oh, ow, kh, kw, sh, sw, ph, pw] = shape.numbers();
            let name = format!("{}, padding counted: {count_padding}", shape.name());
            let count_padding = count_padding.into();
            avg_pool2d_grad::TestCase { dy, dx, n, h, w, c, oh, ow, kh, kw, sh, sw, ph, pw, count_padding }.named(name)
        };
        SHAPES.iter().flat_map(|shape| [false, true].map(|count_padding| case(shape, count_padding))).collect()
    }

    /// n, pixels, channels: one more than a block's channels, fewer pixels than lanes, one pixel.
    const GLOBAL: [(usize, usize, usize); 4] = [(2, 49, 33), (1, 7, 3), (3, 1, 64), (1, 100, 1)];

    pub(super) fn global_avg_pool_cases() -> Vec<Case> {
        let case = |(n, pixels, c): (usize, usize, usize)| {
            let x = noise(n * pixels * c, 15);
            let mean = |i: usize| {
                let column: Vec<f32> = (0..pixels).map(|pixel| x[(i / c * pixels + pixel) * c + i % c]).collect();
                lane_sum(&column) / pixels as f32
            };
            let y = exactly((0..n * c).map(mean).collect());
            global_avg_pool::TestCase { x, y, n: n as u32, pixels: pixels as u32, c: c as u32 }
                .named(format!("{n} x {pixels} x {c}"))
        };
        GLOBAL.map(case).into()
    }

    pub(super) fn global_avg_pool_grad_cases() -> Vec<Case> {
        let case = |(n, pixels, c): (usize, usize, usize)| {
            let dy = noise(n * c, 16);
            let dx = (0..n * pixels * c).map(|i| dy[i / (pixels * c) * c + i % c] / pixels as f32).collect();
            global_avg_pool_grad::TestCase { dy, dx: exactly(dx), n: n as u32, pixels: pixels as u32, c: c as u32 }
                .named(format!("{n} x {pixels} x {c}"))
        };
        GLOBAL.map(case).into()
    }
}
