//! Prototypes: one direction per cluster, as SwAV and DeepCluster-v2 learn or set them.

use crate::{Ctx, Fill, Init, Module};
use selfsame_autograd::{Param, ParamVisitor, Role, Tensor};
use selfsame_engine::{Array, Error, ErrorKind, Result, ops};

/// Keeps a prototype of zeros from dividing by zero, as PyTorch does.
const EPS: f64 = 1e-12;

/// A linear map without bias, `[images, …, dim]` to scores `[images, …, count]`; prototype k is column k of `weight`
/// `[dim, count]`, filled as PyTorch fills a linear layer.
pub struct Prototypes {
    weight: Param,
}

impl Prototypes {
    /// `count` prototypes of that dimension.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn new(init: &Init, dim: usize, count: usize) -> Result<Prototypes> {
        Ok(Prototypes { weight: init.param("weight", Role::Weight, &[dim, count], Fill::KaimingUniform)? })
    }

    /// The prototypes as rows `[count, dim]`.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn rows(&self) -> Result<Array> {
        self.weight.array().transpose(0, 1)?.contiguous()
    }

    /// Gives every prototype length 1. Called between steps: in front of each step (SwAV), or after it.
    ///
    /// # Errors
    /// What the primitives return.
    pub fn normalize(&self) -> Result<()> {
        let (unit, _) = ops::l2_normalize(&self.weight.array().transpose(0, 1)?, EPS)?;
        self.set(&unit)
    }

    /// Writes the prototypes, such as the centroids `[count, dim]` of a clustering, as they are. Called between steps.
    ///
    /// # Errors
    /// `Shape` or `DType` when `rows` are others than those here.
    pub fn set(&self, rows: &Array) -> Result<()> {
        let weight = self.weight.array();
        let [dim, count] = weight.dims()?;
        if rows.shape() != [count, dim] {
            return Err(Error::new(ErrorKind::Shape, self.weight.path(), format!("prototypes {:?}", rows.shape()))
                .expected(format!("[{count}, {dim}]")));
        }
        self.weight.set(rows.transpose(0, 1)?.contiguous()?.to_device(weight.device())?)
    }

    /// The parameter: SwAV drops its gradient in the first steps, DeepCluster-v2 always.
    pub fn weight(&self) -> &Param {
        &self.weight
    }
}

impl Module for Prototypes {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        x.linear(&cx.param(&self.weight), None, cx.rows(x)?)
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        v.param(self.weight.path(), &self.weight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::Device;

    #[test]
    fn centroids_are_scored_by_their_rows() {
        let device = Device::cpu_with(1).unwrap();
        let prototypes = Prototypes::new(&Init::new(&device, 0).at("prototypes"), 2, 3).unwrap();
        let centroids = Array::from_slice(&[3f32, 4., 0., -2., 1., 0.], &[3, 2], &device).unwrap();
        prototypes.set(&centroids).unwrap();
        let x = Tensor::constant(Array::from_slice(&[1f32, 10.], &[1, 2], &device).unwrap());
        let scores = || prototypes.forward(&x, &Ctx::train()).unwrap().array().to_vec::<f32>().unwrap();
        assert_eq!(scores(), [43., -20., 1.]);
        prototypes.normalize().unwrap();
        assert_eq!(prototypes.rows().unwrap().to_vec::<f32>().unwrap(), [0.6, 0.8, 0., -1., 1., 0.]);
        assert_eq!(scores(), [8.6, -10., 1.]);
        let wrong = Array::full(0f32, &[2, 3], &device).unwrap();
        assert_eq!(prototypes.set(&wrong).unwrap_err().kind(), ErrorKind::Shape);
    }
}
