//! Augmentation of batches of colour images `[n, h, w, 3]` with values in [0, 1].
//!
//! The arithmetic is that of the transforms on one image in the crate `selfsame-data`, operation by operation: plain
//! products and sums in f32 (no fused multiply-adds), weights in f64 rounded to f32. Random decisions are made on the
//! host and come as arrays with one entry per image: a crop, a flag, a factor. So a view has the same bits wherever it
//! is made.
//!
//! Resampling and blurring are separable. Their weights depend on the image and the output position along one axis
//! alone and are computed once into tables ([`crop_resize_taps`], [`blur_weights`]).

use crate::kernel;
use crate::math::Real;
use crate::simt::*;
#[cfg(not(target_arch = "nvptx64"))]
use cases::*;

#[cfg(not(target_arch = "nvptx64"))]
mod cases;

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] = &[
    &crop_resize_taps::SPEC,
    &crop_resize_columns::SPEC,
    &crop_resize_rows::SPEC,
    &flip_horizontally::SPEC,
    &channel_means::SPEC,
    &color_jitter::SPEC,
    &grayscale::SPEC,
    &blur_weights::SPEC,
    &blur_columns::SPEC,
    &blur_rows::SPEC,
    &solarize::SPEC,
    &clip_pixels::SPEC,
];

const THREADS: u32 = 256;
const CHANNELS: u32 = 3;

/// Adjustments of [`color_jitter`]: what an entry of `order` says, and where its factor lies.
pub const BRIGHTNESS: u32 = 0;
/// See [`BRIGHTNESS`].
pub const CONTRAST: u32 = 1;
/// See [`BRIGHTNESS`].
pub const SATURATION: u32 = 2;
/// See [`BRIGHTNESS`].
pub const HUE: u32 = 3;
/// No adjustment: an image with four of them stays as it is.
pub const NOTHING: u32 = 4;
/// Adjustments of an image.
const ADJUSTMENTS: u32 = 4;

