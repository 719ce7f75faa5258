//! Test cases of the augmentation kernels.

use super::*;
use crate::case::{Case, change, exactly, noise};

/// Values in [0, 1), n images of [h, w].
fn images(n: usize, [h, w]: [usize; 2], seed: u64) -> Vec<f32> {
    noise(n * h * w * 3, seed).into_iter().map(|x| 0.25 * x + 0.5).collect()
}

/// The taps of one axis: first source position and weights of each output position.
type Table = Vec<(usize, Vec<f32>)>;

fn table(from: usize, out: usize) -> Table {
    let scale = from as f64 / out as f64;
    let stretch = scale.max(1.0);
    let taps = ((4.0 * stretch).ceil() as usize).min(from);
    let position = |i: usize| {
        let centre = (i as f64 + 0.5) * scale - 0.5;
        let first = ((centre - 2.0 * stretch).floor() + 1.0).max(0.0) as usize;
        let first = first.min(from - taps);
        let raw: Vec<f64> = (first..first + taps).map(|at| keys((centre - at as f64) / stretch)).collect();
        let sum = raw.iter().fold(0.0, |sum, weight| sum + weight);
        (first, raw.iter().map(|weight| (weight / sum) as f32).collect())
    };
    (0..out).map(position).collect()
}

/// The tables of a batch as the kernels hold them: count, first, weight, most.
fn tables(extents: &[usize], out: usize) -> (Vec<u32>, Vec<u32>, Vec<f32>, u32) {
    let tables: Vec<Table> = extents.iter().map(|&from| table(from, out)).collect();
    let count: Vec<u32> = tables.iter().map(|table| table[0].1.len() as u32).collect();
    let most = *count.iter().max().expect("a batch has images");
    let positions = || tables.iter().flatten();
    let first = positions().map(|position| position.0 as u32).collect();
    let padded = |weights: &Vec<f32>| (0..most as usize).map(|tap| *weights.get(tap).unwrap_or(&0.0)).collect();
    let weight = positions().flat_map(|position| -> Vec<f32> { padded(&position.1) }).collect();
    (count, first, weight, most)
}

pub(super) fn crop_resize_taps_cases() -> Vec<Case> {
    let case = |(extents, out): (&[usize], usize)| {
        let (count, first, weight, most) = tables(extents, out);
        crop_resize_taps::TestCase {
            extent: extents.iter().map(|&extent| extent as u32).collect(),
            count: exactly(count),
            first: exactly(first),
            weight: exactly(weight),
            n: extents.len() as u32,
            out: out as u32,
            most,
        }
        .named(format!("{extents:?} to {out}"))
    };
    [(&[5, 13, 7, 1, 40][..], 7), (&[1], 1), (&[200], 300), (&[3, 33], 2)].map(case).into()
}

/// Images of 9 x 11, of each a crop [top, left, rows, columns], to a common size.
struct Crops {
    crops: &'static [[usize; 4]],
    out: [usize; 2],
}

const SOURCE: [usize; 2] = [9, 11];
const CROPS: [Crops; 3] = [
    Crops { crops: &[[0, 0, 9, 11], [2, 3, 4, 5], [8, 10, 1, 1]], out: [4, 5] },
    Crops { crops: &[[1, 2, 7, 6]], out: [13, 8] },
    Crops { crops: &[[5, 0, 2, 11]], out: [2, 11] },
];

impl Crops {
    fn extents(&self, axis: usize) -> Vec<usize> {
        self.crops.iter().map(|crop| crop[2 + axis]).collect()
    }

    fn part(&self, which: usize) -> Vec<u32> {
        self.crops.iter().map(|crop| crop[which] as u32).collect()
    }

    fn most_rows(&self) -> usize {
        self.extents(0).into_iter().max().expect("a batch has images")
    }

    /// The crops, resampled along columns.
    fn narrow(&self, x: &[f32]) -> Vec<f32> {
        let [h, w] = SOURCE;
        let mut y = vec![0.0; self.crops.len() * self.most_rows() * self.out[1] * 3];
        let images = y.chunks_mut(self.most_rows() * self.out[1] * 3).zip(x.chunks(h * w * 3));
        for ((y, x), [top, left, rows, columns]) in images.zip(self.crops) {
            let table = table(*columns, self.out[1]);
            for (i, y) in y.iter_mut().enumerate().take(rows * self.out[1] * 3) {
                let (row, ox, channel) = (i / (self.out[1] * 3), i / 3 % self.out[1], i % 3);
                let at = |tap: usize| ((top + row) * w + left + table[ox].0 + tap) * 3 + channel;
                *y = table[ox].1.iter().enumerate().fold(0.0, |sum, (tap, weight)| sum + weight * x[at(tap)]);
            }
        }
        y
    }

