//! y = mean over rows of -log_softmax(x)[target].  Backward: dx = dy·(softmax(x) - onehot(target)) / rows.
//! The mean is a sum over samples, so its order is that of the sample tree.

use super::prelude::*;

struct CrossEntropy {
    targets: Array,
}

/// See [`Tensor::cross_entropy`].
pub(super) static CROSS_ENTROPY: OpSpec = OpSpec {
    name: "cross_entropy",
    gradient: Gradient::Vjp,
    cases: |g| {
        let (n, k) = (g.pick(&[1, 3, 17, 35]), g.dim());
        let targets = g.indices(&[n], k)?;
        Ok(Case::new(CrossEntropy { targets }, vec![g.array(&[n, k], Domain::Normal)?]))
    },
};

impl Op for CrossEntropy {
    fn spec(&self) -> &'static OpSpec {
        &CROSS_ENTROPY
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let [n, k] = x[0].dims()?;
        if self.targets.shape() != [n] || n == 0 {
            return Err(Error::new(ErrorKind::Shape, "cross_entropy", format!("targets {:?}", self.targets.shape()))
                .expected(format!("one per row of logits [{n}, {k}], and at least one row")));
        }
        let log_p = ops::log_softmax(x[0])?;
        save.keep(&log_p);
        let picked = ops::gather(&log_p, 1, &self.targets.reshape(&[n, 1])?)?;
        let sum = ops::rows_sum(&picked, Rows::of(picked.shape(), 0)?)?.total()?;
        Ok(vec![ops::binary_scalar(Binary::Div, &sum.reshape(&[])?, -(n as f64))?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let log_p = saved.array(0)?;
        let [n, k] = log_p.dims()?;
        let share = ops::binary_scalar(Binary::Div, only(dy)?, n as f64)?;
        let target = ops::one_hot(&self.targets, k, log_p.dtype())?;
        let difference = ops::sub(&ops::unary(Unary::Exp, log_p)?, &target)?;
        Ok(vec![Some(ops::mul(&difference, &share)?.into())])
    }
}

impl Tensor {
    /// The mean cross-entropy of logits `[n, k]` against classes `targets` (i64, `[n]`), a scalar. Equal
    /// logits give ln k.
    ///
    /// # Errors
    /// `Shape` when shapes do not fit, there is no row, or a target is no class; `DType` when types do not fit.
    #[track_caller]
    pub fn cross_entropy(&self, targets: &Array) -> Result<Tensor> {
        apply1(CrossEntropy { targets: targets.clone() }, &[self])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::Device;

    #[test]
    fn equal_logits_cost_ln_k() {
        let device = Device::cpu_with(1).unwrap();
        let logits = Tensor::constant(Array::full(0.7f64, &[5, 8], &device).unwrap());
        let targets = Array::from_slice(&[0i64, 7, 3, 3, 1], &[5], &device).unwrap();
        let loss = logits.cross_entropy(&targets).unwrap().array().item::<f64>().unwrap();
        assert!((loss - 8f64.ln()).abs() < 1e-14);
    }

    #[test]
    fn a_target_that_is_no_class_is_refused() {
        let device = Device::cpu_with(1).unwrap();
        let logits = Tensor::constant(Array::full(0f32, &[2, 3], &device).unwrap());
        let targets = Array::from_slice(&[0i64, 3], &[2], &device).unwrap();
        assert!(logits.cross_entropy(&targets).is_err());
    }
}
