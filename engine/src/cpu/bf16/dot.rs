//! The same products by AVX512-BF16's `vdpbf16ps`, which does two steps of a chain in one instruction, the upper element
//! of a pair first, and flushes subnormal numbers. So its pairs are of positions two apart ([`Pairs::Apart`]): 2 and 0, 3
//! and 1. The sums of chains are ordinary additions that are told to flush.
//!
//! Written as assembly for the reason given in `fma`.
//!
//! Measured on two cores of an AMD EPYC, of whose dot products registers alone reach 466 GFLOP/s: 430 inside
//! convolutions of 256 channels, by samples of where the time goes. Tiles of eight rows and one vector, with pairs set apart while they were multiplied, were bound by loading
//! each row's elements: NT-Xent of 4,096 rows at D = 128 forward and backward took 72 ms, with these tiles 50 ms.
#![allow(unsafe_code)]

use super::fma::FLUSHING;
use super::{BLOCK, EDGE, Layout, Run};
use selfsame_kernels::isa::{Isa, Level};
use std::arch::asm;

/// Whether this machine has the instruction beside `isa`.
pub(super) fn is_beside(isa: Isa) -> bool {
    isa.level() == Level::Avx512 && is_x86_feature_detected!("avx512bf16")
}

/// Blocks of positions that are multiplied at once: their operands, 32 KiB, stay in a first-level cache.
const BLOCKS_AT_ONCE: usize = 8;

/// Positions of a step: a pair of each chain.
const STEP: usize = 4;

