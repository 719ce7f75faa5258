//! y = x with its axes in another order.  Backward: dx = dy with the inverse order.

use super::prelude::*;

struct Permute {
    axes: Vec<usize>,
}

/// See [`Tensor::permute`].
pub(super) static PERMUTE: OpSpec = OpSpec {
    name: "permute",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = g.shape((0, 4));
        let mut axes: Vec<usize> = (0..shape.len()).collect();
        for last in (1..axes.len()).rev() {
            axes.swap(last, g.below(last + 1));
        }
        Ok(Case::new(Permute { axes }, vec![g.array(&shape, Domain::Normal)?]))
    },
};

impl Op for Permute {
    fn spec(&self) -> &'static OpSpec {
        &PERMUTE
    }

    fn forward(&self, x: &[&Array], _: &mut Saved) -> Result<Vec<Array>> {
        Ok(vec![x[0].permute(&self.axes)?])
    }

    fn vjp(&self, _: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let mut inverse = vec![0; self.axes.len()];
        self.axes.iter().enumerate().for_each(|(i, &axis)| inverse[axis] = i);
        Ok(vec![Some(only(dy)?.permute(&inverse)?.into())])
    }
}

impl Tensor {
    /// A view with the axes in the order `axes`.
    ///
    /// # Errors
    /// `Shape` when `axes` is not a permutation.
    #[track_caller]
    pub fn permute(&self, axes: &[usize]) -> Result<Tensor> {
        apply1(Permute { axes: axes.to_vec() }, &[self])
    }

    /// A view with axes `a` and `b` exchanged.
    ///
    /// # Errors
    /// `Shape` when an axis does not exist.
    #[track_caller]
    pub fn transpose(&self, a: usize, b: usize) -> Result<Tensor> {
        let mut axes: Vec<usize> = (0..self.rank()).collect();
        if a >= axes.len() || b >= axes.len() {
            return Err(Error::new(ErrorKind::Shape, "transpose", format!("axes {a} and {b} of {:?}", self.shape()))
                .expected(format!("axes below {}", axes.len())));
        }
        axes.swap(a, b);
        self.permute(&axes)
    }
}
