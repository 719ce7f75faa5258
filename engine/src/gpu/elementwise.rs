//! Element-wise primitives as kernels.

use super::{Axes, GpuDevice, extent};
use crate::ops::{Binary, Compare, Unary};
use crate::{Array, DType, Result};
use selfsame_kernels::device::{binary as b, unary as u};

/// Launches the kernel that belongs to an operation: `$op` of `$enum` with the given fields.
macro_rules! launch_by {
    ($gpu:expr, $op:expr, $enum:ident { $($variant:ident => $module:ident::$kernel:ident),+ $(,)? } $fields:tt) => {
        match $op {
            $($enum::$variant => $gpu.submit(|launcher| launch_by!(@args $module::$kernel $fields).launch(launcher))),+
        }
    };
    (@args $module:ident::$kernel:ident { $($field:ident : $value:expr),+ $(,)? }) => {
        $module::$kernel::Args { $($field: $value),+ }
    };
}

/// op(x) in f32.
pub(crate) fn unary(gpu: &GpuDevice, op: Unary, x: &Array) -> Result<Array> {
    let x = x.contiguous()?;
    let mut y = gpu.empty(x.shape(), DType::F32, op.name())?;
    let (x, n) = (x.cells()?, extent(x.numel())?);
    let y_cells = y.cells_mut()?;
    launch_by!(gpu, op, Unary {
        Neg => u::unary_neg, Abs => u::unary_abs, Sign => u::unary_sign, Floor => u::unary_floor,
        Recip => u::unary_recip, Square => u::unary_square, Sqrt => u::unary_sqrt, Rsqrt => u::unary_rsqrt,
        Exp => u::unary_exp, Expm1 => u::unary_expm1, Log => u::unary_log, Log1p => u::unary_log1p,
        Tanh => u::unary_tanh, Sigmoid => u::unary_sigmoid, Softplus => u::unary_softplus, Relu => u::unary_relu,
        Gelu => u::unary_gelu, Erf => u::unary_erf, Sin => u::unary_sin, Cos => u::unary_cos,
    } { x: x, y: y_cells, n: n })?;
    Ok(y)
}

/// How two operands meet.
enum Meeting {
    /// Element by element.
    Same(Array, Array),
    /// Every element of the first with the one element of the second.
    Scalar(Array, Array),
    /// By strides over four axes.
    Strided(Array, Array, Axes<2>),
}

impl Meeting {
    fn of(a: &Array, b: &Array, shape: &[usize]) -> Result<Meeting> {
        if a.shape() == shape && b.shape() == shape && a.is_contiguous() && b.is_contiguous() {
            return Ok(Meeting::Same(a.clone(), b.clone()));
        }
        if a.shape() == shape && b.numel() == 1 {
            return Ok(Meeting::Scalar(a.contiguous()?, b.contiguous()?));
        }
        let (wide_a, wide_b) = (a.broadcast_to(shape)?, b.broadcast_to(shape)?);
        if let Some(axes) = Axes::merged(shape, [wide_a.layout(), wide_b.layout()]) {
            return Ok(Meeting::Strided(wide_a, wide_b, axes));
        }
        Ok(Meeting::Same(wide_a.contiguous()?, wide_b.contiguous()?))
    }
}

