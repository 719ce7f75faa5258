//! The host's model of `mma.sync`: products and sums in a fixed order, in f32.
//!
//! Each element of D starts from C and takes its products in increasing k, each by one fused multiply-add; bf16 and
//! tf32 operands are exact in f32. Tensor cores sum in an order and width of their own, so hardware is held to a bound,
//! not to these bits; the PTX interpreter uses this model.

/// What one lane gives to a product.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    /// Its registers of A.
    pub a: [u32; 4],
    /// Its registers of B.
    pub b: [u32; 2],
    /// Its elements of C.
    pub c: [f32; 4],
}

/// `mma.m16n8k16` in bf16: the lanes' elements of D.
pub fn bf16_m16n8k16(lanes: &[Fragment; 32]) -> [[f32; 4]; 32] {
    // A register holds elements k (low half) and k + 1 of a row of A or a column of B.
    let half = |register: u32, k: usize| {
        f32::from_bits(if k.is_multiple_of(2) { register << 16 } else { register & 0xffff_0000 })
    };
    product(
        lanes,
        16,
        |row, k| half(lanes[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2], k),
        |k, column| half(lanes[column * 4 + k % 8 / 2].b[k / 8], k),
    )
}

/// `mma.m16n8k8` in tf32: the lanes' elements of D. The low 13 bits of an operand are ignored.
pub fn tf32_m16n8k8(lanes: &[Fragment; 32]) -> [[f32; 4]; 32] {
    let tf32 = |register: u32| f32::from_bits(register & 0xffff_e000);
    product(
        lanes,
        8,
        |row, k| tf32(lanes[row % 8 * 4 + k % 4].a[row / 8 + k / 4 * 2]),
        |k, column| tf32(lanes[column * 4 + k % 4].b[k / 4]),
    )
}

/// D's fragments: lane l holds row l / 4 (elements 0, 1) and row l / 4 + 8 (elements 2, 3), columns 2 (l mod 4) and
/// the next.
fn product(
    lanes: &[Fragment; 32],
    depth: usize,
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> [[f32; 4]; 32] {
    std::array::from_fn(|lane| {
        std::array::from_fn(|i| {
            let (row, column) = (lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2);
            (0..depth).fold(lanes[lane].c[i], |sum, k| a(row, k).mul_add(b(k, column), sum))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::noise;
    use crate::half_precision::bf16_of_f32;

    const EMPTY: Fragment = Fragment { a: [0; 4], b: [0; 2], c: [0.0; 4] };

    /// PTX ISA, "Matrix Fragments for mma": with group = lane / 4 and t = lane mod 4, element i of D has row group
    /// (i < 2) or group + 8, column 2 t + (i mod 2).
    fn expect_product(depth: usize, a: &[f32], b: &[f32], c: &[f32], d: &[[f32; 4]; 32]) {
        for (lane, d) in d.iter().enumerate() {
            let (group, t) = (lane / 4, lane % 4);
            for (i, d) in d.iter().enumerate() {
                let (row, column) = (if i < 2 { group } else { group + 8 }, 2 * t + i % 2);
                let mut expected = c[row * 8 + column];
                for k in 0..depth {
                    expected = a[row * depth + k].mul_add(b[k * 8 + column], expected);
                }
                assert_eq!(d.to_bits(), expected.to_bits(), "lane {lane}, element {i}");
            }
        }
    }

    fn with_c(lanes: &mut [Fragment; 32], c: &[f32]) {
        for (lane, fragment) in lanes.iter_mut().enumerate() {
            fragment.c = std::array::from_fn(|i| c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2]);
        }
    }

    #[test]
    fn bf16_fragments_are_those_of_ptx() {
        let rounded = |n, seed| -> Vec<f32> { noise(n, seed).iter().map(|x| bf16_of_f32(*x).to_f32()).collect() };
        let (a, b, c) = (rounded(16 * 16, 1), rounded(16 * 8, 2), noise(16 * 8, 3));
        let mut lanes = [EMPTY; 32];
        with_c(&mut lanes, &c);
        for (lane, fragment) in lanes.iter_mut().enumerate() {
            let (group, t) = (lane / 4, lane % 4);
            // Elements a0..a7 and b0..b3, two to a register, the first in the low half.
            for i in 0..8 {
                let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
                let k = 2 * t + (i & 1) + if i < 4 { 0 } else { 8 };
                fragment.a[i / 2] |= (a[row * 16 + k].to_bits() >> 16) << (i % 2 * 16);
            }
            for i in 0..4 {
                let k = 2 * t + (i & 1) + if i < 2 { 0 } else { 8 };
                fragment.b[i / 2] |= (b[k * 8 + group].to_bits() >> 16) << (i % 2 * 16);
            }
        }
        expect_product(16, &a, &b, &c, &bf16_m16n8k16(&lanes));
    }

    #[test]
    fn tf32_fragments_are_those_of_ptx() {
        let cut = |n, seed| -> Vec<f32> {
            noise(n, seed).iter().map(|x| f32::from_bits(x.to_bits() & 0xffff_e000)).collect()
        };
        let (a, b, c) = (cut(16 * 8, 4), cut(8 * 8, 5), noise(16 * 8, 6));
        let mut lanes = [EMPTY; 32];
        with_c(&mut lanes, &c);
        for (lane, fragment) in lanes.iter_mut().enumerate() {
            let (group, t) = (lane / 4, lane % 4);
            for i in 0..4 {
                let row = if i == 0 || i == 2 { group } else { group + 8 };
                let k = if i < 2 { t } else { t + 4 };
                // The low bits are ignored.
                fragment.a[i] = a[row * 8 + k].to_bits() | 0x1fff;
            }
            for i in 0..2 {
                fragment.b[i] = b[(t + 4 * i) * 8 + group].to_bits() | 0x1000;
            }
        }
        expect_product(8, &a, &b, &c, &tf32_m16n8k8(&lanes));
    }
}
