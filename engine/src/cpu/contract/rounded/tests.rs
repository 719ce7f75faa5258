//! The sums of `contract_bf16` over gathered numbers, and equal bits on every instruction set and for every cut.

use super::super::tests::{check, plain_context};
use super::super::{Context, ConvShape};
use super::*;
use crate::order::LEAF;
use crate::rows::dyadic_blocks;
use proptest::prelude::*;
use selfsame_kernels::reference::contract_bf16;

/// Numbers from -1 to 1, with zeros and subnormal ones.
fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let number = |i: u32| {
        let mixed = (i.wrapping_mul(2_654_435_761) ^ seed).wrapping_mul(0x85eb_ca6b);
        match mixed % 61 {
            0 => 0.0,
            1 => -1e-39,
            _ => mixed as f32 / (1u64 << 31) as f32 - 1.0,
        }
    };
    (0..len as u32).map(number).collect()
}

fn to_bf16(numbers: &[f32]) -> Vec<u16> {
    numbers.iter().map(|x| bf16_bits_of_f32(*x)).collect()
}

/// The offset in x that tap `[ky, kx]` of output `[y, x]` of an image reads.
fn read_by(shape: &ConvShape, image: usize, output: [usize; 2], tap: [usize; 2]) -> Option<usize> {
    let size = [shape.h, shape.w];
    let mut at = [0; 2];
    for axis in 0..2 {
        let padded = output[axis] * shape.stride[axis] + tap[axis] * shape.dilation[axis];
        at[axis] = padded.checked_sub(shape.padding[axis]).filter(|i| *i < size[axis])?;
    }
    Some(((image * shape.h + at[0]) * shape.w + at[1]) * shape.c)
}

/// Every (image, output, tap, input) of a convolution, padding left out.
fn for_each_tap(shape: &ConvShape, mut visit: impl FnMut(usize, usize, usize)) {
    let [out_h, out_w] = shape.out_size();
    for row in 0..shape.n * out_h * out_w {
        let output = [row / out_w % out_h, row % out_w];
        for tap in 0..shape.kernel[0] * shape.kernel[1] {
            let tap_of = [tap / shape.kernel[1], tap % shape.kernel[1]];
            if let Some(at) = read_by(shape, row / (out_h * out_w), output, tap_of) {
                visit(row, tap, at);
            }
        }
    }
}

/// Forward, input gradient and the leaves of the weight gradient by products of gathered matrices.
fn expected(shape: &ConvShape, [x, weight, dy]: [&[f32]; 3]) -> (Vec<f32>, Vec<f32>, Vec<Vec<f32>>) {
    let [x, weight, dy] = [x, weight, dy].map(to_bf16);
    let (taps, groups) = (shape.kernel[0] * shape.kernel[1], shape.groups);
    let (c, c_out) = (shape.c / groups, shape.c_out / groups);
    let rows_per_image: usize = shape.out_size().iter().product();
    let (outputs, inputs) = (shape.n * rows_per_image, shape.n * shape.h * shape.w);
    let mut y = vec![0.0; shape.y_len()];
    let mut dx = vec![0.0; shape.x_len()];
    let mut leaves = vec![vec![0.0; shape.weight_len()]; shape.n.div_ceil(LEAF)];
    for group in 0..groups {
        let mut gathered = vec![0u16; outputs * taps * c];
        let mut scattered = vec![0u16; inputs * taps * c_out];
        for_each_tap(shape, |row, tap, at| {
            gathered[(row * taps + tap) * c..][..c].copy_from_slice(&x[at + group * c..][..c]);
            let from = &dy[row * shape.c_out + group * c_out..][..c_out];
            scattered[(at / shape.c * taps + tap) * c_out..][..c_out].copy_from_slice(from);
        });
        let part = |tap: usize, i: usize, j: usize| weight[(tap * c + i) * shape.c_out + group * c_out + j];
        let by_input: Vec<u16> =
            (0..taps * c * c_out).map(|at| part(at / c_out / c, at / c_out % c, at % c_out)).collect();
        let by_output: Vec<u16> =
            (0..taps * c * c_out).map(|at| part(at / c / c_out, at % c, at / c % c_out)).collect();
        for (row, sums) in contract_bf16([outputs, c_out, taps * c], &[&gathered], &by_input).chunks(c_out).enumerate()
        {
            y[row * shape.c_out + group * c_out..][..c_out].copy_from_slice(sums);
        }
        for (row, sums) in contract_bf16([inputs, c, taps * c_out], &[&scattered], &by_output).chunks(c).enumerate() {
            dx[row * shape.c + group * c..][..c].copy_from_slice(sums);
        }
        for (leaf, sums) in leaves.iter_mut().enumerate() {
            let rows = leaf * LEAF * rows_per_image..shape.n.min((leaf + 1) * LEAF) * rows_per_image;
            let k = rows.len();
            let transposed: Vec<u16> =
                (0..taps * c * k).map(|at| gathered[(rows.start + at % k) * taps * c + at / k]).collect();
            let of_group: Vec<u16> = (0..k * c_out)
                .map(|at| dy[(rows.start + at / c_out) * shape.c_out + group * c_out + at % c_out])
                .collect();
            for (row, part) in contract_bf16([taps * c, c_out, k], &[&transposed], &of_group).chunks(c_out).enumerate()
            {
                sums[row * shape.c_out + group * c_out..][..c_out].copy_from_slice(part);
            }
        }
    }
    (y, dx, leaves)
}

