//! y = x ⋆ w, a 2-D convolution of NHWC images with HWIO weights.  Backward: dx, the transposed convolution of dy; dw,
//! a sum over samples.

use super::linear::check_rows;
use super::prelude::*;
use selfsame_engine::ops::Conv2d;

struct Convolve {
    options: Conv2d,
    rows: Rows,
}

/// See [`Tensor::conv2d`].
pub(super) static CONV2D: OpSpec = OpSpec {
    name: "conv2d",
    gradient: Gradient::Vjp,
    cases: |g| {
        let groups = g.pick(&[1, 1, 2, 3]);
        let options = Conv2d {
            stride: [g.pick(&[1, 2]), g.pick(&[1, 3])],
            padding: [g.below(2), g.below(3)],
            dilation: [g.pick(&[1, 1, 2]), 1],
            groups,
        };
        let kernel = [1 + g.below(3), 1 + g.below(3)];
        // At least as large as the dilated kernel, so that there is an output.
        let x = [g.pick(&[1, 2, 17]), 5 + g.below(3), 3 + g.below(3), groups * g.pick(&[1, 2, 3])];
        let w = [kernel[0], kernel[1], x[3] / groups, groups * g.pick(&[1, 2, 5])];
        let op = Convolve { options, rows: Rows::of(&x, 0)? };
        Ok(Case::new(op, vec![g.array(&x, Domain::Normal)?, g.array(&w, Domain::Normal)?]))
    },
};

impl Op for Convolve {
    fn spec(&self) -> &'static OpSpec {
        &CONV2D
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let y = ops::conv2d(x[0], x[1], &self.options)?;
        check_rows("conv2d", x[0].shape(), self.rows)?;
        save.keep(x[0]);
        save.keep(x[1]);
        Ok(vec![y])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (x, w, dy) = (saved.array(0)?, saved.array(1)?, only(dy)?);
        // Which rows these are on the output side: the same images with the output's pixels.
        let rows = Rows::of(dy.shape(), self.rows.first_image)?;
        if want == [true, true] {
            let (dx, dw) = ops::conv2d_grads(x, dy, w, &self.options, rows)?;
            return Ok(vec![Some(dx.into()), Some(dw.into())]);
        }
        let dx = wanted(want, 0, || ops::conv2d_input_grad(dy, w, x.shape(), &self.options))?;
        let dw = wanted(want, 1, || ops::conv2d_weight_grad(x, dy, w.shape(), &self.options, rows))?;
        Ok(vec![dx, dw])
    }
}

impl Tensor {
    /// A convolution without bias: `self` `[n, h, w, c]`, `weight` `[kh, kw, c / groups, c_out]`.
    ///
    /// `rows` says which images these are of the global batch; the weight gradient is a sum over them.
    ///
    /// # Errors
    /// `Shape` when shapes, options or rows do not fit; `DType` or `Device` when those differ.
    #[track_caller]
    pub fn conv2d(&self, weight: &Tensor, options: Conv2d, rows: Rows) -> Result<Tensor> {
        apply1(Convolve { options, rows }, &[self, weight])
    }
}
