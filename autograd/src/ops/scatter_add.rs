//! y = base with src added: y[.., index[.., i, ..], ..] += src[.., i, ..] along an axis, in order of increasing
//! position.  Backward: dbase = dy, dsrc = dy gathered at the index.

use super::prelude::*;

struct ScatterAdd {
    axis: usize,
    index: Array,
}

/// See [`Tensor::scatter_add`].
pub(super) static SCATTER_ADD: OpSpec = OpSpec {
    name: "scatter_add",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = g.full_shape((1, 4));
        let axis = g.axis(&shape);
        let mut from = shape.clone();
        from[axis] = g.below(5);
        let index = g.indices(&from, shape[axis])?;
        let inputs = vec![g.array(&shape, Domain::Normal)?, g.array(&from, Domain::Normal)?];
        Ok(Case::new(ScatterAdd { axis, index }, inputs))
    },
};

impl Op for ScatterAdd {
    fn spec(&self) -> &'static OpSpec {
        &SCATTER_ADD
    }

    fn forward(&self, x: &[&Array], _: &mut Saved) -> Result<Vec<Array>> {
        Ok(vec![ops::scatter_add(x[0].clone(), self.axis, &self.index, x[1])?])
    }

    fn vjp(&self, _: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let dy = only(dy)?;
        let dbase = wanted(want, 0, || Ok(dy.clone()))?;
        let dsrc = wanted(want, 1, || ops::gather(dy, self.axis, &self.index))?;
        Ok(vec![dbase, dsrc])
    }
}

impl Tensor {
    /// `self` with the elements of `src` added where `index` (i64, the shape of `src`) says along `axis`.
    ///
    /// # Errors
    /// `Shape` when shapes do not fit or an index leaves the axis.
    #[track_caller]
    pub fn scatter_add(&self, axis: usize, index: &Array, src: &Tensor) -> Result<Tensor> {
        apply1(ScatterAdd { axis, index: index.clone() }, &[self, src])
    }
}
