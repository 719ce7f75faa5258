//! The f32 matrix product in canonical order, and the weight gradient of a linear layer, which is one per leaf of the
//! sample tree.
//!
//! The tile and the order of its sums are `tile`'s. Operands are read through strides; lanes run along
//! whichever axis of an operand is the contiguous one.

#[cfg(not(target_arch = "nvptx64"))]
use self::cases::*;
use super::tile::{Share, Stage, Sums, THREADS, Tiles, edge};
#[cfg(not(target_arch = "nvptx64"))]
use super::tile::{product_reread, totals_bytes};
use crate::kernel;
use crate::order::{CHUNK, LEAF};
use crate::simt::*;

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] =
    &[&matmul::SPEC, &matmul_small::SPEC, &linear_weight_grad_leaves::SPEC, &linear_weight_grad_leaves_small::SPEC];

/// An operand as lines (rows of A, columns of B) of `k` positions each.
#[derive(Clone, Copy)]
struct Operand {
    data: In<f32>,
    /// Its first element.
    start: u32,
    lines: u32,
    line_stride: u32,
    k_stride: u32,
}

impl Operand {
    /// The share of it that this thread brings to a tile.
    #[inline(always)]
    fn share<const T: usize>(&self) -> Share {
        if self.k_stride < self.line_stride { Share::along_k() } else { Share::along_lines::<T>() }
    }

    /// Where the lines of this thread's share start, in the tile whose first line is `first`; lines past the end are
    /// the last one, whose products are not written.
    #[inline(always)]
    fn starts<const T: usize>(&self, share: &Share, first: u32) -> [u32; 4] {
        let mut starts = [0; 4];
        for (i, start) in starts.iter_mut().enumerate().take(T / 2) {
            let line = first + share.line + i as u32 * share.line_step;
            *start = self.start + line.min(self.lines - 1) * self.line_stride;
        }
        starts
    }

    /// The elements of this thread's share of the step at `at`; positions from `k` on repeat the last.
    #[inline(always)]
    fn load<const T: usize>(&self, share: &Share, starts: &[u32; 4], at: u32, k: u32) -> [f32; 4] {
        let mut elements = [0.0; 4];
        for i in 0..T / 2 {
            let position = (at + share.k + i as u32 * share.k_step).min(k - 1);
            elements[i] = self.data.get(starts[i] + position * self.k_stride);
        }
        elements
    }
}

/// A block's tile of C = A B, row-major from element `start` of `c` on; `tile` is its number, column tiles first.
#[inline(always)]
fn product<const M: usize, const N: usize>([a, b]: [Operand; 2], k: u32, tile: u32, (c, start): (Out<f32>, u32)) {
    let across = b.lines.div_ceil(edge::<N>());
    let (row, column) = (tile / across * edge::<M>(), tile % across * edge::<N>());
    let (a_share, b_share) = (a.share::<M>(), b.share::<N>());
    let (a_starts, b_starts) = (a.starts::<M>(&a_share, row), b.starts::<N>(&b_share, column));
    let tiles = Tiles::<M, N>::new(a_share, b_share, false);
    let totals = dynamic_shared::<f32>();
    let mut sums = Sums::new();
    for chunk in strided(0, k, CHUNK as u32) {
        if chunk > 0 {
            sums.close_chunk(totals);
        }
        tiles.multiply(&mut sums, chunk, k.min(chunk + CHUNK as u32), |at| Stage {
            left: a.load::<M>(&a_share, &a_starts, at, k),
            right: b.load::<N>(&b_share, &b_starts, at, k),
            real: [u32::MAX; 4],
        });
    }
    let place = |row: u32| start + row * b.lines;
    let aligned = b.lines.is_multiple_of(4);
    Tiles::<M, N>::write(sums.finish(totals), c, [row, a.lines], [column, b.lines], aligned, place);
}

