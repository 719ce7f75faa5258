//! Kernels with planted mistakes: the checker names each, with its line and thread. And kernels without: it is silent.

#![allow(clippy::if_same_then_else, reason = "barriers at two places are a planted mistake")]

use selfsame_kernels::case::Case;
use selfsame_kernels::host::{Finding, FindingKind, HostLauncher, Options, Schedule};
use selfsame_kernels::kernel;
use selfsame_kernels::launch::{Buffer, LaunchError, Launcher};
use selfsame_kernels::shared;
use selfsame_kernels::simt::*;

fn no_cases() -> Vec<Case> {
    Vec::new()
}

kernel! {
    /// Threads past the end write.
    past_the_end(x: In<u32>[n], y: InOut<u32>[n], n: u32)
    grid [1] block [32] cost {} cases no_cases
    {
        let i = thread_idx().x;
        y.set(i, 1); // bug: past the end
    }

    /// Four elements from an index that is no multiple of 4.
    misaligned(x: In<u32>[n], y: InOut<u32>[n], n: u32)
    grid [1] block [1] cost {} cases no_cases
    {
        let [a, ..] = x.get4(1); // bug: misaligned
        y.set(0, a);
    }

    /// Four elements from a tile that starts at an odd element.
    misaligned_tile(x: In<u32>[n], y: InOut<u32>[n], n: u32)
    grid [1] block [1] cost {} cases no_cases
    {
        let tile = shared!(u32; 16).offset(3);
        tile.set4(4, [1, 2, 3, 4]); // bug: misaligned tile
    }

    /// Reads what only half the threads wrote.
    uninitialised_tile(x: In<u32>[n], y: InOut<u32>[n], n: u32)
    grid [1] block [32] cost {} cases no_cases
    {
        let (i, tile) = (thread_idx().x, shared!(u32; 32));
        if i < 16 {
            tile.set(i, i);
        }
        barrier();
        y.set(i, tile.get(i)); // bug: uninitialised tile
    }

    /// Reads its own memory, which nothing has written.
    uninitialised_global(x: In<u32>[n], y: InOut<u32>[n], n: u32)
    grid [1] block [32] cost {} cases no_cases
    {
        let i = thread_idx().x;
        if i >= 7 && i < n {
            y.set(i, y.get(i) + 1); // bug: uninitialised global
        }
    }

    /// A reduction whose halvings are not kept apart.
    no_barrier(x: In<u32>[n], y: InOut<u32>[n], n: u32)
    grid [1] block [128] cost {} cases no_cases
    {
        let (i, tile) = (thread_idx().x, shared!(u32; 128));
        tile.set(i, i);
        barrier();
        let mut half = 64;
        while half > 0 {
            if i < half {
                let sum = tile.get(i) + tile.get(i + half);
                tile.set(i, sum); // bug: no barrier
            }
            half /= 2;
        }
    }

    /// A neighbour's element without synchronisation: a shuffle does not order memory.
    no_sync_warp(x: In<u32>[n], y: InOut<u32>[n], n: u32)
    grid [1] block [32] cost {} cases no_cases
    {
        let (i, tile) = (thread_idx().x, shared!(u32; 32));
        tile.set(i, i);
        shuffle(ALL_LANES, i, 0);
        y.set(i, tile.get(i ^ 1)); // bug: no sync_warp
    }

    /// Every block writes the same value to the same element.
    same_value(x: In<u32>[n], y: InOut<u32>[n], n: u32)
    grid [3] block [32] cost {} cases no_cases
    {
        y.set(thread_idx().x, 7); // bug: same value
    }

    /// An element beyond this block's share.
    halo(x: In<u32>[n], y: InOut<u32>[n], n: u32)
    grid [2] block [32] cost {} cases no_cases
    {
        let i = block_idx().x * 32 + thread_idx().x;
        y.set(i, i);
        barrier();
        if i + 1 < 64 {
            y.get(i + 1); // bug: halo
        }
    }

    /// A counter that is also read plainly.
    atomic_and_plain(x: In<u32>[n], y: InOut<u32>[n], n: u32)
    grid [2] block [32] cost {} cases no_cases
    {
        y.atomic_add(0, 1);
        if thread_idx().x == 3 {
            y.get(0); // bug: atomic and plain
        }
    }

    /// Half the block waits at one barrier, half at another.
    two_barriers(x: In<u32>[n], y: InOut<u32>[n], n: u32)
    grid [1] block [64] cost {} cases no_cases
    {
        if thread_idx().x < 32 {
            barrier();
        } else {
            barrier(); // bug: two barriers
        }
    }

    /// Threads past the end leave before the barrier.
    early_return(x: In<u32>[n], y: InOut<u32>[n], n: u32)
    grid [1] block [64] cost {} cases no_cases
    {
        if thread_idx().x < n {
            barrier(); // bug: early return
        }
    }

    /// A mask names lanes that do not come.
    absent_lane(x: In<u32>[n], y: InOut<u32>[n], n: u32)
    grid [1] block [32] cost {} cases no_cases
    {
        if thread_idx().x < 16 {
            sync_warp(ALL_LANES); // bug: absent lane
        }
    }

    /// Lanes that their own mask leaves out.
    not_in_own_mask(x: In<u32>[n], y: InOut<u32>[n], n: u32)
    grid [1] block [32] cost {} cases no_cases
    {
        any(0x0000_ffff, thread_idx().x == 20); // bug: not in own mask
    }

    /// Lanes of one mask at different operations.
    mixed_operations(x: In<u32>[n], y: InOut<u32>[n], n: u32)
    grid [1] block [32] cost {} cases no_cases
    {
        if thread_idx().x < 5 {
            any(ALL_LANES, true);
        } else {
            shuffle(ALL_LANES, 1u32, 0); // bug: mixed operations
        }
    }

    /// A shuffle from a lane outside the mask.
    source_outside(x: In<u32>[n], y: InOut<u32>[n], n: u32)
    grid [1] block [32] cost {} cases no_cases
    {
        if thread_idx().x < 16 {
            shuffle_down(0x0000_ffff, 1u32, 2); // bug: source outside
        }
    }

    /// An output with a gap.
    gap(x: In<u32>[n], z: Out<u32>[n], n: u32)
    grid [1] block [32] cost {} cases no_cases
    {
        if within(thread_idx().x, n) && thread_idx().x != 5 {
            z.set(thread_idx().x, 0);
        }
    }

    /// An output written twice by the same threads.
    twice(x: In<u32>[n], z: Out<u32>[n], n: u32)
    grid [1] block [32] cost {} cases no_cases
    {
        if within(thread_idx().x, n) {
            z.set(thread_idx().x, 0);
            z.set(thread_idx().x, 1); // bug: twice
        }
    }

    /// An index below 0.
    underflow(x: In<u32>[n], y: InOut<u32>[n], n: u32)
    grid [1] block [32] cost {} cases no_cases
    {
        let left = n - thread_idx().x; // bug: underflow
        if left == 3 {
            y.set(0, left);
        }
    }

    /// Waits for ever.
    runaway(x: In<u32>[n], y: InOut<u32>[n], n: u32)
    grid [1] block [1] cost {} cases no_cases
    {
        while x.get(0) != 99 {} // bug: runaway
    }
}

