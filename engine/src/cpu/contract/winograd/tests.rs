//! Nearness to the sums that are approximated, and equal bits on every instruction set and for every cut.

use super::super::tests::{check, plain_context};
use super::super::{self as contract, Context, conv};
use super::*;
use crate::order::LEAF;
use crate::rows::dyadic_blocks;
use proptest::prelude::*;

/// What the largest error of a result is at most, as a share of the largest sum of the absolute products that one of its
/// elements is made of.
const BOUND: f64 = 1e-5;

/// Numbers from -1 to 1.
fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let number = |i: u32| (i.wrapping_mul(2_654_435_761) ^ seed).wrapping_mul(0x85eb_ca6b) as f32 / (1u64 << 31) as f32;
    (0..len as u32).map(|i| number(i) - 1.0).collect()
}

/// The largest error of `got`, as a share of the largest of the same sums over absolute values; `direct` sums in f64.
fn largest_error(got: &[f32], [a, b]: [&[f32]; 2], direct: impl Fn(&[f64], &[f64], &mut [f64])) -> f64 {
    let sums = |change: fn(f64) -> f64| {
        let [a, b] = [a, b].map(|values| values.iter().map(|v| change(f64::from(*v))).collect::<Vec<_>>());
        let mut sums = vec![0.0; got.len()];
        direct(&a, &b, &mut sums);
        sums
    };
    let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    let error = largest(&mut got.iter().zip(sums(|v| v)).map(|(got, exact)| (f64::from(*got) - exact).abs()));
    error / largest(&mut sums(f64::abs).into_iter())
}

fn shape(n: usize, [h, w]: [usize; 2], [c, c_out]: [usize; 2], padding: [usize; 2]) -> ConvShape {
    ConvShape { n, h, w, c, c_out, kernel: [3, 3], stride: [1, 1], padding, dilation: [1, 1], groups: 1 }
}

/// The largest errors of forward, input gradient and weight gradient, whose bits are the same on every instruction set
/// and number of threads, and for every cut of the batch.
fn errors(shape: &ConvShape, seed: u32) -> [f64; 3] {
    assert!(fits(shape));
    let [x, weight, dy] = [shape.x_len(), shape.weight_len(), shape.y_len()].map(|len| numbers(len, seed ^ len as u32));
    let forward = |cx: &Context<'_>| {
        let mut y = vec![0.0; shape.y_len()];
        conv2d(cx, shape, &x, &weight, &mut y);
        y
    };
    let backward = |cx: &Context<'_>| {
        let mut dx = vec![0.0; shape.x_len()];
        conv2d_input_grad(cx, shape, &dy, &weight, &mut dx);
        dx
    };
    let of_weight = |cx: &Context<'_>| {
        let mut dw = vec![0.0; shape.weight_len()];
        conv2d_weight_grad(cx, shape, 0, &x, &dy, &mut [&mut dw]);
        dw
    };
    let (y, dx, dw) = plain_context(|cx| (forward(cx), backward(cx), of_weight(cx)));
    check(&y, forward);
    check(&dx, backward);
    check(&dw, of_weight);
    plain_context(|cx| {
        [
            largest_error(&y, [&x, &weight], |x, weight, y| conv::conv2d(cx, shape, x, weight, y)),
            largest_error(&dx, [&dy, &weight], |dy, weight, dx| conv::conv2d_input_grad(cx, shape, dy, weight, dx)),
            largest_error(&dw, [&x, &dy], |x, dy, dw| contract::conv2d_weight_grad(cx, shape, 0, x, dy, &mut [dw])),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn both_directions_are_near_the_direct_sums(
        n in 1usize..4, h in 1usize..11, w in 1usize..11, c in 1usize..4, k in 1usize..4,
        padding_h in 0usize..3, padding_w in 0usize..3, seed in any::<u32>(),
    ) {
        let shape = shape(n, [h.max(3 - padding_h), w.max(3 - padding_w)], [16 * c, 16 * k], [padding_h, padding_w]);
        for error in errors(&shape, seed) {
            prop_assert!(error <= BOUND, "{error:.1e} of {shape:?}");
        }
    }
}

/// Many channels and tiles: rows of several components, more strips and tasks than one, a leaf in parts.
#[test]
fn large_shapes_are_near_the_direct_sums() {
    for (n, size, channels) in [(1, 4, [512, 64]), (32, 8, [64, 16]), (20, 20, [16, 48])] {
        let shape = shape(n, [size; 2], channels, [1, 1]);
        let found = errors(&shape, 7);
        assert!(found.iter().all(|error| (1e-9..=BOUND).contains(error)), "{found:?} of {shape:?}");
    }
}

/// Six leaves and a bit, in one micro-batch and in two.
#[test]
fn the_tree_of_a_weight_gradient_does_not_depend_on_the_cut() {
    let images = |n| shape(n, [5, 7], [16, 16], [1, 1]);
    let (all, first) = (images(6 * LEAF + 3), images(4 * LEAF));
    let (x, dy) = (numbers(all.x_len(), 1), numbers(all.y_len(), 2));
    let nodes = |shape: &ConvShape, first_leaf, x: &[f32], dy: &[f32]| {
        let blocks = dyadic_blocks(first_leaf, shape.n.div_ceil(LEAF));
        let mut nodes = vec![vec![0.0; shape.weight_len()]; blocks.len()];
        let mut slots: Vec<&mut [f32]> = nodes.iter_mut().map(|node| &mut node[..]).collect();
        plain_context(|cx| conv2d_weight_grad(cx, shape, first_leaf, x, dy, &mut slots));
        nodes
    };
    let whole = nodes(&all, 0, &x, &dy);
    let rest = images(all.n - first.n);
    let mut cut = nodes(&first, 0, &x[..first.x_len()], &dy[..first.y_len()]);
    cut.extend(nodes(&rest, 4, &x[first.x_len()..], &dy[first.y_len()..]));
    assert_eq!(whole, cut, "leaves 0 to 3, 4 and 5, 6");
    assert_eq!(whole.len(), 3);
}

#[test]
fn other_shapes_do_not_fit() {
    let good = shape(1, [8, 8], [16, 32], [1, 1]);
    assert!(fits(&good));
    for bad in [
        ConvShape { kernel: [1, 3], ..good },
        ConvShape { stride: [2, 1], ..good },
        ConvShape { dilation: [1, 2], ..good },
        ConvShape { groups: 2, ..good },
        ConvShape { padding: [3, 1], ..good },
        ConvShape { c: 24, ..good },
        ConvShape { c_out: 1024, ..good },
    ] {
        assert!(!fits(&bad), "{bad:?}");
    }
}
