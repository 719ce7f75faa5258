//! What the Rust libraries beside `selfsame bench loss` share: its embeddings, its cases and its JSON.

use std::error::Error;
use std::time::Instant;

use serde_json::{Value, json};

/// Of every case.
pub const TEMPERATURE: f64 = 0.5;

/// Length of an embedding.
pub const DIMENSIONS: usize = 128;

/// NT-Xent as a user of a library writes it.
pub trait Library: Sized {
    /// Rows of the embeddings, both views together: as many as stay below 12 GiB.
    const ROWS: &[usize];

    /// A loss and its gradient, computed but not yet read.
    type Step;

    /// The embeddings, row by row, and what a user makes once beside them (masks, labels).
    fn new(embeddings: Vec<f32>, rows: usize) -> Result<Self, Box<dyn Error>>;

    /// Forward and backward: what is timed.
    fn step(&self) -> Result<Self::Step, Box<dyn Error>>;

    /// The loss, and the gradient of the embeddings.
    fn read(step: Self::Step) -> Result<(f32, Vec<f32>), Box<dyn Error>>;
}

/// Times every case `--repetitions N` times after once uncounted and prints the medians as JSON. The version is that of
/// `package` in `lock`, a Cargo.lock.
pub fn run<L: Library>(lock: &str, package: &str) -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let repetitions = match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => 7,
        (Some("--repetitions"), Some(number)) => number.parse::<usize>()?.max(1),
        (Some(other), _) => return Err(format!("got {other}, expected --repetitions N").into()),
    };
    let timings = L::ROWS.iter().map(|rows| case::<L>(*rows, repetitions)).collect::<Result<Vec<Value>, _>>()?;
    let version = format!("{package} {}", locked(lock, package).ok_or("Cargo.lock lacks the library")?);
    println!("{}", json!({ "version": version, "repetitions": repetitions, "timings": timings }));
    Ok(())
}

fn case<L: Library>(rows: usize, repetitions: usize) -> Result<Value, Box<dyn Error>> {
    let name = format!("nt_xent {rows}x{DIMENSIONS} fwd+bwd");
    eprintln!("{name}");
    let library = L::new((0..(rows * DIMENSIONS) as u32).map(coordinate).collect(), rows)?;
    let (loss, gradient) = L::read(library.step()?)?;
    let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
    let mut seconds = Vec::with_capacity(repetitions);
    for _ in 0..repetitions {
        let started = Instant::now();
        let step = library.step()?;
        seconds.push(started.elapsed().as_secs_f64());
        drop(step);
    }
    seconds.sort_by(f64::total_cmp);
    let median = (seconds[(repetitions - 1) / 2] + seconds[repetitions / 2]) / 2.0;
    Ok(json!({
        "name": name, "median_s": median, "min_s": seconds[0], "max_s": seconds[repetitions - 1],
        "loss_nats": loss, "gradient_norm": norm,
    }))
}

/// The coordinate at `index` of the rows in order, as in `src/cli/bench/loss.rs`.
fn coordinate(index: u32) -> f32 {
    let mut x = index.wrapping_mul(0x9e37_79b9);
    x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
    x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
    x ^= x >> 16;
    (x >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// The version of `package` in the text of a Cargo.lock.
fn locked<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let (_, entry) = lock.split_once(&format!("name = \"{package}\"\nversion = \""))?;
    entry.split('"').next()
}
