//! y = largest value in each window of NHWC images.  Backward: dy goes to the winner, the first of equals in row-major
//! order; a pixel that won in several windows adds their dy in order of increasing output.

use super::prelude::*;
use selfsame_engine::ops::Pool2d;

struct MaxPool2d {
    pool: Pool2d,
}

/// See [`Tensor::max_pool2d`].
pub(super) static MAX_POOL2D: OpSpec = OpSpec {
    name: "max_pool2d",
    gradient: Gradient::Vjp,
    cases: |g| {
        let (pool, shape) = window(g);
        Ok(Case::new(MaxPool2d { pool }, vec![g.array(&shape, Domain::Distinct)?]))
    },
};

/// A window and images that it fits into: a gradient-check case.
pub(super) fn window(g: &mut Gen) -> (Pool2d, [usize; 4]) {
    let kernel = [1 + g.below(3), 1 + g.below(3)];
    let pool = Pool2d {
        kernel,
        stride: [1 + g.below(2), 1 + g.below(3)],
        padding: [g.below(kernel[0] / 2 + 1), g.below(kernel[1] / 2 + 1)],
    };
    (pool, [g.pick(&[1, 2]), 3 + g.below(4), 3 + g.below(3), g.pick(&[1, 2, 7])])
}

impl Op for MaxPool2d {
    fn spec(&self) -> &'static OpSpec {
        &MAX_POOL2D
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let (y, winners) = ops::max_pool2d(x[0], &self.pool)?;
        save.keep(&winners);
        save.keep_shape(x[0].shape());
        Ok(vec![y])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        Ok(vec![Some(ops::max_pool2d_grad(only(dy)?, saved.array(0)?, saved.shape(0)?)?.into())])
    }
}

impl Tensor {
    /// The largest value in each window: `[n, h, w, c]` to `[n, h', w', c]`. The padding never wins.
    ///
    /// # Errors
    /// `Shape` when the rank is not 4 or the window does not fit; `DType` for a type that is not a float.
    #[track_caller]
    pub fn max_pool2d(&self, pool: Pool2d) -> Result<Tensor> {
        apply1(MaxPool2d { pool }, &[self])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::Device;

    #[test]
    fn the_first_of_equals_gets_the_gradient() {
        let device = Device::cpu_with(1).unwrap();
        let x = Tensor::leaf(Array::from_slice(&[1f32, 4., 4., 4.], &[1, 2, 2, 1], &device).unwrap());
        let pool = Pool2d { kernel: [2, 2], stride: [1, 1], padding: [0, 0] };
        let grads = x.max_pool2d(pool).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&x).unwrap().unwrap().to_vec::<f32>().unwrap(), [0., 1., 0., 0.]);
    }
}