kernel! {
    /// Sums by the last block to finish: partial sums, a fence, a counter.
    last_block_done(x: In<u32>[n], partial: InOut<u32>[n / 64], count: InOut<u32>[1], sum: InOut<u32>[1], n: u32)
    grid [n / 64] block [64] cost {} cases no_cases
    {
        let (i, tile, last) = (thread_idx().x, shared!(u32; 64), shared!(u32; 1));
        tile.set(i, x.get(block_idx().x * 64 + i));
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
        if i == 0 {
            partial.set(block_idx().x, tile.get(0));
            fence(); // release
            last.set(0, count.atomic_add(0, 1));
            fence(); // acquire
        }
        barrier();
        if last.get(0) == grid_dim().x - 1 && i == 1 {
            let mut total = 0;
            for block in 0..grid_dim().x {
                total += partial.get(block); // acquired
            }
            sum.set(0, total);
        }
    }

    /// Lanes hand elements on within the warp.
    warp_neighbours(x: In<u32>[n], z: Out<u32>[n], n: u32)
    grid [n / 64] block [64] cost {} cases no_cases
    {
        let (i, tile) = (thread_idx().x, shared!(u32; 64));
        let at = block_idx().x * 64 + i;
        tile.set(i, x.get(at));
        sync_warp(ALL_LANES);
        z.set(at, tile.get(i ^ 1));
        sync_warp(ALL_LANES);
        tile.set(i, 0);
    }

    /// A histogram by atomics, read after a barrier.
    histogram(x: In<u32>[n], y: InOut<u32>[n], n: u32)
    grid [2] block [64] cost {} cases no_cases
    {
        let (i, bins) = (thread_idx().x, shared!(u32; 4));
        if i < 4 {
            bins.set(i, 0);
        }
        barrier();
        bins.atomic_add(x.get(i) % 4, 1);
        barrier();
        if i < 4 {
            y.atomic_add(i, bins.get(i));
        }
    }
}

/// The line of this file that holds `text`.
fn line_of(text: &str) -> u32 {
    let lines = include_str!("checker.rs").lines();
    lines.zip(1..).find(|(line, _)| line.ends_with(text)).map(|(_, number)| number).expect("the text is in this file")
}