kernel! {
    /// The taps of bicubic resampling along one axis, from `extent` pixels of each image to `out`: their number per
    /// position, the first source position (counted from the crop's first), and the weights, 0 beyond that number.
    /// Keys' kernel with a = -1/2, widened when the image shrinks; the weights of a position are normalised to sum 1.
    /// `most` is at least min(extent, ceil(4 max(1, extent / out))) for every image.
    crop_resize_taps(extent: In<u32>[n], count: Out<u32>[n], first: Out<u32>[n * out], weight: Out<f32>[n * out * most],
        n: u32, out: u32, most: u32)
    grid [(n * out).div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: 20 * n * out * most, special: 3 * n * out * most, reread: 4 * n * out.saturating_sub(1) }
    cases crop_resize_taps_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, n * out) {
            let (image, at) = (i / out, i % out);
            let from = extent.get(image);
            let scale = f64::from(from) / f64::from(out);
            let stretch = Real::max(scale, 1.0);
            let support = 2.0 * stretch;
            // ceil
            let taps = (-Real::floor(-(2.0 * support)) as u32).min(from);
            let centre = (f64::from(at) + 0.5) * scale - 0.5;
            let start = (Real::max(Real::floor(centre - support) + 1.0, 0.0) as u32).min(from - taps);
            let raw = |tap: u32| keys((centre - f64::from(start + tap)) / stretch);
            let mut sum = 0.0;
            for tap in strided(0, taps, 1) {
                sum += raw(tap);
            }
            for tap in strided(0, most, 1) {
                weight.set(i * most + tap, if within(tap, taps) { (raw(tap) / sum) as f32 } else { 0.0 });
            }
            first.set(i, start);
            if at == 0 {
                count.set(image, taps);
            }
        }
    }

    /// The rows of each image's crop, resampled along their columns to `ow` pixels: y `[n, most_rows, ow, 3]`, 0 below
    /// the crop's last row. The crop begins at (`top`, `left`) and has `rows` rows; the table is `crop_resize_taps`' for
    /// its widths. Each element is the chain sum + weight x over its taps from +0.
    crop_resize_columns(x: In<f32>[n * h * w * 3], top: In<u32>[n], left: In<u32>[n], rows: In<u32>[n],
        count: In<u32>[n], first: In<u32>[n * ow], weight: In<f32>[n * ow * most], y: Out<f32>[n * most_rows * ow * 3],
        n: u32, h: u32, w: u32, most_rows: u32, ow: u32, most: u32)
    grid [(n * most_rows * ow * 3).div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: 2 * n * most_rows * ow * 3 * most, reread: 4 * n * most_rows * ow * 3 * most }
    cases crop_resize_columns_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, n * most_rows * ow * CHANNELS) {
            let (pixel, channel) = (i / CHANNELS, i % CHANNELS);
            let (image, row, ox) = (pixel / (most_rows * ow), pixel / ow % most_rows, pixel % ow);
            let mut sum = 0.0;
            if within(row, rows.get(image)) {
                let at = image * ow + ox;
                let source = (image * h + top.get(image) + row) * w + left.get(image) + first.get(at);
                for tap in strided(0, count.get(image), 1) {
                    sum += weight.get(at * most + tap) * x.get((source + tap) * CHANNELS + channel);
                }
            }
            y.set(i, sum);
        }
    }

    /// The second half of resampling: x `[n, most_rows, ow, 3]` of `crop_resize_columns` along its rows to `oh`, the
    /// table being that of the crops' heights; then clipped to [0, 1].
    crop_resize_rows(x: In<f32>[n * most_rows * ow * 3], count: In<u32>[n], first: In<u32>[n * oh],
        weight: In<f32>[n * oh * most], y: Out<f32>[n * oh * ow * 3], n: u32, most_rows: u32, oh: u32, ow: u32,
        most: u32)
    grid [(n * oh * ow * 3).div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: 2 * n * oh * ow * 3 * most, reread: 4 * n * oh * ow * 3 * most }
    cases crop_resize_rows_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        let line = ow * CHANNELS;
        if within(i, n * oh * line) {
            let (image, oy, at) = (i / (oh * line), i / line % oh, i % line);
            let row = image * oh + oy;
            let source = image * most_rows + first.get(row);
            let mut sum = 0.0;
            for tap in strided(0, count.get(image), 1) {
                sum += weight.get(row * most + tap) * x.get((source + tap) * line + at);
            }
            y.set(i, clip(sum));
        }
    }

    /// Images whose flag in `flipped` is not 0 mirrored left to right, the others copied.
    flip_horizontally(x: In<f32>[n * h * w * 3], flipped: In<u32>[n], y: Out<f32>[n * h * w * 3], n: u32, h: u32, w: u32)
    grid [(n * h * w * 3).div_ceil(THREADS as u64)] block [THREADS]
    cost {}
    cases flip_horizontally_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, n * h * w * CHANNELS) {
            let (pixel, channel) = (i / CHANNELS, i % CHANNELS);
            let (image, row, column) = (pixel / (h * w), pixel / w, pixel % w);
            let from = if flipped.get(image) != 0 { w - 1 - column } else { column };
            y.set(i, x.get((row * w + from) * CHANNELS + channel));
        }
    }

    /// The mean of each channel of each image, as contrast takes it: the chain over rows of chains over a row's pixels,
    /// each from +0, divided by the number of pixels. A block is an image; `h` is at most 4096.
    channel_means(x: In<f32>[n * h * w * 3], mean: Out<f32>[n * 3], n: u32, h: u32, w: u32)
    grid [n] block [THREADS] shared [12 * h]
    cost { flop: n * h * w * 3, special: n * 3 }
    cases channel_means_cases
    {
        let row_sums = dynamic_shared::<f32>();
        let image = block_idx().x;
        for at in strided(thread_idx().x, h * CHANNELS, THREADS) {
            let first = (image * h + at / CHANNELS) * w * CHANNELS + at % CHANNELS;
            let mut sum = 0.0;
            for column in strided(0, w, 1) {
                sum += x.get(first + column * CHANNELS);
            }
            row_sums.set(at, sum);
        }
        barrier();
        let channel = thread_idx().x;
        if within(channel, CHANNELS) {
            let mut sum = 0.0;
            for row in strided(0, h, 1) {
                sum += row_sums.get(row * CHANNELS + channel);
            }
            mean.set(image * CHANNELS + channel, sum / (h * w) as f32);
        }
    }

    /// Colour jitter in two launches, since contrast needs means of what comes before it: with `stage` 0 the
    /// adjustments before contrast, with `stage` 1 contrast, by the channels' `mean`, and what follows it. `order` has
    /// four adjustments per image (0 brightness, 1 contrast, 2 saturation, 3 hue, else none), `factor` one number per
    /// image and adjustment in that numbering: the offset or gain of brightness (`additive` says which), the factors
    /// of contrast and saturation, the turn of the hue. Clipped to [0, 1] after each but hue.
    color_jitter(image: InOut<f32>[n * pixels * 3], order: In<u32>[n * 4], factor: In<f32>[n * 4], mean: In<f32>[n * 3],
        n: u32, pixels: u32, additive: u32, stage: u32)
    grid [(n * pixels).div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: 60 * n * pixels, special: 3 * n * pixels }
    cases color_jitter_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, n * pixels) {
            let at = i / pixels;
            let mut pixel = [image.get(3 * i), image.get(3 * i + 1), image.get(3 * i + 2)];
            let mut reached_contrast = 0;
            for step in 0..ADJUSTMENTS {
                let adjustment = order.get(at * ADJUSTMENTS + step);
                if adjustment == CONTRAST {
                    reached_contrast = 1;
                }
                if reached_contrast != stage || adjustment >= NOTHING {
                    continue;
                }
                let factor = factor.get(at * ADJUSTMENTS + adjustment);
                pixel = if adjustment == BRIGHTNESS {
                    pixel.map(|x| clip(if additive != 0 { x + factor } else { x * factor }))
                } else if adjustment == CONTRAST {
                    let mean = [mean.get(3 * at), mean.get(3 * at + 1), mean.get(3 * at + 2)];
                    contrast(pixel, factor, mean)
                } else if adjustment == SATURATION {
                    saturate(pixel, factor)
                } else {
                    turn_hue(pixel, factor)
                };
            }
            image.set(3 * i, pixel[0]);
            image.set(3 * i + 1, pixel[1]);
            image.set(3 * i + 2, pixel[2]);
        }
    }

    /// All channels of the images with a flag become the luma (0.2989 r + 0.587 g) + 0.114 b.
    grayscale(image: InOut<f32>[n * pixels * 3], chosen: In<u32>[n], n: u32, pixels: u32)
    grid [(n * pixels).div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: 5 * n * pixels }
    cases grayscale_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, n * pixels) && chosen.get(i / pixels) != 0 {
            let luma = 0.2989 * image.get(3 * i) + 0.587 * image.get(3 * i + 1) + 0.114 * image.get(3 * i + 2);
            image.set(3 * i, luma);
            image.set(3 * i + 1, luma);
            image.set(3 * i + 2, luma);
        }
    }

    /// The weights exp(-d^2 / 2 sigma^2), d from -half_width to half_width, of each image, normalised to sum 1.
    blur_weights(sigma: In<f32>[n], weight: Out<f32>[n * (2 * half_width + 1)], n: u32, half_width: u32)
    grid [n.div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: n * (2 * half_width + 1) * 6, special: n * (2 * half_width + 1) * 3 }
    cases blur_weights_cases
    {
        let image = block_idx().x * THREADS + thread_idx().x;
        if within(image, n) {
            let taps = 2 * half_width + 1;
            let sigma = f64::from(sigma.get(image));
            let spread = -0.5 / (sigma * sigma);
            let raw = |tap: u32| {
                let d = f64::from(tap.abs_diff(half_width));
                Real::exp(spread * d * d)
            };
            let mut sum = 0.0;
            for tap in strided(0, taps, 1) {
                sum += raw(tap);
            }
            for tap in strided(0, taps, 1) {
                weight.set(image * taps + tap, (raw(tap) / sum) as f32);
            }
        }
    }

    /// Gaussian blur along columns with the weights of `blur_weights`: the chain sum + weight x over taps from left to
    /// right, from +0; taps outside the image are left out. Images whose sigma is not positive are copied.
    blur_columns(x: In<f32>[n * h * w * 3], sigma: In<f32>[n], weight: In<f32>[n * (2 * half_width + 1)],
        y: Out<f32>[n * h * w * 3], n: u32, h: u32, w: u32, half_width: u32)
    grid [(n * h * w * 3).div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: 2 * n * h * w * 3 * (2 * half_width + 1), reread: 4 * n * h * w * 3 * 2 * half_width }
    cases blur_columns_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, n * h * w * CHANNELS) {
            let image = i / (h * w * CHANNELS);
            let column = i / CHANNELS % w;
            let blurred = blur_at(x, weight, image, i, column, w, CHANNELS, half_width);
            y.set(i, if sigma.get(image) > 0.0 { blurred } else { x.get(i) });
        }
    }

    /// As `blur_columns` along rows, from top to bottom; blurred images are clipped to [0, 1].
    blur_rows(x: In<f32>[n * h * w * 3], sigma: In<f32>[n], weight: In<f32>[n * (2 * half_width + 1)],
        y: Out<f32>[n * h * w * 3], n: u32, h: u32, w: u32, half_width: u32)
    grid [(n * h * w * 3).div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: 2 * n * h * w * 3 * (2 * half_width + 1), reread: 4 * n * h * w * 3 * 2 * half_width }
    cases blur_rows_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, n * h * w * CHANNELS) {
            let image = i / (h * w * CHANNELS);
            let row = i / (w * CHANNELS) % h;
            let blurred = blur_at(x, weight, image, i, row, h, w * CHANNELS, half_width);
            y.set(i, if sigma.get(image) > 0.0 { clip(blurred) } else { x.get(i) });
        }
    }

    /// Values at or above `threshold` of the images with a flag are inverted: 1 - x.
    solarize(image: InOut<f32>[n * values], chosen: In<u32>[n], n: u32, values: u32, threshold: f32)
    grid [(n * values).div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: n * values }
    cases solarize_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, n * values) && chosen.get(i / values) != 0 {
            let x = image.get(i);
            if x >= threshold {
                image.set(i, 1.0 - x);
            }
        }
    }

    /// Values outside [0, 1] become the nearer bound; NaN becomes 0.
    clip_pixels(image: InOut<f32>[len], len: u32)
    grid [len.div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: 2 * len }
    cases clip_pixels_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, len) {
            image.set(i, clip(image.get(i)));
        }
    }
}

