//! y = the k largest of the last axis, largest first, and their positions.  Backward: dx = dy at those positions.

use super::prelude::*;
use super::sort::{picked, put_back};

struct Topk {
    k: usize,
}

/// See [`Tensor::topk`].
pub(super) static TOPK: OpSpec = OpSpec {
    name: "topk",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = g.full_shape((1, 4));
        let k = g.below(shape[shape.len() - 1] + 1);
        Ok(Case::new(Topk { k }, vec![g.array(&shape, Domain::Distinct)?]))
    },
};

impl Op for Topk {
    fn spec(&self) -> &'static OpSpec {
        &TOPK
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        Ok(picked(x[0], ops::topk(x[0], self.k)?, save))
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        put_back(only(dy)?, saved)
    }
}

impl Tensor {
    /// The `k` largest of the last axis, largest first and of equals the lowest position first; and their positions
    /// (i64).
    ///
    /// # Errors
    /// `Shape` for rank 0 or a `k` beyond the axis.
    #[track_caller]
    pub fn topk(&self, k: usize) -> Result<(Tensor, Array)> {
        let outputs = apply(Topk { k }, &[self])?;
        Ok((outputs[0].clone(), outputs[1].array().clone()))
    }
}