    fn name(&self) -> String {
        format!("crops {:?} of {SOURCE:?} to {:?}", self.crops, self.out)
    }
}

pub(super) fn crop_resize_columns_cases() -> Vec<Case> {
    let case = |crops: &Crops| {
        let [h, w] = SOURCE;
        let x = images(crops.crops.len(), SOURCE, 71);
        let y = exactly(crops.narrow(&x));
        let (count, first, weight, most) = tables(&crops.extents(1), crops.out[1]);
        crop_resize_columns::TestCase {
            x,
            top: crops.part(0),
            left: crops.part(1),
            rows: crops.part(2),
            count,
            first,
            weight,
            y,
            n: crops.crops.len() as u32,
            h: h as u32,
            w: w as u32,
            most_rows: crops.most_rows() as u32,
            ow: crops.out[1] as u32,
            most,
        }
        .named(crops.name())
    };
    CROPS.iter().map(case).collect()
}

pub(super) fn crop_resize_rows_cases() -> Vec<Case> {
    let case = |crops: &Crops| {
        let [oh, ow] = crops.out;
        // Black and white, so that the cubic overshoots.
        let sharp: Vec<f32> = images(crops.crops.len(), SOURCE, 72).into_iter().map(|x| (x + 0.5).floor()).collect();
        let x = crops.narrow(&sharp);
        let mut y = Vec::new();
        for (x, [_, _, rows, _]) in x.chunks(crops.most_rows() * ow * 3).zip(crops.crops) {
            for (first, weights) in table(*rows, oh) {
                let taps = |at: usize| weights.iter().zip(x[first * ow * 3 + at..].iter().step_by(ow * 3));
                y.extend((0..ow * 3).map(|at| clip(taps(at).fold(0.0, |sum, (weight, x)| sum + weight * x))));
            }
        }
        let (count, first, weight, most) = tables(&crops.extents(0), oh);
        crop_resize_rows::TestCase {
            x,
            count,
            first,
            weight,
            y: exactly(y),
            n: crops.crops.len() as u32,
            most_rows: crops.most_rows() as u32,
            oh: oh as u32,
            ow: ow as u32,
            most,
        }
        .named(crops.name())
    };
    CROPS.iter().map(case).collect()
}

/// n images of [h, w]: several, a line, a column, one pixel; more than one block.
const BATCHES: [(usize, [usize; 2]); 4] = [(3, [6, 7]), (1, [1, 100]), (2, [33, 1]), (1, [1, 1])];

/// Every other image, the first included.
fn flags(n: usize) -> Vec<u32> {
    (0..n as u32).map(|image| 1 - image % 2).collect()
}

fn name(n: usize, size: [usize; 2]) -> String {
    format!("{n} images of {size:?}")
}

pub(super) fn flip_horizontally_cases() -> Vec<Case> {
    let case = |(n, size @ [h, w]): (usize, [usize; 2])| {
        let x = images(n, size, 73);
        let mut y = x.clone();
        for (image, flag) in y.chunks_mut(h * w * 3).zip(flags(n)) {
            if flag == 1 {
                for row in image.chunks_mut(w * 3) {
                    row.reverse();
                    row.chunks_mut(3).for_each(<[f32]>::reverse);
                }
            }
        }
        flip_horizontally::TestCase { x, flipped: flags(n), y: exactly(y), n: n as u32, h: h as u32, w: w as u32 }
            .named(name(n, size))
    };
    BATCHES.map(case).into()
}

/// Means per channel of an image of width w.
fn means(image: &[f32], w: usize) -> [f32; 3] {
    let row_sum = |row: &[f32], channel| row.iter().skip(channel).step_by(3).fold(0.0, |sum, x| sum + x);
    let sum = |channel| image.chunks(w * 3).fold(0.0, |sum: f32, row| sum + row_sum(row, channel));
    std::array::from_fn(|channel| sum(channel) / (image.len() / 3) as f32)
}

pub(super) fn channel_means_cases() -> Vec<Case> {
    let case = |(n, size @ [h, w]): (usize, [usize; 2])| {
        let x = images(n, size, 74);
        let mean = exactly(x.chunks(h * w * 3).flat_map(|image| means(image, w)).collect());
        channel_means::TestCase { x, mean, n: n as u32, h: h as u32, w: w as u32 }.named(name(n, size))
    };
    BATCHES.into_iter().chain([(1, [100, 3])]).map(case).collect()
}