macro_rules! products {
    ($($(#[doc = $doc:literal])+ $name:ident [$m:literal $n:literal] $cases:ident;)+) => { kernel! {$(
        $(#[doc = $doc])+
        $name(
            a: In<f32>[span(batch, a_batch, m, a_row, k, a_col)], b: In<f32>[span(batch, b_batch, k, b_row, n, b_col)],
            c: Out<f32>[batch * m * n], m: u32, n: u32, k: u32, a_row: u32, a_col: u32, b_row: u32, b_col: u32,
            a_batch: u32, b_batch: u32, batch: u32,
        )
        grid [batch * m.div_ceil(16 * $m) * n.div_ceil(16 * $n)] block [THREADS] shared [totals_bytes::<$m, $n>(k)]
        cost { flop: 2 * batch * m * n * k, reread: product_reread(batch * m * n, k, 16 * $m, 16 * $n) }
        cases $cases
        {
            let tiles = m.div_ceil(edge::<$m>()) * n.div_ceil(edge::<$n>());
            let (matrix, tile) = (block_idx().x / tiles, block_idx().x % tiles);
            let a = Operand { data: a, start: matrix * a_batch, lines: m, line_stride: a_row, k_stride: a_col };
            let b = Operand { data: b, start: matrix * b_batch, lines: n, line_stride: b_col, k_stride: b_row };
            product::<$m, $n>([a, b], k, tile, (c, matrix * m * n));
        }
    )+}};
}

products! {
    /// C = A B for `batch` pairs of matrices in tiles of 128 x 128. Element (i, p) of matrix b of A is
    /// `a[b a_batch + i a_row + p a_col]`, B likewise; C is `[batch, m, n]`, on 16 bytes.
    matmul [8 8] matmul_cases;
    /// As `matmul` in tiles of 64 x 64: for products of few tiles.
    matmul_small [4 4] matmul_small_cases;
}

macro_rules! weight_grads {
    ($($(#[doc = $doc:literal])+ $name:ident [$m:literal $n:literal] $cases:ident;)+) => { kernel! {$(
        $(#[doc = $doc])+
        $name(
            x: In<f32>[images * rows_per_image * k], dy: In<f32>[images * rows_per_image * n],
            dw: Out<f32>[leaves(images) * k * n], images: u32, rows_per_image: u32, k: u32, n: u32,
        )
        grid [leaves(images) * k.div_ceil(16 * $m) * n.div_ceil(16 * $n)] block [THREADS]
        shared [totals_bytes::<$m, $n>(rows_per_image * images.min(LEAF as u64))]
        cost {
            flop: 2 * images * rows_per_image * k * n,
            reread: product_reread(k * n, images * rows_per_image, 16 * $m, 16 * $n),
        }
        cases $cases
        {
            let tiles = k.div_ceil(edge::<$m>()) * n.div_ceil(edge::<$n>());
            let (leaf, tile) = (block_idx().x / tiles, block_idx().x % tiles);
            let first = leaf * LEAF as u32;
            let rows = (images - first).min(LEAF as u32) * rows_per_image;
            let start = first * rows_per_image;
            let x = Operand { data: x, start: start * k, lines: k, line_stride: 1, k_stride: k };
            let dy = Operand { data: dy, start: start * n, lines: n, line_stride: 1, k_stride: n };
            product::<$m, $n>([x, dy], rows, tile, (dw, leaf * k * n));
        }
    )+}};
}

weight_grads! {
    /// The weight gradient `[k, n]` of a linear layer from x `[images, rows_per_image, k]` and dy
    /// `[images, rows_per_image, n]`, one per leaf of 16 images, in tiles of 128 x 128. dw stands on 16 bytes.
    linear_weight_grad_leaves [8 8] weight_grad_cases;
    /// As `linear_weight_grad_leaves` in tiles of 64 x 64: for gradients of few tiles.
    linear_weight_grad_leaves_small [4 4] weight_grad_small_cases;
}

#[cfg(not(target_arch = "nvptx64"))]
mod cases {
    use super::*;
    use crate::case::{Case, exactly, noise};
    use crate::reference;
    use crate::reference::Samples;

    /// Elements up to the last one of `batch` matrices of `rows` x `cols`.
    pub(super) fn span(batch: u64, batch_stride: u64, rows: u64, row_stride: u64, cols: u64, col_stride: u64) -> u64 {
        if batch * rows * cols == 0 {
            return 0;
        }
        (batch - 1) * batch_stride + (rows - 1) * row_stride + (cols - 1) * col_stride + 1
    }

    /// Leaves of the sample tree.
    pub(super) fn leaves(images: u64) -> u64 {
        images.div_ceil(LEAF as u64)
    }

    /// Where the elements of `batch` matrices `rows` x `cols` lie: strides of rows, columns and matrices.
    type Strides = [usize; 3];

    /// Matrix `matrix` in row-major order.
    fn gathered(x: &[f32], matrix: usize, [rows, cols]: [usize; 2], [row, col, batch]: Strides) -> Vec<f32> {
        (0..rows * cols).map(|i| x[matrix * batch + i / cols * row + i % cols * col]).collect()
    }

    /// (batch, m, k, n), strides of A and B, and what is special.
    type Product = ([usize; 4], Strides, Strides, &'static str);

    fn products(edge: usize) -> Vec<Product> {
        vec![
            ([1, 1, 1, 1], [1, 1, 1], [1, 1, 1], "one element"),
            ([1, 3, 0, 2], [0, 1, 0], [2, 1, 0], "no terms"),
            ([2, edge + 1, 5, 3], [5, 1, 5 * edge + 5], [3, 1, 0], "one row more than a tile; B shared"),
            ([2, 2, 9, edge + 4], [1, 2, 18], [1, 9, 9 * edge + 36], "one group of columns more; both transposed"),
            ([1, 5, 2 * CHUNK + 9, 7], [2 * CHUNK + 10, 1, 0], [8, 1, 0], "two chunks and a ragged step; gaps"),
        ]
    }

    /// Infinities and NaN meet zeros, which padding with zeros would show.
    fn with_special_values(mut x: Vec<f32>) -> Vec<f32> {
        let specials = [f32::INFINITY, -0.0, f32::NAN, 1e-42, f32::NEG_INFINITY, 0.0];
        for (i, special) in specials.into_iter().enumerate() {
            if let Some(x) = x.get_mut(7 * i + 3) {
                *x = special;
            }
        }
        x
    }

    macro_rules! product_cases {
        ($cases:ident $kernel:ident $edge:literal) => {
            pub(super) fn $cases() -> Vec<Case> {
                let case = |([batch, m, k, n], a_strides, b_strides, name): Product| {
                    let len = |rows, cols, [row, col, matrix]: Strides| {
                        let [batch, rows, cols, row, col, matrix] =
                            [batch, rows, cols, row, col, matrix].map(|n| n as u64);
                        span(batch, matrix, rows, row, cols, col) as usize
                    };
                    let a = with_special_values(noise(len(m, k, a_strides), 1));
                    let b = noise(len(k, n, b_strides), 2);
                    let one = |i| {
                        let (a, b) = (gathered(&a, i, [m, k], a_strides), gathered(&b, i, [k, n], b_strides));
                        reference::contract(m, n, k, &a, &b)
                    };
                    let c = exactly((0..batch).flat_map(one).collect());
                    let [m, n, k, batch] = [m, n, k, batch].map(|n| n as u32);
                    let [a_row, a_col, a_batch] = a_strides.map(|s| s as u32);
                    let [b_row, b_col, b_batch] = b_strides.map(|s| s as u32);
                    $kernel::TestCase { a, b, c, m, n, k, a_row, a_col, b_row, b_col, a_batch, b_batch, batch }
                        .named(format!("{batch} x [{m}, {k}] x [{k}, {n}]: {name}"))
                };
                products($edge).into_iter().map(case).collect()
            }
        };
    }
    product_cases!(matmul_cases matmul 128);
    product_cases!(matmul_small_cases matmul_small 64);

    /// (images, rows per image, k, n).
    fn gradients(edge: usize) -> [[usize; 4]; 6] {
        [[1, 1, 1, 1], [17, 1, 3, 4], [16, 3, edge + 1, 2], [5, 2, 2, edge + 3], [17, 33, 2, 5], [16, 32, 1, 1]]
    }

    macro_rules! gradient_cases {
        ($cases:ident $kernel:ident $edge:literal) => {
            pub(super) fn $cases() -> Vec<Case> {
                let case = |[images, rows_per_image, k, n]: [usize; 4]| {
                    let x = with_special_values(noise(images * rows_per_image * k, 3));
                    let dy = noise(images * rows_per_image * n, 4);
                    let leaf = |(x, dy): (&[f32], &[f32])| {
                        let samples = Samples { images: x.len() / (rows_per_image * k), rows_per_image };
                        reference::linear_weight_grad(samples, k, n, x, dy)
                    };
                    let rows = LEAF * rows_per_image;
                    let dw = exactly(x.chunks(rows * k).zip(dy.chunks(rows * n)).flat_map(leaf).collect());
                    let [images, rows_per_image, k, n] = [images, rows_per_image, k, n].map(|n| n as u32);
                    $kernel::TestCase { x, dy, dw, images, rows_per_image, k, n }
                        .named(format!("{images} images of {rows_per_image} rows, [{k}, {n}]"))
                };
                gradients($edge).map(case).into()
            }
        };
    }
    gradient_cases!(weight_grad_cases linear_weight_grad_leaves 128);
    gradient_cases!(weight_grad_small_cases linear_weight_grad_leaves_small 64);
}