fn memory(launcher: &HostLauncher, values: Option<&[u32]>, n: usize) -> Buffer {
    let buffer = launcher.allocate(n * 4).unwrap();
    if let Some(values) = values {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        launcher.upload(buffer.address, &bytes).unwrap();
    }
    buffer
}

fn read(launcher: &HostLauncher, buffer: Buffer) -> Vec<u32> {
    let mut bytes = vec![0; buffer.bytes];
    launcher.download(buffer.address, &mut bytes).unwrap();
    bytes.chunks(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// Launches one of the kernels above on `n` elements; what the checker finds.
macro_rules! found {
    ($kernel:ident, $y:ident: $initial:expr, $n:expr) => {{
        let launcher = HostLauncher::with(Options { steps: 1000, ..Options::checked() });
        let n = $n as usize;
        let x: Vec<u32> = (0..n as u32).collect();
        let x = memory(&launcher, Some(&x), n);
        let y = memory(&launcher, $initial.map(|value: u32| vec![value; n]).as_deref(), n);
        let args = $kernel::Args { x: x.slice(0, n), $y: y.slice_mut(0, n), n: n as u32 };
        let result = args.launch(&launcher);
        let findings = launcher.take_findings();
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        match result {
            Ok(()) => assert!(lines.is_empty()),
            Err(LaunchError::Findings { findings, .. }) => assert_eq!(findings, lines),
            Err(error) => panic!("{error}"),
        }
        findings
    }};
}

/// One finding, of this kind, on this line, by this thread.
#[track_caller]
fn expect(findings: &[Finding], kind: FindingKind, text: &str, thread: u32) {
    let [finding] = findings else { panic!("one finding expected: {findings:#?}") };
    assert_eq!(finding.kind, kind, "{finding}");
    assert_eq!(finding.at.map(|at| at.line), Some(line_of(&format!("// {text}"))), "{finding}");
    assert_eq!(finding.thread, Dim3::new(thread, 0, 0), "{finding}");
}

#[test]
fn accesses_outside_memory() {
    let findings = found!(past_the_end, y: Some(0), 17);
    expect(&findings, FindingKind::OutOfBounds, "bug: past the end", 17);
    let line = findings[0].to_string();
    assert!(line.starts_with("out of bounds: y[17] of 17, "), "{line}");
    assert!(line.ends_with(", thread (17,0,0), block (0,0,0), 15 times"), "{line}");
}

#[test]
fn accesses_at_wrong_addresses() {
    expect(&found!(misaligned, y: Some(0), 16), FindingKind::Misaligned, "bug: misaligned", 0);
    expect(&found!(misaligned_tile, y: Some(0), 16), FindingKind::Misaligned, "bug: misaligned tile", 0);
}

#[test]
fn uninitialised_reads() {
    expect(&found!(uninitialised_tile, y: Some(0), 32), FindingKind::Uninitialised, "bug: uninitialised tile", 16);
    expect(&found!(uninitialised_global, y: None, 32), FindingKind::Uninitialised, "bug: uninitialised global", 7);
    assert!(found!(uninitialised_global, y: Some(0), 32).is_empty());
}

#[test]
fn initialisation_travels_with_copies_and_lasts_over_launches() {
    let launcher = HostLauncher::new();
    let (x, y, z) = (memory(&launcher, Some(&[1; 64]), 64), memory(&launcher, None, 64), memory(&launcher, None, 64));
    let neighbours = warp_neighbours::Args { x: x.slice(0, 64), z: y.slice_mut(0, 64), n: 64 };
    let again = uninitialised_global::Args { x: x.slice(0, 64), y: z.slice_mut(0, 64), n: 64 };
    launcher.copy(y.address, z.address, 256).unwrap();
    again.launch(&launcher).unwrap_err();
    neighbours.launch(&launcher).unwrap();
    launcher.copy(y.address, z.address, 256).unwrap();
    again.launch(&launcher).unwrap();
}

#[test]
fn races_in_shared_memory() {
    let findings = found!(no_barrier, y: Some(0), 1);
    assert!(findings.iter().all(|finding| finding.kind == FindingKind::Race), "{findings:#?}");
    assert_eq!(findings[0].at.map(|at| at.line), Some(line_of("// bug: no barrier")));
    assert_eq!(findings[0].other.map(|at| at.line), Some(line_of("// bug: no barrier") - 1));
    let findings = found!(no_sync_warp, y: Some(0), 32);
    expect(&findings, FindingKind::Race, "bug: no sync_warp", 0);
}

#[test]
fn races_in_global_memory() {
    let findings = found!(same_value, y: Some(0), 32);
    expect(&findings, FindingKind::Race, "bug: same value", 0);
    assert_eq!((findings[0].block, findings[0].count), (Dim3::new(1, 0, 0), 64));
    let findings = found!(halo, y: Some(0), 64);
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(findings[0].kind, FindingKind::Race);
    let plain = found!(atomic_and_plain, y: Some(0), 1);
    assert!(plain.iter().all(|finding| finding.kind == FindingKind::Race), "{plain:#?}");
    assert_eq!(plain[0].at.map(|at| at.line), Some(line_of("// bug: atomic and plain")));
    assert_eq!(plain[0].thread, Dim3::new(3, 0, 0));
}

#[test]
fn barriers_in_divergent_flow() {
    expect(&found!(two_barriers, y: Some(0), 1), FindingKind::BarrierDivergence, "bug: two barriers", 32);
    expect(&found!(early_return, y: Some(0), 40), FindingKind::BarrierDivergence, "bug: early return", 0);
}

#[test]
fn lanes_and_masks() {
    expect(&found!(absent_lane, y: Some(0), 1), FindingKind::Lanes, "bug: absent lane", 0);
    expect(&found!(not_in_own_mask, y: Some(0), 1), FindingKind::Lanes, "bug: not in own mask", 16);
    expect(&found!(mixed_operations, y: Some(0), 1), FindingKind::Lanes, "bug: mixed operations", 5);
    expect(&found!(source_outside, y: Some(0), 1), FindingKind::ShuffleSource, "bug: source outside", 14);
}

#[test]
fn outputs_are_written_once() {
    let findings = found!(gap, z: None, 20);
    let [finding] = &findings[..] else { panic!("{findings:#?}") };
    assert_eq!(finding.kind, FindingKind::NotWritten);
    assert!(finding.detail.starts_with("z[5] and in all 1 of 20"), "{finding}");
    expect(&found!(twice, z: None, 20), FindingKind::WrittenTwice, "bug: twice", 0);
}

#[test]
fn panics_and_endless_loops() {
    let findings = found!(underflow, y: Some(0), 20);
    expect(&findings, FindingKind::Panic, "bug: underflow", 21);
    assert!(findings[0].detail.contains("overflow"), "{}", findings[0]);
    expect(&found!(runaway, y: Some(0), 1), FindingKind::Runaway, "bug: runaway", 0);
}

/// Launches all three correct kernels over `n` elements and compares what they compute.
fn correct_kernels_pass(options: Options, n: u32) {
    let launcher = HostLauncher::with(options);
    let x: Vec<u32> = (0..n).map(|i| i * 7 % 31).collect();
    let (sum, n) = (x.iter().sum::<u32>(), x.len());
    let zeros = |n| memory(&launcher, Some(&vec![0; n]), n);
    let (input, partial, count, total) = (memory(&launcher, Some(&x), n), zeros(n / 64), zeros(1), zeros(1));
    let done = last_block_done::Args {
        x: input.slice(0, n),
        partial: partial.slice_mut(0, n / 64),
        count: count.slice_mut(0, 1),
        sum: total.slice_mut(0, 1),
        n: n as u32,
    };
    done.launch(&launcher).unwrap_or_else(|e| panic!("{options:?}: {e}"));
    assert_eq!(read(&launcher, total), [sum]);
    let swapped = memory(&launcher, None, n);
    let neighbours = warp_neighbours::Args { x: input.slice(0, n), z: swapped.slice_mut(0, n), n: n as u32 };
    neighbours.launch(&launcher).unwrap_or_else(|e| panic!("{options:?}: {e}"));
    let expected: Vec<u32> = x.chunks(2).flat_map(|pair| [pair[1], pair[0]]).collect();
    assert_eq!(read(&launcher, swapped), expected);
    let bins = zeros(n);
    let count = histogram::Args { x: input.slice(0, n), y: bins.slice_mut(0, n), n: n as u32 };
    count.launch(&launcher).unwrap_or_else(|e| panic!("{options:?}: {e}"));
    let expected = [0, 1, 2, 3].map(|bin| 2 * x[..64].iter().filter(|value| *value % 4 == bin).count() as u32);
    assert_eq!(read(&launcher, bins)[..4], expected);
}

#[test]
fn correct_kernels_raise_no_alarm() {
    correct_kernels_pass(Options::checked(), 512);
    for seed in 0..20 {
        correct_kernels_pass(Options { schedule: Schedule::Random(seed), ..Options::checked() }, 512);
        correct_kernels_pass(Options { schedule: Schedule::Adversarial(seed), ..Options::checked() }, 512);
        let preempt = std::num::NonZeroU32::new(3);
        correct_kernels_pass(Options { schedule: Schedule::Random(seed), preempt, ..Options::checked() }, 512);
    }
    // Enough blocks that three threads of the host share them.
    correct_kernels_pass(Options::unchecked(1), 1 << 15);
    correct_kernels_pass(Options::unchecked(3), 1 << 15);
}
