//! Convolution and its input gradient in canonical order, as products whose left operand is gathered from an image
//! (implicit GEMM): rows are pixels, columns output channels, positions the taps and channels of a group.
//!
//! The tile and the order of its sums are `tile`'s. A position's tap and channel are worked out once per
//! chunk, for all rows, and kept in shared memory (`Positions`); an element of the left operand is then the sum of
//! two offsets, and two comparisons tell whether it lies in the image. In the padding a row has no term.
//!
//! The input gradient works on pixels of one phase (row and column modulo the stride) at a time: they share the taps by
//! which outputs read them, and no other tap is visited. Strides thus cost nothing.

#[cfg(not(target_arch = "nvptx64"))]
use super::conv_cases::*;
use super::tile::{Share, Stage, Sums, THREADS, Tiles, edge};
#[cfg(not(target_arch = "nvptx64"))]
use super::tile::{product_reread, totals_bytes};
use crate::order::CHUNK;
use crate::simt::*;
use crate::{kernel, shared};

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] = &[
    &conv2d::SPEC,
    &conv2d_narrow::SPEC,
    &conv2d_small::SPEC,
    &conv2d_input_grad::SPEC,
    &conv2d_input_grad_narrow::SPEC,
    &conv2d_input_grad_small::SPEC,
];

/// Sizes of a convolution: x `[n, h, w, c]`, weight `[kh, kw, c / groups, c_out]`, y `[n, oh, ow, c_out]`. Pairs are
/// (vertical, horizontal).
#[derive(Clone, Copy)]
pub(super) struct Conv {
    pub(super) n: u32,
    pub(super) input: [u32; 2],
    pub(super) c: u32,
    pub(super) output: [u32; 2],
    pub(super) c_out: u32,
    pub(super) kernel: [u32; 2],
    pub(super) stride: [u32; 2],
    pub(super) padding: [u32; 2],
    pub(super) dilation: [u32; 2],
    pub(super) groups: u32,
}

impl Conv {
    /// Input and output channels of a group.
    #[inline(always)]
    pub(super) fn group_channels(&self) -> [u32; 2] {
        [self.c / self.groups, self.c_out / self.groups]
    }
}

/// Image, row and column of pixel `i` of images of this size.
#[inline(always)]
pub(super) fn pixel([height, width]: [u32; 2], i: u32) -> [u32; 3] {
    let row = i / width;
    [row / height, row % height, i % width]
}

/// What an element of a gathered operand depends on, apart for its line and its position; the sum of the two places it.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Row and column in the image, modulo 2^32: a sum outside the image is in the padding.
    pub(super) at: [u32; 2],
    /// Distance in elements, modulo 2^32.
    pub(super) offset: u32,
    /// Where the position stands in the other operand.
    pub(super) other: u32,
}

impl Place {
    /// Whether the element of this line and `position` lies in an image of this size.
    #[inline(always)]
    pub(super) fn meets(&self, position: &Place, [height, width]: [u32; 2]) -> bool {
        let [row, column] = [0, 1].map(|axis| self.at[axis].wrapping_add(position.at[axis]));
        within(row, height) & within(column, width)
    }

    /// The element of this line and `position`; 0 in the padding.
    #[inline(always)]
    pub(super) fn element(&self, position: &Place, image: In<f32>, size: [u32; 2]) -> f32 {
        let index = self.offset.wrapping_add(position.offset);
        if self.meets(position, size) { image.get(index) } else { 0.0 }
    }
}

/// The places of a chunk's positions, in shared memory.
#[derive(Clone, Copy)]
pub(super) struct Positions {
    table: Shared<u32>,
    first: u32,
    end: u32,
}

impl Positions {
    /// The place of `position`; past the end, the last one's.
    #[inline(always)]
    pub(super) fn place(&self, position: u32) -> Place {
        let [y, x, offset, other] = self.table.get4(4 * (self.last(position) - self.first));
        Place { at: [y, x], offset, other }
    }

    /// `position`, or the last one.
    #[inline(always)]
    pub(super) fn last(&self, position: u32) -> u32 {
        position.min(self.end - 1)
    }
}

