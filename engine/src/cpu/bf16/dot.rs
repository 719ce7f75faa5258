//! The same products by AVX512-BF16's `vdpbf16ps`, which does two steps of a chain in one instruction, the upper element
//! of a pair first, and flushes subnormal numbers. So its pairs are of positions two apart ([`Pairs::Apart`]): 2 and 0, 3
//! and 1. The sums of chains are ordinary additions that are told to flush.
//!
//! Written as assembly for the reason given in `fma`.
//!
//! Measured on two cores of an AMD EPYC, of whose dot products registers alone reach 466 GFLOP/s: 440 from blocks in a
//! second-level cache. Tiles of eight rows and one vector, with pairs set apart while they were multiplied, were bound by
//! loading each row's elements: NT-Xent of 4,096 rows at D = 128 forward and backward took 72 ms, with these tiles 50 ms.
#![allow(unsafe_code)]

use super::fma::FLUSHING;
use super::{BLOCK, EDGE, InPlace, Layout, Run};
use selfsame_kernels::isa::{Isa, Level};
use std::arch::asm;
use std::mem::offset_of;

/// Whether this machine has the instruction beside `isa`.
pub(super) fn is_beside(isa: Isa) -> bool {
    isa.level() == Level::Avx512 && is_x86_feature_detected!("avx512bf16")
}

/// Blocks of positions that are multiplied at once: their operands, 32 KiB, stay in a first-level cache.
const BLOCKS_AT_ONCE: usize = 8;

/// Distances of left blocks that lie one after another.
static APART: [isize; BLOCKS_AT_ONCE] = {
    let mut apart = [0; BLOCKS_AT_ONCE];
    let mut block = 0;
    while block < BLOCKS_AT_ONCE {
        apart[block] = (block * BLOCK) as isize;
        block += 1;
    }
    apart
};

