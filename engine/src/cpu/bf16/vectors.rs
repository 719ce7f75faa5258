//! The same products on the vectors of x86-64, which flush subnormal numbers by themselves when they are told to: by the
//! rule of the matrix unit, since both ask whether a result is tiny once it is rounded.
//!
//! A tile of some rows and one vector of columns keeps two chains a row in registers, for even positions and odd ones.
//! - `fma`: an ordinary product of f32 matrices. A vector of pairs gives both positions' columns (a shift, a mask); left
//!   blocks are widened to f32 first, so that each element is one load.
//! - `dot`: AVX512-BF16's `vdpbf16ps`, two steps of a chain in one instruction, the upper element of a pair first. So the
//!   pairs it is given are of positions two apart: 0 and 2, 1 and 3.
//!
//! Written as assembly: Rust takes for granted that its floating-point environment is the default one, so that flushing
//! must begin and end within one piece of it.
//!
//! Measured on two cores of an AMD EPYC with AVX-512, NT-Xent of 4,096 rows at D = 128 forward and backward, medians of
//! five steps: 0.072 s with `dot` (0.075 with its pairs made element by element), 0.107 s with `fma` (0.143 with right
//! blocks widened in memory, too), 5.6 s in loops. f32, with two thirds of the multiplications, 0.053 s. What bounds `dot`
//! is loading each row's elements, one for each multiplication.
#![allow(unsafe_code)]

use super::{BLOCK, EDGE, Run};
use selfsame_kernels::half_precision::f32_of_bf16_bits;
use selfsame_kernels::isa::{Isa, Level};
use selfsame_kernels::stamp;
use std::arch::asm;

/// For the assembly: the floating-point settings here (nearest even, no exceptions, subnormal operands and results are
/// zeros), and the bits of a pair's odd element.
static CONSTANTS: [u32; 2] = [0x9fc0, 0xffff_0000];

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cpu) enum Vectors {
    /// AVX2's or AVX-512's fused multiply-add.
    Fma(Isa),
    /// AVX512-BF16's dot product, which this machine has beside AVX-512.
    Dot(Isa),
}

impl Vectors {
    /// Those that serve beside `isa`, the fastest last.
    pub(super) fn beside(isa: Isa) -> Vec<Vectors> {
        let has_dot = isa.level() == Level::Avx512 && is_x86_feature_detected!("avx512bf16");
        let fma = matches!(isa.level(), Level::Avx2 | Level::Avx512).then_some(Vectors::Fma(isa));
        fma.into_iter().chain(has_dot.then_some(Vectors::Dot(isa))).collect()
    }
}

/// See [`Session::product`](super::Session::product).
pub(super) fn product(vectors: Vectors, runs: &[Run<'_>], to: &mut [f32], stride: usize) {
    let (mut wide, mut apart, mut sums) = ([0f32; BLOCK], [0u16; BLOCK], [0f32; BLOCK]);
    for run in runs {
        let rights = run.right.as_chunks::<BLOCK>().0;
        for (left, right) in run.left.as_chunks::<BLOCK>().0.iter().zip(rights) {
            match vectors {
                Vectors::Dot(isa) => {
                    pair(isa, left, &mut apart);
                    // SAFETY: a `Dot` exists only where the machine has AVX512-BF16 and the level AVX-512.
                    unsafe { add_product_dot(&apart, right, &mut sums) };
                }
                Vectors::Fma(isa) => {
                    widen(isa, left, &mut wide);
                    match isa.level() {
                        // SAFETY: an `Isa` of this level exists only where the machine has AVX-512 F and DQ.
                        Level::Avx512 => unsafe { add_product_avx512(&wide, right, &mut sums) },
                        // SAFETY: `beside` leaves no other level, whose `Isa` exists only where AVX2 and FMA do.
                        _ => unsafe { add_product_avx2(&wide, right, &mut sums) },
                    }
                }
            }
        }
    }
    for (to, sums) in to.chunks_mut(stride).zip(sums.as_chunks::<EDGE>().0) {
        to[..EDGE].copy_from_slice(sums);
    }
}

stamp! {
    /// Numbers in f32.
    fn widen(from: &[u16; BLOCK], to: &mut [f32; BLOCK]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = f32_of_bf16_bits(*from);
        }
    }

    /// Pairs of positions two apart, the later one in the lower half.
    fn pair(from: &[u16; BLOCK], to: &mut [u16; BLOCK]) {
        for (to, from) in to.as_chunks_mut::<4>().0.iter_mut().zip(from.as_chunks::<4>().0) {
            *to = [from[2], from[0], from[3], from[1]];
        }
    }
}