/// The sums of a block's tile over nominal positions below `positions`, of which those before `p` have `before(p)`
/// terms. `place(i)` is where term i stands; `load` brings this thread's share of the step that starts at a term.
#[inline(always)]
pub(super) fn gathered_product<const M: usize, const N: usize>(
    tiles: Tiles<M, N>,
    positions: u32,
    before: impl Fn(u32) -> u32,
    place: impl Fn(u32) -> Place,
    load: impl Fn(&Positions, u32) -> Stage,
) -> [[f32; N]; M] {
    let table = shared!(u32; 4 * CHUNK);
    let totals = dynamic_shared::<f32>();
    let mut sums = Sums::new();
    for chunk in strided(0, positions, CHUNK as u32) {
        if chunk > 0 {
            sums.close_chunk(totals);
        }
        let terms = Positions { table, first: before(chunk), end: before(positions.min(chunk + CHUNK as u32)) };
        for i in strided(terms.first + thread_idx().x, terms.end, THREADS) {
            let place = place(i);
            table.set4(4 * (i - terms.first), [place.at[0], place.at[1], place.offset, place.other]);
        }
        barrier();
        if terms.first < terms.end {
            tiles.multiply(&mut sums, terms.first, terms.end, |at| load(&terms, at));
        }
    }
    sums.finish(totals)
}

/// The gathered operand of a step whose lanes run along the positions: elements and which of them are terms.
#[inline(always)]
fn gather<const M: usize>(image: In<f32>, size: [u32; 2], lines: &[Place; 4], position: Place) -> ([f32; 4], [u32; 4]) {
    let (mut elements, mut real) = ([0.0; 4], [u32::MAX; 4]);
    for i in 0..M / 2 {
        elements[i] = lines[i].element(&position, image, size);
        real[i] = ballot(ALL_LANES, lines[i].meets(&position, size));
    }
    (elements, real)
}

/// A block's tile of y.
#[inline(always)]
fn forward<const M: usize, const N: usize>(conv: Conv, x: In<f32>, weight: In<f32>, y: Out<f32>, block: u32) {
    let [c, c_out] = conv.group_channels();
    let pixels = conv.n * conv.output[0] * conv.output[1];
    let across = c_out.div_ceil(edge::<N>());
    let tiles = across * pixels.div_ceil(edge::<M>());
    let (group, tile) = (block / tiles, block % tiles);
    let (row, column) = (tile / across * edge::<M>(), tile % across * edge::<N>());

    let (x_share, weight_share) = (Share::along_k(), Share::along_lines::<N>());
    let lines = [0, 1, 2, 3].map(|i| {
        let line = (row + x_share.line + i * x_share.line_step).min(pixels - 1);
        let [image, oy, ox] = pixel(conv.output, line);
        let at = [0, 1].map(|axis| ([oy, ox][axis] * conv.stride[axis]).wrapping_sub(conv.padding[axis]));
        let start = (image * conv.input[0]).wrapping_add(at[0]).wrapping_mul(conv.input[1]).wrapping_add(at[1]);
        Place { at, offset: start.wrapping_mul(conv.c).wrapping_add(group * c), other: 0 }
    });
    let weights = group * c_out + (column + weight_share.line).min(c_out - 1);

    let values = gathered_product(
        Tiles::<M, N>::new(x_share, weight_share, true),
        conv.kernel[0] * conv.kernel[1] * c,
        |position| position,
        |position| {
            let [_, ky, kx] = pixel(conv.kernel, position / c);
            let at = [ky * conv.dilation[0], kx * conv.dilation[1]];
            Place { at, offset: (at[0] * conv.input[1] + at[1]) * conv.c + position % c, other: 0 }
        },
        |positions, at| {
            let mut right = [0.0; 4];
            for (i, right) in right.iter_mut().enumerate().take(N / 2) {
                let position = positions.last(at + weight_share.k + i as u32 * weight_share.k_step);
                *right = weight.get(position * conv.c_out + weights);
            }
            let (left, real) = gather::<M>(x, conv.input, &lines, positions.place(at + x_share.k));
            Stage { left, right, real }
        },
    );
    let aligned = conv.c_out.is_multiple_of(4) && c_out.is_multiple_of(4);
    let place = |row| row * conv.c_out + group * c_out;
    Tiles::<M, N>::write(values, y, [row, pixels], [column, c_out], aligned, place);
}

/// The taps of one axis by which outputs read the pixels of a phase: an arithmetic progression.
#[derive(Clone, Copy)]
struct PhaseTaps {
    first: u32,
    step: u32,
    count: u32,
}

impl PhaseTaps {
    /// The taps k with (phase + padding - k dilation) divisible by the stride.
    #[inline(always)]
    fn new(conv: &Conv, axis: usize, phase: u32) -> PhaseTaps {
        let (stride, taps) = (conv.stride[axis], conv.kernel[axis]);
        let mut found = PhaseTaps { first: taps, step: 1, count: 0 };
        for tap in strided(0, taps, 1) {
            if tap * conv.dilation[axis] % stride == (phase + conv.padding[axis]) % stride {
                match found.count {
                    0 => found.first = tap,
                    1 => found.step = tap - found.first,
                    _ => {}
                }
                found.count += 1;
            }
        }
        found
    }

