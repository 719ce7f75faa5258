//! Bit-equality with the scalar definition, over shapes, instruction sets and threads.

use super::driver::tiles;
use super::left::{Class, Tile};
use super::*;
use crate::order::LEAF;
use crate::rows::dyadic_blocks;
use proptest::prelude::*;
use selfsame_kernels::reference::{self, Samples};

pub(super) trait Scalar: Real + selfsame_kernels::math::Real {
    fn of(x: f64) -> Self;
    /// Equal for equal values; all NaNs are one value.
    fn bits(self) -> u64;
}

macro_rules! scalar {
    ($t:ty) => {
        impl Scalar for $t {
            fn of(x: f64) -> Self {
                x as $t
            }
            fn bits(self) -> u64 {
                if self.is_nan() { u64::MAX } else { u64::from(self.to_bits()) }
            }
        }
    };
}
scalar!(f32);
scalar!(f64);

fn bits<T: Scalar>(values: &[T]) -> Vec<u64> {
    values.iter().map(|v| v.bits()).collect()
}

/// Reproducible values of mixed size and sign, with zeros of both signs, subnormals and (rarely) infinities.
fn values<T: Scalar>(n: usize, seed: u64) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let draw = state >> 40;
            match draw % 4096 {
                0 => T::of(f64::INFINITY),
                1..128 => T::of(0.0),
                128..256 => T::of(-0.0),
                256..300 => T::of(-1e-40),
                _ => T::of((draw as f64 / f64::from(1 << 23) - 1.0) * f64::from(1 << (state & 7))),
            }
        })
        .collect()
}

