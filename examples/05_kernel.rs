//! 5. A GPU kernel of your own: declared, checked, broken on purpose, costed, run.
//!
//! `docs/kernels.md` explains each line. Run with `cargo run --release --example 05_kernel`.

use selfsame::kernels::case::{Case, exactly, noise};
use selfsame::kernels::host::mutation::score;
use selfsame::kernels::host::{HostLauncher, check};
use selfsame::kernels::kernel;
use selfsame::kernels::kernel::KernelSpec;
use selfsame::kernels::launch::Launcher;
use selfsame::kernels::math::Real;
use selfsame::kernels::simt::*;

kernel! {
    /// y = the largest minus the smallest element of each row.
    row_spread(x: In<f32>[rows * cols], y: Out<f32>[rows], rows: u32, cols: u32)
    grid [rows.div_ceil(16)] block [256]
    cost { flop: 2 * rows * cols }
    cases row_spread_cases
    {
        let (row, lane) = (block_idx().x * 16 + thread_idx().x / 16, thread_idx().x % 16);
        let here = within(row, rows);
        let end = if here { cols } else { 0 };
        let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
        for j in strided(lane, end, 16) {
            let value = x.get(row * cols + j);
            low = Real::min(low, value);
            high = Real::max(high, value);
        }
        let spread = half_warp_max(ALL_LANES, high) - half_warp_min(ALL_LANES, low);
        if here && lane == 0 {
            y.set(row, spread);
        }
    }
}

/// Rows of one element, of a ragged number, and more rows than a block takes; expected values by a plain loop.
fn row_spread_cases() -> Vec<Case> {
    [(1, 1), (3, 17), (40, 5)]
        .map(|(rows, cols)| {
            let x = noise(rows * cols, 1);
            let extremes = |row: &[f32]| {
                let high = row.iter().copied().fold(f32::NEG_INFINITY, Real::max);
                high - row.iter().copied().fold(f32::INFINITY, Real::min)
            };
            let y = x.chunks(cols).map(extremes).collect();
            row_spread::TestCase { x, y: exactly(y), rows: rows as u32, cols: cols as u32 }
                .named(format!("{rows} x {cols}"))
        })
        .into()
}

static KERNELS: &[&KernelSpec] = &[&row_spread::SPEC];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Every case, thread by thread, every access checked, under the plain order of threads and six others.
    println!("{}", check(KERNELS, 6, 2, &|_| {}));

    // The same with one mistake at a time: a lane missing from a mask, a limit or an index off by one.
    println!("{}", score(KERNELS, &[], 2, &|_, _| {})?);

    // A launch. On a GPU the launcher would be `CudaLauncher`; arguments have names and types.
    let device = HostLauncher::new();
    let x: Vec<f32> = (0..12).map(|i| (i * i) as f32).collect();
    let (input, output) = (device.allocate(4 * 12)?, device.allocate(4 * 3)?);
    device.upload(input.address, &x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())?;
    let args = row_spread::Args { x: input.slice(0, 12), y: output.slice_mut(0, 3), rows: 3, cols: 4 };
    args.launch(&device)?;
    let mut bytes = [0; 12];
    device.download(output.address, &mut bytes)?;
    let spreads: Vec<f32> = bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    println!("spreads of 0, 1, 4, 9 | 16 … 49 | 64 … 121: {spreads:?}");
    assert_eq!(spreads, [9.0, 33.0, 57.0]);

    // What it had to do, and what it did.
    let (flop, (read, written)) =
        ((row_spread::SPEC.cost)(&args.values()).flop, row_spread::SPEC.traffic(&args.values()));
    let counters = device.take_counters().remove("row_spread").ok_or("it has run")?;
    println!(
        "{flop} FLOP on {} bytes; {} sectors, {} needed",
        read + written,
        counters.sectors,
        counters.ideal_sectors
    );
    Ok(())
}
