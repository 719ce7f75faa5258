//! Primitives on arrays, without gradients. Each file is a family; each function names the order of its sums.
//!
//! Operands may have any strides; results are contiguous. Element types are never converted silently. f32 and f64 are
//! computed as they are; bf16 and f16 are storage: they are converted to f32, computed, and rounded back.

mod attention;
mod batch_norm;
mod by_row;
mod cast;
mod compare;
mod conv;
mod elementwise;
mod group_norm;
mod index;
mod interpolate;
mod join;
mod l2_normalize;
mod layer_norm;
mod linear;
mod matmul;
mod nearest;
mod norm;
pub(crate) mod operand;
mod optim;
mod pairs;
mod pool;
mod random;
mod reduce;
mod row_norm;
mod rows_sum;
pub(crate) mod sinkhorn;
mod softmax;
mod sort;
#[cfg(test)]
mod spans;
#[cfg(test)]
pub(crate) mod testing;
mod update;

pub use attention::{attention, attention_grads};
pub use batch_norm::{
    ChannelStats, StatsTree, batch_norm_apply, batch_norm_grad_sums, batch_norm_input_grad, channel_stats,
    reciprocal_std,
};
pub use cast::cast;
pub use compare::{Compare, compare, compare_scalar, logical_and, logical_not, logical_or};
pub use conv::{Conv2d, conv2d, conv2d_grads, conv2d_input_grad, conv2d_weight_grad};
pub use elementwise::{
    Binary, Unary, add, binary, binary_scalar, clamp, div, is_finite, mul, scalar_binary, select, sub, unary,
};
pub use group_norm::{group_norm, group_norm_grad, group_norm_normalized};
pub use index::{arange, eye, gather, index_add, index_select, one_hot, scatter_add};
pub use interpolate::{Interpolation, interpolate, interpolate_grad};
pub use join::{concat, pad, stack};
pub use l2_normalize::{l2_normalize, l2_normalize_grad};
pub use layer_norm::{layer_norm, layer_norm_grad, layer_norm_grads, layer_norm_normalized};
pub use linear::{linear, linear_grads, linear_input_grad, linear_weight_grad};
pub use matmul::matmul;
pub use nearest::nearest;
pub use norm::{dot, norm_sq};
pub use optim::{
    Tensors, adamw_step, average, decayed_squares, lamb_moments, lamb_walk, lars_step, lars_velocity, lars_walk,
    norms_sq, sgd_step,
};
pub use pairs::{
    Excluded, PairRows, PairSide, PairStatistics, PairTerm, pair_rows, pair_rows_and_columns,
    pair_rows_and_columns_grad, pair_rows_grad, pair_rows_symmetric, pair_rows_symmetric_grad,
};
pub use pool::{
    Pool2d, avg_pool2d, avg_pool2d_grad, global_avg_pool, global_avg_pool_grad, max_pool2d, max_pool2d_grad,
};
pub use random::{bernoulli, normal, permutation, uniform};
pub use reduce::{max, mean, min, prod, sum, sum_to};
pub use rows_sum::{rows_dot, rows_sum};
pub use sinkhorn::{
    CodeScale, Marginal, MarginalError, Sinkhorn, SinkhornDomain, SinkhornResult, SinkhornStop, sinkhorn,
};
pub use softmax::{log_softmax, log_softmax_grad, log_sum_exp, softmax, softmax_grad};
pub use sort::{argmax, argmin, argsort, cumsum, sort, topk};
pub use update::{add_assign, add_scaled, scale};

use crate::gpu::GpuDevice;
use crate::profile::{Span, Work};
use crate::{Array, DType, Element, Error, ErrorKind, Result};
use selfsame_kernels::math::Real;

/// The element types that are computed in.
pub(crate) trait Float: Element + Real {}
impl Float for f32 {}
impl Float for f64 {}

/// Runs an expression with a type name bound to f32 or f64, or returns an error that names the operation.
macro_rules! with_real {
    ($op:expr, $dtype:expr, $T:ident, $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::DType::F64 => {
                type $T = f64;
                $body
            }
            other => Err($crate::ops::unsupported($op, other, "f32 or f64")),
        }
    };
}
pub(crate) use with_real;

/// The error of an operation that does not take an element type.
#[track_caller]
pub(crate) fn unsupported(op: &'static str, dtype: DType, expected: &'static str) -> Error {
    Error::new(ErrorKind::DType, op, dtype.name()).expected(expected).hint("cast the operands first")
}

/// The device whose kernels compute `x`: on a GPU device, f32 is theirs.
pub(crate) fn kernels_for(x: &Array) -> Option<&GpuDevice> {
    x.device().gpu().filter(|_| x.dtype() == DType::F32)
}

/// Whether `dtype` only stores values that are computed in f32.
pub(crate) fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::BF16 | DType::F16)
}

/// Runs `f` on `x` in f32 and rounds the result back to the type of `x`.
pub(crate) fn through_f32(x: &Array, f: impl FnOnce(&Array) -> Result<Array>) -> Result<Array> {
    cast(&f(&cast(x, DType::F32)?)?, x.dtype())
}

/// Opens the span of a primitive that reads each of `reads` once. From the number of elements of the first, `work`
/// tells (elements written, of its type; floating-point operations; exponentials and their like). A primitive made of
/// others has no work of its own.
#[inline]
pub(crate) fn span(name: &'static str, reads: &[&Array], work: impl FnOnce(usize) -> (usize, usize, usize)) -> Span {
    let [first, ..] = reads else { return Span::closed() };
    first.device().span(name, || {
        let (written, flop, special) = work(first.numel());
        if (written, flop, special) == (0, 0, 0) {
            return Work::default();
        }
        let read: usize = reads.iter().map(|x| x.numel() * x.dtype().size()).sum();
        Work::moving(read + written * first.dtype().size()).flop(flop).special(special)
    })
}

/// The number of elements of an array of `shape` that a primitive has checked.
pub(crate) fn elements(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// Checks that two operands have one shape and element type.
#[track_caller]
pub(crate) fn expect_same_shape(op: &'static str, a: &Array, b: &Array) -> Result<()> {
    expect_same_dtype(op, a, b)?;
    if a.shape() == b.shape() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Shape, op, format!("{:?} and {:?}", a.shape(), b.shape())).expected("equal shapes"))
}

/// Checks that two operands have one element type.
#[track_caller]
pub(crate) fn expect_same_dtype(op: &'static str, a: &Array, b: &Array) -> Result<()> {
    if a.dtype() == b.dtype() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::DType, op, format!("{} and {}", a.dtype(), b.dtype())).expected("equal element types"))
}
