//! y = x[start..end] along an axis.  Backward: dx = dy with zeros on both sides.

use super::prelude::*;

struct Slice {
    axis: usize,
    start: usize,
    end: usize,
}

/// See [`Tensor::slice`].
pub(super) static SLICE: OpSpec = OpSpec {
    name: "slice",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = g.shape((1, 4));
        let axis = g.axis(&shape);
        let start = g.below(shape[axis] + 1);
        let end = start + g.below(shape[axis] - start + 1);
        Ok(Case::new(Slice { axis, start, end }, vec![g.array(&shape, Domain::Normal)?]))
    },
};

impl Op for Slice {
    fn spec(&self) -> &'static OpSpec {
        &SLICE
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep_shape(x[0].shape());
        Ok(vec![x[0].slice(self.axis, self.start, self.end)?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let shape = saved.shape(0)?;
        let mut widths = vec![(0, 0); shape.len()];
        widths[self.axis] = (self.start, shape[self.axis] - self.end);
        Ok(vec![Some(ops::pad(only(dy)?, &widths, 0.0)?.into())])
    }
}

impl Tensor {
    /// A view of `start..end` along `axis`.
    ///
    /// # Errors
    /// `Shape` when the range leaves the axis.
    #[track_caller]
    pub fn slice(&self, axis: usize, start: usize, end: usize) -> Result<Tensor> {
        apply1(Slice { axis, start, end }, &[self])
    }
}
