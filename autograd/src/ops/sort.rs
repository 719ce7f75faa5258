//! y = x in order along the last axis, and the positions it came from.  Backward: dx = dy at those positions.

use super::prelude::*;

struct Sort {
    descending: bool,
}

/// See [`Tensor::sort`].
pub(super) static SORT: OpSpec = OpSpec {
    name: "sort",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = g.shape((1, 4));
        Ok(Case::new(Sort { descending: g.one_in(2) }, vec![g.array(&shape, Domain::Distinct)?]))
    },
};

impl Op for Sort {
    fn spec(&self) -> &'static OpSpec {
        &SORT
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let (values, positions) = ops::sort(x[0], self.descending)?;
        save.keep(&positions);
        save.keep_shape(x[0].shape());
        save.untracked_output(1);
        Ok(vec![values, positions])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        Ok(vec![Some(put_back(only(dy)?, saved)?.into())])
    }
}

/// `dy` at the saved positions of the last axis of the saved shape, zeros elsewhere.
pub(super) fn put_back(dy: &Array, saved: &Saved) -> Result<Array> {
    let shape = saved.shape(0)?;
    let zeros = Array::zeros(shape, dy.dtype(), dy.device())?;
    ops::scatter_add(zeros, shape.len() - 1, saved.array(0)?, dy)
}

impl Tensor {
    /// The last axis in ascending or descending order, equal values in order of position; and the positions (i64).
    ///
    /// # Errors
    /// `Shape` for rank 0.
    #[track_caller]
    pub fn sort(&self, descending: bool) -> Result<(Tensor, Array)> {
        let outputs = apply(Sort { descending }, &[self])?;
        Ok((outputs[0].clone(), outputs[1].array().clone()))
    }
}
