//! Prototypes: unit vectors that embeddings are compared with, trained (SwAV) or set by clustering (DeepCluster-v2).

use crate::batch::{LEAST_NORM, unit};
use crate::views::{batch_of, total};
use selfsame_autograd::{Param, ParamVisitor, Tensor};
use selfsame_engine::{Array, Comm, DType, Error, ErrorKind, Result, Rows, ops};
use selfsame_kernels::math::Real;

/// K prototypes of D elements: the columns of a weight `[D, K]`, each of length 1.
///
/// A step moves them off the sphere; [`Prototypes::normalise`] after it puts them back, so that every forward sees unit
/// vectors.
pub struct Prototypes {
    weight: Param,
}

impl Prototypes {
    /// Of `weight` `[D, K]`, whose columns are normalised here. A [`Role::Buffer`](selfsame_autograd::Role::Buffer) is never trained: see
    /// [`Prototypes::replaced`].
    ///
    /// # Errors
    /// `Shape` unless it has two axes.
    pub fn new(weight: Param) -> Result<Prototypes> {
        let prototypes = Prototypes { weight };
        prototypes.normalise()?;
        Ok(prototypes)
    }

    /// K.
    pub fn count(&self) -> usize {
        self.weight.array().shape()[1]
    }

    /// The cosines `[n, K]` of embeddings `z` `[n, D]`, which are normalised here, with the prototypes. Rows are images;
    /// the first is image `first_image` of the batch. With `frozen` the prototypes get no gradient: none, not 0, so that
    /// an optimiser leaves them alone.
    ///
    /// # Errors
    /// `Shape` unless `z` is `[n, D]`; as for [`Rows::of`].
    #[track_caller]
    pub fn scores(&self, z: &Tensor, first_image: usize, frozen: bool) -> Result<Tensor> {
        let weight = if frozen { self.weight.constant() } else { self.weight.tensor() };
        unit(z)?.linear(&weight, None, Rows::of(z.shape(), first_image)?)
    }

    /// Brings every prototype back to length 1, in place: for after a step of the optimiser.
    ///
    /// # Errors
    /// Those of the primitives.
    pub fn normalise(&self) -> Result<()> {
        let (unit, _) = ops::l2_normalize(&self.weight.array().transpose(0, 1)?.contiguous()?, LEAST_NORM)?;
        self.weight.set(unit.transpose(0, 1)?.contiguous()?)
    }

    /// The parameter and the value that puts `centroids` `[K, D]` in the prototypes' place.
    ///
    /// # Errors
    /// `Shape` unless they are as many and as long.
    pub fn replaced(&self, centroids: &Array) -> Result<(Param, Array)> {
        let now = self.weight.array();
        let [d, k] = now.dims()?;
        if centroids.shape() != [k, d] {
            return Err(Error::new(ErrorKind::Shape, "prototypes", format!("centroids {:?}", centroids.shape()))
                .expected(format!("[{k}, {d}]")));
        }
        let (unit, _) = ops::l2_normalize(centroids, LEAST_NORM)?;
        Ok((self.weight.clone(), ops::cast(&unit.transpose(0, 1)?.contiguous()?, now.dtype())?))
    }

    /// Shows the weight to `visitor`.
    pub fn visit(&self, visitor: &mut dyn ParamVisitor) {
        visitor.param(self.weight.path(), &self.weight);
    }
}

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
