//! Operations on untyped bits: logic, shifts, selection, permutation.

use super::{Map, lanes};

/// The operations on bits; the opcode is `name.element`.
pub(super) fn bits(name: &str, element: &str) -> Option<Map> {
    let pred = element == "pred";
    Some(match (name, element) {
        ("mov", "pred") => lanes!(|a: bool| a),
        ("mov", "b16" | "u16" | "s16" | "b32" | "u32" | "s32" | "f32" | "b64" | "u64" | "s64" | "f64") => {
            lanes!(|a: u64| a)
        }
        ("selp", "b16" | "u16" | "s16" | "b32" | "u32" | "s32" | "f32" | "b64" | "u64" | "s64" | "f64") => {
            lanes!(|a: u64, b: u64, chosen: bool| if chosen { a } else { b })
        }
        ("and", "pred" | "b16" | "b32" | "b64") => lanes!(|a: u64, b: u64| a & b),
        ("or", "pred" | "b16" | "b32" | "b64") => lanes!(|a: u64, b: u64| a | b),
        ("xor", "pred" | "b16" | "b32" | "b64") => lanes!(|a: u64, b: u64| a ^ b),
        ("not", "b16" | "b32" | "b64") => lanes!(|a: u64| !a),
        ("not", _) if pred => lanes!(|a: bool| !a),
        ("cnot", "b32") => lanes!(|a: u32| u32::from(a == 0)),
        ("cnot", "b64") => lanes!(|a: u64| u64::from(a == 0)),
        // A shift by the width or more gives 0.
        ("shl", "b16") => lanes!(|a: u16, b: u32| u32::from(a).checked_shl(b).unwrap_or(0) as u16),
        ("shl", "b32") => lanes!(|a: u32, b: u32| a.checked_shl(b).unwrap_or(0)),
        ("shl", "b64") => lanes!(|a: u64, b: u32| a.checked_shl(b).unwrap_or(0)),
        ("shr", "b16") => lanes!(|a: u16, b: u32| u32::from(a).checked_shr(b).unwrap_or(0)),
        ("shr", "b32") => lanes!(|a: u32, b: u32| a.checked_shr(b).unwrap_or(0)),
        ("shr", "b64") => lanes!(|a: u64, b: u32| a.checked_shr(b).unwrap_or(0)),
        ("shf.l.wrap", "b32") => lanes!(|a: u32, b: u32, c: u32| funnel_left(a, b, c & 31)),
        ("shf.l.clamp", "b32") => lanes!(|a: u32, b: u32, c: u32| funnel_left(a, b, c.min(32))),
        ("shf.r.wrap", "b32") => lanes!(|a: u32, b: u32, c: u32| funnel_right(a, b, c & 31)),
        ("shf.r.clamp", "b32") => lanes!(|a: u32, b: u32, c: u32| funnel_right(a, b, c.min(32))),
        ("popc", "b32") => lanes!(|a: u32| a.count_ones()),
        ("popc", "b64") => lanes!(|a: u64| a.count_ones()),
        ("clz", "b32") => lanes!(|a: u32| a.leading_zeros()),
        ("clz", "b64") => lanes!(|a: u64| a.leading_zeros()),
        ("brev", "b32") => lanes!(|a: u32| a.reverse_bits()),
        ("brev", "b64") => lanes!(|a: u64| a.reverse_bits()),
        ("bfi", "b32") => lanes!(|a: u32, b: u32, c: u32, d: u32| insert(a.into(), b.into(), c, d, 32)),
        ("bfi", "b64") => lanes!(|a: u64, b: u64, c: u32, d: u32| insert(a, b, c, d, 64)),
        ("prmt", "b32") => lanes!(|a: u32, b: u32, c: u32| permute(a, b, c)),
        ("lop3", "b32") => lanes!(|a: u32, b: u32, c: u32, table: u32| lookup(a, b, c, table)),
        ("slct.b32" | "slct.u32" | "slct.s32" | "slct.f32" | "slct.b64" | "slct.u64" | "slct.s64", "s32") => {
            lanes!(|a: u64, b: u64, c: i32| if c >= 0 { a } else { b })
        }
        ("slct.b32" | "slct.u32" | "slct.s32" | "slct.f32" | "slct.b64" | "slct.u64" | "slct.s64", "f32") => {
            lanes!(|a: u64, b: u64, c: f32| if c >= 0.0 { a } else { b })
        }
        _ => return None,
    })
}

/// The upper half of `high:low` shifted left by `by` <= 32.
#[inline(always)]
fn funnel_left(low: u32, high: u32, by: u32) -> u32 {
    let both = u64::from(high) << 32 | u64::from(low);
    (both << by >> 32) as u32
}

