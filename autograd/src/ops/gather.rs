//! y[.., i, ..] = x[.., index[.., i, ..], ..] along an axis.  Backward: dx = dy scattered back, elements that were read
//! more than once added in order of increasing position in dy.

use super::prelude::*;

struct Gather {
    axis: usize,
    index: Array,
}

/// See [`Tensor::gather`].
pub(super) static GATHER: OpSpec = OpSpec {
    name: "gather",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = g.full_shape((1, 4));
        let axis = g.axis(&shape);
        let mut index_shape = shape.clone();
        index_shape[axis] = g.below(5);
        let index = g.indices(&index_shape, shape[axis])?;
        Ok(Case::new(Gather { axis, index }, vec![g.array(&shape, Domain::Normal)?]))
    },
};

impl Op for Gather {
    fn spec(&self) -> &'static OpSpec {
        &GATHER
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep_shape(x[0].shape());
        Ok(vec![ops::gather(x[0], self.axis, &self.index)?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let dy = only(dy)?;
        let zeros = Array::zeros(saved.shape(0)?, dy.dtype(), dy.device())?;
        Ok(vec![Some(ops::scatter_add(zeros, self.axis, &self.index, dy)?.into())])
    }
}

impl Tensor {
    /// The elements that `index` (i64, the result's shape) names along `axis`; other axes agree with `self`.
    ///
    /// # Errors
    /// `Shape` when shapes do not fit or an index leaves the axis.
    #[track_caller]
    pub fn gather(&self, axis: usize, index: &Array) -> Result<Tensor> {
        apply1(Gather { axis, index: index.clone() }, &[self])
    }
}