    /// How many of them lie before `tap`.
    #[inline(always)]
    fn before(&self, tap: u32) -> u32 {
        tap.saturating_sub(self.first).div_ceil(self.step).min(self.count)
    }

    /// Whether `tap` is one of them.
    #[inline(always)]
    fn has(&self, tap: u32) -> bool {
        self.before(tap) < self.before(tap + 1)
    }
}

/// A block's tile of dx.
#[inline(always)]
fn input_grad<const M: usize, const N: usize>(conv: Conv, dy: In<f32>, weight: In<f32>, dx: Out<f32>, block: u32) {
    let [c, c_out] = conv.group_channels();
    let across = c.div_ceil(edge::<N>());
    let most = [0, 1].map(|axis| conv.input[axis].div_ceil(conv.stride[axis]));
    let tiles = across * (conv.n * most[0] * most[1]).div_ceil(edge::<M>());
    let (part, tile) = (block / tiles, block % tiles);
    let (row, column) = (tile / across * edge::<M>(), tile % across * edge::<N>());
    let [group, phase_y, phase_x] = pixel(conv.stride, part);
    let phase = [phase_y, phase_x];
    let size = [0, 1].map(|axis| conv.input[axis].saturating_sub(phase[axis]).div_ceil(conv.stride[axis]));
    let pixels = conv.n * size[0] * size[1];
    // The grid has as many blocks for each phase as the largest needs.
    if !within(row, pixels) {
        return;
    }

    let (dy_share, weight_share) = (Share::along_k(), Share::along_k());
    let lines = [0, 1, 2, 3].map(|i| {
        let [image, y, x] = pixel(size, (row + dy_share.line + i * dy_share.line_step).min(pixels - 1));
        let offset = ((image * conv.output[0]).wrapping_add(y).wrapping_mul(conv.output[1]).wrapping_add(x))
            .wrapping_mul(conv.c_out)
            .wrapping_add(group * c_out);
        Place { at: [y, x], offset, other: 0 }
    });
    let channels = [0, 1, 2, 3].map(|i| {
        let channel = (column + weight_share.line + i * weight_share.line_step).min(c - 1);
        channel * conv.c_out + group * c_out
    });

    let taps = [0, 1].map(|axis| PhaseTaps::new(&conv, axis, phase[axis]));
    let values = gathered_product(
        Tiles::<M, N>::new(dy_share, weight_share, true),
        conv.kernel[0] * conv.kernel[1] * c_out,
        |position| {
            let (tap, channel) = (position / c_out, position % c_out);
            let (ky, kx) = (tap / conv.kernel[1], tap % conv.kernel[1]);
            let in_row = if taps[0].has(ky) { taps[1].before(kx) * c_out } else { 0 };
            let in_tap = if taps[0].has(ky) && taps[1].has(kx) { channel } else { 0 };
            taps[0].before(ky) * taps[1].count * c_out + in_row + in_tap
        },
        |term| {
            let (tap, channel) = (term / c_out, term % c_out);
            let tap = [
                taps[0].first + tap / taps[1].count * taps[0].step,
                taps[1].first + tap % taps[1].count * taps[1].step,
            ];
            // Exact: the taps of the phase are those for which it is.
            let at = [0, 1].map(|axis| {
                let distance = (phase[axis] + conv.padding[axis]) as i32 - (tap[axis] * conv.dilation[axis]) as i32;
                (distance / conv.stride[axis] as i32) as u32
            });
            let offset = at[0].wrapping_mul(conv.output[1]).wrapping_add(at[1]).wrapping_mul(conv.c_out);
            let other = (tap[0] * conv.kernel[1] + tap[1]) * c * conv.c_out + channel;
            Place { at, offset: offset.wrapping_add(channel), other }
        },
        |positions, at| {
            let position = positions.place(at + dy_share.k);
            let mut right = [0.0; 4];
            for i in 0..N / 2 {
                right[i] = weight.get(channels[i] + position.other);
            }
            let (left, real) = gather::<M>(dy, conv.output, &lines, position);
            Stage { left, right, real }
        },
    );
    let aligned = conv.c.is_multiple_of(4) && c.is_multiple_of(4);
    let place = |row| {
        let [image, y, x] = pixel(size, row);
        let [y, x] = [y * conv.stride[0] + phase_y, x * conv.stride[1] + phase_x];
        ((image * conv.input[0] + y) * conv.input[1] + x) * conv.c + group * c
    };
    Tiles::<M, N>::write(values, dx, [row, pixels], [column, c], aligned, place);
}

