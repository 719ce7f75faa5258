//! y = x with a border of one value.  Backward: dx = dy without the border.

use super::prelude::*;

struct Pad {
    widths: Vec<(usize, usize)>,
    value: f64,
}

/// See [`Tensor::pad`].
pub(super) static PAD: OpSpec = OpSpec {
    name: "pad",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = g.shape((0, 4));
        let widths = shape.iter().map(|_| (g.below(3), g.below(3))).collect();
        Ok(Case::new(Pad { widths, value: 0.5 }, vec![g.array(&shape, Domain::Normal)?]))
    },
};

impl Op for Pad {
    fn spec(&self) -> &'static OpSpec {
        &PAD
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep_shape(x[0].shape());
        Ok(vec![ops::pad(x[0], &self.widths, self.value)?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let mut ranges = saved.shape(0)?.iter().zip(&self.widths).enumerate();
        let dx = ranges.try_fold(only(dy)?.clone(), |dx, (axis, (&length, &(before, _)))| {
            dx.slice(axis, before, before + length)
        })?;
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// `widths` (before, after) elements of `value` added along each axis.
    ///
    /// # Errors
    /// `Shape` when there is not one pair of widths per axis.
    #[track_caller]
    pub fn pad(&self, widths: &[(usize, usize)], value: f64) -> Result<Tensor> {
        apply1(Pad { widths: widths.to_vec(), value }, &[self])
    }
}
