//! NT-Xent in burn on its CPU backend Flex, beside `selfsame bench loss`:
//!
//!     RUSTFLAGS="-C target-cpu=native" cargo build --release
//!     RAYON_NUM_THREADS=2 target/release/burn-nt-xent --repetitions 7

#[path = "../../nt_xent.rs"]
mod nt_xent;

use std::error::Error;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use nt_xent::{DIMENSIONS, Library, TEMPERATURE};

struct Burn {
    z: Tensor<2>,
    /// False on the diagonal: burn's convention.
    mask: Tensor<2, Bool>,
    /// For each row the other view of its image, `[rows, 1]`.
    labels: Tensor<2, Int>,
}

impl Library for Burn {
    const ROWS: &[usize] = &[1024, 4096, 16384];

    type Step = (Tensor<1>, Tensor<2>);

    fn new(embeddings: Vec<f32>, rows: usize) -> Result<Burn, Box<dyn Error>> {
        let device = Device::flex().autodiff();
        let z = Tensor::from_data(TensorData::new(embeddings, [rows, DIMENSIONS]), &device).require_grad();
        let mask = Tensor::diag_mask([rows, rows], 0, &device).bool_not();
        let labels: Vec<i32> = (0..rows).map(|row| ((row + rows / 2) % rows) as i32).collect();
        Ok(Burn { z, mask, labels: Tensor::from_data(TensorData::new(labels, [rows, 1]), &device) })
    }

    fn step(&self) -> Result<Self::Step, Box<dyn Error>> {
        let u = self.z.clone() / self.z.clone().square().sum_dim(1).sqrt();
        let logits = (u.clone() / TEMPERATURE).matmul(u.transpose()).mask_fill(self.mask.clone(), f32::NEG_INFINITY);
        let loss = log_softmax(logits, 1).gather(1, self.labels.clone()).mean().neg();
        let gradient = self.z.grad(&loss.backward()).ok_or("no gradient of the embeddings")?;
        Ok((loss, gradient))
    }

    fn read((loss, gradient): Self::Step) -> Result<(f32, Vec<f32>), Box<dyn Error>> {
        let gradient = gradient.into_data().try_into_vec().map_err(|error| format!("{error:?}"))?;
        Ok((loss.into_scalar(), gradient))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    nt_xent::run::<Burn>(include_str!("../Cargo.lock"), "burn")
}