/// The lower half of `high:low` shifted right by `by` <= 32.
#[inline(always)]
fn funnel_right(low: u32, high: u32, by: u32) -> u32 {
    ((u64::from(high) << 32 | u64::from(low)) >> by) as u32
}

/// `b` with its bits from `start` on, `length` of them (both mod 256), taken from `a`.
fn insert(a: u64, b: u64, start: u32, length: u32, width: u32) -> u64 {
    let (start, end) = (start & 255, (start & 255) + (length & 255));
    let ones = |n: u32| if n >= 64 { u64::MAX } else { (1 << n) - 1 };
    let mask = ones(end.min(width)) & !ones(start);
    b & !mask | a.checked_shl(start).unwrap_or(0) & mask
}

/// Four bytes picked from the eight of `b:a` by the nibbles of `selector`; a nibble's high bit spreads the byte's sign.
fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    u32::from_le_bytes(std::array::from_fn(|i| {
        let nibble = selector >> (4 * i) & 15;
        let byte = bytes[(nibble & 7) as usize];
        if nibble & 8 == 0 { byte } else { (byte as i8 >> 7) as u8 }
    }))
}

/// Any function of three bits: `table` holds its value at a, b, c as bit 4a + 2b + c.
fn lookup(a: u32, b: u32, c: u32, table: u32) -> u32 {
    (0..8).filter(|row| table >> row & 1 == 1).fold(0, |out, row| {
        let pick = |value: u32, bit: u32| if row >> bit & 1 == 1 { value } else { !value };
        out | pick(a, 2) & pick(b, 1) & pick(c, 0)
    })
}

#[cfg(test)]
mod tests {
    use crate::op::tests::apply;

    #[test]
    fn logic_and_selection() {
        assert_eq!(apply("and.b32", &[0b1100, 0b1010]), 0b1000);
        assert_eq!(apply("not.pred", &[1]), 0);
        assert_eq!(apply("not.b32", &[1]) as u32, 0xffff_fffe);
        assert_eq!(apply("mov.pred", &[u64::MAX]), 1);
        assert_eq!(apply("selp.f32", &[7, 9, 0]), 9);
        assert_eq!(apply("slct.u32.s32", &[7, 9, 0xffff_ffff]), 9);
        assert_eq!(apply("lop3.b32", &[0b1100, 0b1010, 0b0110, 0x96]) as u32, 0b1100 ^ 0b1010 ^ 0b0110);
        assert_eq!(apply("lop3.b32", &[0xf0f0, 0xff00, 0, 0xc0]) as u32, 0xf000);
    }

    #[test]
    fn left_shifts_clamp() {
        assert_eq!(apply("shl.b32", &[3, 31]) as u32, 0x8000_0000);
        assert_eq!(apply("shl.b32", &[3, 32]) as u32, 0);
        assert_eq!(apply("shl.b64", &[3, 64]), 0);
        assert_eq!(apply("shl.b16", &[3, 15]) as u16, 0x8000);
    }

    #[test]
    fn funnels() {
        assert_eq!(apply("shf.l.wrap.b32", &[0x8000_0001, 0x8000_0001, 4]) as u32, 0x18);
        assert_eq!(apply("shf.l.wrap.b32", &[1, 2, 32]) as u32, 2);
        assert_eq!(apply("shf.l.clamp.b32", &[1, 2, 40]) as u32, 1);
        assert_eq!(apply("shf.r.wrap.b32", &[0x10, 0x3, 4]) as u32, 0x3000_0001);
        assert_eq!(apply("shf.r.clamp.b32", &[1, 2, 99]) as u32, 2);
    }

    #[test]
    fn counting() {
        assert_eq!(apply("popc.b32", &[0xf0f0]), 8);
        assert_eq!(apply("clz.b32", &[1]), 31);
        assert_eq!(apply("clz.b64", &[0]), 64);
        assert_eq!(apply("brev.b32", &[1]) as u32, 0x8000_0000);
    }

    #[test]
    fn fields_and_bytes() {
        assert_eq!(apply("bfi.b32", &[0xff, 0, 8, 4]) as u32, 0xf00);
        assert_eq!(apply("bfi.b32", &[0, 0xffff_ffff, 28, 9]) as u32, 0x0fff_ffff);
        assert_eq!(apply("bfi.b64", &[1, 0, 63, 1]), 1 << 63);
        assert_eq!(apply("bfi.b32", &[9, 5, 200, 3]) as u32, 5);
        assert_eq!(apply("prmt.b32", &[0x3322_1100, 0x7766_5544, 0x7531]) as u32, 0x7755_3311);
        assert_eq!(apply("prmt.b32", &[0x0000_8000, 0, 0x9991]) as u32, 0xffff_ff80);
    }
}
