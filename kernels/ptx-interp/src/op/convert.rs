//! `cvt`, `cvta` and `isspacep`: between types, and between address spaces.

use super::{Map, lanes};
use crate::memory::{LOCAL_WINDOW, SHARED_WINDOW, space_of};
use crate::syntax::Space;

/// Conversions into each destination type, all sources being `$from`.
macro_rules! integer_to {
    ($from:ident, $to:expr, $rounding:expr) => {
        match ($to, $rounding) {
            ("u8", "") => lanes!(|a: $from| a as u8),
            ("s8", "") => lanes!(|a: $from| a as i8),
            ("u16", "") => lanes!(|a: $from| a as u16),
            ("s16", "") => lanes!(|a: $from| a as i16),
            ("u32", "") => lanes!(|a: $from| a as u32),
            ("s32", "") => lanes!(|a: $from| a as i32),
            ("u64", "") => lanes!(|a: $from| a as u64),
            ("s64", "") => lanes!(|a: $from| a as i64),
            ("f32", "rn") => lanes!(|a: $from| a as f32),
            ("f64", "rn") => lanes!(|a: $from| a as f64),
            _ => return None,
        }
    };
}

/// A float to an integer: rounded, then clamped. NaN becomes 0, or the lowest bit pattern with only the top bit set
/// where the source or the destination is 64 bits wide.
macro_rules! float_to_integer {
    ($from:ident, $to:ident, $rounding:expr) => {{
        const NAN: $to = if size_of::<$from>() == 8 || size_of::<$to>() == 8 { 1 << ($to::BITS - 1) } else { 0 };
        match $rounding {
            "rni" => lanes!(|a: $from| if a.is_nan() { NAN } else { a.round_ties_even() as $to }),
            "rzi" => lanes!(|a: $from| if a.is_nan() { NAN } else { a as $to }),
            "rmi" => lanes!(|a: $from| if a.is_nan() { NAN } else { a.floor() as $to }),
            "rpi" => lanes!(|a: $from| if a.is_nan() { NAN } else { a.ceil() as $to }),
            _ => return None,
        }
    }};
}

/// A float to an integral float of the same type.
macro_rules! float_to_itself {
    ($type:ident, $rounding:expr) => {
        match $rounding {
            "" => lanes!(|a: $type| a),
            "rni" => lanes!(|a: $type| a.round_ties_even()),
            "rzi" => lanes!(|a: $type| a.trunc()),
            "rmi" => lanes!(|a: $type| a.floor()),
            "rpi" => lanes!(|a: $type| a.ceil()),
            _ => return None,
        }
    };
}

/// `cvt[.rounding].to.from`.
pub(super) fn convert(opcode: &str) -> Option<Map> {
    let parts: Vec<&str> = opcode.split('.').collect();
    let (to, from, rounding) = match parts[..] {
        [_, to, from] => (to, from, ""),
        [_, rounding, to, from] => (to, from, rounding),
        _ => return None,
    };
    Some(match from {
        "u8" => integer_to!(u8, to, rounding),
        "s8" => integer_to!(i8, to, rounding),
        "u16" => integer_to!(u16, to, rounding),
        "s16" => integer_to!(i16, to, rounding),
        "u32" => integer_to!(u32, to, rounding),
        "s32" => integer_to!(i32, to, rounding),
        "u64" => integer_to!(u64, to, rounding),
        "s64" => integer_to!(i64, to, rounding),
        "f32" => match to {
            "u16" => float_to_integer!(f32, u16, rounding),
            "s16" => float_to_integer!(f32, i16, rounding),
            "u32" => float_to_integer!(f32, u32, rounding),
            "s32" => float_to_integer!(f32, i32, rounding),
            "u64" => float_to_integer!(f32, u64, rounding),
            "s64" => float_to_integer!(f32, i64, rounding),
            "f32" => float_to_itself!(f32, rounding),
            "f64" if rounding.is_empty() => lanes!(|a: f32| f64::from(a)),
            _ => return None,
        },
        "f64" => match to {
            "u16" => float_to_integer!(f64, u16, rounding),
            "s16" => float_to_integer!(f64, i16, rounding),
            "u32" => float_to_integer!(f64, u32, rounding),
            "s32" => float_to_integer!(f64, i32, rounding),
            "u64" => float_to_integer!(f64, u64, rounding),
            "s64" => float_to_integer!(f64, i64, rounding),
            "f64" => float_to_itself!(f64, rounding),
            "f32" if rounding == "rn" => lanes!(|a: f64| a as f32),
            _ => return None,
        },
        _ => return None,
    })
}

