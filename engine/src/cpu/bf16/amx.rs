//! The matrix unit of x86-64 (AMX-BF16): eight tiles of 16 rows of 64 bytes. Four hold a block of sums, two each of its
//! operands.
//!
//! Written as assembly: the compiler has no stable names for these instructions, and knows nothing of the tiles, which
//! it neither uses nor keeps. They hold their contents from one piece of assembly to the next.
#![allow(unsafe_code)]

use super::{BLOCK, Run};
use std::arch::asm;
use std::arch::x86_64::__cpuid_count;

/// Whether the machine has the unit, and the system lets this process use it: asked once for all threads, present and
/// future.
pub(super) fn is_permitted() -> bool {
    has_instructions() && ask()
}

fn has_instructions() -> bool {
    /// Bits of leaf 7: bf16 products, and tiles.
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    #[allow(unused_unsafe, reason = "safe in newer versions of Rust")]
    // SAFETY: every x86-64 processor has the instruction.
    let (last, leaf) = unsafe { (__cpuid_count(0, 0).eax, __cpuid_count(7, 0)) };
    last >= 7 && leaf.edx & (BF16 | TILE) == BF16 | TILE
}

fn ask() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const TILE_DATA: u64 = 18;
    let result: i64;
    // SAFETY: the call changes nothing but what this process may use; where it is unknown, it returns an error.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
        );
    }
    result == 0
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Tiles {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_of_row: [u16; 16],
    rows: [u8; 16],
}

static TILES: Tiles = Tiles {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes_of_row: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Makes the tiles ready on this thread.
///
/// # Safety
/// The unit must be present and permitted.
pub(super) unsafe fn configure() {
    // SAFETY: the caller's promise; the configuration is a valid one.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const TILES, options(nostack, preserves_flags)) };
}

/// Gives the tiles up, so that the system need not keep their contents.
///
/// # Safety
/// As for [`configure`].
pub(super) unsafe fn release() {
    // SAFETY: the caller's promise.
    unsafe { asm!("tilerelease", options(nostack, preserves_flags)) };
}

/// See [`Session::product`].
///
/// # Safety
/// The tiles are configured on this thread; operands and result have the sizes that [`Session::product`] asks for.
pub(super) unsafe fn product(runs: &[Run<'_>], to: &mut [f32], stride: usize) {
    // SAFETY: the tiles are ready, as the caller promises.
    unsafe {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nostack, preserves_flags, nomem),
        );
    }
    for run in runs.iter().filter(|run| !run.left.is_empty()) {
        // SAFETY: reads `count` blocks of each operand, which both have.
        unsafe {
            asm!(
                "2:",
                "tileloadd tmm4, [{left} + {row}]",
                "tileloadd tmm6, [{right} + {row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{right} + {row} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{left} + {row} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {left}, 2048",
                "add {right}, 2048",
                "dec {count}",
                "jnz 2b",
                left = inout(reg) run.left.as_ptr() => _,
                right = inout(reg) run.right.as_ptr() => _,
                count = inout(reg) run.left.len() / BLOCK => _,
                row = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly),
            );
        }
    }
    let lower = to[16 * stride..].as_mut_ptr();
    // SAFETY: writes 32 rows of 32 sums at `stride`, for which there is room.
    unsafe {
        asm!(
            "tilestored [{upper} + {stride}], tmm0",
            "tilestored [{upper} + {stride} + 64], tmm1",
            "tilestored [{lower} + {stride}], tmm2",
            "tilestored [{lower} + {stride} + 64], tmm3",
            upper = in(reg) to.as_mut_ptr(),
            lower = in(reg) lower,
            stride = in(reg) size_of::<f32>() * stride,
            options(nostack, preserves_flags),
        );
    }
}