/// Contrast at every place, no contrast, nothing at all.
const ORDERS: [[u32; 4]; 7] = [
    [CONTRAST, BRIGHTNESS, SATURATION, HUE],
    [HUE, CONTRAST, SATURATION, BRIGHTNESS],
    [SATURATION, BRIGHTNESS, CONTRAST, HUE],
    [BRIGHTNESS, HUE, SATURATION, CONTRAST],
    [NOTHING, HUE, NOTHING, SATURATION],
    [NOTHING; 4],
    [HUE, NOTHING, NOTHING, NOTHING],
];

pub(super) fn color_jitter_cases() -> Vec<Case> {
    let case = |(stage, additive): (u32, u32)| {
        let (n, [h, w]) = (ORDERS.len(), [6, 7]);
        let mut before = images(n, [h, w], 75);
        // Grey, black, and two equal channels.
        for image in before.chunks_mut(h * w * 3) {
            image[..9].copy_from_slice(&[0.5, 0.5, 0.5, 0.0, 0.0, 0.0, 0.25, 0.75, 0.75]);
        }
        let factor: Vec<f32> = (0..n * 4).map(|i| [0.3, 1.6, 0.4, -0.15][i % 4] + 0.05 * (i / 4) as f32).collect();
        let mean: Vec<f32> = before.chunks(h * w * 3).flat_map(|image| means(image, w)).collect();
        let mut after = before.clone();
        for (at, (image, order)) in after.chunks_mut(h * w * 3).zip(ORDERS).enumerate() {
            let (early, late) = order.split_at(order.iter().position(|&a| a == CONTRAST).unwrap_or(4));
            for &adjustment in if stage == 0 { early } else { late } {
                let strength = || factor[at * 4 + adjustment as usize];
                let mean = [mean[at * 3], mean[at * 3 + 1], mean[at * 3 + 2]];
                for pixel in image.chunks_mut(3) {
                    let rgb = [pixel[0], pixel[1], pixel[2]];
                    pixel.copy_from_slice(&match adjustment {
                        BRIGHTNESS if additive == 1 => rgb.map(|x| clip(x + strength())),
                        BRIGHTNESS => rgb.map(|x| clip(x * strength())),
                        CONTRAST => contrast(rgb, strength(), mean),
                        SATURATION => saturate(rgb, strength()),
                        HUE => turn_hue(rgb, strength()),
                        _ => rgb,
                    });
                }
            }
        }
        color_jitter::TestCase {
            image: change(before, exactly(after)),
            order: ORDERS.concat(),
            factor,
            mean,
            n: n as u32,
            pixels: (h * w) as u32,
            additive,
            stage,
        }
        .named(format!("stage {stage}, additive: {additive}"))
    };
    [(0, 0), (0, 1), (1, 0), (1, 1)].map(case).into()
}

/// Images changed where they are flagged.
fn changed(n: usize, before: Vec<f32>, alter: impl Fn(&mut [f32])) -> crate::case::Change<f32> {
    let mut after = before.clone();
    let values = before.len() / n;
    let chosen = after.chunks_mut(values).zip(flags(n)).filter(|(_, flag)| *flag == 1);
    chosen.for_each(|(image, _)| alter(image));
    change(before, exactly(after))
}

pub(super) fn grayscale_cases() -> Vec<Case> {
    let case = |(n, size @ [h, w]): (usize, [usize; 2])| {
        let image = changed(n, images(n, size, 76), |image| {
            for pixel in image.chunks_mut(3) {
                pixel.fill(0.2989 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]);
            }
        });
        grayscale::TestCase { image, chosen: flags(n), n: n as u32, pixels: (h * w) as u32 }.named(name(n, size))
    };
    BATCHES.map(case).into()
}

/// The weights of one image.
fn gaussian(sigma: f32, half_width: usize) -> Vec<f32> {
    let spread = -0.5 / (f64::from(sigma) * f64::from(sigma));
    let offsets = (0..=2 * half_width).map(|tap| tap.abs_diff(half_width) as f64);
    let raw: Vec<f64> = offsets.map(|d| Real::exp(spread * d * d)).collect();
    let sum = raw.iter().fold(0.0, |sum, weight| sum + weight);
    raw.iter().map(|weight| (weight / sum) as f32).collect()
}

