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
        Ok(picked(x[0], ops::sort(x[0], self.descending)?, save))
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        put_back(only(dy)?, saved)
    }
}

/// The outputs of an operation that picks values of the last axis of `x`, its backward being [`put_back`].
pub(super) fn picked(x: &Array, (values, positions): (Array, Array), save: &mut Saved) -> Vec<Array> {
    save.keep(&positions);
    save.keep_shape(x.shape());
    save.untracked_output(1);
    vec![values, positions]
}

/// `dy` at the positions that [`picked`] kept, zeros elsewhere.
pub(super) fn put_back(dy: &Array, saved: &Saved) -> Result<Vec<Option<Cotangent>>> {
    let shape = saved.shape(0)?;
    let zeros = Array::zeros(shape, dy.dtype(), dy.device())?;
    Ok(vec![Some(ops::scatter_add(zeros, shape.len() - 1, saved.array(0)?, dy)?.into())])
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
