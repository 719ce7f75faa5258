//! Checks every kernel under many schedules and states the mutation score:
//! `cargo run --release -p selfsame-kernels --example check -- [seeds] [part of a kernel's name]`.

use selfsame_kernels::device;
use selfsame_kernels::host::mutation::score;
use selfsame_kernels::host::{EQUIVALENT, check};
use selfsame_kernels::kernel::KernelSpec;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let seeds = args.next().and_then(|seeds| seeds.parse().ok()).unwrap_or(8);
    let part = args.next().unwrap_or_default();
    let kernels: Vec<&KernelSpec> = device::kernels().filter(|kernel| kernel.name.contains(&part)).collect();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let report = check(&kernels, seeds, workers, &|report| {
        let state = if report.is_clean() { "clean" } else { "NOT CLEAN" };
        println!("{}: {state}, {} runs, {:.2} s", report.kernel, report.runs, report.elapsed.as_secs_f64());
    });
    println!("{report}");
    let score = score(&kernels, EQUIVALENT, workers, &|kernel, score| println!("{}: {score}", kernel.name));
    match score {
        Ok(score) => {
            println!("{score}");
            let table_is_right = score.stale.is_empty() && (!part.is_empty() || score.unreached.is_empty());
            if report.is_clean() && score.share() >= 0.95 && table_is_right {
                return ExitCode::SUCCESS;
            }
        }
        Err(error) => println!("no mutation score: {error}"),
    }
    ExitCode::FAILURE
}