/// See [`Session::product`](super::Session::product).
///
/// # Safety
/// The machine has the instruction.
pub(super) unsafe fn product(layout: Layout, runs: &[Run<'_>], to: &mut [f32], stride: usize) {
    const PIECE: usize = BLOCKS_AT_ONCE * BLOCK;
    let pieces = runs.iter().flat_map(|run| run.left.chunks(PIECE).zip(run.right.chunks(PIECE)));
    let mut is_first = true;
    for (left, right) in pieces {
        match layout {
            // SAFETY: the caller's promise.
            Layout::Rows => unsafe { add_product_of_rows(left, right, is_first, to, stride) },
            // SAFETY: the caller's promise.
            Layout::Pairs => unsafe { add_product_of_pairs(left, right, is_first, to, stride) },
        }
        is_first = false;
    }
    if is_first {
        to.chunks_mut(stride).take(EDGE).for_each(|to| to[..EDGE].fill(0.0));
    }
}

/// The function that adds the product of left blocks and right ones, whose pairs are of positions two apart, to
/// `[row][column]` sums `stride` elements apart, or, if it is the first, to zeros in their place.
///
/// A tile has four rows and two vectors of columns: registers for the even and the odd chain of each, then for their sums.
/// `$row`, `$step` and `$tile` are the bytes from a row of a left block to the next, from four positions to the next and
/// from a tile's first row to the next's, of which there are `$half` more after the first sixteen rows.
macro_rules! add_product {
    (
        $name:ident, rows $row:literal, steps $step:literal, tiles $tile:literal, $half:literal;
        $($at:literal $sums_at:literal: $even0:literal $even1:literal $odd0:literal $odd1:literal $sum0:literal $sum1:literal),+
    ) => {
        #[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
        fn $name(left: &[u16], right: &[u16], is_first: bool, sums: &mut [f32], stride: usize) {
            assert!(left.len() == right.len() && left.len().is_multiple_of(BLOCK) && !left.is_empty());
            assert!(sums.len() >= (EDGE - 1) * stride + EDGE);
            let mut settings = [FLUSHING, 0];
            // SAFETY: the loops read the blocks of both operands, and read and write 32 rows of 32 sums; the processor's
            // settings are as before at the end.
            unsafe {
                asm!(
                    "stmxcsr [{settings} + 4]",
                    "ldmxcsr [{settings}]",
                    "mov {tiles:e}, 8",
                    "20:",
                    "mov {l}, {left}",
                    "mov {r}, {right}",
                    "mov {blocks}, {count}",
                    "test {is_first:e}, {is_first:e}",
                    "jnz 25f",
                    $(
                        concat!("vmovups zmm", $sum0, ", [{sums}", $sums_at, "]"),
                        concat!("vmovups zmm", $sum1, ", [{sums}", $sums_at, " + 64]"),
                    )+
                    "jmp 30f",
                    "25:",
                    $(
                        concat!("vpxorq zmm", $sum0, ", zmm", $sum0, ", zmm", $sum0),
                        concat!("vpxorq zmm", $sum1, ", zmm", $sum1, ", zmm", $sum1),
                    )+
                    "30:",
                    $(
                        concat!("vxorps xmm", $even0, ", xmm", $even0, ", xmm", $even0),
                        concat!("vxorps xmm", $even1, ", xmm", $even1, ", xmm", $even1),
                        concat!("vxorps xmm", $odd0, ", xmm", $odd0, ", xmm", $odd0),
                        concat!("vxorps xmm", $odd1, ", xmm", $odd1, ", xmm", $odd1),
                    )+
                    "mov {steps:e}, {edge} / {step}",
                    "40:",
                    "vmovups zmm24, [{r}]",
                    "vmovups zmm25, [{r} + {edge} * {edge}]",
                    "vmovups zmm26, [{r} + 64]",
                    "vmovups zmm27, [{r} + {edge} * {edge} + 64]",
                    $(
                        concat!("vbroadcastss zmm28, [{l} + ", $at, " * ", $row, "]"),
                        concat!("vdpbf16ps zmm", $even0, ", zmm28, zmm24"),
                        concat!("vdpbf16ps zmm", $even1, ", zmm28, zmm25"),
                        concat!("vbroadcastss zmm29, [{l} + ", $at, " * ", $row, " + ", $step, " / 2]"),
                        concat!("vdpbf16ps zmm", $odd0, ", zmm29, zmm26"),
                        concat!("vdpbf16ps zmm", $odd1, ", zmm29, zmm27"),
                    )+
                    concat!("add {l}, ", $step),
                    "add {r}, 128",
                    "dec {steps:e}",
                    "jnz 40b",
                    $(
                        concat!("vaddps zmm", $even0, ", zmm", $even0, ", zmm", $odd0),
                        concat!("vaddps zmm", $even1, ", zmm", $even1, ", zmm", $odd1),
                        concat!("vaddps zmm", $sum0, ", zmm", $sum0, ", zmm", $even0),
                        concat!("vaddps zmm", $sum1, ", zmm", $sum1, ", zmm", $even1),
                    )+
                    concat!("add {l}, 2 * {edge} * {edge} - {edge} / {step} * ", $step),
                    "add {r}, {edge} * {edge}",
                    "dec {blocks}",
                    "jnz 30b",
                    $(
                        concat!("vmovups [{sums}", $sums_at, "], zmm", $sum0),
                        concat!("vmovups [{sums}", $sums_at, " + 64], zmm", $sum1),
                    )+
                    "lea {sums}, [{sums} + 4 * {stride}]",
                    concat!("add {left}, ", $tile),
                    "dec {tiles:e}",
                    "jz 50f",
                    "cmp {tiles:e}, 4",
                    "jne 20b",
                    concat!("add {left}, ", $half),
                    "jmp 20b",
                    "50:",
                    "ldmxcsr [{settings} + 4]",
                    "vzeroupper",
                    settings = in(reg) settings.as_mut_ptr(),
                    left = inout(reg) left.as_ptr() => _,
                    right = in(reg) right.as_ptr(),
                    sums = inout(reg) sums.as_mut_ptr() => _,
                    stride = in(reg) size_of::<f32>() * stride,
                    stride3 = in(reg) 3 * size_of::<f32>() * stride,
                    count = in(reg) left.len() / BLOCK,
                    is_first = in(reg) u32::from(is_first),
                    l = out(reg) _,
                    r = out(reg) _,
                    blocks = out(reg) _,
                    tiles = out(reg) _,
                    steps = out(reg) _,
                    edge = const EDGE,
                    step = const STEP,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                    out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _, out("xmm16") _, out("xmm17") _,
                    out("xmm18") _, out("xmm19") _, out("xmm20") _, out("xmm21") _, out("xmm22") _, out("xmm23") _,
                    out("xmm24") _, out("xmm25") _, out("xmm26") _, out("xmm27") _, out("xmm28") _, out("xmm29") _,
                    options(nostack),
                );
            }
        }
    };
}

add_product! {
    add_product_of_rows, rows 64, steps 8, tiles 256, 0;
    0 "": 0 1 2 3 16 17, 1 " + {stride}": 4 5 6 7 18 19, 2 " + 2 * {stride}": 8 9 10 11 20 21,
    3 " + {stride3}": 12 13 14 15 22 23
}

add_product! {
    add_product_of_pairs, rows 4, steps 128, tiles 16, 960;
    0 "": 0 1 2 3 16 17, 1 " + {stride}": 4 5 6 7 18 19, 2 " + 2 * {stride}": 8 9 10 11 20 21,
    3 " + {stride3}": 12 13 14 15 22 23
}