/// The nearer bound for a value outside [0, 1]; NaN becomes 0.
#[inline(always)]
fn clip(value: f32) -> f32 {
    let low = if value > 0.0 { value } else { 0.0 };
    if low < 1.0 { low } else { 1.0 }
}

/// Keys' cubic convolution kernel, a = -1/2.
#[inline(always)]
fn keys(t: f64) -> f64 {
    let t = Real::abs(t);
    if t <= 1.0 {
        (1.5 * t - 2.5) * t * t + 1.0
    } else if t < 2.0 {
        ((-0.5 * t + 2.5) * t - 4.0) * t + 2.0
    } else {
        0.0
    }
}

/// Element i blurred along an axis of `len` positions, `pitch` elements apart, on which it stands at `at`.
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
#[inline(always)]
fn blur_at(x: In<f32>, weight: In<f32>, image: u32, i: u32, at: u32, len: u32, pitch: u32, half_width: u32) -> f32 {
    let taps = 2 * half_width + 1;
    let start = i - at * pitch;
    let mut sum = 0.0;
    for tap in strided(half_width.saturating_sub(at), taps.min(len + half_width - at), 1) {
        sum += weight.get(image * taps + tap) * x.get(start + (at + tap - half_width) * pitch);
    }
    sum
}

#[inline(always)]
fn contrast(pixel: [f32; 3], factor: f32, mean: [f32; 3]) -> [f32; 3] {
    let channel = |x: f32, mean: f32| clip((x - mean) * factor + mean);
    [channel(pixel[0], mean[0]), channel(pixel[1], mean[1]), channel(pixel[2], mean[2])]
}

