//! The same products by the fused multiply-add of x86-64's vectors, which flushes subnormal numbers by itself when it is
//! told to: by the rule of the matrix unit, since both ask whether a result is tiny once it is rounded.
//!
//! A tile of some rows and one vector of columns keeps two chains a row in registers, for even positions and odd ones. A
//! vector of pairs gives both positions' columns (a shift, a mask); left blocks are widened to f32 first, so that each
//! element is one load.
//!
//! Written as assembly: Rust takes for granted that its floating-point environment is the default one, so that flushing
//! must begin and end within one piece of it.
//!
//! Right blocks widened in memory, too, made it a third slower (NT-Xent of 4,096 rows at D = 128 forward and backward on
//! two cores of an AMD EPYC).
#![allow(unsafe_code)]

use super::{BLOCK, EDGE, Run};
use selfsame_kernels::half_precision::f32_of_bf16_bits;
use selfsame_kernels::isa::{Isa, Level};
use selfsame_kernels::stamp;
use std::arch::asm;

/// Floating-point settings: nearest even, no exceptions, subnormal operands and results are zeros.
pub(super) const FLUSHING: u32 = 0x9fc0;

/// For the assembly: the settings, and the bits of a pair's odd element.
static CONSTANTS: [u32; 2] = [FLUSHING, 0xffff_0000];

/// Whether `isa` has fused multiply-adds that can be told to flush.
pub(super) fn is_in(isa: Isa) -> bool {
    matches!(isa.level(), Level::Avx2 | Level::Avx512)
}

/// See [`Session::product`](super::Session::product).
///
/// # Panics
/// Unless they [are in](is_in) `isa`.
pub(super) fn product(isa: Isa, runs: &[Run<'_>], to: &mut [f32], stride: usize) {
    let (mut wide, mut sums) = ([0f32; BLOCK], [0f32; BLOCK]);
    for run in runs {
        let rights = run.right.as_chunks::<BLOCK>().0;
        for (left, right) in run.left.as_chunks::<BLOCK>().0.iter().zip(rights) {
            widen(isa, left, &mut wide);
            match isa.level() {
                // SAFETY: an `Isa` of this level exists only where the machine has AVX-512 F and DQ.
                Level::Avx512 => unsafe { add_product_avx512(&wide, right, &mut sums) },
                // SAFETY: an `Isa` of this level exists only where AVX2 and FMA do.
                Level::Avx2 => unsafe { add_product_avx2(&wide, right, &mut sums) },
                _ => unreachable!("no such multiply-adds in {isa}"),
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
}

/// The function that adds the product of a widened left block and a right one to `[row][column]` sums.
///
/// Vectors `$v` have `$width` columns, tiles `$rows` rows, each with the registers of its even and its odd chain. Then come
/// registers for columns at even positions and odd ones, for a row's elements of both, for the mask, and a list of all
/// beyond the first sixteen.
macro_rules! add_product {
    (
        $name:ident, $features:literal, $v:literal, $width:literal,
        $rows:literal, [$($row:literal: $chain:literal $other:literal),+],
        [$even:literal $odd:literal], [$first:literal $second:literal], $mask:literal, [$($upper:tt)*]
    ) => {
        #[target_feature(enable = $features)]
        fn $name(left: &[f32; BLOCK], right: &[u16; BLOCK], sums: &mut [f32; BLOCK]) {
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
                        "mov {steps:e}, {edge} / 2",
                        "40:",
                        concat!("vmovups ", $v, $odd, ", [{right}]"),
                        concat!("vpslld ", $v, $even, ", ", $v, $odd, ", 16"),
                        concat!("vandps ", $v, $odd, ", ", $v, $odd, ", ", $v, $mask),
                        $(
                            concat!("vbroadcastss ", $v, $first, ", [{left} + ", $row, " * {line}]"),
                            concat!("vfmadd231ps ", $v, $chain, ", ", $v, $first, ", ", $v, $even),
                            concat!("vbroadcastss ", $v, $second, ", [{left} + ", $row, " * {line} + 4]"),
                            concat!("vfmadd231ps ", $v, $other, ", ", $v, $second, ", ", $v, $odd),
                        )+
                        "add {left}, 8",
                        "add {right}, 2 * {edge}",
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
                        line = const EDGE * size_of::<f32>(),
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
    add_product_avx2, "avx2,fma", "ymm", 8, 4, [0: 0 1, 1: 2 3, 2: 4 5, 3: 6 7], [8 9], [10 11], 12, []
}

add_product! {
    add_product_avx512, "avx512f,avx512dq,avx2,fma", "zmm", 16,
    8, [0: 0 1, 1: 2 3, 2: 4 5, 3: 6 7, 4: 8 9, 5: 10 11, 6: 12 13, 7: 14 15],
    [16 17], [18 19], 20, ["xmm16" "xmm17" "xmm18" "xmm19" "xmm20"]
}
