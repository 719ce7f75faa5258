//! The checker beside riri, the happens-before checker of Rust kernels on crates.io: the same patterns under both, with
//! and without mistakes. The table is the one of `docs/checker.md`.

#![allow(clippy::if_same_then_else, reason = "barriers at two places are a planted mistake")]

use riri::warp::{FULL_MASK, ballot_sync, shfl_down_sync, shfl_sync, shfl_xor_sync, sync_warp as riri_sync_warp};
use riri::{Diagnostic, GlobalBuf, LaunchConfig, Ordering, ThreadCtx};
use selfsame_kernels::case::Case;
use selfsame_kernels::host::{HostLauncher, Options, Schedule};
use selfsame_kernels::launch::{Buffer, Launcher};
use selfsame_kernels::simt::*;
use selfsame_kernels::{kernel, shared};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

fn no_cases() -> Vec<Case> {
    Vec::new()
}

/// Elements of the memory that the patterns share; all 0 before.
const N: usize = 256;

kernel! {
    /// Halves are summed without barriers between.
    reduction_no_barrier(y: InOut<u32>[N as u64])
    grid [1] block [64] cost {} cases no_cases
    {
        let (i, tile) = (thread_idx().x, shared!(u32; 64));
        tile.set(i, i);
        barrier();
        let mut half = 32;
        while half > 0 {
            if i < half {
                let sum = tile.get(i) + tile.get(i + half);
                tile.set(i, sum);
            }
            half /= 2;
        }
    }

    /// Two blocks write different values to the same elements.
    block_conflict(y: InOut<u32>[N as u64])
    grid [2] block [32] cost {} cases no_cases
    { y.set(thread_idx().x, block_idx().x) }

    /// Two blocks write the same value to the same elements.
    same_value(y: InOut<u32>[N as u64])
    grid [2] block [32] cost {} cases no_cases
    { y.set(thread_idx().x, 7) }

    /// A lane reads its neighbour's element at once.
    no_sync_warp(y: InOut<u32>[N as u64])
    grid [1] block [32] cost {} cases no_cases
    {
        let (i, tile) = (thread_idx().x, shared!(u32; 32));
        tile.set(i, i);
        tile.get(i ^ 1);
    }

    /// A shuffle stands where sync_warp should; PTX gives shuffles no memory order.
    shuffle_as_sync(y: InOut<u32>[N as u64])
    grid [1] block [32] cost {} cases no_cases
    {
        let (i, tile) = (thread_idx().x, shared!(u32; 32));
        tile.set(i, i);
        shuffle(ALL_LANES, i, 0);
        tile.get(i ^ 1);
    }

    /// A block reads one element of the next block's share.
    halo(y: InOut<u32>[N as u64])
    grid [2] block [32] cost {} cases no_cases
    {
        let i = block_idx().x * 32 + thread_idx().x;
        y.set(i, i);
        barrier();
        y.get(i + 1);
    }

    /// A counter of atomics is read plainly.
    atomic_and_plain(y: InOut<u32>[N as u64])
    grid [2] block [32] cost {} cases no_cases
    {
        y.atomic_add(0, 1);
        if thread_idx().x == 0 {
            y.get(0);
        }
    }

    /// The last block reads the others' results; nobody fences.
    last_block_no_fence(y: InOut<u32>[N as u64])
    grid [4] block [1] cost {} cases no_cases
    {
        y.set(1 + block_idx().x, 1);
        if y.atomic_add(0, 1) == 3 {
            for block in 0..4 {
                y.get(1 + block);
            }
        }
    }

    /// Half the threads leave before the barrier.
    divergent_barrier(y: InOut<u32>[N as u64])
    grid [1] block [64] cost {} cases no_cases
    {
        if thread_idx().x < 32 {
            barrier();
        }
    }

    /// Each half of the block waits at a barrier of its own.
    two_barriers(y: InOut<u32>[N as u64])
    grid [1] block [64] cost {} cases no_cases
    {
        if thread_idx().x < 32 {
            barrier();
        } else {
            barrier();
        }
    }

    /// Elements of a tile are read that nobody wrote.
    uninitialised(y: InOut<u32>[N as u64])
    grid [1] block [32] cost {} cases no_cases
    {
        let (i, tile) = (thread_idx().x, shared!(u32; 32));
        if i < 16 {
            tile.set(i, i);
        }
        barrier();
        tile.get(i);
    }

    /// One element past the end.
    out_of_bounds(y: InOut<u32>[N as u64])
    grid [1] block [32] cost {} cases no_cases
    { y.set(N as u32 - 31 + thread_idx().x, 1) }

    /// A shuffle reads a lane that its mask leaves out.
    shuffle_source(y: InOut<u32>[N as u64])
    grid [1] block [32] cost {} cases no_cases
    {
        if thread_idx().x < 16 {
            shuffle_down(0x0000_ffff, 1u32, 2);
        }
    }

    /// A mask names lanes that branched away.
    absent_lanes(y: InOut<u32>[N as u64])
    grid [1] block [32] cost {} cases no_cases
    {
        if thread_idx().x < 16 {
            ballot(ALL_LANES, true);
        }
    }

    /// Four elements at once from an index that is no multiple of 4.
    misaligned(y: InOut<u32>[N as u64])
    grid [1] block [1] cost {} cases no_cases
    { y.set4(2, [1; 4]) }

    /// Halves are summed with barriers between.
    reduction(y: InOut<u32>[N as u64])
    grid [1] block [64] cost {} cases no_cases
    {
        let (i, tile) = (thread_idx().x, shared!(u32; 64));
        tile.set(i, i);
        barrier();
        let mut half = 32;
        while half > 0 {
            if i < half {
                let sum = tile.get(i) + tile.get(i + half);
                tile.set(i, sum);
            }
            barrier();
            half /= 2;
        }
    }

    /// Lanes hand elements on through sync_warp.
    warp_neighbours(y: InOut<u32>[N as u64])
    grid [1] block [32] cost {} cases no_cases
    {
        let (i, tile) = (thread_idx().x, shared!(u32; 32));
        tile.set(i, i);
        sync_warp(ALL_LANES);
        tile.get(i ^ 1);
    }

    /// Each half of a warp synchronises by its own mask.
    half_warp_neighbours(y: InOut<u32>[N as u64])
    grid [1] block [32] cost {} cases no_cases
    {
        let (i, tile) = (thread_idx().x, shared!(u32; 32));
        tile.set(i, i);
        sync_warp(if i < 16 { 0x0000_ffff } else { 0xffff_0000 });
        tile.get(i ^ 1);
    }

    /// A warp sums by shuffles.
    shuffle_sum(y: InOut<u32>[N as u64])
    grid [1] block [32] cost {} cases no_cases
    {
        let mut sum = thread_idx().x;
        for lanes in [16, 8, 4, 2, 1] {
            sum += shuffle_xor(ALL_LANES, sum, lanes);
        }
        y.set(thread_idx().x, sum);
    }

    /// A histogram by atomics.
    histogram(y: InOut<u32>[N as u64])
    grid [2] block [64] cost {} cases no_cases
    { y.atomic_add(thread_idx().x % 4, 1); }

    /// The last block reads the others' results, released and acquired by fences.
    last_block(y: InOut<u32>[N as u64])
    grid [4] block [1] cost {} cases no_cases
    {
        y.set(1 + block_idx().x, 1);
        fence();
        let before = y.atomic_add(0, 1);
        fence();
        if before == 3 {
            for block in 0..4 {
                y.get(1 + block);
            }
        }
    }
}

