//! y = largest element of x over axes.  Backward: dy shared evenly by the elements that are the largest, so that the
//! gradient does not depend on the order of equal elements.

use super::prelude::*;
use super::sum::{repeat, some_axes};

struct Max {
    axes: Vec<usize>,
    keep: bool,
}

/// See [`Tensor::max`].
pub(super) static MAX: OpSpec = OpSpec {
    name: "max",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = g.full_shape((0, 4));
        let op = Max { axes: some_axes(g, shape.len()), keep: g.one_in(2) };
        Ok(Case::new(op, vec![g.array(&shape, Domain::Distinct)?]))
    },
};

impl Op for Max {
    fn spec(&self) -> &'static OpSpec {
        &MAX
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let y = ops::max(x[0], &self.axes, self.keep)?;
        save.keep(x[0]);
        save.keep(&y);
        Ok(vec![y])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (x, y) = (saved.array(0)?, saved.array(1)?);
        let largest = repeat(y, &self.axes, x.shape())?;
        let winners = ops::cast(&ops::compare(Compare::Eq, x, &largest)?, x.dtype())?;
        let shares = repeat(&ops::sum(&winners, &self.axes, true)?, &self.axes, x.shape())?;
        let dy = repeat(only(dy)?, &self.axes, x.shape())?;
        Ok(vec![Some(ops::mul(&dy, &ops::div(&winners, &shares)?)?.into())])
    }
}

impl Tensor {
    /// The largest element over `axes`, which stay with length 1 if `keep`. Equal largest elements share the gradient.
    ///
    /// # Errors
    /// `Shape` when an axis does not exist, is given twice, or is empty.
    #[track_caller]
    pub fn max(&self, axes: &[usize], keep: bool) -> Result<Tensor> {
        apply1(Max { axes: axes.to_vec(), keep }, &[self])
    }

    /// The smallest element over `axes`: as [`Tensor::max`] of the negated tensor, negated.
    ///
    /// # Errors
    /// As for [`Tensor::max`].
    #[track_caller]
    pub fn min(&self, axes: &[usize], keep: bool) -> Result<Tensor> {
        self.neg()?.max(axes, keep)?.neg()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::Device;

    #[test]
    fn equal_elements_share_the_gradient() {
        let device = Device::cpu_with(1).unwrap();
        let x = Tensor::leaf(Array::from_slice(&[3f32, 1., 3., 0., 2., 2.], &[2, 3], &device).unwrap());
        let grads = x.max(&[1], false).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&x).unwrap().unwrap().to_vec::<f32>().unwrap(), [0.5, 0., 0.5, 0., 0.5, 0.5]);
    }
}
