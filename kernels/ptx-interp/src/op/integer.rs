//! Integer arithmetic and comparison.

use super::{Map, lanes};

/// `set`: comparison with a number as its result.
macro_rules! compare {
    ($name:expr, $type:ident, $result:expr) => {
        match $name {
            "eq" => lanes!(|a: $type, b: $type| $result(a == b)),
            "ne" => lanes!(|a: $type, b: $type| $result(a != b)),
            "lt" | "lo" => lanes!(|a: $type, b: $type| $result(a < b)),
            "le" | "ls" => lanes!(|a: $type, b: $type| $result(a <= b)),
            "gt" | "hi" => lanes!(|a: $type, b: $type| $result(a > b)),
            "ge" | "hs" => lanes!(|a: $type, b: $type| $result(a >= b)),
            _ => return None,
        }
    };
}

/// `setp` joined with a predicate.
macro_rules! compare_and_join {
    ($name:expr, $type:ident) => {
        match $name {
            "eq.and" => lanes!(|a: $type, b: $type, c: bool| (a == b) & c),
            "ne.and" => lanes!(|a: $type, b: $type, c: bool| (a != b) & c),
            "lt.and" | "lo.and" => lanes!(|a: $type, b: $type, c: bool| (a < b) & c),
            "le.and" | "ls.and" => lanes!(|a: $type, b: $type, c: bool| (a <= b) & c),
            "gt.and" | "hi.and" => lanes!(|a: $type, b: $type, c: bool| (a > b) & c),
            "ge.and" | "hs.and" => lanes!(|a: $type, b: $type, c: bool| (a >= b) & c),
            "eq.or" => lanes!(|a: $type, b: $type, c: bool| (a == b) | c),
            "ne.or" => lanes!(|a: $type, b: $type, c: bool| (a != b) | c),
            "lt.or" | "lo.or" => lanes!(|a: $type, b: $type, c: bool| (a < b) | c),
            "le.or" | "ls.or" => lanes!(|a: $type, b: $type, c: bool| (a <= b) | c),
            "gt.or" | "hi.or" => lanes!(|a: $type, b: $type, c: bool| (a > b) | c),
            "ge.or" | "hs.or" => lanes!(|a: $type, b: $type, c: bool| (a >= b) | c),
            _ => return None,
        }
    };
}

/// What a carry chain does per lane: (a, b, carry in) to (result, carry out).
type CarryLane<T> = fn(T, T, bool) -> (T, bool);

