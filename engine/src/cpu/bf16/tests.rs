//! All units, on every instruction set, against the reference.

use super::*;
use crate::bf16;
use crate::cpu::CpuDevice;
use selfsame_kernels::reference::contract_bf16;
use std::ops::Range;

/// Bits of numbers whose exponents lie in `exponents`, of any sign.
fn numbers(len: usize, seed: u64, exponents: Range<u64>) -> Vec<bf16> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        state >> 33
    };
    let mut one = || {
        let exponent = exponents.start + next() % (exponents.end - exponents.start);
        bf16::from_bits((((next() & 1) << 15) | (exponent << 7) | (next() & 0x7f)) as u16)
    };
    (0..len).map(|_| one()).collect()
}

fn bits(x: &[bf16]) -> Vec<u16> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// A product of one block of rows and one of columns, both ragged, over k positions.
fn assert_product([m, n, k]: [usize; 3], exponents: Range<u64>, seed: u64) {
    let (a, b) = (numbers(m * k, seed, exponents.clone()), numbers(k * n, seed + 1, exponents.clone()));
    let expected = contract_bf16([m, n, k], &[&bits(&a)], &bits(&b));
    for isa in Isa::available() {
        let device = CpuDevice::with_isa(1, isa).unwrap();
        let cx = device.contraction();
        let left = Operand { data: &a, lines: m, positions: k, line_stride: k, position_stride: 1 };
        let right = Operand { data: &b, lines: n, positions: k, line_stride: 1, position_stride: n };
        let blocks = 0..k.div_ceil(EDGE);
        for (unit, layout) in
            Unit::present(isa).into_iter().flat_map(|unit| [(unit, Layout::Rows), (unit, Layout::Pairs)])
        {
            let side = if layout == Layout::Rows { Side::Left } else { Side::Right };
            let left = Packed::new(&cx, &left, side, unit.pairs());
            let right = Packed::new(&cx, &right, Side::Right, unit.pairs());
            let run = Run { left: left.blocks(0, blocks.clone()), right: right.blocks(0, blocks.clone()) };
            let mut sums = [f32::NAN; BLOCK];
            unit.open().product(layout, &[run], &mut sums, EDGE);
            for (i, row) in expected.chunks(n).enumerate() {
                let found: Vec<u32> = sums[i * EDGE..][..n].iter().map(|x| x.to_bits()).collect();
                let row: Vec<u32> = row.iter().map(|x| x.to_bits()).collect();
                assert_eq!(found, row, "row {i} of {m} x {n} x {k}, exponents {exponents:?}, {unit:?}, {layout:?}");
            }
        }
    }
}

#[test]
fn products_have_the_bits_of_the_reference() {
    // Ordinary numbers; products around the least normal number, and below; zeros and subnormal operands.
    for (seed, exponents) in (1..).zip([120..132, 58..70, 40..64, 0..3, 0..200]) {
        for dims in [[32, 32, 32], [1, 1, 1], [5, 17, 33], [32, 31, 512], [31, 32, 100]] {
            assert_product(dims, exponents.clone(), seed);
        }
    }
}

/// fma(-x, x, 2^-126) with x x = 3/2 of 2^-151 is tiny, though it rounds to 2^-126 among subnormal numbers.
#[test]
fn the_least_normal_number_is_told_from_what_rounds_to_it() {
    let power = |exponent: i32| bf16::from_f32(f32::from_bits(((127 + exponent) as u32) << 23));
    let (zero, one, least) = (bf16::ZERO, bf16::ONE, power(-126));
    for (factor, expected) in [(1.0, f32::MIN_POSITIVE), (3.0, 0.0)] {
        let small = bf16::from_f32(-factor * power(-76).to_f32());
        let (a, b) = ([least, zero, small], [one, zero, power(-76)]);
        assert_eq!(contract_bf16([1, 1, 3], &[&bits(&a)], &bits(&b)), [expected]);
        for isa in Isa::available() {
            let device = CpuDevice::with_isa(1, isa).unwrap();
            let cx = device.contraction();
            let operand = |data| Operand { data, lines: 1, positions: 3, line_stride: 3, position_stride: 1 };
            for unit in Unit::present(isa) {
                let packed = |data, side| Packed::new(&cx, &operand(data), side, unit.pairs());
                let (left, right) = (packed(&a, Side::Left), packed(&b, Side::Right));
                let mut sums = [f32::NAN; BLOCK];
                let run = Run { left: left.blocks(0, 0..1), right: right.blocks(0, 0..1) };
                unit.open().product(Layout::Rows, &[run], &mut sums, EDGE);
                assert_eq!(sums[0], expected, "{unit:?}");
            }
        }
    }
}

/// Were they found not to agree, products would silently be slow. A dot product of another order may be.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[test]
fn multiply_adds_of_x86_64_serve_wherever_they_are() {
    for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::PORTABLE) {
        assert!(Unit::present(isa).contains(&Unit::Fma(isa)), "{isa}");
        assert_ne!(Unit::beside(isa), Unit::Plain(isa), "{isa}");
    }
}
