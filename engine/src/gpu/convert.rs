//! Conversions between element types as kernels.

use super::{GpuDevice, extent};
use crate::{Array, DType, Result};
use selfsame_kernels::device::convert as k;
use selfsame_kernels::launch::{Slice, SliceMut};

/// x, contiguous, with elements of another type. Truth values convert to numbers as bytes do.
pub(crate) fn cast(gpu: &GpuDevice, x: &Array, dtype: DType) -> Result<Array> {
    let mut y = gpu.empty(x.shape(), dtype, "cast")?;
    let n = extent(x.numel())?;
    macro_rules! launch {
        ($($from:ident { $($to:ident: $kernel:ident),+ })+) => {
            match (if x.dtype() == DType::Bool { DType::U8 } else { x.dtype() }, dtype) {
                $($((DType::$from, DType::$to) => {
                    let args = k::$kernel::Args { x: x.cells()?, y: y.cells_mut()?, n };
                    gpu.submit(|launcher| args.launch(launcher))?;
                })+)+
                // Left are types to themselves, as which bool to u8 counts: the same bytes.
                _ => {
                    let (from, to): (Slice<u8>, SliceMut<u8>) = (x.cells()?, y.cells_mut()?);
                    gpu.submit(|launcher| launcher.copy(from.address, to.address, to.len))?;
                }
            }
        };
    }
    launch! {
        F32 { F64: cast_f32_f64, BF16: cast_f32_bf16, F16: cast_f32_f16, I32: cast_f32_i32, I64: cast_f32_i64,
            U8: cast_f32_u8, Bool: cast_f32_bool }
        F64 { F32: cast_f64_f32, BF16: cast_f64_bf16, F16: cast_f64_f16, I32: cast_f64_i32, I64: cast_f64_i64,
            U8: cast_f64_u8, Bool: cast_f64_bool }
        BF16 { F32: cast_bf16_f32, F64: cast_bf16_f64, F16: cast_bf16_f16, I32: cast_bf16_i32, I64: cast_bf16_i64,
            U8: cast_bf16_u8, Bool: cast_bf16_bool }
        F16 { F32: cast_f16_f32, F64: cast_f16_f64, BF16: cast_f16_bf16, I32: cast_f16_i32, I64: cast_f16_i64,
            U8: cast_f16_u8, Bool: cast_f16_bool }
        I32 { F32: cast_i32_f32, F64: cast_i32_f64, BF16: cast_i32_bf16, F16: cast_i32_f16, I64: cast_i32_i64,
            U8: cast_i32_u8, Bool: cast_i32_bool }
        I64 { F32: cast_i64_f32, F64: cast_i64_f64, BF16: cast_i64_bf16, F16: cast_i64_f16, I32: cast_i64_i32,
            U8: cast_i64_u8, Bool: cast_i64_bool }
        U8 { F32: cast_u8_f32, F64: cast_u8_f64, BF16: cast_u8_bf16, F16: cast_u8_f16, I32: cast_u8_i32,
            I64: cast_u8_i64, Bool: cast_u8_bool }
    }
    Ok(y)
}
