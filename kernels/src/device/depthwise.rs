//! Depthwise convolution in canonical order: every input channel is a group of its own, with `c_out / c` outputs.
//!
//! There is too little reuse for tiles: a thread has one element, lanes run along the channels, and neighbours in the
//! image meet in the caches. The weight gradient has few elements and long sums; there the chunks of a sum, which are
//! independent chains, go to the warps of a block, and are added in order.

use super::conv::pixel;
#[cfg(not(target_arch = "nvptx64"))]
use super::conv_cases::*;
use super::tile::THREADS;
use crate::math::Real;
use crate::order::{CHUNK, LEAF};
use crate::simt::*;
use crate::{kernel, shared};

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] =
    &[&depthwise_conv2d::SPEC, &depthwise_conv2d_input_grad::SPEC, &depthwise_conv2d_weight_grad_leaves::SPEC];

/// A sum that may have no term yet: of products in a chunk, or of chunks.
#[derive(Clone, Copy)]
struct Sum {
    value: f32,
    has_terms: bool,
}

impl Sum {
    const EMPTY: Sum = Sum { value: 0.0, has_terms: false };

    #[inline(always)]
    fn fma(&mut self, a: f32, b: f32) {
        *self = Sum { value: Real::mul_add(a, b, self.value), has_terms: true };
    }

    /// Adds a chunk; one without terms contributes nothing, the first with terms is the start.
    #[inline(always)]
    fn add(&mut self, chunk: Sum) {
        if chunk.has_terms {
            let value = if self.has_terms { self.value + chunk.value } else { chunk.value };
            *self = Sum { value, has_terms: true };
        }
    }
}

/// The chain of chunks over terms at increasing positions.
#[derive(Clone, Copy)]
struct Chain {
    total: Sum,
    chunk: Sum,
    /// Where the next chunk starts.
    next: u32,
}

impl Chain {
    const EMPTY: Chain = Chain { total: Sum::EMPTY, chunk: Sum::EMPTY, next: CHUNK as u32 };

    /// Adds the term a b at `position`.
    #[inline(always)]
    fn fma(&mut self, position: u32, a: f32, b: f32) {
        if position >= self.next {
            self.total.add(self.chunk);
            self.chunk = Sum::EMPTY;
            self.next = (position / CHUNK as u32 + 1) * CHUNK as u32;
        }
        self.chunk.fma(a, b);
    }

    #[inline(always)]
    fn finish(mut self) -> f32 {
        self.total.add(self.chunk);
        self.total.value
    }
}

