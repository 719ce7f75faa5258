//! y = x / max(‖x‖, eps) over the last axis.  Backward: dx = (dy - y·⟨y, dy⟩) / ‖x‖, and dy / eps where the norm was
//! raised to eps.

use super::prelude::*;

struct L2Normalize {
    eps: f64,
}

/// See [`Tensor::l2_normalize`].
pub(super) static L2_NORMALIZE: OpSpec = OpSpec {
    name: "l2_normalize",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = g.shape((1, 4));
        // Norms of at least 0.3 and, in the other half of the cases, well below eps.
        let eps = g.pick(&[1e-12, 100.0]);
        Ok(Case::new(L2Normalize { eps }, vec![g.array(&shape, Domain::Signed(0.3, 2.0))?]))
    },
};

impl Op for L2Normalize {
    fn spec(&self) -> &'static OpSpec {
        &L2_NORMALIZE
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let (y, norm) = ops::l2_normalize(x[0], self.eps)?;
        save.keep(&y);
        save.keep(&norm);
        Ok(vec![y])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        Ok(vec![Some(ops::l2_normalize_grad(only(dy)?, saved.array(0)?, saved.array(1)?, self.eps)?.into())])
    }
}

impl Tensor {
    /// Rows of length 1 over the last axis: `x / max(‖x‖, eps)`.
    ///
    /// # Errors
    /// `Shape` for rank 0; `DType` for a type that is not a float; `Config` when `eps` is not positive.
    #[track_caller]
    pub fn l2_normalize(&self, eps: f64) -> Result<Tensor> {
        apply1(L2Normalize { eps }, &[self])
    }
}