/// `cvta.space` (an address in a space to a generic one) and `cvta.to.space` (back).
pub(super) fn address(opcode: &str) -> Option<Map> {
    Some(match opcode {
        "cvta.global.u64" | "cvta.to.global.u64" | "cvta.const.u64" | "cvta.to.const.u64" => lanes!(|a: u64| a),
        "cvta.shared.u64" => lanes!(|a: u64| a.wrapping_add(SHARED_WINDOW)),
        "cvta.to.shared.u64" => lanes!(|a: u64| a.wrapping_sub(SHARED_WINDOW)),
        "cvta.local.u64" => lanes!(|a: u64| a.wrapping_add(LOCAL_WINDOW)),
        "cvta.to.local.u64" => lanes!(|a: u64| a.wrapping_sub(LOCAL_WINDOW)),
        _ => return None,
    })
}

/// `isspacep.space`.
pub(super) fn is_space(space: &str) -> Option<Map> {
    Some(match space {
        "global" => lanes!(|a: u64| space_of(a) == Space::Global),
        "shared" => lanes!(|a: u64| space_of(a) == Space::Shared),
        "local" => lanes!(|a: u64| space_of(a) == Space::Local),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use crate::memory::SHARED_WINDOW;
    use crate::op::tests::apply;

    #[test]
    fn integers_extend_and_chop() {
        assert_eq!(apply("cvt.s64.s32", &[0xffff_fffe]), (-2i64) as u64);
        assert_eq!(apply("cvt.u64.u32", &[0xffff_ffff_ffff_fffe]), 0xffff_fffe);
        assert_eq!(apply("cvt.u16.u32", &[0x12_3456]), 0x3456);
        assert_eq!(apply("cvt.s32.s8", &[0x80]) as u32, 0xffff_ff80);
        assert_eq!(apply("cvt.u32.u8", &[0x180]) as u32, 0x80);
    }

    #[test]
    fn integers_round_to_nearest_even() {
        assert_eq!(apply("cvt.rn.f32.u32", &[0x0100_0001]) as u32, 16_777_216f32.to_bits());
        assert_eq!(apply("cvt.rn.f32.u32", &[0x0100_0003]) as u32, 16_777_220f32.to_bits());
        assert_eq!(apply("cvt.rn.f32.s32", &[0xffff_ffff]) as u32, (-1f32).to_bits());
        assert_eq!(apply("cvt.rn.f64.u64", &[u64::MAX]), 18_446_744_073_709_551_616f64.to_bits());
    }

    #[test]
    fn floats_round_as_named_and_clamp() {
        let convert = |opcode: &str, a: f32| apply(opcode, &[a.to_bits().into()]) as u32;
        assert_eq!(convert("cvt.rni.s32.f32", 2.5), 2);
        assert_eq!(convert("cvt.rzi.s32.f32", -2.5) as i32, -2);
        assert_eq!(convert("cvt.rmi.s32.f32", -2.5) as i32, -3);
        assert_eq!(convert("cvt.rpi.s32.f32", 2.1), 3);
        assert_eq!(convert("cvt.rzi.u32.f32", -7.0), 0);
        assert_eq!(convert("cvt.rzi.s32.f32", 3e9) as i32, i32::MAX);
        assert_eq!(convert("cvt.rzi.s32.f32", f32::NAN), 0);
        assert_eq!(apply("cvt.rzi.s64.f32", &[f32::NAN.to_bits().into()]), 1 << 63);
        assert_eq!(apply("cvt.rzi.u32.f64", &[f64::NAN.to_bits()]) as u32, 0x8000_0000);
        assert_eq!(convert("cvt.rmi.f32.f32", -0.5), (-1f32).to_bits());
        assert_eq!(convert("cvt.rpi.f32.f32", -0.5), (-0f32).to_bits());
        assert_eq!(convert("cvt.rni.f32.f32", 3.5), 4f32.to_bits());
    }

    #[test]
    fn between_floats() {
        assert_eq!(apply("cvt.rn.f32.f64", &[0.1f64.to_bits()]) as u32, 0.1f32.to_bits());
        assert_eq!(apply("cvt.f64.f32", &[0.1f32.to_bits().into()]), f64::from(0.1f32).to_bits());
    }

    #[test]
    fn addresses() {
        assert_eq!(apply("cvta.shared.u64", &[64]), SHARED_WINDOW + 64);
        assert_eq!(apply("cvta.to.shared.u64", &[SHARED_WINDOW + 64]), 64);
        assert_eq!(apply("isspacep.shared", &[SHARED_WINDOW + 64]), 1);
        assert_eq!(apply("isspacep.shared", &[0x1000]), 0);
        assert_eq!(apply("isspacep.global", &[0x1000]), 1);
    }
}
