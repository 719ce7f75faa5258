//! Matrix products.
#![allow(unsafe_code)]

use super::driver::{Finish, SMALL_B, contract};
use super::lanes::Real;
use super::left::{Class, Source};
use super::micro::{A_STRIDE, Kernels, Piece};
use super::pack::{FEW_ROWS, Operand, Packed};
use super::transpose::transpose;
use super::{Context, SharedMut};
use crate::order::CHUNK;

/// From this many rows of A on, packing B by the way is a small part of the work.
const ROWS_ON_DEMAND: usize = 128;

/// From this many columns of B for each thread on, tasks need not share any.
const COLUMNS_ON_DEMAND: usize = 256;

/// A matrix `[rows, cols]` in memory: element (i, j) lies at `i * row_stride + j * col_stride`. Of a batch, matrix
/// `i` starts `i * batch_stride` elements on; zero shares one matrix among all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
    pub(crate) batch_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// Matrix `i` of the batch.
    fn get(&self, i: usize) -> Matrix<'a, T> {
        let start = i * self.batch_stride;
        assert!(start <= self.data.len(), "matrix larger than its memory");
        let matrix = Matrix { data: &self.data[start..], batch_stride: 0, ..*self };
        let last = |n: usize, stride: usize| n.saturating_sub(1) * stride;
        let extent = last(self.rows, self.row_stride) + last(self.cols, self.col_stride) + 1;
        assert!(self.rows * self.cols == 0 || extent <= matrix.data.len(), "matrix larger than its memory");
        matrix
    }
}

/// `c[i] = a[i] · b[i]` for each matrix of a batch: `[m, k] · [k, n] → [m, n]`, `c` contiguous.
///
/// Each element is the canonical contraction over k (see the module). Then rows of each `c[i]` are finished.
///
/// # Panics
/// When shapes or lengths do not fit: the caller checks its operands.
pub(crate) fn matmul<T: Real>(
    cx: &Context<'_>,
    batch: usize,
    a: &Matrix<'_, T>,
    b: &Matrix<'_, T>,
    finish: Finish<'_, T>,
    c: &mut [T],
) {
    let (m, n) = (a.rows, b.cols);
    assert_eq!(a.cols, b.rows, "inner sizes");
    assert_eq!(c.len(), batch * m * n, "output size");
    if m * n == 0 {
        return;
    }
    if batch == 1 {
        return product(cx, &a.get(0), &b.get(0), finish, SharedMut::new(c));
    }
    let small = m * n * a.cols < 1 << 22;
    let c = SharedMut::new(c);
    let one = |cx: &Context<'_>, i: usize| {
        // SAFETY: each matrix of the batch has its own part of C.
        let c = unsafe { c.slice(i * m * n, m * n) };
        product(cx, &a.get(i), &b.get(i), finish, SharedMut::new(c));
    };
    if small || batch >= 4 * cx.threads() {
        cx.run(batch, |i| one(&cx.serial(), i));
    } else {
        (0..batch).for_each(|i| one(cx, i));
    }
}

fn product<T: Real>(cx: &Context<'_>, a: &Matrix<'_, T>, b: &Matrix<'_, T>, finish: Finish<'_, T>, c: SharedMut<T>) {
    let k = a.cols;
    let operand = Operand {
        data: b.data,
        k,
        n: b.cols,
        inner: k.max(1),
        outer_stride: 0,
        row_stride: b.row_stride,
        col_stride: b.col_stride,
    };
    // Tasks that share no columns read every row of A each, which many columns make up for, but not where few tasks could
    // share a small B: 8320 rows times 192 x 768 took 1.16 times as long, times 192 x 576 1.07 to 1.25.
    let shares_little = k * b.cols > SMALL_B || a.rows < FEW_ROWS;
    let on_demand = a.rows >= ROWS_ON_DEMAND && b.cols >= COLUMNS_ON_DEMAND * cx.threads() && shares_little;
    let packed = if on_demand { Packed::on_demand(cx, &operand) } else { Packed::for_rows(cx, &operand, a.rows) };
    let pieces = (0..k.div_ceil(CHUNK))
        .map(|i| {
            vec![Piece { delta: (i * CHUNK * a.col_stride).cast_signed(), ..Piece::whole(CHUNK.min(k - i * CHUNK)) }]
        })
        .collect();
    let source = MatrixRows { a: *a, n: b.cols, class: [Class { rows: a.rows, pieces }], kernels: T::kernels(cx.isa) };
    // SAFETY: row i of C starts at i * n, and C has m * n elements.
    unsafe { contract(cx, &source, &packed, finish, c) }
}

/// The rows of a matrix as a left operand.
struct MatrixRows<'a, T: 'static> {
    a: Matrix<'a, T>,
    n: usize,
    class: [Class; 1],
    kernels: &'static Kernels<T>,
}

impl<T: Real> Source<T> for MatrixRows<'_, T> {
    fn classes(&self) -> &[Class] {
        &self.class
    }

    fn pitch(&self) -> Option<usize> {
        (self.a.col_stride == 1).then_some(self.a.row_stride)
    }

    fn starts(&self, _: usize, first: usize, to: &mut [*const T]) {
        for (m, to) in to.iter_mut().enumerate() {
            *to = self.a.data[(first + m) * self.a.row_stride..].as_ptr();
        }
    }

    fn load(&self, _: usize, first: usize, rows: usize, chunk: usize, to: &mut [T]) {
        let Matrix { data, cols, row_stride, col_stride, .. } = self.a;
        let k = chunk * CHUNK;
        let len = CHUNK.min(cols - k);
        let from = &data[first * row_stride + k * col_stride..];
        if col_stride == 1 {
            for m in 0..rows {
                to[m * A_STRIDE..][..len].copy_from_slice(&from[m * row_stride..][..len]);
            }
        } else {
            transpose(self.kernels, from, [row_stride, col_stride], [rows, len], to, A_STRIDE);
        }
    }

    fn outputs(&self, _: usize, first: usize, to: &mut [usize]) {
        for (m, to) in to.iter_mut().enumerate() {
            *to = (first + m) * self.n;
        }
    }
}
