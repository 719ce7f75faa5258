//! y = ln Σ eˣ over the last axis, which goes.  Backward: dx = dy·e^(x - y), the softmax of x.

use super::prelude::*;
use super::sum::repeat;

struct LogSumExp;

/// See [`Tensor::log_sum_exp`].
pub(super) static LOG_SUM_EXP: OpSpec = OpSpec {
    name: "log_sum_exp",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = g.full_shape((1, 4));
        Ok(Case::new(LogSumExp, vec![g.array(&shape, Domain::Normal)?]))
    },
};

impl Op for LogSumExp {
    fn spec(&self) -> &'static OpSpec {
        &LOG_SUM_EXP
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep(x[0]);
        Ok(vec![ops::log_sum_exp(x[0])?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let x = saved.array(0)?;
        let dy = repeat(only(dy)?, &[x.rank() - 1], x.shape())?;
        Ok(vec![Some(ops::mul(&dy, &ops::softmax(x)?)?.into())])
    }
}

impl Tensor {
    /// ln Σ eˣ over the last axis, which goes; shifted by the row's maximum; -∞ for an empty row.
    ///
    /// # Errors
    /// `Shape` for rank 0; `DType` for a type that is not a float.
    #[track_caller]
    pub fn log_sum_exp(&self) -> Result<Tensor> {
        apply1(LogSumExp, &[self])
    }
}
