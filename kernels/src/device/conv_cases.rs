//! Cases of the convolution kernels: shapes on and past the edges of tiles, chunks and leaves.

use super::conv::*;
use super::conv_weight::*;
use super::depthwise::*;
use crate::case::{Case, exactly, noise};
use crate::order::LEAF;
use crate::reference;
use crate::reference::Conv2d;

/// A convolution of `n` images `h` x `w` with one group, stride and dilation 1, no padding.
const fn plain(n: usize, [h, w]: [usize; 2], [c, c_out]: [usize; 2], [kh, kw]: [usize; 2]) -> Conv2d {
    Conv2d { n, h, w, c, c_out, kh, kw, stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 }
}

/// What every kernel is tried with.
pub(super) fn shapes() -> Vec<Conv2d> {
    vec![
        plain(1, [1, 1], [1, 1], [1, 1]),
        // One pixel more than a tile.
        plain(3, [1, 43], [1, 4], [1, 1]),
        // One channel more than the tiles on either side.
        plain(1, [1, 2], [129, 3], [1, 1]),
        plain(1, [1, 2], [3, 129], [1, 1]),
        // A stem: three channels, stride 2; the last leaf is ragged.
        Conv2d { stride: [2, 2], padding: [3, 3], ..plain(17, [5, 4], [3, 12], [7, 7]) },
        // Groups, different strides, paddings and dilations.
        Conv2d { stride: [2, 3], padding: [2, 1], dilation: [2, 1], groups: 2, ..plain(2, [7, 9], [4, 8], [3, 2]) },
        // A stride beyond the kernel: pixels that no output reads.
        Conv2d { stride: [1, 3], groups: 2, ..plain(2, [2, 8], [2, 2], [1, 2]) },
        // Two chunks, cut inside a tap; the first and the last output row have terms in one of them only.
        Conv2d { padding: [4, 2], ..plain(3, [1, 2], [20, 2], [5, 6]) },
        // The same for the input gradient.
        plain(1, [5, 6], [2, 20], [5, 6]),
        // The same for the weight gradient.
        Conv2d { padding: [22, 12], dilation: [20, 1], ..plain(1, [1, 1], [2, 2], [2, 1]) },
        // A stride beyond the image: phases without pixels.
        Conv2d { stride: [2, 2], ..plain(1, [1, 1], [1, 1], [1, 1]) },
        // One whole step; one whole chunk, of each kernel's positions.
        plain(1, [1, 8], [8, 8], [1, 1]),
        plain(1, [1, 1], [512, 1], [1, 1]),
        plain(1, [1, 1], [1, 512], [1, 1]),
        plain(16, [4, 8], [1, 1], [1, 1]),
    ]
}

/// What every depthwise kernel is tried with.
fn depthwise_shapes() -> Vec<Conv2d> {
    let of_groups = |groups, shape| Conv2d { groups, ..shape };
    vec![
        of_groups(1, plain(1, [1, 1], [1, 1], [1, 1])),
        // The last leaf and the last warp's channels are ragged.
        of_groups(33, Conv2d { padding: [1, 1], ..plain(17, [3, 2], [33, 33], [3, 3]) }),
        // Two outputs per channel; strides, dilations.
        Conv2d { stride: [2, 3], padding: [1, 2], dilation: [2, 1], ..of_groups(3, plain(2, [6, 7], [3, 6], [3, 2])) },
        // A tap that lies before the image.
        Conv2d { stride: [3, 3], padding: [1, 0], ..of_groups(2, plain(1, [2, 4], [2, 2], [3, 3])) },
        // More than a round of chunks in a leaf, some without terms.
        Conv2d { padding: [22, 85], dilation: [20, 1], ..plain(1, [1, 1], [1, 1], [2, 1]) },
        // Two chunks of taps; the first and the last output row have terms in one of them only.
        Conv2d { padding: [22, 11], ..of_groups(2, plain(1, [1, 1], [2, 2], [23, 23])) },
    ]
}

