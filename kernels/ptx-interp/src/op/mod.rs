//! What opcodes do to lanes: [`map`] finds the function of an opcode. Memory, control and convergent operations are
//! not here; they need more than values.
//!
//! Only what is exactly defined is known: `add.f32` without a rounding mode may be fused by `ptxas`, and `ex2.approx`
//! differs from device to device, so neither is.

mod bits;
mod convert;
mod float;
mod integer;

/// A register of a warp: one value per lane. A value may have any bits above its type's width.
pub(crate) type Lanes = [u64; 32];

/// What an instruction computes, for all lanes at once. The functions are total: inactive lanes hold anything.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Map {
    /// From one register.
    One(fn(&Lanes) -> Lanes),
    /// From two.
    Two(fn(&Lanes, &Lanes) -> Lanes),
    /// From three.
    Three(fn(&Lanes, &Lanes, &Lanes) -> Lanes),
    /// From four.
    Four(fn(&Lanes, &Lanes, &Lanes, &Lanes) -> Lanes),
    /// From two and the carry flag; gives the result and the carry flag.
    Carry(fn(&Lanes, &Lanes, &Lanes) -> (Lanes, Lanes)),
}

/// The function of an opcode, or `None` if it is not known.
pub(crate) fn map(opcode: &str) -> Option<Map> {
    let (name, element) = opcode.rsplit_once('.')?;
    match name.split('.').next()? {
        "cvt" => return convert::convert(opcode),
        "cvta" => return convert::address(opcode),
        "isspacep" => return convert::is_space(element),
        _ => {}
    }
    bits::bits(name, element).or_else(|| match element {
        "u16" => integer::u16(name),
        "s16" => integer::i16(name),
        "u32" => integer::u32(name),
        "s32" => integer::i32(name),
        "u64" => integer::u64(name),
        "s64" => integer::i64(name),
        "f32" => float::f32(name),
        "f64" => float::f64(name),
        // Bits are equal or not.
        "b16" | "b32" | "b64" if name.starts_with("setp.eq") || name.starts_with("setp.ne") => match element {
            "b16" => integer::u16(name),
            "b32" => integer::u32(name),
            _ => integer::u64(name),
        },
        _ => None,
    })
}

/// A type of values in a register.
trait Value: Copy {
    /// The value in these bits.
    fn of(bits: u64) -> Self;
    /// The bits: signed integers sign-extended, all else zero-extended.
    fn bits(self) -> u64;
}

macro_rules! values {
    ($($type:ident)*) => {$(
        impl Value for $type {
            #[inline(always)]
            fn of(bits: u64) -> $type {
                bits as $type
            }
            #[inline(always)]
            fn bits(self) -> u64 {
                self as u64
            }
        }
    )*};
}
values!(u8 u16 u32 u64 i8 i16 i32 i64);

impl Value for bool {
    #[inline(always)]
    fn of(bits: u64) -> bool {
        bits & 1 == 1
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        u64::from(self)
    }
}

impl Value for f32 {
    #[inline(always)]
    fn of(bits: u64) -> f32 {
        f32::from_bits(bits as u32)
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        u64::from(self.to_bits())
    }
}

impl Value for f64 {
    #[inline(always)]
    fn of(bits: u64) -> f64 {
        f64::from_bits(bits)
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        self.to_bits()
    }
}

/// The lanes that `lane` gives.
#[inline(always)]
fn each(lane: impl Fn(usize) -> u64) -> Lanes {
    let mut out = [0; 32];
    for (i, out) in out.iter_mut().enumerate() {
        *out = lane(i);
    }
    out
}

/// A [`Map`] from an expression over typed lanes: `lanes!(|a: u32, b: u32| a & b)`.
macro_rules! lanes {
    (|$a:ident: $ta:ty| $result:expr) => {
        $crate::op::Map::One(|x| {
            $crate::op::each(|i| {
                let $a = <$ta as $crate::op::Value>::of(x[i]);
                $crate::op::Value::bits($result)
            })
        })
    };
    (|$a:ident: $ta:ty, $b:ident: $tb:ty| $result:expr) => {
        $crate::op::Map::Two(|x, y| {
            $crate::op::each(|i| {
                let ($a, $b) = (<$ta as $crate::op::Value>::of(x[i]), <$tb as $crate::op::Value>::of(y[i]));
                $crate::op::Value::bits($result)
            })
        })
    };
    (|$a:ident: $ta:ty, $b:ident: $tb:ty, $c:ident: $tc:ty| $result:expr) => {
        $crate::op::Map::Three(|x, y, z| {
            $crate::op::each(|i| {
                let ($a, $b) = (<$ta as $crate::op::Value>::of(x[i]), <$tb as $crate::op::Value>::of(y[i]));
                let $c = <$tc as $crate::op::Value>::of(z[i]);
                $crate::op::Value::bits($result)
            })
        })
    };
    (|$a:ident: $ta:ty, $b:ident: $tb:ty, $c:ident: $tc:ty, $d:ident: $td:ty| $result:expr) => {
        $crate::op::Map::Four(|x, y, z, w| {
            $crate::op::each(|i| {
                let ($a, $b) = (<$ta as $crate::op::Value>::of(x[i]), <$tb as $crate::op::Value>::of(y[i]));
                let ($c, $d) = (<$tc as $crate::op::Value>::of(z[i]), <$td as $crate::op::Value>::of(w[i]));
                $crate::op::Value::bits($result)
            })
        })
    };
}
use lanes;

#[cfg(test)]
mod tests {
    use super::*;

    /// Lane 0 of what `opcode` makes of `operands`, each the same in all lanes.
    pub(super) fn apply(opcode: &str, operands: &[u64]) -> u64 {
        let lanes: Vec<Lanes> = operands.iter().map(|&bits| [bits; 32]).collect();
        let found = map(opcode).unwrap_or_else(|| panic!("{opcode} is not known"));
        let out = match (found, &lanes[..]) {
            (Map::One(f), [a]) => f(a),
            (Map::Two(f), [a, b]) => f(a, b),
            (Map::Three(f), [a, b, c]) => f(a, b, c),
            (Map::Four(f), [a, b, c, d]) => f(a, b, c, d),
            (Map::Carry(f), [a, b, carry]) => f(a, b, carry).0,
            _ => panic!("{opcode} does not take {} operands", operands.len()),
        };
        out[0]
    }

    #[test]
    fn what_is_not_exactly_defined_is_not_known() {
        for opcode in ["add.f32", "fma.rn.ftz.f32", "ex2.approx.f32", "div.full.f32", "sqrt.approx.f32", "frob.u32"] {
            assert!(map(opcode).is_none(), "{opcode}");
        }
    }
}
