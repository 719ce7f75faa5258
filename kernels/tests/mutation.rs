//! The check and the mutation score of a small registry, as a user would have it.

use selfsame_kernels::case::{Case, change, exactly};
use selfsame_kernels::device;
use selfsame_kernels::host::mutation::{Mutant, score};
use selfsame_kernels::host::{EQUIVALENT, Equivalent, FindingKind, Operation, Source, check};
use selfsame_kernels::kernel::KernelSpec;
use selfsame_kernels::simt::*;
use selfsame_kernels::{kernel, shared};

kernel! {
    /// Each block's share of x in reverse, through shared memory.
    reverse(x: In<u32>[n], z: Out<u32>[n], n: u32)
    grid [n.div_ceil(64)] block [64]
    cost {}
    cases reverse_cases
    {
        let (i, tile) = (thread_idx().x, shared!(u32; 64));
        let first = block_idx().x * 64;
        let count = if n - first < 64 { n - first } else { 64 };
        if within(i, count) {
            tile.set(i, x.get(first + i));
        }
        barrier();
        if within(i, count) {
            z.set(first + i, tile.get(count - 1 - i));
        }
    }

    /// Sums over warps: the sum of each half warp, then the pairs by a neighbour in shared memory.
    warp_sums(x: In<f32>[n], z: Out<f32>[n / 32], n: u32)
    grid [n / 32] block [32]
    cost {}
    cases warp_sums_cases
    {
        let tile = shared!(f32; 2);
        let sum = half_warp_sum(ALL_LANES, x.get(block_idx().x * 32 + lane()));
        if lane().is_multiple_of(16) {
            tile.set(lane() / 16, sum);
        }
        sync_warp(ALL_LANES);
        if lane() == 0 {
            z.set(block_idx().x, tile.get(0) + tile.get(1));
        }
    }

    /// The sum of all elements by the last block to finish.
    last_block_sum(x: In<u32>[n], partial: InOut<u32>[n / 32], count: InOut<u32>[1], z: InOut<u32>[1], n: u32)
    grid [n / 32] block [32]
    cost {}
    cases last_block_cases
    {
        let last = shared!(u32; 1);
        let ones = ballot(ALL_LANES, x.get(block_idx().x * 32 + lane()) == 1);
        if lane() == 0 {
            partial.set(block_idx().x, ones.count_ones());
            fence();
            last.set(0, count.atomic_add(0, 1));
            fence();
        }
        barrier();
        if last.get(0) == grid_dim().x - 1 && lane() == 1 {
            let mut sum = 0;
            for block in strided(0, grid_dim().x, 1) {
                sum += partial.get(block);
            }
            z.set(0, sum);
        }
    }
}

fn reverse_cases() -> Vec<Case> {
    let case = |n: u32| {
        let x: Vec<u32> = (0..n).map(|i| i * i).collect();
        let z = exactly(x.chunks(64).flat_map(|share| share.iter().rev().copied()).collect());
        reverse::TestCase { x, z, n }.named(format!("{n} elements"))
    };
    [1, 65, 190].map(case).into()
}

fn warp_sums_cases() -> Vec<Case> {
    let x: Vec<f32> = (0..96).map(|i| (i * i % 17) as f32).collect();
    let z = exactly(x.chunks(32).map(|warp| warp.iter().sum()).collect());
    vec![warp_sums::TestCase { x, z, n: 96 }.named("3 warps")]
}

fn last_block_cases() -> Vec<Case> {
    let x: Vec<u32> = (0..128).map(|i| i % 3).collect();
    let ones = |x: &[u32]| x.iter().filter(|value| **value == 1).count() as u32;
    let partial = change(vec![99; 4], exactly(x.chunks(32).map(ones).collect()));
    let (count, z) = (change(vec![0], exactly(vec![4])), change(vec![0], exactly(vec![ones(&x)])));
    vec![last_block_sum::TestCase { x, partial, count, z, n: 128 }.named("4 blocks")]
}

/// Lanes of a pair exchange their elements, and the sum of whole numbers stays.
const SAME_SUM: &str = "the elements that change places are summed, and sums of whole numbers are exact";

