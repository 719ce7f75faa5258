//! y = tensors of one shape along a new axis.  Backward: each gets its slice of dy.

use super::prelude::*;

struct Stack {
    axis: usize,
}

/// See [`Tensor::stack`].
pub(super) static STACK: OpSpec = OpSpec {
    name: "stack",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = g.shape((0, 3));
        let axis = g.below(shape.len() + 1);
        let parts = (0..1 + g.below(3)).map(|_| g.array(&shape, Domain::Normal)).collect::<Result<Vec<_>>>()?;
        let case = Case::new(Stack { axis }, parts);
        Ok(if g.one_in(3) { case.shared() } else { case })
    },
};

impl Op for Stack {
    fn spec(&self) -> &'static OpSpec {
        &STACK
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let y = ops::stack(x, self.axis)?;
        save.keep_shape(x[0].shape());
        Ok(vec![y])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (dy, shape) = (only(dy)?, saved.shape(0)?);
        (0..want.len()).map(|i| wanted(want, i, || dy.slice(self.axis, i, i + 1)?.reshape(shape))).collect()
    }
}

impl Tensor {
    /// Tensors of one shape side by side along a new axis `axis`.
    ///
    /// # Errors
    /// `Shape` when shapes differ, there are none, or the axis is beyond the rank.
    #[track_caller]
    pub fn stack(parts: &[&Tensor], axis: usize) -> Result<Tensor> {
        apply1(Stack { axis }, parts)
    }
}
