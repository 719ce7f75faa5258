//! NT-Xent in candle on the CPU, beside `selfsame bench loss`:
//!
//!     RUSTFLAGS="-C target-cpu=native" cargo build --release
//!     RAYON_NUM_THREADS=2 target/release/candle-nt-xent --repetitions 7

#[path = "../../nt_xent.rs"]
mod nt_xent;

use std::error::Error;

use candle_core::{Device, Tensor, Var};
use candle_nn::loss::cross_entropy;
use nt_xent::{DIMENSIONS, Library, TEMPERATURE};

struct Candle {
    z: Var,
    /// Minus infinity on the diagonal, zero elsewhere: adding it is faster than selecting by a mask of booleans.
    mask: Tensor,
    /// For each row the other view of its image.
    labels: Tensor,
}

impl Library for Candle {
    /// 16384 take more than 13 GiB: the graph keeps every matrix, and so does backward.
    const ROWS: &[usize] = &[1024, 4096];

    type Step = (Tensor, Tensor);

    fn new(embeddings: Vec<f32>, rows: usize) -> Result<Candle, Box<dyn Error>> {
        let z = Var::from_vec(embeddings, (rows, DIMENSIONS), &Device::Cpu)?;
        let mut mask = vec![0.0f32; rows * rows];
        mask.iter_mut().step_by(rows + 1).for_each(|entry| *entry = f32::NEG_INFINITY);
        let mask = Tensor::from_vec(mask, (rows, rows), &Device::Cpu)?;
        let labels: Vec<u32> = (0..rows).map(|row| ((row + rows / 2) % rows) as u32).collect();
        Ok(Candle { z, mask, labels: Tensor::from_vec(labels, rows, &Device::Cpu)? })
    }

    fn step(&self) -> Result<Self::Step, Box<dyn Error>> {
        let u = self.z.broadcast_div(&self.z.sqr()?.sum_keepdim(1)?.sqrt()?)?;
        let logits = ((&u / TEMPERATURE)?.matmul(&u.t()?)? + &self.mask)?;
        let loss = cross_entropy(&logits, &self.labels)?;
        let gradient = loss.backward()?.remove(&self.z).ok_or("no gradient of the embeddings")?;
        Ok((loss, gradient))
    }

    fn read((loss, gradient): Self::Step) -> Result<(f32, Vec<f32>), Box<dyn Error>> {
        Ok((loss.to_scalar()?, gradient.flatten_all()?.to_vec1()?))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    nt_xent::run::<Candle>(include_str!("../Cargo.lock"), "candle-core")
}
