//! y = sum of x over axes.  Backward: dx = dy repeated along them.

use super::prelude::*;

struct Sum {
    axes: Vec<usize>,
    keep: bool,
}

/// See [`Tensor::sum`].
pub(super) static SUM: OpSpec = OpSpec {
    name: "sum",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = g.shape((0, 4));
        let op = Sum { axes: some_axes(g, shape.len()), keep: g.one_in(2) };
        Ok(Case::new(op, vec![g.array(&shape, Domain::Normal)?]))
    },
};

impl Op for Sum {
    fn spec(&self) -> &'static OpSpec {
        &SUM
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep_shape(x[0].shape());
        Ok(vec![ops::sum(x[0], &self.axes, self.keep)?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        Ok(vec![Some(repeat(only(dy)?, &self.axes, saved.shape(0)?)?.into())])
    }
}

/// The adjoint of a sum over `axes`: a view of `dy` repeated along them to `shape`.
pub(super) fn repeat(dy: &Array, axes: &[usize], shape: &[usize]) -> Result<Array> {
    let kept: Vec<usize> = shape.iter().enumerate().map(|(i, &d)| if axes.contains(&i) { 1 } else { d }).collect();
    dy.reshape(&kept)?.broadcast_to(shape)
}

/// Some of the axes of an array of `rank` axes, in ascending order: a gradient-check case.
pub(super) fn some_axes(g: &mut Gen, rank: usize) -> Vec<usize> {
    (0..rank).filter(|_| g.one_in(2)).collect()
}

impl Tensor {
    /// The sum over `axes`, which stay with length 1 if `keep`.
    ///
    /// # Errors
    /// `Shape` when an axis does not exist or is given twice.
    #[track_caller]
    pub fn sum(&self, axes: &[usize], keep: bool) -> Result<Tensor> {
        apply1(Sum { axes: axes.to_vec(), keep }, &[self])
    }

    /// The sum of all elements, a scalar.
    ///
    /// # Errors
    /// `DType` for a type that has no sum.
    #[track_caller]
    pub fn sum_all(&self) -> Result<Tensor> {
        let axes: Vec<usize> = (0..self.rank()).collect();
        self.sum(&axes, false)
    }
}