kernel! {
    /// y `[n, oh, ow, c_out]` = x `[n, h, w, c]` convolved with weight `[kh, kw, 1, c_out]`, c groups.
    depthwise_conv2d(
        x: In<f32>[n * h * w * c], weight: In<f32>[kh * kw * c_out], y: Out<f32>[n * oh * ow * c_out], n: u32, h: u32,
        w: u32, c: u32, oh: u32, ow: u32, c_out: u32, kh: u32, kw: u32, stride_h: u32, stride_w: u32, pad_h: u32,
        pad_w: u32, dil_h: u32, dil_w: u32,
    )
    grid [(n * oh * ow * c_out).div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: 2 * n * oh * ow * c_out * kh * kw }
    cases depthwise_conv2d_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, n * oh * ow * c_out) {
            let out = i % c_out;
            let [image, oy, ox] = pixel([oh, ow], i / c_out);
            let mut sum = Chain::EMPTY;
            for ky in strided(0, kh, 1) {
                let row = (oy * stride_h + ky * dil_h).wrapping_sub(pad_h);
                for kx in strided(0, kw, 1) {
                    let column = (ox * stride_w + kx * dil_w).wrapping_sub(pad_w);
                    if within(row, h) & within(column, w) {
                        let input = x.get(((image * h + row) * w + column) * c + out / (c_out / c));
                        let tap = ky * kw + kx;
                        sum.fma(tap, input, weight.get(tap * c_out + out));
                    }
                }
            }
            y.set(i, sum.finish());
        }
    }

    /// The gradient dx `[n, h, w, c]` of a depthwise convolution's input from dy `[n, oh, ow, c_out]` and weight
    /// `[kh, kw, 1, c_out]`.
    depthwise_conv2d_input_grad(
        dy: In<f32>[n * oh * ow * c_out], weight: In<f32>[kh * kw * c_out], dx: Out<f32>[n * h * w * c], n: u32, h: u32,
        w: u32, c: u32, oh: u32, ow: u32, c_out: u32, kh: u32, kw: u32, stride_h: u32, stride_w: u32, pad_h: u32,
        pad_w: u32, dil_h: u32, dil_w: u32,
    )
    grid [(n * h * w * c).div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: 2 * n * oh * ow * c_out * kh * kw }
    cases depthwise_conv2d_input_grad_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, n * h * w * c) {
            let (channel, outputs) = (i % c, c_out / c);
            let [image, row, column] = pixel([h, w], i / c);
            let mut sum = Chain::EMPTY;
            for ky in strided(0, kh, 1) {
                // Distances above the image wrap around to beyond its end.
                let y = (row + pad_h).wrapping_sub(ky * dil_h);
                for kx in strided(0, kw, 1) {
                    let x = (column + pad_w).wrapping_sub(kx * dil_w);
                    let on_stride = y.is_multiple_of(stride_h) && x.is_multiple_of(stride_w);
                    let (oy, ox) = (y / stride_h, x / stride_w);
                    // A wrapped distance has its highest bit set; divided by the stride it might look like an output.
                    let real = on_stride && (y | x) >> 31 == 0 && within(oy, oh) && within(ox, ow);
                    for out in strided(0, if real { outputs } else { 0 }, 1) {
                        let co = channel * outputs + out;
                        let tap = ky * kw + kx;
                        let output = dy.get(((image * oh + oy) * ow + ox) * c_out + co);
                        sum.fma(tap * outputs + out, output, weight.get(tap * c_out + co));
                    }
                }
            }
            dx.set(i, sum.finish());
        }
    }

    /// The gradient of a depthwise convolution's weight `[kh, kw, 1, c_out]` from x `[n, h, w, c]` and dy
    /// `[n, oh, ow, c_out]`, one per leaf of 16 images. A block has one tap and 32 channels.
    depthwise_conv2d_weight_grad_leaves(
        x: In<f32>[n * h * w * c], dy: In<f32>[n * oh * ow * c_out],
        dw: Out<f32>[n.div_ceil(LEAF as u64) * kh * kw * c_out], n: u32, h: u32, w: u32, c: u32, oh: u32, ow: u32,
        c_out: u32, kh: u32, kw: u32, stride_h: u32, stride_w: u32, pad_h: u32, pad_w: u32, dil_h: u32, dil_w: u32,
    )
    grid [n.div_ceil(LEAF as u64) * kh * kw * c_out.div_ceil(WARP as u64)] block [THREADS]
    cost { flop: 2 * n * oh * ow * c_out * kh * kw, reread: 8 * n * oh * ow * c_out * (kh * kw - 1) }
    cases depthwise_conv2d_weight_grad_leaves_cases
    {
        const WARPS: u32 = THREADS / WARP;
        let values = shared!(f32; THREADS);
        let marks = shared!(u32; THREADS);
        let tiles = c_out.div_ceil(WARP);
        let (part, out) = (block_idx().x / tiles, block_idx().x % tiles * WARP + lane());
        let [leaf, ky, kx] = pixel([kh, kw], part);
        let first_image = leaf * LEAF as u32;
        let rows = (n - first_image).min(LEAF as u32) * oh * ow;
        let channel = out.min(c_out - 1);
        let input_channel = channel / (c_out / c);
        let mut total = Sum::EMPTY;
        for round in strided(0, rows, WARPS * CHUNK as u32) {
            let start = round + warp() * CHUNK as u32;
            let mut chunk = Sum::EMPTY;
            let [mut image, mut oy, mut ox] = pixel([oh, ow], start);
            let end = if within(out, c_out) { rows.min(start + CHUNK as u32) } else { 0 };
            for row in strided(start, end, 1) {
                let y = (oy * stride_h + ky * dil_h).wrapping_sub(pad_h);
                let x_at = (ox * stride_w + kx * dil_w).wrapping_sub(pad_w);
                if within(y, h) & within(x_at, w) {
                    let input = x.get((((first_image + image) * h + y) * w + x_at) * c + input_channel);
                    chunk.fma(input, dy.get((first_image * oh * ow + row) * c_out + channel));
                }
                ox += 1;
                if ox == ow {
                    (ox, oy) = (0, oy + 1);
                }
                if oy == oh {
                    (oy, image) = (0, image + 1);
                }
            }
            values.set(thread_idx().x, chunk.value);
            marks.set(thread_idx().x, u32::from(chunk.has_terms));
            barrier();
            if warp() == 0 {
                for other in 0..WARPS {
                    let at = other * WARP + lane();
                    total.add(Sum { value: values.get(at), has_terms: marks.get(at) != 0 });
                }
            }
            barrier();
        }
        if warp() == 0 && within(out, c_out) {
            dw.set(part * c_out + out, total.value);
        }
    }
}