/// See [`Session::product`](super::Session::product).
///
/// # Safety
/// The machine has the instruction.
pub(super) unsafe fn product(layout: Layout, runs: &[Run<'_>], to: &mut [f32], stride: usize) {
    const PIECE: usize = BLOCKS_AT_ONCE * BLOCK;
    let mut is_first = true;
    for run in runs {
        for (left, right) in run.left.chunks(PIECE).zip(run.right.chunks(PIECE)) {
            let apart = &APART[..left.len() / BLOCK];
            // SAFETY: the caller's promise; the rows lie in the blocks.
            unsafe {
                match layout {
                    Layout::Rows => {
                        let rows = std::array::from_fn(|row| left.as_ptr().wrapping_add(row * EDGE));
                        add_product_of_rows(&rows, apart, right, is_first, to, stride);
                    }
                    Layout::Pairs => {
                        let start = |row: usize| row / 16 * (BLOCK / 2) + row % 16 * 2;
                        let rows = std::array::from_fn(|row| left.as_ptr().wrapping_add(start(row)));
                        add_product_of_pairs(&rows, apart, right, is_first, to, stride);
                    }
                }
            }
            is_first = false;
        }
    }
    if is_first {
        to.chunks_mut(stride).take(EDGE).for_each(|to| to[..EDGE].fill(0.0));
    }
}

/// See [`Session::product_in_place`](super::Session::product_in_place).
///
/// # Safety
/// The machine has the instruction.
pub(super) unsafe fn product_in_place(left: &InPlace<'_>, rights: &[&[u16]], to: &mut [f32], stride: usize) {
    let rows = left.rows();
    let mut is_first = true;
    let mut deltas = left.deltas;
    for right in rights {
        let (of_right, rest) = deltas.split_at(right.len() / BLOCK);
        deltas = rest;
        for (deltas, right) in of_right.chunks(BLOCKS_AT_ONCE).zip(right.chunks(BLOCKS_AT_ONCE * BLOCK)) {
            // SAFETY: the caller's promise; `left` was made of rows that have all its blocks.
            unsafe { add_product_of_rows(&rows, deltas, right, is_first, to, stride) };
            is_first = false;
        }
    }
    assert!(!is_first && deltas.is_empty(), "as many blocks on both sides");
}

/// What the loops need and have no register for.
#[repr(C)]
struct Settings {
    flushing: [u32; 2],
    is_first: u64,
    right: *const u16,
    deltas: [*const isize; 2],
    rows_end: *const *const u16,
}

/// The function that adds the product of left blocks and as many right ones, whose pairs are of positions two apart, to
/// `[row][column]` sums `stride` elements apart, or, if it is the first, to zeros in their place.
///
/// The pair of an even chain of row r in block b begins `$step` bytes for each four positions from `rows[r] + deltas[b]`, that
/// of the odd chain `$odd` further. A tile has four rows and two vectors of columns: registers for the even and the odd chain
/// of each, then for their sums.
macro_rules! add_product {
    (
        $name:ident, steps $step:literal, odd $odd:literal;
        $($row:literal $sums_at:literal: $even0:literal $even1:literal $odd0:literal $odd1:literal $sum0:literal $sum1:literal),+
    ) => {
        /// # Safety
        /// The machine has the instruction, and all pairs lie in one piece of memory.
        #[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
        unsafe fn $name(
            rows: &[*const u16; EDGE],
            deltas: &[isize],
            right: &[u16],
            is_first: bool,
            sums: &mut [f32],
            stride: usize,
        ) {
            assert!(right.len() == deltas.len() * BLOCK && !right.is_empty());
            assert!(sums.len() >= (EDGE - 1) * stride + EDGE);
            let deltas = deltas.as_ptr_range();
            let mut settings = Settings {
                flushing: [FLUSHING, 0],
                is_first: u64::from(is_first),
                right: right.as_ptr(),
                deltas: [deltas.start, deltas.end],
                rows_end: rows.as_ptr_range().end,
            };
            // SAFETY: the loops read pairs, by the caller's promise, and the right blocks, and read and write 32 rows of 32
            // sums; the processor's settings are as before at the end.
            unsafe {
                asm!(
                    "stmxcsr [{settings} + 4]",
                    "ldmxcsr [{settings}]",
                    "20:",
                    "mov {right}, [{settings} + {right_at}]",
                    "mov {deltas}, [{settings} + {deltas_at}]",
                    "cmp dword ptr [{settings} + {is_first_at}], 0",
                    "jne 25f",
                    "lea {at}, [{stride} + 2 * {stride}]",
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
                    "mov {at}, [{deltas}]",
                    $(concat!("mov {row", $row, "}, [{rows} + 8 * ", $row, "]"),)+
                    $(concat!("lea {row", $row, "}, [{row", $row, "} + 2 * {at}]"),)+
                    $(
                        concat!("vxorps xmm", $even0, ", xmm", $even0, ", xmm", $even0),
                        concat!("vxorps xmm", $even1, ", xmm", $even1, ", xmm", $even1),
                        concat!("vxorps xmm", $odd0, ", xmm", $odd0, ", xmm", $odd0),
                        concat!("vxorps xmm", $odd1, ", xmm", $odd1, ", xmm", $odd1),
                    )+
                    ".irp step, 0, 1, 2, 3, 4, 5, 6, 7",
                    "vmovups zmm24, [{right} + 128 * \\step]",
                    "vmovups zmm25, [{right} + 128 * \\step + {edge} * {edge}]",
                    "vmovups zmm26, [{right} + 128 * \\step + 64]",
                    "vmovups zmm27, [{right} + 128 * \\step + {edge} * {edge} + 64]",
                    $(
                        concat!("vbroadcastss zmm28, [{row", $row, "} + ", $step, " * \\step]"),
                        concat!("vdpbf16ps zmm", $even0, ", zmm28, zmm24"),
                        concat!("vdpbf16ps zmm", $even1, ", zmm28, zmm25"),
                        concat!("vbroadcastss zmm29, [{row", $row, "} + ", $step, " * \\step + ", $odd, "]"),
                        concat!("vdpbf16ps zmm", $odd0, ", zmm29, zmm26"),
                        concat!("vdpbf16ps zmm", $odd1, ", zmm29, zmm27"),
                    )+
                    ".endr",
                    $(
                        concat!("vaddps zmm", $even0, ", zmm", $even0, ", zmm", $odd0),
                        concat!("vaddps zmm", $even1, ", zmm", $even1, ", zmm", $odd1),
                        concat!("vaddps zmm", $sum0, ", zmm", $sum0, ", zmm", $even0),
                        concat!("vaddps zmm", $sum1, ", zmm", $sum1, ", zmm", $even1),
                    )+
                    "add {right}, 2 * {edge} * {edge}",
                    "add {deltas}, 8",
                    "cmp {deltas}, [{settings} + {deltas_at} + 8]",
                    "jne 30b",
                    "lea {at}, [{stride} + 2 * {stride}]",
                    $(
                        concat!("vmovups [{sums}", $sums_at, "], zmm", $sum0),
                        concat!("vmovups [{sums}", $sums_at, " + 64], zmm", $sum1),
                    )+
                    "lea {sums}, [{sums} + 4 * {stride}]",
                    "add {rows}, 32",
                    "cmp {rows}, [{settings} + {rows_end_at}]",
                    "jne 20b",
                    "ldmxcsr [{settings} + 4]",
                    "vzeroupper",
                    settings = in(reg) &raw mut settings,
                    rows = inout(reg) rows.as_ptr() => _,
                    sums = inout(reg) sums.as_mut_ptr() => _,
                    stride = in(reg) size_of::<f32>() * stride,
                    right = out(reg) _,
                    deltas = out(reg) _,
                    at = out(reg) _,
                    row0 = out(reg) _,
                    row1 = out(reg) _,
                    row2 = out(reg) _,
                    row3 = out(reg) _,
                    is_first_at = const offset_of!(Settings, is_first),
                    right_at = const offset_of!(Settings, right),
                    deltas_at = const offset_of!(Settings, deltas),
                    rows_end_at = const offset_of!(Settings, rows_end),
                    edge = const EDGE,
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
    add_product_of_rows, steps 8, odd 4;
    0 "": 0 1 2 3 16 17, 1 " + {stride}": 4 5 6 7 18 19, 2 " + 2 * {stride}": 8 9 10 11 20 21,
    3 " + {at}": 12 13 14 15 22 23
}

add_product! {
    add_product_of_pairs, steps 128, odd 64;
    0 "": 0 1 2 3 16 17, 1 " + {stride}": 4 5 6 7 18 19, 2 " + 2 * {stride}": 8 9 10 11 20 21,
    3 " + {at}": 12 13 14 15 22 23
}