fn halvings(t: &ThreadCtx<'_>, barriers: bool) {
    let (i, tile) = (t.thread_linear(), t.shared::<u32>("tile", 64));
    tile.write(t, i, i as u32);
    t.sync_threads();
    let mut half = 32;
    while half > 0 {
        if i < half {
            let sum = tile.read(t, i) + tile.read(t, i + half);
            tile.write(t, i, sum);
        }
        if barriers {
            t.sync_threads();
        }
        half /= 2;
    }
}

fn neighbours(t: &ThreadCtx<'_>, synchronise: impl Fn(u32)) {
    let (i, tile) = (t.thread_linear(), t.shared::<u32>("tile", 32));
    tile.write(t, i, i as u32);
    synchronise(i as u32);
    tile.read(t, i ^ 1);
}

fn hand_over(t: &ThreadCtx<'_>, y: &GlobalBuf<u32>, fence: impl Fn()) {
    y.write(t, 1 + t.block_linear(), 1);
    fence();
    let before = y.atomic_add(t, 0, 1, Ordering::Relaxed);
    fence();
    if before == 3 {
        (0..4).for_each(|block| {
            y.read(t, 1 + block);
        });
    }
}

/// A kernel as riri has it.
type RiriKernel = fn(&ThreadCtx<'_>, &GlobalBuf<u32>);

struct Pattern {
    name: &'static str,
    /// What is planted; empty where nothing is.
    mistake: &'static str,
    launch: fn(&HostLauncher, Buffer) -> bool,
    /// The grid, the block, the kernel; `None`: riri has no words for it.
    riri: Option<(u32, u32, RiriKernel)>,
}

macro_rules! patterns {
    ($($name:ident $mistake:literal $riri:expr;)+) => {
        [$(Pattern {
            name: stringify!($name),
            mistake: $mistake,
            launch: |launcher, y| $name::Args { y: y.slice_mut(0, N) }.launch(launcher).is_ok(),
            riri: $riri,
        }),+]
    };
}

#[rustfmt::skip]
fn patterns() -> Vec<Pattern> {
    patterns! {
        reduction_no_barrier "race in shared memory" Some((1, 64, |t, _| halvings(t, false)));
        block_conflict "race between blocks" Some((2, 32, |t, y| y.write(t, t.thread_linear(), t.block_linear() as u32)));
        same_value "race, the same value" Some((2, 32, |t, y| y.write(t, t.thread_linear(), 7)));
        no_sync_warp "race within a warp" Some((1, 32, |t, _| neighbours(t, |_| {})));
        shuffle_as_sync "race within a warp" Some((1, 32, |t, _| neighbours(t, |i| {
            shfl_sync(t, FULL_MASK, i, 0);
        })));
        halo "race between blocks" Some((2, 32, |t, y| {
            y.write(t, t.global_linear(), 1);
            t.sync_threads();
            y.read(t, t.global_linear() + 1);
        }));
        atomic_and_plain "race with an atomic" Some((2, 32, |t, y| {
            y.atomic_add(t, 0, 1, Ordering::Relaxed);
            if t.thread_linear() == 0 {
                y.read(t, 0);
            }
        }));
        last_block_no_fence "race between blocks" Some((4, 1, |t, y| hand_over(t, y, || {})));
        divergent_barrier "barrier divergence" Some((1, 64, |t, _| {
            if t.thread_linear() < 32 {
                t.sync_threads();
            }
        }));
        two_barriers "barrier divergence" Some((1, 64, |t, _| {
            if t.thread_linear() < 32 {
                t.sync_threads();
            } else {
                t.sync_threads();
            }
        }));
        uninitialised "uninitialised tile" Some((1, 32, |t, _| {
            let (i, tile) = (t.thread_linear(), t.shared::<u32>("tile", 32));
            if i < 16 {
                tile.write(t, i, 1);
            }
            t.sync_threads();
            tile.read(t, i);
        }));
        out_of_bounds "out of bounds" Some((1, 32, |t, y| y.write(t, N - 31 + t.thread_linear(), 1)));
        shuffle_source "shuffle source" Some((1, 32, |t, _| {
            if t.lane_id() < 16 {
                shfl_down_sync(t, 0x0000_ffff, 1u32, 2);
            }
        }));
        absent_lanes "lanes and mask" Some((1, 32, |t, _| {
            if t.lane_id() < 16 {
                ballot_sync(t, FULL_MASK, true);
            }
        }));
        misaligned "misaligned" None;
        reduction "" Some((1, 64, |t, _| halvings(t, true)));
        warp_neighbours "" Some((1, 32, |t, _| neighbours(t, |_| riri_sync_warp(t, FULL_MASK))));
        half_warp_neighbours "" Some((1, 32, |t, _| {
            neighbours(t, |i| riri_sync_warp(t, if i < 16 { 0x0000_ffff } else { 0xffff_0000 }));
        }));
        shuffle_sum "" Some((1, 32, |t, y| {
            let mut sum = t.lane_id();
            for lanes in [16, 8, 4, 2, 1] {
                sum += shfl_xor_sync(t, FULL_MASK, sum, lanes);
            }
            y.write(t, t.thread_linear(), sum);
        }));
        histogram "" Some((2, 64, |t, y| {
            y.atomic_add(t, t.thread_linear() % 4, 1, Ordering::Relaxed);
        }));
        last_block "" Some((4, 1, |t, y| hand_over(t, y, || t.threadfence())));
    }
    .into()
}

/// Schedules that each pattern runs under.
const SEEDS: u64 = 8;

/// What our checker calls what it finds.
fn ours(pattern: &Pattern) -> BTreeSet<String> {
    let schedules = (0..SEEDS).map(|seed| if seed == 0 { Schedule::InOrder } else { Schedule::Random(seed) });
    let found = schedules.flat_map(|schedule| {
        let launcher = HostLauncher::with(Options { schedule, ..Options::checked() });
        let y = launcher.allocate(4 * N).unwrap();
        launcher.upload(y.address, &[0; 4 * N]).unwrap();
        let clean = (pattern.launch)(&launcher, y);
        let findings = launcher.take_findings();
        assert_eq!(clean, findings.is_empty(), "{}", pattern.name);
        findings
    });
    found.map(|finding| finding.kind.to_string()).collect()
}

/// What riri calls what it finds; `None` where it has no words for the pattern.
fn theirs(pattern: &Pattern) -> Option<BTreeSet<String>> {
    let (grid, block, kernel) = pattern.riri?;
    let found = (0..SEEDS).flat_map(|seed| {
        let y = GlobalBuf::new("y", vec![0u32; N]);
        riri::launch(&LaunchConfig::new(grid, block).seed(seed), |t| kernel(t, &y)).diagnostics
    });
    let kind = |diagnostic: Diagnostic| match diagnostic {
        Diagnostic::DataRace { .. } => "data race",
        Diagnostic::UninitRead { .. } => "uninitialised read",
        Diagnostic::OutOfBounds { .. } => "out of bounds",
        Diagnostic::BarrierDivergence { .. } => "barrier divergence",
        Diagnostic::WarpDivergence { .. } => "warp divergence",
        Diagnostic::WarpMaskMismatch { .. } => "mask mismatch",
        Diagnostic::WarpLaneError { .. } => "lane error",
        Diagnostic::KernelPanic { .. } => "panic",
    };
    Some(found.map(|diagnostic| kind(diagnostic).to_owned()).collect())
}

#[test]
fn patterns_under_both_checkers() {
    let list = |kinds: BTreeSet<String>| match kinds.is_empty() {
        true => "nothing".to_owned(),
        false => kinds.into_iter().collect::<Vec<_>>().join(", "),
    };
    let (mut our_time, mut their_time) = (Duration::ZERO, Duration::ZERO);
    let mut table = String::from("| Pattern | Planted | selfsame | riri |\n|---|---|---|---|\n");
    for pattern in patterns() {
        let start = Instant::now();
        let found = ours(&pattern);
        our_time += start.elapsed();
        let start = Instant::now();
        let beside = theirs(&pattern).map_or("no words for it".to_owned(), list);
        their_time += start.elapsed();
        assert_eq!(found.is_empty(), pattern.mistake.is_empty(), "{}: {found:?}", pattern.name);
        let planted = if pattern.mistake.is_empty() { "nothing" } else { pattern.mistake };
        table += &format!("| {} | {planted} | {} | {beside} |\n", pattern.name, list(found));
    }
    println!("{table}\n{our_time:.2?} here, {their_time:.2?} in riri, {SEEDS} schedules each");
    let docs = include_str!("../../docs/checker.md");
    assert!(docs.contains(&table), "docs/checker.md has another table; this is the present one:\n{table}");
}
