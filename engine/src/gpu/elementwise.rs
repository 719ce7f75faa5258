//! Element-wise primitives as kernels.

use super::{Axes, GpuDevice, extent, join};
use crate::layout::Layout;
use crate::ops::{Binary, Compare, Unary, unsupported};
use crate::{Array, DType, Result};
use selfsame_kernels::device::{binary as b, unary as u};

/// Launches the kernel that belongs to an operation: `$op` of `$enum` with the given fields; `else` stands for the
/// operations that are not listed.
macro_rules! launch_by {
    ($gpu:expr, $op:expr, $enum:ident { $($variant:ident => $module:ident::$kernel:ident),+ $(,)? } $fields:tt
        $(else $otherwise:expr)?) => {
        match $op {
            $($enum::$variant => $gpu.submit(|launcher| launch_by!(@args $module::$kernel $fields).launch(launcher)),)+
            $(_ => $otherwise,)?
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

/// op(x) of integers; `None` where there is no kernel.
pub(crate) fn unary_integer(gpu: &GpuDevice, op: Unary, x: &Array) -> Result<Option<Array>> {
    let x = x.contiguous()?;
    let mut y = gpu.empty(x.shape(), x.dtype(), op.name())?;
    let n = extent(x.numel())?;
    match x.dtype() {
        DType::I32 => {
            let (x, y) = (x.cells()?, y.cells_mut()?);
            launch_by!(gpu, op, Unary {
                Neg => u::unary_neg_i32, Abs => u::unary_abs_i32, Sign => u::unary_sign_i32,
                Square => u::unary_square_i32,
            } { x: x, y: y, n: n } else return Ok(None))
        }
        DType::I64 => {
            let (x, y) = (x.cells()?, y.cells_mut()?);
            launch_by!(gpu, op, Unary {
                Neg => u::unary_neg_i64, Abs => u::unary_abs_i64, Sign => u::unary_sign_i64,
                Square => u::unary_square_i64,
            } { x: x, y: y, n: n } else return Ok(None))
        }
        _ => return Ok(None),
    }?;
    Ok(Some(y))
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
        let (a, b, axes) = strided(a, b, shape)?;
        Ok(Meeting::Strided(a, b, axes))
    }
}

/// Both operands broadcast to `shape`, and their common axes; copied where those are too many or run backwards.
fn strided(a: &Array, b: &Array, shape: &[usize]) -> Result<(Array, Array, Axes<2>)> {
    let (a, b) = (a.broadcast_to(shape)?, b.broadcast_to(shape)?);
    if let Some(axes) = Axes::merged(shape, [a.layout(), b.layout()]) {
        return Ok((a, b, axes));
    }
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    let flat = Layout::contiguous(&[a.numel()]);
    let axes = Axes::merged(&[a.numel()], [&flat, &flat]).expect("one axis is no more than four");
    Ok((a, b, axes))
}

/// Runs the kernel of an operation that reads its operands by strides.
macro_rules! launch_strided {
    ($gpu:expr, $op:expr, $strided:expr, $y:expr; $enum:ident { $($variant:ident => $kernel:ident),+ $(,)? }
        $(else $otherwise:expr)?) => {{
        let (a, b, axes) = $strided;
        let (a, b) = (a.reached_cells()?, b.reached_cells()?);
        let (a_len, b_len) = (extent(a.len)?, extent(b.len)?);
        let ([d0, d1, d2, d3], [a_strides, b_strides]) = (axes.lengths, axes.strides);
        let y = $y.cells_mut()?;
        launch_by!($gpu, $op, $enum { $($variant => b::$kernel),+ } {
            a: a, b: b, y: y, a_len: a_len, b_len: b_len, d0: d0, d1: d1, d2: d2, d3: d3,
            a0: a_strides[0], a1: a_strides[1], a2: a_strides[2], a3: a_strides[3],
            b0: b_strides[0], b1: b_strides[1], b2: b_strides[2], b3: b_strides[3],
        } $(else $otherwise)?)
    }};
}

/// Runs the kernel of an operation in the form that fits the operands: three lists of the same variants.
macro_rules! two_operands {
    ($gpu:expr, $op:expr, $a:expr, $b:expr, $shape:expr, $y:expr; $enum:ident {
        $($variant:ident => $same:ident, $scalar:ident, $broadcast:ident;)+
    }) => {{
        let (gpu, op) = ($gpu, $op);
        match Meeting::of($a, $b, $shape)? {
            Meeting::Same(a, b) => {
                let (a, b, y, n) = (a.cells()?, b.cells()?, $y.cells_mut()?, extent(a.numel())?);
                launch_by!(gpu, op, $enum { $($variant => b::$same),+ } { a: a, b: b, y: y, n: n })
            }
            Meeting::Scalar(a, b) => {
                let (a, b, y, n) = (a.cells()?, b.cells()?, $y.cells_mut()?, extent(a.numel())?);
                launch_by!(gpu, op, $enum { $($variant => b::$scalar),+ } { a: a, b: b, y: y, n: n })
            }
            Meeting::Strided(a, b, axes) => {
                launch_strided!(gpu, op, (a, b, axes), $y; $enum { $($variant => $broadcast),+ })
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

/// op(a, b) of integers over `shape`, to which both broadcast; `None` where there is no kernel.
pub(crate) fn binary_integer(
    gpu: &GpuDevice,
    op: Binary,
    a: &Array,
    b: &Array,
    shape: &[usize],
) -> Result<Option<Array>> {
    let mut y = gpu.empty(shape, a.dtype(), op.name())?;
    match a.dtype() {
        DType::I64 => launch_strided!(gpu, op, strided(a, b, shape)?, y; Binary {
                Add => binary_add_i64_broadcast, Sub => binary_sub_i64_broadcast, Mul => binary_mul_i64_broadcast,
                Min => binary_min_i64_broadcast, Max => binary_max_i64_broadcast,
        } else return Ok(None)),
        DType::I32 => launch_strided!(gpu, op, strided(a, b, shape)?, y; Binary {
                Add => binary_add_i32_broadcast, Sub => binary_sub_i32_broadcast, Mul => binary_mul_i32_broadcast,
                Min => binary_min_i32_broadcast, Max => binary_max_i32_broadcast,
        } else return Ok(None)),
        DType::U8 => launch_strided!(gpu, op, strided(a, b, shape)?, y; Binary {
                Add => binary_add_u8_broadcast, Sub => binary_sub_u8_broadcast, Mul => binary_mul_u8_broadcast,
                Min => binary_min_u8_broadcast, Max => binary_max_u8_broadcast,
        } else return Ok(None)),
        _ => return Ok(None),
    }?;
    Ok(Some(y))
}

/// The comparison of integers or truth values a and b over `shape`, to which both broadcast.
pub(crate) fn compare_integer(gpu: &GpuDevice, op: Compare, a: &Array, b: &Array, shape: &[usize]) -> Result<Array> {
    let mut y = gpu.empty(shape, DType::Bool, op.name())?;
    match a.dtype() {
        DType::I64 => launch_strided!(gpu, op, strided(a, b, shape)?, y; Compare {
                Eq => compare_eq_i64_broadcast, Ne => compare_ne_i64_broadcast, Lt => compare_lt_i64_broadcast,
                Le => compare_le_i64_broadcast, Gt => compare_gt_i64_broadcast, Ge => compare_ge_i64_broadcast,
        }),
        DType::I32 => launch_strided!(gpu, op, strided(a, b, shape)?, y; Compare {
                Eq => compare_eq_i32_broadcast, Ne => compare_ne_i32_broadcast, Lt => compare_lt_i32_broadcast,
                Le => compare_le_i32_broadcast, Gt => compare_gt_i32_broadcast, Ge => compare_ge_i32_broadcast,
        }),
        DType::U8 | DType::Bool => launch_strided!(gpu, op, strided(a, b, shape)?, y; Compare {
                Eq => compare_eq_u8_broadcast, Ne => compare_ne_u8_broadcast, Lt => compare_lt_u8_broadcast,
                Le => compare_le_u8_broadcast, Gt => compare_gt_u8_broadcast, Ge => compare_ge_u8_broadcast,
        }),
        other => Err(unsupported(op.name(), other, "integers or truth values")),
    }?;
    Ok(y)
}

/// x broadcast to `shape` as a contiguous array.
fn spread(x: &Array, shape: &[usize]) -> Result<Array> {
    x.broadcast_to(shape)?.contiguous()
}

/// a where `cond` (bool) holds, elsewhere b, over `shape`, to which all three broadcast.
pub(crate) fn select(gpu: &GpuDevice, cond: &Array, a: &Array, b: &Array, shape: &[usize]) -> Result<Array> {
    let (cond, a, b) = (spread(cond, shape)?, spread(a, shape)?, spread(b, shape)?);
    let mut y = gpu.empty(shape, a.dtype(), "select")?;
    let n = extent(y.numel())?;
    macro_rules! launch {
        ($kernel:ident) => {{
            let args = b::$kernel::Args { mask: cond.cells()?, a: a.cells()?, b: b.cells()?, y: y.cells_mut()?, n };
            gpu.submit(|launcher| args.launch(launcher))
        }};
    }
    match a.dtype() {
        DType::F32 => launch!(select),
        DType::F64 => launch!(select_f64),
        DType::BF16 | DType::F16 => launch!(select_u16),
        DType::I32 => launch!(select_i32),
        DType::I64 => launch!(select_i64),
        DType::U8 | DType::Bool => launch!(select_u8),
    }?;
    Ok(y)
}

/// x between `low` and `high`, in f32.
pub(crate) fn clamp(gpu: &GpuDevice, x: &Array, low: f32, high: f32) -> Result<Array> {
    let x = x.contiguous()?;
    let mut y = gpu.empty(x.shape(), DType::F32, "clamp")?;
    let args = b::clamp::Args { x: x.cells()?, y: y.cells_mut()?, low, high, n: extent(x.numel())? };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok(y)
}

/// Whether no element of x, in f32, is NaN or infinite. Waits for the device.
pub(crate) fn is_finite(gpu: &GpuDevice, x: &Array) -> Result<bool> {
    let x = x.contiguous()?;
    let mut flag = join::filled(gpu, 0, &[], DType::I32, "is_finite")?;
    let args = b::all_finite::Args { x: x.cells()?, flag: flag.cells_mut()?, n: extent(x.numel())? };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok(flag.item::<i32>()? == 0)
}

/// How two truth values are joined.
#[derive(Clone, Copy)]
pub(crate) enum Logic {
    /// Both hold.
    And,
    /// At least one holds.
    Or,
}

/// Truth values a and b over `shape`, to which both broadcast, joined.
pub(crate) fn logic(gpu: &GpuDevice, logic: Logic, a: &Array, b: &Array, shape: &[usize]) -> Result<Array> {
    let (a, b) = (spread(a, shape)?, spread(b, shape)?);
    let mut truth = gpu.empty(shape, DType::Bool, "logic")?;
    let (a, b, n) = (a.cells()?, b.cells()?, extent(truth.numel())?);
    let y = truth.cells_mut()?;
    launch_by!(gpu, logic, Logic { And => b::logical_and, Or => b::logical_or } { a: a, b: b, y: y, n: n })?;
    Ok(truth)
}

/// Whether x does not hold.
pub(crate) fn logical_not(gpu: &GpuDevice, x: &Array) -> Result<Array> {
    let x = x.contiguous()?;
    let mut y = gpu.empty(x.shape(), DType::Bool, "logical_not")?;
    let args = b::logical_not::Args { x: x.cells()?, y: y.cells_mut()?, n: extent(x.numel())? };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok(y)
}