/// The function that adds the product of a left block of `$element` and a right one to `[row][column]` sums, by an
/// instruction that takes `$positions` / 2 positions of each chain at a time.
///
/// Vectors `$v` have `$width` columns, tiles `$rows` rows, each with the registers of its even and its odd chain. Then come
/// registers for columns at even positions and odd ones, which the instructions behind them load, for a row's elements of
/// both, for the mask, and a list of all beyond the first sixteen.
macro_rules! add_product {
    (
        $name:ident, $features:literal, $multiply:literal of $positions:literal $element:ty,
        $v:literal, $width:literal, $rows:literal, [$($row:literal: $chain:literal $other:literal),+],
        [$even:literal $odd:literal]: [$($load:literal),+], [$first:literal $second:literal], $mask:literal,
        [$($upper:tt)*]
    ) => {
        #[target_feature(enable = $features)]
        fn $name(left: &[$element; BLOCK], right: &[u16; BLOCK], sums: &mut [f32; BLOCK]) {
            let mut settings = 0u32;
            for column in (0..EDGE / 2).step_by($width) {
                // SAFETY: the loops read and write vectors of columns from `column` on in both halves of 16, within the
                // three blocks; the processor's settings are as before at the end.
                unsafe {
                    asm!(
                        "stmxcsr [{settings}]",
                        "ldmxcsr [{constants}]",
                        concat!("vbroadcastss ", $v, $mask, ", [{constants} + 4]"),
                        "mov {halves:e}, 2",
                        "20:",
                        "mov {tiles:e}, {edge} / {rows}",
                        "30:",
                        $(
                            concat!("vxorps ", $v, $chain, ", ", $v, $chain, ", ", $v, $chain),
                            concat!("vxorps ", $v, $other, ", ", $v, $other, ", ", $v, $other),
                        )+
                        "mov {steps:e}, {edge} / {positions}",
                        "40:",
                        $($load,)+
                        $(
                            concat!("vbroadcastss ", $v, $first, ", [{left} + ", $row, " * {line}]"),
                            concat!($multiply, " ", $v, $chain, ", ", $v, $first, ", ", $v, $even),
                            concat!("vbroadcastss ", $v, $second, ", [{left} + ", $row, " * {line} + 4]"),
                            concat!($multiply, " ", $v, $other, ", ", $v, $second, ", ", $v, $odd),
                        )+
                        "add {left}, 8",
                        "add {right}, {positions} * {edge}",
                        "dec {steps:e}",
                        "jnz 40b",
                        $(
                            concat!("vaddps ", $v, $chain, ", ", $v, $chain, ", ", $v, $other),
                            concat!("vmovups ", $v, $other, ", [{sums} + ", $row, " * 4 * {edge}]"),
                            concat!("vaddps ", $v, $chain, ", ", $v, $other, ", ", $v, $chain),
                            concat!("vmovups [{sums} + ", $row, " * 4 * {edge}], ", $v, $chain),
                        )+
                        "add {left}, ({rows} - 1) * {line}",
                        "sub {right}, {edge} * {edge}",
                        "add {sums}, {rows} * 4 * {edge}",
                        "dec {tiles:e}",
                        "jnz 30b",
                        "sub {left}, {edge} * {line}",
                        "add {right}, {edge} * {edge}",
                        "sub {sums}, 4 * {edge} * {edge} - 2 * {edge}",
                        "dec {halves:e}",
                        "jnz 20b",
                        "ldmxcsr [{settings}]",
                        "vzeroupper",
                        settings = in(reg) &raw mut settings,
                        constants = in(reg) CONSTANTS.as_ptr(),
                        left = inout(reg) left.as_ptr() => _,
                        right = inout(reg) right[2 * column..].as_ptr() => _,
                        sums = inout(reg) sums[column..].as_mut_ptr() => _,
                        halves = out(reg) _,
                        tiles = out(reg) _,
                        steps = out(reg) _,
                        edge = const EDGE,
                        rows = const $rows,
                        positions = const $positions,
                        line = const EDGE * size_of::<$element>(),
                        out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                        out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                        out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                        $(out($upper) _,)*
                        options(nostack),
                    );
                }
            }
        }
    };
}

add_product! {
    add_product_avx2, "avx2,fma", "vfmadd231ps" of 2 f32,
    "ymm", 8, 4, [0: 0 1, 1: 2 3, 2: 4 5, 3: 6 7],
    [8 9]: ["vmovups ymm9, [{right}]", "vpslld ymm8, ymm9, 16", "vandps ymm9, ymm9, ymm12"], [10 11], 12, []
}

add_product! {
    add_product_avx512, "avx512f,avx512dq,avx2,fma", "vfmadd231ps" of 2 f32,
    "zmm", 16, 8, [0: 0 1, 1: 2 3, 2: 4 5, 3: 6 7, 4: 8 9, 5: 10 11, 6: 12 13, 7: 14 15],
    [16 17]: ["vmovups zmm17, [{right}]", "vpslld zmm16, zmm17, 16", "vandps zmm17, zmm17, zmm20"], [18 19], 20,
    ["xmm16" "xmm17" "xmm18" "xmm19" "xmm20"]
}

// The last operand of `vpternlogd` chooses by the mask: its upper halves from one vector, its lower ones from the other.
add_product! {
    add_product_dot, "avx512f,avx512dq,avx2,fma", "vdpbf16ps" of 4 u16,
    "zmm", 16, 8, [0: 0 1, 1: 2 3, 2: 4 5, 3: 6 7, 4: 8 9, 5: 10 11, 6: 12 13, 7: 14 15],
    [16 17]: [
        "vmovups zmm18, [{right}]", "vmovups zmm19, [{right} + 64]", "vpslld zmm16, zmm18, 16",
        "vpsrld zmm17, zmm19, 16", "vpternlogd zmm16, zmm19, zmm20, 0xe4", "vpternlogd zmm17, zmm18, zmm20, 0xd8"
    ], [18 19], 20,
    ["xmm16" "xmm17" "xmm18" "xmm19" "xmm20"]
}
