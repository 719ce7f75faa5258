//! y = mean of x over axes.  Backward: dx = dy / count, repeated along them.

use super::prelude::*;
use super::sum::{repeat, some_axes};

struct Mean {
    axes: Vec<usize>,
    keep: bool,
}

/// See [`Tensor::mean`].
pub(super) static MEAN: OpSpec = OpSpec {
    name: "mean",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = g.full_shape((0, 4));
        let op = Mean { axes: some_axes(g, shape.len()), keep: g.one_in(2) };
        Ok(Case::new(op, vec![g.array(&shape, Domain::Normal)?]))
    },
};

impl Op for Mean {
    fn spec(&self) -> &'static OpSpec {
        &MEAN
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep_shape(x[0].shape());
        Ok(vec![ops::mean(x[0], &self.axes, self.keep)?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let shape = saved.shape(0)?;
        let count: usize = self.axes.iter().map(|&axis| shape[axis]).product();
        let share = ops::binary_scalar(Binary::Div, only(dy)?, count as f64)?;
        Ok(vec![Some(repeat(&share, &self.axes, shape)?.into())])
    }
}

impl Tensor {
    /// The mean over `axes`, which stay with length 1 if `keep`; NaN over no elements.
    ///
    /// # Errors
    /// `Shape` when an axis does not exist or is given twice; `DType` for a type that is not a float.
    #[track_caller]
    pub fn mean(&self, axes: &[usize], keep: bool) -> Result<Tensor> {
        apply1(Mean { axes: axes.to_vec(), keep }, &[self])
    }

    /// The mean of all elements, a scalar.
    ///
    /// # Errors
    /// `DType` for a type that is not a float.
    #[track_caller]
    pub fn mean_all(&self) -> Result<Tensor> {
        let axes: Vec<usize> = (0..self.rank()).collect();
        self.mean(&axes, false)
    }
}
