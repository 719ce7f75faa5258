//! y = a where the condition holds, else b; all broadcast.  Backward: dy to the operand chosen, summed over the axes
//! that were broadcast.

use super::prelude::*;

struct Select {
    condition: Array,
}

/// See [`Tensor::select`].
pub(super) static SELECT: OpSpec = OpSpec {
    name: "select",
    gradient: Gradient::Vjp,
    cases: |g| {
        let (left, right) = g.broadcast_shapes();
        let condition = g.mask(&left)?;
        let inputs = vec![g.array(&left, Domain::Normal)?, g.array(&right, Domain::Normal)?];
        Ok(Case::new(Select { condition }, inputs))
    },
};

impl Op for Select {
    fn spec(&self) -> &'static OpSpec {
        &SELECT
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep_shape(x[0].shape());
        save.keep_shape(x[1].shape());
        Ok(vec![ops::select(&self.condition, x[0], x[1])?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let dy = only(dy)?;
        let zero = Array::zeros(&[], dy.dtype(), dy.device())?;
        let da = wanted(want, 0, || ops::sum_to(&ops::select(&self.condition, dy, &zero)?, saved.shape(0)?))?;
        let db = wanted(want, 1, || ops::sum_to(&ops::select(&self.condition, &zero, dy)?, saved.shape(1)?))?;
        Ok(vec![da, db])
    }
}

impl Tensor {
    /// `a` where `condition` (bool) holds, else `b`; all three broadcast.
    ///
    /// # Errors
    /// `Shape` when the shapes do not broadcast; `DType` or `Device` when those do not fit.
    #[track_caller]
    pub fn select(condition: &Array, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        apply1(Select { condition: condition.clone() }, &[a, b])
    }
}
