//! y = mean of each window of NHWC images.  Backward: each output hands dy / count to the pixels of its window.

use super::max_pool2d::window;
use super::prelude::*;
use selfsame_engine::ops::Pool2d;

struct AvgPool2d {
    pool: Pool2d,
    count_padding: bool,
}

/// See [`Tensor::avg_pool2d`].
pub(super) static AVG_POOL2D: OpSpec = OpSpec {
    name: "avg_pool2d",
    gradient: Gradient::Vjp,
    cases: |g| {
        let (pool, shape) = window(g);
        let op = AvgPool2d { pool, count_padding: g.one_in(2) };
        Ok(Case::new(op, vec![g.array(&shape, Domain::Normal)?]))
    },
};

impl Op for AvgPool2d {
    fn spec(&self) -> &'static OpSpec {
        &AVG_POOL2D
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep_shape(x[0].shape());
        Ok(vec![ops::avg_pool2d(x[0], &self.pool, self.count_padding)?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let dx = ops::avg_pool2d_grad(only(dy)?, saved.shape(0)?, &self.pool, self.count_padding)?;
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// The mean of each window: `[n, h, w, c]` to `[n, h', w', c]`; with `count_padding` the sum divided by the size of
    /// the window also where it reaches over the border.
    ///
    /// # Errors
    /// `Shape` when the rank is not 4 or the window does not fit; `DType` for a type that is not a float.
    #[track_caller]
    pub fn avg_pool2d(&self, pool: Pool2d, count_padding: bool) -> Result<Tensor> {
        apply1(AvgPool2d { pool, count_padding }, &[self])
    }
}
