//! y = x - ln Σ eˣ over the last axis.  Backward: dx = dy - e^y·Σ dy.

use super::prelude::*;

struct LogSoftmax;

/// See [`Tensor::log_softmax`].
pub(super) static LOG_SOFTMAX: OpSpec = OpSpec {
    name: "log_softmax",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = g.shape((1, 4));
        Ok(Case::new(LogSoftmax, vec![g.array(&shape, Domain::Normal)?]))
    },
};

impl Op for LogSoftmax {
    fn spec(&self) -> &'static OpSpec {
        &LOG_SOFTMAX
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let y = ops::log_softmax(x[0])?;
        save.keep(&y);
        Ok(vec![y])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        Ok(vec![Some(ops::log_softmax_grad(saved.array(0)?, only(dy)?)?.into())])
    }
}

impl Tensor {
    /// x - ln Σ eˣ over the last axis, shifted by the row's maximum.
    ///
    /// # Errors
    /// `Shape` for rank 0; `DType` for a type that is not a float.
    #[track_caller]
    pub fn log_softmax(&self) -> Result<Tensor> {
        apply1(LogSoftmax, &[self])
    }
}
