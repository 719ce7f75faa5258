//! y = NHWC images resized.  Backward: the adjoint; each output hands dy times its weights to the pixels it read.

use super::prelude::*;
use selfsame_engine::ops::Interpolation;

struct Interpolate {
    size: [usize; 2],
    mode: Interpolation,
    align_corners: bool,
}

/// See [`Tensor::interpolate`].
pub(super) static INTERPOLATE: OpSpec = OpSpec {
    name: "interpolate",
    gradient: Gradient::Vjp,
    cases: |g| {
        let mode = g.pick(&[Interpolation::Nearest, Interpolation::Bilinear, Interpolation::Bicubic]);
        let align_corners = !matches!(mode, Interpolation::Nearest) && g.one_in(2);
        let op = Interpolate { size: [1 + g.below(8), 1 + g.below(8)], mode, align_corners };
        let shape = [g.pick(&[1, 2]), 1 + g.below(6), 1 + g.below(6), g.pick(&[1, 3])];
        Ok(Case::new(op, vec![g.array(&shape, Domain::Normal)?]))
    },
};

impl Op for Interpolate {
    fn spec(&self) -> &'static OpSpec {
        &INTERPOLATE
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep_shape(x[0].shape());
        Ok(vec![ops::interpolate(x[0], self.size, self.mode, self.align_corners)?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let dx = ops::interpolate_grad(only(dy)?, saved.shape(0)?, self.mode, self.align_corners)?;
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// `[n, h, w, c]` resized to `[n, size[0], size[1], c]`. The image is not smoothed first when it shrinks.
    ///
    /// # Errors
    /// `Shape` when the rank is not 4 or an image is empty; `DType` for a type that is not a float.
    #[track_caller]
    pub fn interpolate(&self, size: [usize; 2], mode: Interpolation, align_corners: bool) -> Result<Tensor> {
        apply1(Interpolate { size, mode, align_corners }, &[self])
    }
}
