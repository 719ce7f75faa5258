//! What the host executor costs: nanoseconds per access, per thread and per meeting, with and without checks.
//! `cargo run --release -p selfsame-kernels --example executor_speed`.

use selfsame_kernels::case::Case;
use selfsame_kernels::host::{HostLauncher, Options};
use selfsame_kernels::launch::Launcher;
use selfsame_kernels::simt::*;
use selfsame_kernels::{kernel, shared};
use std::time::Instant;

fn no_cases() -> Vec<Case> {
    Vec::new()
}

kernel! {
    /// Nothing: the cost of a thread.
    threads(x: InOut<f32>[n], n: u32, rounds: u32)
    grid [n / 256] block [256] cost {} cases no_cases
    {}

    /// `rounds` reads and writes per thread.
    accesses(x: InOut<f32>[n], n: u32, rounds: u32)
    grid [n / 256] block [256] cost {} cases no_cases
    {
        let i = block_idx().x * 256 + thread_idx().x;
        for _ in 0..rounds {
            x.set(i, x.get(i) + 1.0);
        }
    }

    /// `rounds` reads and writes of shared memory per thread.
    shared_accesses(x: InOut<f32>[n], n: u32, rounds: u32)
    grid [n / 256] block [256] cost {} cases no_cases
    {
        let (i, tile) = (thread_idx().x, shared!(f32; 256));
        tile.set(i, 0.0);
        for _ in 0..rounds {
            tile.set(i, tile.get(i) + 1.0);
        }
    }

    /// `rounds` barriers.
    barriers(x: InOut<f32>[n], n: u32, rounds: u32)
    grid [n / 256] block [256] cost {} cases no_cases
    {
        for _ in 0..rounds {
            barrier();
        }
    }

    /// `rounds` shuffles.
    shuffles(x: InOut<f32>[n], n: u32, rounds: u32)
    grid [n / 256] block [256] cost {} cases no_cases
    {
        let mut value = 1.0f32;
        for _ in 0..rounds {
            value = shuffle_xor(ALL_LANES, value, 1);
        }
        if value == 2.0 {
            x.set(0, value);
        }
    }
}

const N: u32 = 1 << 12;

fn main() {
    println!("ns per thread and round, {N} threads, the best of 60 runs");
    let modes = [
        ("all checks and counts", Options::checked()),
        ("all checks", Options { count: false, ..Options::checked() }),
        ("bounds", Options::unchecked(1)),
    ];
    for (mode, options) in modes {
        let launcher = HostLauncher::with(options);
        let n = N as usize;
        let buffer = launcher.allocate(n * 4).expect("a quarter of a MiB is there");
        launcher.upload(buffer.address, &vec![0; n * 4]).expect("the buffer is that long");
        macro_rules! time {
            ($kernel:ident, $rounds:expr) => {{
                let args = $kernel::Args { x: buffer.slice_mut(0, n), n: N, rounds: $rounds };
                let run = || {
                    let start = Instant::now();
                    args.launch(&launcher).expect("the kernel is correct");
                    start.elapsed().as_nanos() as f64 / f64::from(N) / f64::from($rounds)
                };
                (0..60).map(|_| run()).fold(f64::INFINITY, f64::min)
            }};
        }
        println!(
            "{mode}: thread {:.1}, access {:.2}, shared access {:.2}, barrier {:.1}, shuffle {:.1}",
            time!(threads, 1),
            time!(accesses, 20) / 2.0,
            time!(shared_accesses, 20) / 2.0,
            time!(barriers, 20),
            time!(shuffles, 20),
        );
    }
}
