//! y[.., i, ..] = x[.., index[i], ..] along an axis.  Backward: dx = dy added back at the index, in order of increasing
//! position in dy.

use super::prelude::*;

struct IndexSelect {
    axis: usize,
    index: Array,
}

/// See [`Tensor::index_select`].
pub(super) static INDEX_SELECT: OpSpec = OpSpec {
    name: "index_select",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = g.full_shape((1, 4));
        let axis = g.axis(&shape);
        let count = g.below(6);
        let index = g.indices(&[count], shape[axis])?;
        Ok(Case::new(IndexSelect { axis, index }, vec![g.array(&shape, Domain::Normal)?]))
    },
};

impl Op for IndexSelect {
    fn spec(&self) -> &'static OpSpec {
        &INDEX_SELECT
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep_shape(x[0].shape());
        Ok(vec![ops::index_select(x[0], self.axis, &self.index)?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let dy = only(dy)?;
        let zeros = Array::zeros(saved.shape(0)?, dy.dtype(), dy.device())?;
        Ok(vec![Some(ops::index_add(zeros, self.axis, &self.index, dy)?.into())])
    }
}

impl Tensor {
    /// The slices along `axis` that `index` (i64, rank 1) names, in its order; a lookup in a table with `axis` 0.
    ///
    /// # Errors
    /// `Shape` when the axis does not exist or an index leaves it.
    #[track_caller]
    pub fn index_select(&self, axis: usize, index: &Array) -> Result<Tensor> {
        apply1(IndexSelect { axis, index: index.clone() }, &[self])
    }
}
