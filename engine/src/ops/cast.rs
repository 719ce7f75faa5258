//! Conversion between element types.

use super::operand::{Operand, map1};
use crate::gpu;
use crate::profile::Work;
use crate::{Array, DType, Element, Result, bf16, f16, with_dtype};
use selfsame_kernels::half_precision::{bf16_of_f32, bf16_of_f64, f16_of_f32, f16_of_f64, f32_of_bf16, f32_of_f16};

/// `x` with elements of type `dtype`.
///
/// To a float: rounded to nearest, ties to even. Float to integer: towards zero, clamped to the type's range, NaN
/// becomes 0. Integer to integer: the low bits. To bool: whether the value differs from 0 (NaN does).
///
/// # Errors
/// `OutOfMemory`.
pub fn cast(x: &Array, dtype: DType) -> Result<Array> {
    if x.dtype() == dtype {
        return x.contiguous();
    }
    let _span = x.device().span("cast", || Work::moving(x.numel() * (x.dtype().size() + dtype.size())));
    if let Some(gpu) = x.device().gpu() {
        return gpu::convert::cast(gpu, &x.contiguous()?, dtype);
    }
    with_dtype!(x.dtype(), From, with_dtype!(dtype, Into, convert::<From, Into>(x)))
}

fn convert<A: Element + Convert<B>, B: Element>(x: &Array) -> Result<Array> {
    let operand = Operand::<A>::new(x, x.shape())?;
    Array::build(x.device(), x.shape(), "cast", |cpu, out: &mut [B]| {
        map1(cpu, &operand, out, A::convert);
        Ok(())
    })
}

/// Conversion of one element by the rules of [`cast`].
pub(crate) trait Convert<B> {
    fn convert(self) -> B;
}

macro_rules! numbers {
    ($($a:ty => $($b:ty)*;)*) => {$(
        $(impl Convert<$b> for $a {
            #[inline(always)]
            fn convert(self) -> $b {
                self as $b
            }
        })*
        impl Convert<bool> for $a {
            #[inline(always)]
            fn convert(self) -> bool {
                self != 0 as $a
            }
        }
        impl Convert<$a> for bool {
            #[inline(always)]
            fn convert(self) -> $a {
                u8::from(self).convert()
            }
        }
    )*};
}
numbers! {
    f32 => f32 f64 i32 i64 u8;
    f64 => f32 f64 i32 i64 u8;
    i32 => f32 f64 i32 i64 u8;
    i64 => f32 f64 i32 i64 u8;
    u8 => f32 f64 i32 i64 u8;
}

macro_rules! halves {
    ($($half:ty, $round:ident, $round_f64:ident, $widen:ident => $($b:ty)*;)*) => {$(
        $(impl Convert<$b> for $half {
            #[inline(always)]
            fn convert(self) -> $b {
                $widen(self).convert()
            }
        })*
        $(impl Convert<$half> for $b {
            #[inline(always)]
            fn convert(self) -> $half {
                $round_f64(self.convert())
            }
        })*
        impl Convert<$half> for f32 {
            #[inline(always)]
            fn convert(self) -> $half {
                $round(self)
            }
        }
        impl Convert<f32> for $half {
            #[inline(always)]
            fn convert(self) -> f32 {
                $widen(self)
            }
        }
        impl Convert<$half> for $half {
            #[inline(always)]
            fn convert(self) -> $half {
                self
            }
        }
    )*};
}
halves! {
    bf16, bf16_of_f32, bf16_of_f64, f32_of_bf16 => f64 i32 i64 u8 bool;
    f16, f16_of_f32, f16_of_f64, f32_of_f16 => f64 i32 i64 u8 bool;
}

impl Convert<bool> for bool {
    #[inline(always)]
    fn convert(self) -> bool {
        self
    }
}

impl Convert<bf16> for f16 {
    #[inline(always)]
    fn convert(self) -> bf16 {
        bf16_of_f32(f32_of_f16(self))
    }
}

impl Convert<f16> for bf16 {
    #[inline(always)]
    fn convert(self) -> f16 {
        f16_of_f32(f32_of_bf16(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn cast_follows_its_rules_at_the_edges() {
        let device = Device::cpu_with(1).unwrap();
        let x = Array::from_slice(&[f32::NAN, -1.9, 300.0, f32::INFINITY, -0.0], &[5], &device).unwrap();
        assert_eq!(cast(&x, DType::U8).unwrap().to_vec::<u8>().unwrap(), [0, 0, 255, 255, 0]);
        assert_eq!(cast(&x, DType::I64).unwrap().to_vec::<i64>().unwrap(), [0, -1, 300, i64::MAX, 0]);
        assert_eq!(cast(&x, DType::Bool).unwrap().to_vec::<bool>().unwrap(), [true, true, true, true, false]);
        // 1 + 2^-8 lies halfway between two bf16 values and goes to the even one.
        let halfway = Array::from_slice(&[1.0f32 + 1.0 / 256.0, 1.0 + 3.0 / 256.0], &[2], &device).unwrap();
        let rounded = cast(&halfway, DType::BF16).unwrap().to_vec::<bf16>().unwrap();
        assert_eq!(rounded, [bf16::from_f32(1.0), bf16::from_f32(1.0 + 4.0 / 256.0)]);
    }

    #[test]
    fn cast_there_and_back_keeps_small_integers() {
        let device = Device::cpu_with(2).unwrap();
        let x = Array::from_slice(&(0..120u8).collect::<Vec<_>>(), &[10, 12], &device).unwrap();
        let x = x.transpose(0, 1).unwrap();
        let types = [DType::F32, DType::F64, DType::BF16, DType::F16, DType::I32, DType::I64];
        for from in types {
            for to in types {
                let back = cast(&cast(&cast(&x, from).unwrap(), to).unwrap(), DType::U8).unwrap();
                assert_eq!(back.to_vec::<u8>().unwrap(), x.to_vec::<u8>().unwrap(), "{from} {to}");
            }
        }
        let flags = cast(&x, DType::Bool).unwrap();
        assert_eq!(cast(&flags, DType::I32).unwrap().to_vec::<i32>().unwrap().iter().sum::<i32>(), 119);
    }
}