/// Multiplies S of HSV by `factor`, clipped to [0, 1]; H and V stay. With V = max and C = max - min every channel is
/// V - (V - x), and scaling S scales V - x, at most until C = V.
#[inline(always)]
fn saturate(pixel: [f32; 3], factor: f32) -> [f32; 3] {
    let [r, g, b] = pixel;
    let value = Real::max(Real::max(r, g), b);
    let chroma = value - Real::min(Real::min(r, g), b);
    let most = if chroma > 0.0 { value / chroma } else { 1.0 };
    let factor = Real::min(factor, most);
    pixel.map(|x| clip(value - (value - x) * factor))
}

/// Adds `turn` to H of HSV, modulo 1; S and V stay.
#[inline(always)]
fn turn_hue([r, g, b]: [f32; 3], turn: f32) -> [f32; 3] {
    let value = Real::max(Real::max(r, g), b);
    let chroma = value - Real::min(Real::min(r, g), b);
    let over = if chroma > 0.0 { 1.0 / chroma } else { 0.0 };
    let sixths = if value == r {
        let h = (g - b) * over;
        if h < 0.0 { h + 6.0 } else { h }
    } else if value == g {
        (b - r) * over + 2.0
    } else {
        (r - g) * over + 4.0
    };
    let saturation = if value > 0.0 { chroma / value } else { 0.0 };
    let hue = sixths * (1.0 / 6.0) + turn;
    let hue = if hue < 0.0 { hue + 1.0 } else { hue };
    let hue = if hue >= 1.0 { hue - 1.0 } else { hue };
    let chroma = value * saturation;
    // Channel n is v - v s max(0, min(k, 4 - k, 1)) with k = (n + 6 h) mod 6.
    [5.0, 3.0, 1.0].map(|n| {
        let k = n + 6.0 * hue;
        let k = if k >= 6.0 { k - 6.0 } else { k };
        value - chroma * clip(Real::min(k, 4.0 - k))
    })
}
