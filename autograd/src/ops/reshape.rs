//! y = the elements of x in row-major order under another shape.  Backward: dx = dy under the shape of x.

use super::prelude::*;

struct Reshape {
    shape: Vec<usize>,
}

/// See [`Tensor::reshape`].
pub(super) static RESHAPE: OpSpec = OpSpec {
    name: "reshape",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = g.shape((0, 4));
        let to = match g.below(3) {
            0 => vec![shape.iter().product()],
            1 => shape.iter().rev().copied().collect(),
            _ => shape.iter().flat_map(|&d| [1, d]).collect(),
        };
        Ok(Case::new(Reshape { shape: to }, vec![g.array(&shape, Domain::Normal)?]))
    },
};

impl Op for Reshape {
    fn spec(&self) -> &'static OpSpec {
        &RESHAPE
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep_shape(x[0].shape());
        Ok(vec![x[0].reshape(&self.shape)?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        Ok(vec![Some(only(dy)?.reshape(saved.shape(0)?)?.into())])
    }
}

impl Tensor {
    /// The elements in row-major order under another shape; a view where possible.
    ///
    /// # Errors
    /// `Shape` when the number of elements differs.
    #[track_caller]
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor> {
        apply1(Reshape { shape: shape.to_vec() }, &[self])
    }
}
