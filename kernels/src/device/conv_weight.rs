//! The weight gradient of a convolution in canonical order, one per leaf of the sample tree.
//!
//! Rows of the product are the taps and channels of a weight, columns its output channels, positions the leaf's output
//! pixels. The left operand is gathered as in [`conv`](super::conv), with lines and positions in exchanged roles: here
//! lanes run along the lines, whose channels are contiguous.

use super::conv::{Conv, Place, gathered_product, pixel};
#[cfg(not(target_arch = "nvptx64"))]
use super::conv_cases::*;
use super::tile::{Share, Stage, THREADS, Tiles, edge};
#[cfg(not(target_arch = "nvptx64"))]
use super::tile::{product_reread, totals_bytes};
use crate::kernel;
use crate::order::LEAF;
use crate::simt::*;

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] = &[
    &conv2d_weight_grad_leaves::SPEC,
    &conv2d_weight_grad_leaves_narrow::SPEC,
    &conv2d_weight_grad_leaves_small::SPEC,
];

/// A block's tile of dw.
#[inline(always)]
fn weight_grad<const M: usize, const N: usize>(conv: Conv, x: In<f32>, dy: In<f32>, dw: Out<f32>, block: u32) {
    let [c, c_out] = conv.group_channels();
    let rows = conv.kernel[0] * conv.kernel[1] * c;
    let across = c_out.div_ceil(edge::<N>());
    let tiles = across * rows.div_ceil(edge::<M>());
    let (part, tile) = (block / tiles, block % tiles);
    let (leaf, group) = (part / conv.groups, part % conv.groups);
    let (row, column) = (tile / across * edge::<M>(), tile % across * edge::<N>());
    let first_image = leaf * LEAF as u32;
    let images = (conv.n - first_image).min(LEAF as u32);
    let pixels = conv.output[0] * conv.output[1];

    let line = |line: u32| {
        let line = line.min(rows - 1);
        let [_, ky, kx] = pixel(conv.kernel, line / c);
        let at = [ky * conv.dilation[0], kx * conv.dilation[1]];
        Place { at, offset: (at[0] * conv.input[1] + at[1]) * conv.c + group * c + line % c, other: 0 }
    };
    let (x_share, dy_share, mask_share) = (Share::along_lines::<M>(), Share::along_lines::<N>(), Share::along_k());
    let own_line = line(row + x_share.line);
    let mask_lines = [0, 1, 2, 3].map(|i| line(row + mask_share.line + i * mask_share.line_step));
    let padded = conv.padding != [0, 0];
    let outputs = first_image * pixels * conv.c_out + group * c_out + (column + dy_share.line).min(c_out - 1);

    let values = gathered_product(
        Tiles::<M, N>::new(x_share, dy_share, true),
        images * pixels,
        |position| position,
        |position| {
            let [image, oy, ox] = pixel(conv.output, position);
            let at = [0, 1].map(|axis| ([oy, ox][axis] * conv.stride[axis]).wrapping_sub(conv.padding[axis]));
            let start = ((first_image + image) * conv.input[0]).wrapping_add(at[0]);
            let start = start.wrapping_mul(conv.input[1]).wrapping_add(at[1]);
            Place { at, offset: start.wrapping_mul(conv.c), other: 0 }
        },
        |positions, at| {
            let (mut left, mut right, mut real) = ([0.0; 4], [0.0; 4], [u32::MAX; 4]);
            for (i, left) in left.iter_mut().enumerate().take(M / 2) {
                let position = positions.place(at + x_share.k + i as u32 * x_share.k_step);
                *left = own_line.element(&position, x, conv.input);
            }
            for (i, right) in right.iter_mut().enumerate().take(N / 2) {
                let position = positions.last(at + dy_share.k + i as u32 * dy_share.k_step);
                *right = dy.get(outputs + position * conv.c_out);
            }
            if padded {
                let position = positions.place(at + mask_share.k);
                for i in 0..M / 2 {
                    real[i] = ballot(ALL_LANES, mask_lines[i].meets(&position, conv.input));
                }
            }
            Stage { left, right, real }
        },
    );
    let aligned = conv.c_out.is_multiple_of(4) && c_out.is_multiple_of(4);
    let place = |row| (leaf * rows + row) * conv.c_out + group * c_out;
    Tiles::<M, N>::write(values, dw, [row, rows], [column, c_out], aligned, place);
}

macro_rules! weight_grads {
    ($($(#[doc = $doc:literal])+ $name:ident [$m:literal $n:literal] $cases:ident;)+) => { kernel! {$(
        $(#[doc = $doc])+
        $name(
            x: In<f32>[n * h * w * c], dy: In<f32>[n * oh * ow * c_out],
            dw: Out<f32>[n.div_ceil(LEAF as u64) * kh * kw * (c / groups) * c_out], n: u32, h: u32, w: u32, c: u32,
            oh: u32, ow: u32, c_out: u32, kh: u32, kw: u32, stride_h: u32, stride_w: u32, pad_h: u32, pad_w: u32,
            dil_h: u32, dil_w: u32, groups: u32,
        )
        grid [
            n.div_ceil(LEAF as u64) * groups * (kh * kw * (c / groups)).div_ceil(16 * $m)
                * (c_out / groups).div_ceil(16 * $n)
        ]
        block [THREADS] shared [totals_bytes::<$m, $n>(n.min(LEAF as u64) * oh * ow)]
        cost {
            flop: 2 * n * oh * ow * c_out * kh * kw * (c / groups),
            reread: product_reread(kh * kw * (c / groups) * c_out, n * oh * ow, 16 * $m, 16 * $n),
        }
        cases $cases
        {
            let conv = Conv {
                n, input: [h, w], c, output: [oh, ow], c_out, kernel: [kh, kw], stride: [stride_h, stride_w],
                padding: [pad_h, pad_w], dilation: [dil_h, dil_w], groups,
            };
            weight_grad::<$m, $n>(conv, x, dy, dw, block_idx().x);
        }
    )+}};
}

weight_grads! {
    /// The gradient of a convolution's weight `[kh, kw, c / groups, c_out]` from x `[n, h, w, c]` and dy
    /// `[n, oh, ow, c_out]`, one per leaf of 16 images, in tiles of 128 x 128. dw stands on 16 bytes.
    conv2d_weight_grad_leaves [8 8] conv2d_weight_grad_leaves_cases;
    /// As `conv2d_weight_grad_leaves` in tiles of 128 x 64: for up to 64 output channels of a group.
    conv2d_weight_grad_leaves_narrow [8 4] conv2d_weight_grad_leaves_narrow_cases;
    /// As `conv2d_weight_grad_leaves` in tiles of 64 x 64: where larger tiles would be too few.
    conv2d_weight_grad_leaves_small [4 4] conv2d_weight_grad_leaves_small_cases;
}