macro_rules! forwards {
    ($($(#[doc = $doc:literal])+ $name:ident [$m:literal $n:literal] $cases:ident;)+) => { kernel! {$(
        $(#[doc = $doc])+
        $name(
            x: In<f32>[n * h * w * c], weight: In<f32>[kh * kw * (c / groups) * c_out],
            y: Out<f32>[n * oh * ow * c_out], n: u32, h: u32, w: u32, c: u32, oh: u32, ow: u32, c_out: u32, kh: u32,
            kw: u32, stride_h: u32, stride_w: u32, pad_h: u32, pad_w: u32, dil_h: u32, dil_w: u32, groups: u32,
        )
        grid [groups * (n * oh * ow).div_ceil(16 * $m) * (c_out / groups).div_ceil(16 * $n)] block [THREADS]
        shared [totals_bytes::<$m, $n>(kh * kw * (c / groups))]
        cost {
            flop: 2 * n * oh * ow * c_out * kh * kw * (c / groups),
            reread: product_reread(n * oh * ow * c_out, kh * kw * (c / groups), 16 * $m, 16 * $n),
        }
        cases $cases
        {
            let conv = Conv {
                n, input: [h, w], c, output: [oh, ow], c_out, kernel: [kh, kw], stride: [stride_h, stride_w],
                padding: [pad_h, pad_w], dilation: [dil_h, dil_w], groups,
            };
            forward::<$m, $n>(conv, x, weight, y, block_idx().x);
        }
    )+}};
}

forwards! {
    /// y `[n, oh, ow, c_out]` = x `[n, h, w, c]` convolved with weight `[kh, kw, c / groups, c_out]`, in tiles of 128
    /// pixels x 128 channels. y stands on 16 bytes.
    conv2d [8 8] conv2d_cases;
    /// As `conv2d` in tiles of 128 x 64: for up to 64 output channels of a group.
    conv2d_narrow [8 4] conv2d_narrow_cases;
    /// As `conv2d` in tiles of 64 x 64: where larger tiles would be too few.
    conv2d_small [4 4] conv2d_small_cases;
}

macro_rules! input_grads {
    ($($(#[doc = $doc:literal])+ $name:ident [$m:literal $n:literal] $cases:ident;)+) => { kernel! {$(
        $(#[doc = $doc])+
        $name(
            dy: In<f32>[n * oh * ow * c_out], weight: In<f32>[kh * kw * (c / groups) * c_out],
            dx: Out<f32>[n * h * w * c], n: u32, h: u32, w: u32, c: u32, oh: u32, ow: u32, c_out: u32, kh: u32, kw: u32,
            stride_h: u32, stride_w: u32, pad_h: u32, pad_w: u32, dil_h: u32, dil_w: u32, groups: u32,
        )
        grid [
            groups * stride_h * stride_w * (n * h.div_ceil(stride_h) * w.div_ceil(stride_w)).div_ceil(16 * $m)
                * (c / groups).div_ceil(16 * $n)
        ]
        block [THREADS] shared [totals_bytes::<$m, $n>(kh * kw * (c_out / groups))]
        cost {
            flop: 2 * n * oh * ow * c_out * kh * kw * (c / groups),
            reread: product_reread(n * h * w * c, kh * kw * (c_out / groups), 16 * $m, 16 * $n),
        }
        cases $cases
        {
            let conv = Conv {
                n, input: [h, w], c, output: [oh, ow], c_out, kernel: [kh, kw], stride: [stride_h, stride_w],
                padding: [pad_h, pad_w], dilation: [dil_h, dil_w], groups,
            };
            input_grad::<$m, $n>(conv, dy, weight, dx, block_idx().x);
        }
    )+}};
}

input_grads! {
    /// The gradient dx `[n, h, w, c]` of a convolution's input from dy `[n, oh, ow, c_out]` and weight
    /// `[kh, kw, c / groups, c_out]`, in tiles of 128 pixels x 128 channels. dx stands on 16 bytes.
    conv2d_input_grad [8 8] conv2d_input_grad_cases;
    /// As `conv2d_input_grad` in tiles of 128 x 64: for up to 64 input channels of a group.
    conv2d_input_grad_narrow [8 4] conv2d_input_grad_narrow_cases;
    /// As `conv2d_input_grad` in tiles of 64 x 64: where larger tiles would be too few.
    conv2d_input_grad_small [4 4] conv2d_input_grad_small_cases;
}