/// Numbers with infinities and NaN among them: a padded tap that were multiplied by 0 would show.
pub(super) fn spiked(n: usize, seed: u64) -> Vec<f32> {
    let mut x = noise(n, seed);
    for (i, special) in [f32::INFINITY, -0.0, f32::NAN, 1e-42].into_iter().enumerate() {
        if let Some(x) = x.get_mut(31 * i + 13) {
            *x = special;
        }
    }
    x
}

/// The leaves' gradients, one after the other.
pub(super) fn leaf_gradients(shape: &Conv2d, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let (of_x, of_dy) = (x.len() / shape.n, dy.len() / shape.n);
    let leaf =
        |(x, dy): (&[f32], &[f32])| reference::conv2d_weight_grad(&Conv2d { n: x.len() / of_x, ..*shape }, x, dy);
    x.chunks(LEAF * of_x).zip(dy.chunks(LEAF * of_dy)).flat_map(leaf).collect()
}

macro_rules! cases {
    ($(
        $cases:ident $kernel:ident($first:ident, $second:ident) $result:ident = $reference:path,
        $shapes:ident [$($groups:ident)?];
    )+) => {$(
        pub(super) fn $cases() -> Vec<Case> {
            let case = |shape: Conv2d| {
                let x = shape.n * shape.h * shape.w * shape.c;
                let weight = shape.kh * shape.kw * shape.group_c() * shape.c_out;
                let dy = shape.n * shape.oh() * shape.ow() * shape.c_out;
                // Named as the kernel names its operands.
                let lengths = |name| match name {
                    "x" => x,
                    "weight" => weight,
                    _ => dy,
                };
                let $first = spiked(lengths(stringify!($first)), 1);
                let $second = noise(lengths(stringify!($second)), 2);
                let $result = exactly($reference(&shape, &$first, &$second));
                let name = format!("{shape:?}");
                let Conv2d { n, h, w, c, c_out, kh, kw, stride, padding, dilation, .. } = shape;
                let (oh, ow) = (shape.oh() as u32, shape.ow() as u32);
                let [n, h, w, c, c_out, kh, kw] = [n, h, w, c, c_out, kh, kw].map(|n| n as u32);
                let [[stride_h, stride_w], [pad_h, pad_w], [dil_h, dil_w]] =
                    [stride, padding, dilation].map(|pair| pair.map(|n| n as u32));
                $kernel::TestCase {
                    $first, $second, $result, n, h, w, c, oh, ow, c_out, kh, kw, stride_h, stride_w, pad_h, pad_w,
                    dil_h, dil_w, $($groups: shape.groups as u32,)?
                }
                .named(name)
            };
            $shapes().into_iter().map(case).collect()
        }
    )+};
}

cases! {
    conv2d_cases conv2d(x, weight) y = reference::conv2d, shapes [groups];
    conv2d_narrow_cases conv2d_narrow(x, weight) y = reference::conv2d, shapes [groups];
    conv2d_small_cases conv2d_small(x, weight) y = reference::conv2d, shapes [groups];
    conv2d_input_grad_cases conv2d_input_grad(dy, weight) dx = reference::conv2d_input_grad, shapes [groups];
    conv2d_input_grad_narrow_cases conv2d_input_grad_narrow(dy, weight) dx = reference::conv2d_input_grad, shapes [groups];
    conv2d_input_grad_small_cases conv2d_input_grad_small(dy, weight) dx = reference::conv2d_input_grad, shapes [groups];
    conv2d_weight_grad_leaves_cases conv2d_weight_grad_leaves(x, dy) dw = leaf_gradients, shapes [groups];
    conv2d_weight_grad_leaves_narrow_cases conv2d_weight_grad_leaves_narrow(x, dy) dw = leaf_gradients, shapes [groups];
    conv2d_weight_grad_leaves_small_cases conv2d_weight_grad_leaves_small(x, dy) dw = leaf_gradients, shapes [groups];
    depthwise_conv2d_cases depthwise_conv2d(x, weight) y = reference::conv2d, depthwise_shapes [];
    depthwise_conv2d_input_grad_cases depthwise_conv2d_input_grad(dy, weight) dx = reference::conv2d_input_grad, depthwise_shapes [];
    depthwise_conv2d_weight_grad_leaves_cases depthwise_conv2d_weight_grad_leaves(x, dy) dw = leaf_gradients, depthwise_shapes [];
}