/// Runs `run` on one thread of the fastest instruction set.
pub(super) fn plain_context<R>(run: impl FnOnce(&Context<'_>) -> R) -> R {
    run(&Context { workers: None, isa: Isa::detect(), scratch: &Scratch::default() })
}

/// Runs `run` on every instruction set and on 1, 2 and 3 threads, and compares its result with `expected`.
pub(super) fn check<T: Scalar>(expected: &[T], run: impl Fn(&Context<'_>) -> Vec<T>) {
    let expected = bits(expected);
    for isa in Isa::available() {
        for threads in [1, 2, 3] {
            let (workers, scratch) = (Workers::new(threads, Default::default()).unwrap(), Scratch::default());
            // What the last user left behind must not matter.
            let stale = if cfg!(miri) { 1 << 13 } else { 1 << 16 };
            let mut used: Vec<_> = (0..8).map(|_| scratch.lease::<T>(stale)).collect();
            used.iter_mut().for_each(|lease| lease.fill(T::of(f64::NAN)));
            drop(used);
            let result = run(&Context { workers: Some(&workers), isa, scratch: &scratch });
            assert!(bits(&result) == expected, "{isa}, {threads} threads");
        }
    }
}

fn check_matmul<T: Scalar>(batch: usize, [m, k, n]: [usize; 3], [a_t, b_t]: [bool; 2], seed: u64) {
    let (a, b) = (values::<T>(batch * m * k, seed), values::<T>(batch * k * n, !seed));
    let matrix = |data, rows: usize, cols: usize, is_transposed| {
        let (row_stride, col_stride) = if is_transposed { (1, rows) } else { (cols, 1) };
        Matrix { data, rows, cols, row_stride, col_stride, batch_stride: rows * cols }
    };
    let (a, b) = (matrix(&a, m, k, a_t), matrix(&b, k, n, b_t));
    let contiguous = |m: &Matrix<'_, T>, i: usize| -> Vec<T> {
        let at = |r: usize, c: usize| m.data[i * m.batch_stride + r * m.row_stride + c * m.col_stride];
        (0..m.rows * m.cols).map(|rc| at(rc / m.cols, rc % m.cols)).collect()
    };
    let expected: Vec<T> =
        (0..batch).flat_map(|i| reference::contract(m, n, k, &contiguous(&a, i), &contiguous(&b, i))).collect();
    check(&expected, |cx| {
        let mut c = vec![T::of(f64::NAN); batch * m * n];
        matmul(cx, batch, &a, &b, None, &mut c);
        c
    });
}

fn reference_shape(shape: &ConvShape) -> reference::Conv2d {
    let &ConvShape { n, h, w, c, c_out, kernel: [kh, kw], stride, padding, dilation, groups } = shape;
    reference::Conv2d { n, h, w, c, c_out, kh, kw, stride, padding, dilation, groups }
}

fn check_conv<T: Scalar>(shape: &ConvShape, seed: u64) {
    let (x, w) = (values::<T>(shape.x_len(), seed), values::<T>(shape.weight_len(), seed ^ 0x5555));
    let dy = values::<T>(shape.y_len(), !seed);
    check(&reference::conv2d(&reference_shape(shape), &x, &w), |cx| {
        let mut y = vec![T::of(f64::NAN); shape.y_len()];
        conv2d(cx, shape, &x, &w, &mut y);
        y
    });
    check(&reference::conv2d_input_grad(&reference_shape(shape), &dy, &w), |cx| {
        let mut dx = vec![T::of(f64::NAN); shape.x_len()];
        conv2d_input_grad(cx, shape, &dy, &w, &mut dx);
        dx
    });
}

/// For each block of leaves: its images, of `images` from leaf `first_leaf` on. A block is the tree of its images.
fn images_of_blocks(first_leaf: usize, images: usize) -> Vec<std::ops::Range<usize>> {
    let image = |leaf: usize| images.min((leaf - first_leaf) * LEAF);
    let blocks = dyadic_blocks(first_leaf, images.div_ceil(LEAF));
    blocks.into_iter().map(|(first, level)| image(first)..image(first + (1 << level))).collect()
}

fn check_weight_grad<T: Scalar>(shape: &ConvShape, first_leaf: usize, seed: u64) {
    let (x, dy) = (values::<T>(shape.x_len(), seed), values::<T>(shape.y_len(), !seed));
    let (x_image, y_image) = (x.len() / shape.n, dy.len() / shape.n);
    let blocks = images_of_blocks(first_leaf, shape.n);
    let expected: Vec<T> = blocks
        .iter()
        .flat_map(|block| {
            let shape = ConvShape { n: block.len(), ..*shape };
            let x = &x[block.start * x_image..block.end * x_image];
            let dy = &dy[block.start * y_image..block.end * y_image];
            reference::conv2d_weight_grad(&reference_shape(&shape), x, dy)
        })
        .collect();
    check(&expected, |cx| {
        let mut all = vec![T::of(f64::NAN); expected.len()];
        let mut nodes: Vec<&mut [T]> = all.chunks_exact_mut(shape.weight_len()).collect();
        conv2d_weight_grad(cx, shape, first_leaf, &x, &dy, &mut nodes);
        all
    });
}

fn conv_shapes(images: impl Strategy<Value = usize>) -> impl Strategy<Value = ConvShape> {
    let pair = |range: std::ops::Range<usize>| (range.clone(), range).prop_map(|(a, b)| [a, b]);
    let channels = (1usize..4, 1usize..20, 1usize..40).prop_map(|(g, c, c_out)| (g, g * c, g * c_out));
    (images, pair(1..10), channels, pair(1..5), pair(1..4), pair(0..4), pair(1..3))
        .prop_map(|(n, [h, w], (groups, c, c_out), kernel, stride, padding, dilation)| ConvShape {
            n,
            h,
            w,
            c,
            c_out,
            kernel,
            stride,
            padding,
            dilation,
            groups,
        })
        .prop_filter("the kernel fits", |shape| !shape.out_size().contains(&0))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn matmul_is_the_canonical_contraction(
        batch in 1usize..4,
        m in 1usize..40,
        k in prop_oneof![Just(0usize), Just(1), Just(511), Just(512), Just(513), Just(1025), 2..100usize],
        n in 1usize..70,
        transposed in any::<[bool; 2]>(),
        seed in any::<u64>(),
    ) {
        check_matmul::<f32>(batch, [m, k, n], transposed, seed);
        check_matmul::<f64>(batch, [m, k, n], transposed, seed);
    }

    #[test]
    fn slices_have_every_row_once_and_equal_shares(
        rows in proptest::collection::vec(1usize..300, 1..10), max_rows in 1usize..15, slices in 1usize..9,
    ) {
        let classes: Vec<Class> = rows.iter().map(|&rows| Class { rows, pieces: vec![] }).collect();
        let slices: Vec<Vec<Tile>> = (0..slices).map(|slice| tiles(&classes, max_rows, [slice, slices])).collect();
        for (class, rows) in rows.into_iter().enumerate() {
            let of_class = |slice: &Vec<Tile>| slice.iter().copied().filter(|tile| tile.class == class).collect::<Vec<_>>();
            let counts: Vec<usize> = slices.iter().map(|slice| of_class(slice).len()).collect();
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
            let mut next = 0;
            for tile in slices.iter().flat_map(of_class) {
                prop_assert!(tile.first == next && (1..=max_rows).contains(&tile.rows));
                next += tile.rows;
            }
            prop_assert_eq!(next, rows);
        }
    }

    #[test]
    fn conv2d_and_its_input_gradient_are_canonical_contractions(shape in conv_shapes(1..3usize), seed in any::<u64>()) {
        check_conv::<f32>(&shape, seed);
        check_conv::<f64>(&shape, seed);
    }

    #[test]
    fn conv2d_weight_gradient_is_the_sample_tree(
        shape in conv_shapes(1..70usize),
        first_leaf in 0usize..6,
        seed in any::<u64>(),
    ) {
        let small = ConvShape { c: shape.groups * 2, c_out: shape.groups * 3, ..shape };
        check_weight_grad::<f32>(&small, first_leaf, seed);
        check_weight_grad::<f64>(&small, first_leaf, seed);
    }
}

/// Ragged tiles, batches and two leaves, small enough for Miri.
#[test]
fn small_contractions_are_canonical() {
    check_matmul::<f32>(2, [7, 5, 9], [true, false], 1);
    let shape = ConvShape {
        n: 17,
        h: 2,
        w: 2,
        c: 2,
        c_out: 4,
        kernel: [2, 1],
        stride: [1, 1],
        padding: [1, 0],
        dilation: [1, 1],
        groups: 2,
    };
    check_conv::<f32>(&ConvShape { n: 2, ..shape }, 2);
    check_weight_grad::<f64>(&shape, 1, 3);
}

/// Many tiles in every direction, and several chunks: channels and rows cross the tile and chunk sizes.
#[test]
fn wide_convolutions_are_canonical() {
    let shape = ConvShape {
        n: 17,
        h: 6,
        w: 7,
        c: 70,
        c_out: 36,
        kernel: [3, 3],
        stride: [1, 1],
        padding: [1, 1],
        dilation: [1, 1],
        groups: 1,
    };
    check_conv::<f32>(&ConvShape { n: 2, ..shape }, 1);
    check_weight_grad::<f32>(&ConvShape { c_out: 18, ..shape }, 0, 2);
    check_conv::<f32>(&ConvShape { n: 2, c: 36, c_out: 70, stride: [2, 2], ..shape }, 3);
}

/// Weight gradients of few channels, whose taps are summed line by line; whole vectors of output channels.
#[test]
fn lines_of_taps_are_summed_like_single_ones() {
    let stem = ConvShape {
        n: 3,
        h: 20,
        w: 40,
        c: 3,
        c_out: 32,
        kernel: [7, 7],
        stride: [2, 2],
        padding: [3, 3],
        dilation: [1, 1],
        groups: 1,
    };
    check_weight_grad::<f32>(&stem, 0, 9);
    check_weight_grad::<f64>(&ConvShape { kernel: [3, 3], stride: [1, 1], padding: [1, 1], ..stem }, 0, 10);
    // No tap of a line is real everywhere.
    check_weight_grad::<f32>(&ConvShape { h: 3, w: 3, n: 40, stride: [1, 1], ..stem }, 1, 11);
}

/// More padding than a chunk has rows: whole chunks, the first among them, without a real row or tap.
#[test]
fn chunks_in_the_padding_contribute_nothing() {
    let shape = ConvShape {
        n: 3,
        h: 3,
        w: 30,
        c: 5,
        c_out: 4,
        kernel: [2, 1],
        stride: [1, 1],
        padding: [20, 0],
        dilation: [1, 1],
        groups: 1,
    };
    check_weight_grad::<f32>(&shape, 0, 7);
    // Seven taps of 300 channels over two pixels: most chunks of an output lie wholly in the padding.
    let tall = ConvShape { h: 2, w: 2, c: 300, kernel: [7, 1], padding: [5, 0], ..shape };
    check_conv::<f32>(&tall, 8);
}

#[test]
fn linear_weight_gradient_is_the_sample_tree() {
    let [images, rows, k, n] = [83, 5, 9, 34];
    let (x, dy) = (values::<f32>(images * rows * k, 5), values::<f32>(images * rows * n, 6));
    let expected: Vec<f32> = images_of_blocks(2, images)
        .into_iter()
        .flat_map(|block| {
            let samples = Samples { images: block.len(), rows_per_image: rows };
            let (x, dy) = (&x[block.start * rows * k..], &dy[block.start * rows * n..]);
            reference::linear_weight_grad(samples, k, n, x, dy)
        })
        .collect();
    check(&expected, |cx| {
        let mut all = vec![f32::NAN; expected.len()];
        let mut nodes: Vec<&mut [f32]> = all.chunks_exact_mut(k * n).collect();
        conv2d_weight_grad(cx, &ConvShape::pointwise([images, rows], [k, n]), 2, &x, &dy, &mut nodes);
        all
    });
}