/// Runs the kernel of an operation in the form that fits the operands: three lists of the same variants.
macro_rules! two_operands {
    ($gpu:expr, $op:expr, $a:expr, $b:expr, $shape:expr, $y:expr; $enum:ident {
        $($variant:ident => $same:ident, $scalar:ident, $broadcast:ident;)+
    }) => {{
        let (gpu, op) = ($gpu, $op);
        let y = $y.cells_mut()?;
        match Meeting::of($a, $b, $shape)? {
            Meeting::Same(a, b) => {
                let (a, b, n) = (a.cells()?, b.cells()?, extent(a.numel())?);
                launch_by!(gpu, op, $enum { $($variant => b::$same),+ } { a: a, b: b, y: y, n: n })
            }
            Meeting::Scalar(a, b) => {
                let (a, b, n) = (a.cells()?, b.cells()?, extent(a.numel())?);
                launch_by!(gpu, op, $enum { $($variant => b::$scalar),+ } { a: a, b: b, y: y, n: n })
            }
            Meeting::Strided(a, b, axes) => {
                let (a, b) = (a.reached_cells()?, b.reached_cells()?);
                let (a_len, b_len) = (extent(a.len)?, extent(b.len)?);
                let ([d0, d1, d2, d3], [a_strides, b_strides]) = (axes.lengths, axes.strides);
                launch_by!(gpu, op, $enum { $($variant => b::$broadcast),+ } {
                    a: a, b: b, y: y, a_len: a_len, b_len: b_len, d0: d0, d1: d1, d2: d2, d3: d3,
                    a0: a_strides[0], a1: a_strides[1], a2: a_strides[2], a3: a_strides[3],
                    b0: b_strides[0], b1: b_strides[1], b2: b_strides[2], b3: b_strides[3],
                })
            }
        }
    }};
}

/// op(a, b) in f32 over `shape`, to which both broadcast.
pub(crate) fn binary(gpu: &GpuDevice, op: Binary, a: &Array, b: &Array, shape: &[usize]) -> Result<Array> {
    let mut y = gpu.empty(shape, DType::F32, op.name())?;
    two_operands!(gpu, op, a, b, shape, y; Binary {
        Add => binary_add, binary_add_scalar, binary_add_broadcast;
        Sub => binary_sub, binary_sub_scalar, binary_sub_broadcast;
        Mul => binary_mul, binary_mul_scalar, binary_mul_broadcast;
        Div => binary_div, binary_div_scalar, binary_div_broadcast;
        Min => binary_min, binary_min_scalar, binary_min_broadcast;
        Max => binary_max, binary_max_scalar, binary_max_broadcast;
        Pow => binary_pow, binary_pow_scalar, binary_pow_broadcast;
        ReluGrad => binary_relu_grad, binary_relu_grad_scalar, binary_relu_grad_broadcast;
        GeluGrad => binary_gelu_grad, binary_gelu_grad_scalar, binary_gelu_grad_broadcast;
        TanhGrad => binary_tanh_grad, binary_tanh_grad_scalar, binary_tanh_grad_broadcast;
        SigmoidGrad => binary_sigmoid_grad, binary_sigmoid_grad_scalar, binary_sigmoid_grad_broadcast;
        SoftplusGrad => binary_softplus_grad, binary_softplus_grad_scalar, binary_softplus_grad_broadcast;
        SqrtGrad => binary_sqrt_grad, binary_sqrt_grad_scalar, binary_sqrt_grad_broadcast;
        AbsGrad => binary_abs_grad, binary_abs_grad_scalar, binary_abs_grad_broadcast;
    })?;
    Ok(y)
}

/// The comparison of a and b in f32 over `shape`, to which both broadcast.
pub(crate) fn compare(gpu: &GpuDevice, op: Compare, a: &Array, b: &Array, shape: &[usize]) -> Result<Array> {
    let mut y = gpu.empty(shape, DType::Bool, op.name())?;
    two_operands!(gpu, op, a, b, shape, y; Compare {
        Eq => compare_eq, compare_eq_scalar, compare_eq_broadcast;
        Ne => compare_ne, compare_ne_scalar, compare_ne_broadcast;
        Lt => compare_lt, compare_lt_scalar, compare_lt_broadcast;
        Le => compare_le, compare_le_scalar, compare_le_broadcast;
        Gt => compare_gt, compare_gt_scalar, compare_gt_broadcast;
        Ge => compare_ge, compare_ge_scalar, compare_ge_broadcast;
    })?;
    Ok(y)
}
