//! y = eˣ / Σ eˣ over the last axis.  Backward: dx = y·(dy - Σ y·dy).

use super::prelude::*;

struct Softmax;

/// See [`Tensor::softmax`].
pub(super) static SOFTMAX: OpSpec = OpSpec {
    name: "softmax",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = g.shape((1, 4));
        Ok(Case::new(Softmax, vec![g.array(&shape, Domain::Normal)?]))
    },
};

impl Op for Softmax {
    fn spec(&self) -> &'static OpSpec {
        &SOFTMAX
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let y = ops::softmax(x[0])?;
        save.keep(&y);
        Ok(vec![y])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        Ok(vec![Some(ops::softmax_grad(saved.array(0)?, only(dy)?)?.into())])
    }
}

impl Tensor {
    /// eˣ / Σ eˣ over the last axis, shifted by the row's maximum.
    ///
    /// # Errors
    /// `Shape` for rank 0; `DType` for a type that is not a float.
    #[track_caller]
    pub fn softmax(&self) -> Result<Tensor> {
        apply1(Softmax, &[self])
    }
}
