//! y = mean over the pixels of NHWC images.  Backward: dx = dy / pixels at every pixel.

use super::prelude::*;

struct GlobalAvgPool;

/// See [`Tensor::global_avg_pool`].
pub(super) static GLOBAL_AVG_POOL: OpSpec = OpSpec {
    name: "global_avg_pool",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = g.full_shape((4, 4));
        Ok(Case::new(GlobalAvgPool, vec![g.array(&shape, Domain::Normal)?]))
    },
};

impl Op for GlobalAvgPool {
    fn spec(&self) -> &'static OpSpec {
        &GLOBAL_AVG_POOL
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep_shape(x[0].shape());
        Ok(vec![ops::global_avg_pool(x[0])?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        Ok(vec![Some(ops::global_avg_pool_grad(only(dy)?, saved.shape(0)?)?.into())])
    }
}

impl Tensor {
    /// The mean over all pixels: `[n, h, w, c]` to `[n, c]`.
    ///
    /// # Errors
    /// `Shape` when the rank is not 4; `DType` for a type that is not a float.
    #[track_caller]
    pub fn global_avg_pool(&self) -> Result<Tensor> {
        apply1(GlobalAvgPool, &[self])
    }
}
