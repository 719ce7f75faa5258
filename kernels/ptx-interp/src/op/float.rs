//! Floating-point arithmetic and comparison: IEEE 754, round to nearest even, subnormals kept.

use super::{Map, lanes};

/// An operation's result: f32 has one NaN.
trait Canonical {
    fn canonical(self) -> Self;
}

impl Canonical for f32 {
    #[inline(always)]
    fn canonical(self) -> f32 {
        if self.is_nan() { f32::from_bits(0x7fff_ffff) } else { self }
    }
}

impl Canonical for f64 {
    #[inline(always)]
    fn canonical(self) -> f64 {
        self
    }
}

/// A comparison by name: ordered ones are false for NaN, those with `u` are true.
macro_rules! compare {
    ($name:expr, $type:ident, $result:expr) => {
        match $name {
            "eq" => lanes!(|a: $type, b: $type| $result(a == b)),
            "ne" => lanes!(|a: $type, b: $type| $result(a != b && !a.is_nan() && !b.is_nan())),
            "lt" => lanes!(|a: $type, b: $type| $result(a < b)),
            "le" => lanes!(|a: $type, b: $type| $result(a <= b)),
            "gt" => lanes!(|a: $type, b: $type| $result(a > b)),
            "ge" => lanes!(|a: $type, b: $type| $result(a >= b)),
            "equ" => lanes!(|a: $type, b: $type| $result(a == b || a.is_nan() || b.is_nan())),
            "neu" => lanes!(|a: $type, b: $type| $result(a != b)),
            "ltu" => lanes!(|a: $type, b: $type| $result(!(a >= b))),
            "leu" => lanes!(|a: $type, b: $type| $result(!(a > b))),
            "gtu" => lanes!(|a: $type, b: $type| $result(!(a <= b))),
            "geu" => lanes!(|a: $type, b: $type| $result(!(a < b))),
            "num" => lanes!(|a: $type, b: $type| $result(!a.is_nan() && !b.is_nan())),
            "nan" => lanes!(|a: $type, b: $type| $result(a.is_nan() || b.is_nan())),
            _ => return None,
        }
    };
}

macro_rules! floats {
    ($($type:ident)*) => {$(
        /// The operations on this type; `name` is the opcode without the type.
        #[allow(clippy::neg_cmp_op_on_partial_ord, reason = "unordered comparisons are negated ordered ones")]
        pub(super) fn $type(name: &str) -> Option<Map> {
            if let Some(name) = name.strip_prefix("setp.") {
                return Some(compare!(name, $type, |holds: bool| holds));
            }
            if let Some((name, result)) = name.strip_prefix("set.").and_then(|name| name.rsplit_once('.')) {
                return Some(match result {
                    "u32" | "s32" => compare!(name, $type, |holds: bool| if holds { u32::MAX } else { 0 }),
                    "f32" => compare!(name, $type, |holds: bool| f32::from(u8::from(holds))),
                    _ => return None,
                });
            }
            /// The smaller of two numbers; -0 is below +0.
            #[inline(always)]
            fn min(a: $type, b: $type) -> $type {
                if a < b || (a == b && a.is_sign_negative()) { a } else { b }
            }
            /// The larger of two numbers.
            #[inline(always)]
            fn max(a: $type, b: $type) -> $type {
                if a > b || (a == b && a.is_sign_positive()) { a } else { b }
            }
            /// `pick` of two numbers, or the only number.
            #[inline(always)]
            fn number_or(a: $type, b: $type, pick: impl Fn($type, $type) -> $type) -> $type {
                if a.is_nan() { b.canonical() } else if b.is_nan() { a } else { pick(a, b) }
            }
            /// `pick` of two numbers, or NaN.
            #[inline(always)]
            fn nan_or(a: $type, b: $type, pick: impl Fn($type, $type) -> $type) -> $type {
                if a.is_nan() || b.is_nan() { $type::NAN.canonical() } else { pick(a, b) }
            }
            Some(match name {
                "add.rn" => lanes!(|a: $type, b: $type| (a + b).canonical()),
                "sub.rn" => lanes!(|a: $type, b: $type| (a - b).canonical()),
                "mul.rn" => lanes!(|a: $type, b: $type| (a * b).canonical()),
                "fma.rn" => lanes!(|a: $type, b: $type, c: $type| a.mul_add(b, c).canonical()),
                "div.rn" => lanes!(|a: $type, b: $type| (a / b).canonical()),
                "rcp.rn" => lanes!(|a: $type| (1.0 / a).canonical()),
                "sqrt.rn" => lanes!(|a: $type| a.sqrt().canonical()),
                "min" => lanes!(|a: $type, b: $type| number_or(a, b, min)),
                "max" => lanes!(|a: $type, b: $type| number_or(a, b, max)),
                "min.NaN" => lanes!(|a: $type, b: $type| nan_or(a, b, min)),
                "max.NaN" => lanes!(|a: $type, b: $type| nan_or(a, b, max)),
                "abs" => lanes!(|a: $type| a.abs()),
                "neg" => lanes!(|a: $type| -a),
                // The sign of the first operand with the magnitude of the second.
                "copysign" => lanes!(|a: $type, b: $type| b.copysign(a)),
                "testp.finite" => lanes!(|a: $type| a.is_finite()),
                "testp.infinite" => lanes!(|a: $type| a.is_infinite()),
                "testp.number" => lanes!(|a: $type| !a.is_nan()),
                "testp.notanumber" => lanes!(|a: $type| a.is_nan()),
                "testp.normal" => lanes!(|a: $type| a.is_normal()),
                "testp.subnormal" => lanes!(|a: $type| a.is_subnormal()),
                _ => return None,
            })
        }
    )*};
}
floats!(f32 f64);

