//! How prototypes share the images, for the log.

use crate::views::{batch_of, total};
use selfsame_autograd::Tensor;
use selfsame_engine::{Comm, DType, Result, ops};
use selfsame_kernels::math::Real;

/// How prototypes share the images of a batch; of all ranks, the same on each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// The share of prototypes that are the first choice of at least one row.
    pub used: f64,
    /// The entropy in nats of the mean distribution: ln K in equal use, 0 when one prototype has everything.
    pub entropy: f64,
}

impl Usage {
    /// Of the distributions `codes` `[n, K]` of this rank's images, one for each view.
    ///
    /// # Errors
    /// `Shape` unless all have one shape and rows; `Numerics` when ranks differ in images; or as for
    /// [`Comm::exchange`].
    pub fn of(codes: &[Tensor], comm: &Comm) -> Result<Usage> {
        let batch = batch_of("prototype usage", codes, comm)?;
        let [_, k] = codes[0].dims()?;
        let (mut mass, mut first_choices) = (vec![0.0; k], vec![0.0; k]);
        for codes in codes {
            let choices = ops::one_hot(&ops::argmax(codes.array(), 1)?, k, DType::F32)?;
            for (sums, x) in [(&mut mass, codes.array()), (&mut first_choices, &choices)] {
                let total = ops::cast(&total(x, &batch, comm)?, DType::F64)?.to_vec::<f64>()?;
                sums.iter_mut().zip(total).for_each(|(sum, x)| *sum += x);
            }
        }
        let all: f64 = mass.iter().sum();
        let entropy = mass.iter().filter(|m| **m > 0.0).map(|m| -m / all * Real::log(m / all)).sum();
        Ok(Usage { used: first_choices.iter().filter(|n| **n > 0.0).count() as f64 / k as f64, entropy })
    }
}