/// The sum over leaves of a node of the tree.
fn tree(leaves: &[Vec<f32>]) -> Vec<f32> {
    if leaves.len() == 1 {
        return leaves[0].clone();
    }
    let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
    tree(left).iter().zip(tree(right)).map(|(a, b)| a + b).collect()
}

fn nodes(cx: &Context<'_>, shape: &ConvShape, first_leaf: usize, x: &[f32], dy: &[f32]) -> Vec<Vec<f32>> {
    let blocks = dyadic_blocks(first_leaf, shape.n.div_ceil(LEAF));
    let mut nodes = vec![vec![f32::NAN; shape.weight_len()]; blocks.len()];
    let mut slots: Vec<&mut [f32]> = nodes.iter_mut().map(|node| &mut node[..]).collect();
    conv2d_weight_grad(cx, shape, first_leaf, x, dy, &mut slots);
    nodes
}

fn assert_sums(shape: &ConvShape, seed: u32) {
    let [x, weight, dy] = [shape.x_len(), shape.weight_len(), shape.y_len()].map(|len| numbers(len, seed ^ len as u32));
    let forward = |cx: &Context<'_>| {
        let mut y = vec![f32::NAN; shape.y_len()];
        conv2d(cx, shape, &x, &weight, &mut y);
        y
    };
    let backward = |cx: &Context<'_>| {
        let mut dx = vec![f32::NAN; shape.x_len()];
        conv2d_input_grad(cx, shape, &dy, &weight, &mut dx);
        dx
    };
    let of_weight = |cx: &Context<'_>| nodes(cx, shape, 0, &x, &dy).concat();
    let (y, dx, dw) = plain_context(|cx| (forward(cx), backward(cx), of_weight(cx)));
    check(&y, forward);
    check(&dx, backward);
    check(&dw, of_weight);
    // A block of zeros that is left out may leave the sign of a zero: so values are compared, not bits.
    let (expected_y, expected_dx, leaves) = expected(shape, [&x, &weight, &dy]);
    assert!(y == expected_y, "forward of {shape:?}");
    assert!(dx == expected_dx, "input gradient of {shape:?}");
    let blocks = dyadic_blocks(0, leaves.len());
    let sums: Vec<f32> = blocks.iter().flat_map(|&(first, level)| tree(&leaves[first..first + (1 << level)])).collect();
    assert!(dw == sums, "weight gradient of {shape:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn all_directions_are_products_of_gathered_numbers(
        n in 1usize..20, h in 1usize..8, w in 1usize..8, kernel in 1usize..4, stride in 1usize..3,
        padding in 0usize..3, dilation in 1usize..3, groups in 1usize..3,
        c in prop_oneof![1usize..7, Just(32usize), Just(36usize)], k in prop_oneof![1usize..7, Just(33usize)],
        seed in any::<u32>(),
    ) {
        let shape = ConvShape {
            n, h, w, c: c * groups, c_out: k * groups, kernel: [kernel, kernel.min(2)], stride: [stride; 2],
            padding: [padding; 2], dilation: [dilation; 2], groups,
        };
        prop_assume!(!shape.out_size().contains(&0));
        assert_sums(&shape, seed);
    }
}

/// Images by 3 x 3 taps, the results of their size.
fn of_one_size(n: usize, [h, w]: [usize; 2], [c, c_out]: [usize; 2]) -> ConvShape {
    let (kernel, one) = ([3, 3], [1, 1]);
    ConvShape { n, h, w, c, c_out, kernel, stride: one, padding: one, dilation: one, groups: 1 }
}

/// Several chunks of positions and blocks of columns; leaves of several chunks; more tiles than a task has.
#[test]
fn large_shapes_are_products_of_gathered_numbers() {
    for (n, size, channels) in [(2, 5, [128, 70]), (18, 12, [4, 40]), (1, 3, [160, 160])] {
        assert_sums(&of_one_size(n, [size; 2], channels), 11);
    }
}

/// Six leaves and a bit, in one micro-batch and in two.
#[test]
fn the_tree_of_a_weight_gradient_does_not_depend_on_the_cut() {
    let images = |n| of_one_size(n, [5, 7], [16; 2]);
    let (all, first) = (images(6 * LEAF + 3), images(4 * LEAF));
    let rest = images(all.n - first.n);
    let (x, dy) = (numbers(all.x_len(), 1), numbers(all.y_len(), 2));
    let whole = plain_context(|cx| nodes(cx, &all, 0, &x, &dy));
    let mut cut = plain_context(|cx| nodes(cx, &first, 0, &x[..first.x_len()], &dy[..first.y_len()]));
    cut.extend(plain_context(|cx| nodes(cx, &rest, 4, &x[first.x_len()..], &dy[first.y_len()..])));
    assert_eq!(whole, cut, "leaves 0 to 3, 4 and 5, 6");
    assert_eq!(whole.len(), 3);
}
