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
    let half = |register: u32, k: usize| f32::from_bits(if k % 2 == 0 { register << 16 } else { register & 0xffff_0000 });
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