#[cfg(test)]
mod tests {
    use crate::op::tests::apply;

    fn f(opcode: &str, operands: &[f32]) -> f32 {
        let bits: Vec<u64> = operands.iter().map(|x| u64::from(x.to_bits())).collect();
        f32::from_bits(apply(opcode, &bits) as u32)
    }

    fn bits(opcode: &str, operands: &[f32]) -> u32 {
        f(opcode, operands).to_bits()
    }

    fn holds(opcode: &str, a: f32, b: f32) -> bool {
        apply(opcode, &[a.to_bits().into(), b.to_bits().into()]) == 1
    }

    #[test]
    fn one_rounding_per_operation() {
        // (1 + 2^-23)^2 = 1 + 2^-22 + 2^-46: the fused form keeps the last term, the plain one loses it.
        let x = 1.0 + f32::EPSILON;
        assert_eq!(f("fma.rn.f32", &[x, x, -1.0 - 2.0 * f32::EPSILON]), 2.0f32.powi(-46));
        assert_eq!(f("add.rn.f32", &[f("mul.rn.f32", &[x, x]), -1.0 - 2.0 * f32::EPSILON]), 0.0);
        assert_eq!(f("sub.rn.f32", &[1.0, 2.0f32.powi(-25)]), 1.0);
        assert_eq!(f("sub.rn.f32", &[1.0, 2.0f32.powi(-24)]), 1.0 - 2.0f32.powi(-24));
        assert_eq!(f("div.rn.f32", &[1.0, 3.0]).to_bits(), 0x3eaa_aaab);
        assert_eq!(f("rcp.rn.f32", &[3.0]).to_bits(), 0x3eaa_aaab);
        assert_eq!(f("sqrt.rn.f32", &[2.0]).to_bits(), 0x3fb5_04f3);
    }

    #[test]
    fn subnormals_are_kept() {
        let tiny = f32::from_bits(1);
        assert_eq!(f("add.rn.f32", &[tiny, tiny]).to_bits(), 2);
        assert_eq!(f("mul.rn.f32", &[f32::MIN_POSITIVE, 0.5]).to_bits(), 0x0040_0000);
    }

    #[test]
    fn one_nan() {
        assert_eq!(bits("div.rn.f32", &[0.0, 0.0]), 0x7fff_ffff);
        assert_eq!(bits("add.rn.f32", &[f32::from_bits(0xffc0_1234), 1.0]), 0x7fff_ffff);
        assert_eq!(bits("sqrt.rn.f32", &[-1.0]), 0x7fff_ffff);
    }

    #[test]
    fn extremes() {
        let nan = f32::NAN;
        assert_eq!(f("min.f32", &[nan, 2.0]), 2.0);
        assert_eq!(f("max.f32", &[2.0, nan]), 2.0);
        assert_eq!(bits("max.f32", &[nan, nan]), 0x7fff_ffff);
        assert!(f("max.NaN.f32", &[nan, 2.0]).is_nan());
        assert_eq!(bits("min.f32", &[0.0, -0.0]), 0x8000_0000);
        assert_eq!(bits("min.f32", &[-0.0, 0.0]), 0x8000_0000);
        assert_eq!(bits("max.f32", &[-0.0, 0.0]), 0);
        assert_eq!(bits("max.f32", &[0.0, -0.0]), 0);
        assert_eq!(f("max.f32", &[-3.0, 2.0]), 2.0);
    }

    #[test]
    fn signs() {
        assert_eq!(f("copysign.f32", &[-1.0, 5.0]), -5.0);
        assert_eq!(bits("neg.f32", &[0.0]), 0x8000_0000);
        assert_eq!(bits("abs.f32", &[-0.0]), 0);
    }

    #[test]
    fn comparisons_with_nan() {
        for ordered in ["eq", "ne", "lt", "le", "gt", "ge", "num"] {
            assert!(!holds(&format!("setp.{ordered}.f32"), f32::NAN, 1.0), "{ordered}");
        }
        for unordered in ["equ", "neu", "ltu", "leu", "gtu", "geu", "nan"] {
            assert!(holds(&format!("setp.{unordered}.f32"), f32::NAN, 1.0), "{unordered}");
        }
        for (name, less, equal, greater) in [
            ("eq", false, true, false),
            ("ne", true, false, true),
            ("lt", true, false, false),
            ("le", true, true, false),
            ("gt", false, false, true),
            ("ge", false, true, true),
        ] {
            for name in [format!("setp.{name}.f32"), format!("setp.{name}u.f32")] {
                let got = [holds(&name, 1.0, 2.0), holds(&name, 2.0, 2.0), holds(&name, 3.0, 2.0)];
                assert_eq!(got, [less, equal, greater], "{name}");
            }
        }
        assert!(holds("setp.eq.f32", 0.0, -0.0));
    }

    #[test]
    fn double_precision() {
        let third = apply("div.rn.f64", &[1.0f64.to_bits(), 3.0f64.to_bits()]);
        assert_eq!(third, 0x3fd5_5555_5555_5555);
        let x = 1.0 + f64::EPSILON;
        let rest = apply("fma.rn.f64", &[x.to_bits(), x.to_bits(), (-1.0 - 2.0 * f64::EPSILON).to_bits()]);
        assert_eq!(f64::from_bits(rest), 2.0f64.powi(-104));
    }
}