macro_rules! integers {
    ($($type:ident, unsigned $unsigned:ident, wide $wide:ident;)*) => {$(
        /// The operations on this type; `name` is the opcode without the type.
        pub(super) fn $type(name: &str) -> Option<Map> {
            type Unsigned = $unsigned;
            type Wide = $wide;
            const BITS: u32 = $type::BITS;
            /// The carry flag of a chain runs through `step`.
            macro_rules! carry {
                ($step:expr) => {
                    Map::Carry(|x, y, carry| {
                        const STEP: CarryLane<$unsigned> = $step;
                        let mut out = ([0; 32], [0; 32]);
                        for i in 0..32 {
                            let (value, flag) = STEP(x[i] as $unsigned, y[i] as $unsigned, carry[i] & 1 == 1);
                            out.0[i] = u64::from(value);
                            out.1[i] = u64::from(flag);
                        }
                        out
                    })
                };
            }
            if let Some(name) = name.strip_prefix("setp.") {
                if name.contains('.') {
                    return Some(compare_and_join!(name, $type));
                }
                return Some(compare!(name, $type, |holds: bool| holds));
            }
            if let Some((name, result)) = name.strip_prefix("set.").and_then(|name| name.rsplit_once('.')) {
                return Some(match result {
                    "u32" | "s32" => compare!(name, $type, |holds: bool| if holds { u32::MAX } else { 0 }),
                    "f32" => compare!(name, $type, |holds: bool| f32::from(u8::from(holds))),
                    _ => return None,
                });
            }
            Some(match name {
                "add" => lanes!(|a: $type, b: $type| a.wrapping_add(b)),
                "sub" => lanes!(|a: $type, b: $type| a.wrapping_sub(b)),
                "mul.lo" => lanes!(|a: $type, b: $type| a.wrapping_mul(b)),
                "mul.hi" => lanes!(|a: $type, b: $type| {
                    (Wide::from(a).wrapping_mul(Wide::from(b)) >> BITS) as $type
                }),
                "mul.wide" if BITS < 64 => lanes!(|a: $type, b: $type| {
                    Wide::from(a).wrapping_mul(Wide::from(b)) as u64
                }),
                "mad.lo" => lanes!(|a: $type, b: $type, c: $type| a.wrapping_mul(b).wrapping_add(c)),
                "mad.hi" => lanes!(|a: $type, b: $type, c: $type| {
                    ((Wide::from(a).wrapping_mul(Wide::from(b)) >> BITS) as $type).wrapping_add(c)
                }),
                "mad.wide" if BITS < 64 => lanes!(|a: $type, b: $type, c: u64| {
                    (Wide::from(a).wrapping_mul(Wide::from(b)) as u64).wrapping_add(c)
                }),
                // What a division by zero gives is up to the device; the kernels must not use it.
                "div" => lanes!(|a: $type, b: $type| if b == 0 { Unsigned::MAX as $type } else { a.wrapping_div(b) }),
                "rem" => lanes!(|a: $type, b: $type| if b == 0 { a } else { a.wrapping_rem(b) }),
                "min" => lanes!(|a: $type, b: $type| a.min(b)),
                "max" => lanes!(|a: $type, b: $type| a.max(b)),
                "neg" => lanes!(|a: $type| a.wrapping_neg()),
                "abs" => lanes!(|a: $type| if (a as Unsigned) < (1 << (BITS - 1)) { a } else { a.wrapping_neg() }),
                "sad" => lanes!(|a: $type, b: $type, c: Unsigned| a.abs_diff(b).wrapping_add(c)),
                // A shift by the width or more gives what a shift by all bits gives: 0, or the sign.
                "shr" => lanes!(|a: $type, b: u32| (Wide::from(a) >> b.min(BITS)) as $type),
                "bfe" if BITS >= 32 => lanes!(|a: $type, b: u32, c: u32| extract(Wide::from(a) as i128, b, c, BITS,
                    $type::MIN != 0) as $type),
                "bfind" => lanes!(|a: $type| {
                    let sought = if (Wide::from(a) as i128) < 0 { !a } else { a };
                    if sought == 0 { u32::MAX } else { sought.ilog2() }
                }),
                "add.cc" => carry!(|a, b, _| a.overflowing_add(b)),
                "addc" | "addc.cc" => carry!(|a, b, carry| {
                    let (sum, first) = a.overflowing_add(b);
                    let (sum, second) = sum.overflowing_add(carry.into());
                    (sum, first | second)
                }),
                "sub.cc" => carry!(|a, b, _| a.overflowing_sub(b)),
                "subc" | "subc.cc" => carry!(|a, b, borrow| {
                    let (difference, first) = a.overflowing_sub(b);
                    let (difference, second) = difference.overflowing_sub(borrow.into());
                    (difference, first | second)
                }),
                _ => return None,
            })
        }
    )*};
}
integers! {
    u16, unsigned u16, wide u32;
    i16, unsigned u16, wide i32;
    u32, unsigned u32, wide u64;
    i32, unsigned u32, wide i64;
    u64, unsigned u64, wide u128;
    i64, unsigned u64, wide i128;
}

/// `length` bits of `value` from bit `start` on (both mod 256), sign-extended if the type is signed; bits beyond the
/// type repeat its highest bit (PTX `bfe`).
fn extract(value: i128, start: u32, length: u32, width: u32, signed: bool) -> u64 {
    let (start, length) = (start & 255, length & 255);
    let msb = width - 1;
    let bit = |i: u32| value >> i.min(msb) & 1 == 1;
    let sign = signed && length != 0 && bit(start.saturating_add(length - 1).min(msb));
    (0..width).fold(0, |out, i| {
        let set = if i < length && start + i <= msb { bit(start + i) } else { sign };
        out | u64::from(set) << i
    })
}

#[cfg(test)]
mod tests {
    use crate::op::tests::apply;

    #[test]
    fn arithmetic_wraps_at_its_width() {
        assert_eq!(apply("add.s32", &[u64::from(u32::MAX), 2]) as u32, 1);
        assert_eq!(apply("sub.u16", &[0, 1]) as u16, 0xffff);
        assert_eq!(apply("mul.lo.s32", &[0x8000_0001, 2]) as u32, 2);
        assert_eq!(apply("mad.lo.u32", &[3, 5, 7]) as u32, 22);
        assert_eq!(apply("neg.s64", &[5]), (-5i64) as u64);
        assert_eq!(apply("abs.s32", &[0xffff_fffb]) as u32, 5);
        assert_eq!(apply("abs.s32", &[0x8000_0000]) as u32, 0x8000_0000);
        assert_eq!(apply("sad.s32", &[0xffff_ffff, 2, 10]) as u32, 13);
    }