pub(super) fn blur_weights_cases() -> Vec<Case> {
    let case = |(n, half_width): (usize, usize)| {
        let sigma: Vec<f32> = (0..n).map(|image| 0.1 + 0.37 * image as f32).collect();
        let weight = exactly(sigma.iter().flat_map(|&sigma| gaussian(sigma, half_width)).collect());
        blur_weights::TestCase { sigma, weight, n: n as u32, half_width: half_width as u32 }
            .named(format!("{n} images, half-width {half_width}"))
    };
    [(1, 0), (5, 11), (300, 1)].map(case).into()
}

/// Standard deviation of each image: every other is not blurred.
fn sigmas(n: usize) -> Vec<f32> {
    flags(n).into_iter().enumerate().map(|(image, flag)| flag as f32 * (0.8 + 0.3 * image as f32)).collect()
}

/// Blurred images: `axis` 0 along rows, clipped, 1 along columns.
fn blurred(x: &[f32], [h, w]: [usize; 2], half_width: usize, axis: usize) -> Vec<f32> {
    let (len, pitch) = if axis == 0 { (h, w * 3) } else { (w, 3) };
    let image_blurred = |(image, sigma): (&[f32], f32)| -> Vec<f32> {
        if sigma == 0.0 {
            return image.to_vec();
        }
        let weights = gaussian(sigma, half_width);
        let element = |i: usize| {
            let at = i / pitch % len;
            let inside = |tap: usize| (at + tap).checked_sub(half_width).filter(|&from| from < len);
            let taps = weights.iter().enumerate().filter_map(|(tap, weight)| Some((weight, inside(tap)?)));
            let sum = taps.fold(0.0, |sum, (weight, from)| sum + weight * image[i + from * pitch - at * pitch]);
            if axis == 0 { clip(sum) } else { sum }
        };
        (0..image.len()).map(element).collect()
    };
    x.chunks(h * w * 3).zip(sigmas(x.len() / (h * w * 3))).flat_map(image_blurred).collect()
}

fn blur_inputs(n: usize, size: [usize; 2], half_width: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    // A sigma of 0 has weights too; they are not used.
    let weight = sigmas(n).into_iter().flat_map(|sigma| gaussian(sigma, half_width)).collect();
    (images(n, size, 77).into_iter().map(|x| 1.5 * x).collect(), sigmas(n), weight)
}

pub(super) fn blur_columns_cases() -> Vec<Case> {
    let case = |((n, size @ [h, w]), half_width): ((usize, [usize; 2]), usize)| {
        let (x, sigma, weight) = blur_inputs(n, size, half_width);
        let y = exactly(blurred(&x, size, half_width, 1));
        let (half_width, n_, h, w) = (half_width as u32, n as u32, h as u32, w as u32);
        blur_columns::TestCase { x, sigma, weight, y, n: n_, h, w, half_width }.named(name(n, size))
    };
    BATCHES.into_iter().zip([2, 11, 3, 0]).map(case).collect()
}

pub(super) fn blur_rows_cases() -> Vec<Case> {
    let case = |((n, size @ [h, w]), half_width): ((usize, [usize; 2]), usize)| {
        let (x, sigma, weight) = blur_inputs(n, size, half_width);
        let y = exactly(blurred(&x, size, half_width, 0));
        let (half_width, n_, h, w) = (half_width as u32, n as u32, h as u32, w as u32);
        blur_rows::TestCase { x, sigma, weight, y, n: n_, h, w, half_width }.named(name(n, size))
    };
    BATCHES.into_iter().zip([2, 1, 11, 0]).map(case).collect()
}

pub(super) fn solarize_cases() -> Vec<Case> {
    let case = |(n, size @ [h, w]): (usize, [usize; 2])| {
        let mut before = images(n, size, 78);
        before[0] = 0.5;
        let image = changed(n, before, |image| {
            image.iter_mut().filter(|x| **x >= 0.5).for_each(|x| *x = 1.0 - *x);
        });
        let values = (h * w * 3) as u32;
        solarize::TestCase { image, chosen: flags(n), n: n as u32, values, threshold: 0.5 }.named(name(n, size))
    };
    BATCHES.map(case).into()
}

pub(super) fn clip_pixels_cases() -> Vec<Case> {
    let mut before = noise(300, 79);
    before[..5].copy_from_slice(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1.0]);
    let bounded = |x: &f32| if x.is_nan() || *x <= 0.0 { 0.0 } else { x.min(1.0) };
    let after = exactly(before.iter().map(bounded).collect());
    let image = change(before, after);
    vec![clip_pixels::TestCase { image, len: 300 }.named("noise and special values")]
}