const HERE: Source = Source { path: "tests/mutation.rs", text: include_str!("mutation.rs") };

const fn flipped(operation: Operation, reads: &'static str) -> Equivalent {
    Equivalent { source: HERE, reads, kernels: &[], operation, mutants: &[Mutant::IndexFlipped], reason: SAME_SUM }
}

static EQUIVALENTS: &[Equivalent] = &[
    flipped(Operation::Read, "get(block_idx().x * 32 + lane())"),
    flipped(Operation::Write, "set(lane() / 16, sum)"),
    flipped(Operation::Read, "get(block);\n            }\n            z.set(0, sum)"),
];

#[test]
fn correct_kernels_are_clean_under_many_schedules() {
    let kernels = [&reverse::SPEC, &warp_sums::SPEC, &last_block_sum::SPEC];
    let report = check(&kernels, 30, 2, &|_| {});
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.kernels.iter().map(|kernel| kernel.runs).collect::<Vec<_>>(), [3 * 31, 31, 31]);
    let counters = report.kernels[1].counters;
    assert_eq!((counters.blocks, counters.threads, counters.shuffles, counters.warp_syncs), (3, 96, 3 * 4, 3));
    assert_eq!((counters.bytes_read, counters.bytes_written), (96 * 4, 3 * 4));
    assert_eq!((counters.requests, counters.sectors, counters.ideal_sectors), (6, 15, 15));
}

#[test]
fn mutations_are_killed() {
    let kernels = [&reverse::SPEC, &warp_sums::SPEC, &last_block_sum::SPEC];
    let score = score(&kernels, EQUIVALENTS, 2, &|_, _| {}).unwrap();
    assert!(score.survived.is_empty() && score.stale.is_empty(), "{score}");
    assert_eq!(score.equivalent.len(), 4, "{score}");
}

#[test]
fn entries_that_match_nothing_are_stale() {
    let entry = |reads| Equivalent {
        source: HERE,
        reads,
        kernels: &["warp_sums"],
        operation: Operation::SyncWarp,
        mutants: &[Mutant::Removed],
        reason: "none: it must be kept",
    };
    let needed = entry("sync_warp(ALL_LANES);\nif lane() == 0 { z.set(");
    let nowhere = Equivalent { reads: concat!("sync_warp", "(HALF)"), ..needed };
    let score = |kernels: &[&'static KernelSpec]| score(kernels, &[needed, nowhere], 1, &|_, _| {}).unwrap();
    let of_both = score(&[&warp_sums::SPEC]);
    assert_eq!(of_both.stale, [needed.to_string(), nowhere.to_string()]);
    let of_none = score(&[&reverse::SPEC]);
    assert_eq!((of_none.stale, of_none.unreached), (vec![nowhere.to_string()], vec![needed.to_string()]));
}

#[test]
fn small_shipped_kernels_have_their_score() {
    let names = ["log_sum_exp", "col_sum", "cumsum_rows"];
    let small: Vec<_> = device::kernels().filter(|kernel| names.contains(&kernel.name)).collect();
    let score = score(&small, EQUIVALENT, 2, &|_, _| {}).unwrap();
    assert_eq!(small.len(), names.len());
    assert!(score.survived.is_empty() && score.stale.is_empty(), "{score}");
}

kernel! {
    /// Forgets the last element.
    short(x: In<u32>[n], z: Out<u32>[n], n: u32)
    grid [n.div_ceil(64)] block [64]
    cost {}
    cases short_cases
    {
        let i = block_idx().x * 64 + thread_idx().x;
        if within(i + 1, n) {
            z.set(i, x.get(i) + 1);
        }
    }
}

fn short_cases() -> Vec<Case> {
    vec![short::TestCase { x: vec![1; 70], z: exactly(vec![1; 70]), n: 70 }.named("70 elements")]
}

#[test]
fn wrong_kernels_are_reported() {
    let report = check(&[&short::SPEC], 2, 1, &|_| {});
    assert!(!report.is_clean());
    assert_eq!(report.kernels[0].findings[0].kind, FindingKind::NotWritten);
    assert!(report.to_string().ends_with("0 of 1 kernels clean; 1 cases, 3 runs, 0.0 s"), "{report}");
}