    #[test]
    fn high_and_wide_products_know_their_sign() {
        assert_eq!(apply("mul.wide.u32", &[0xffff_ffff, 0xffff_ffff]), 0xffff_fffe_0000_0001);
        assert_eq!(apply("mul.wide.s32", &[0xffff_ffff, 3]), (-3i64) as u64);
        assert_eq!(apply("mul.wide.u16", &[0xffff, 0xffff]) as u32, 0xfffe_0001);
        assert_eq!(apply("mul.hi.u32", &[0x8000_0000, 4]) as u32, 2);
        assert_eq!(apply("mul.hi.s32", &[0x8000_0000, 4]) as u32, 0xffff_fffe);
        assert_eq!(apply("mul.hi.u64", &[u64::MAX, u64::MAX]), u64::MAX - 1);
        assert_eq!(apply("mad.wide.u32", &[0x1_0000, 0x1_0000, 5]), (1 << 32) + 5);
    }

    #[test]
    fn division() {
        assert_eq!(apply("div.s32", &[0xffff_fff9, 2]) as i32, -3);
        assert_eq!(apply("rem.s32", &[0xffff_fff9, 2]) as i32, -1);
        assert_eq!(apply("div.u32", &[0xffff_fff9, 2]) as u32, 0x7fff_fffc);
        assert_eq!(apply("div.s32", &[0x8000_0000, 0xffff_ffff]) as u32, 0x8000_0000);
        assert_eq!(apply("rem.u64", &[17, 5]), 2);
    }

    #[test]
    fn right_shifts_clamp() {
        assert_eq!(apply("shr.u32", &[0x8000_0000, 31]) as u32, 1);
        assert_eq!(apply("shr.u32", &[0x8000_0000, 32]) as u32, 0);
        assert_eq!(apply("shr.s32", &[0x8000_0000, 40]) as u32, u32::MAX);
        assert_eq!(apply("shr.s64", &[1 << 63, 200]), u64::MAX);
        assert_eq!(apply("shr.u64", &[1 << 63, 64]), 0);
    }

    #[test]
    fn bit_fields() {
        assert_eq!(apply("bfe.u32", &[0xabcd_1234, 8, 8]) as u32, 0x12);
        assert_eq!(apply("bfe.s32", &[0x0000_8000, 8, 8]) as u32, 0xffff_ff80);
        assert_eq!(apply("bfe.u32", &[0xf000_0000, 28, 8]) as u32, 0xf);
        assert_eq!(apply("bfe.s32", &[0x8000_0000, 28, 8]) as u32, 0xffff_fff8);
        assert_eq!(apply("bfe.u64", &[0xff << 52, 52, 11]), 0xff);
        assert_eq!(apply("bfe.s32", &[u64::MAX, 3, 0]) as u32, 0);
        assert_eq!(apply("bfind.u32", &[0x10]) as u32, 4);
        assert_eq!(apply("bfind.s32", &[0xffff_fffe]) as u32, 0);
    }

    #[test]
    fn comparisons() {
        assert_eq!(apply("setp.lt.u32", &[1, 0xffff_ffff]), 1);
        assert_eq!(apply("setp.lt.s32", &[1, 0xffff_ffff]), 0);
        assert_eq!(apply("setp.ge.s64", &[u64::MAX, 0]), 0);
        assert_eq!(apply("setp.hs.u16", &[3, 3]), 1);
        assert_eq!(apply("setp.ne.b32", &[1 << 32, 0]), 0);
        assert!(crate::op::map("setp.lt.b32").is_none());
        assert_eq!(apply("setp.eq.and.u32", &[3, 3, 0]), 0);
        assert_eq!(apply("setp.ne.or.u32", &[3, 3, 1]), 1);
        assert_eq!(apply("set.gt.u32.s32", &[5, 4]) as u32, u32::MAX);
        assert_eq!(apply("set.gt.f32.s32", &[5, 4]) as u32, 1.0f32.to_bits());
    }

    #[test]
    fn carries() {
        assert_eq!(apply("addc.s64", &[u64::MAX, 1, 1]), 1);
        assert_eq!(apply("subc.u32", &[5, 5, 1]) as u32, u32::MAX);
        assert_eq!(apply("add.cc.u32", &[5, 5, 1]), 10);
    }
}
