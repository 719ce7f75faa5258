//! DINO's centre: a running mean of a teacher's outputs (Caron et al. 2021, arXiv:2104.14294, equation 4).

use crate::views::{batch_of, total};
use selfsame_autograd::{Param, ParamVisitor, Role, Tensor};
use selfsame_engine::{Array, Comm, DType, Device, Error, ErrorKind, Result, ops};

/// c, `[K]`, from 0 on: c ← m c + (1-m) · mean of the outputs over all rows of all ranks.
pub struct Centre {
    value: Param,
    momentum: f64,
}

impl Centre {
    /// The centre of `outputs` outputs at `path`, in f32; `momentum` m in [0, 1], 0.9 in the paper.
    ///
    /// # Errors
    /// `Config` for a momentum out of range.
    pub fn new(path: impl Into<String>, outputs: usize, momentum: f64, device: &Device) -> Result<Centre> {
        if !(0.0..=1.0).contains(&momentum) {
            return Err(Error::new(ErrorKind::Config, "centre", format!("momentum {momentum}")).expected("in [0, 1]"));
        }
        let zeros = Array::zeros(&[outputs], DType::F32, device)?;
        Ok(Centre { value: Param::new(path, Role::Buffer, zeros), momentum })
    }

    /// c, `[K]`.
    pub fn value(&self) -> Array {
        self.value.array()
    }

    /// c after a step in which the teacher's outputs for each large crop of this rank's images were `outputs`
    /// `[n, K]`, raw: neither divided by a temperature nor centred. The same on every rank.
    ///
    /// # Errors
    /// `Shape` unless all are of K columns and equally many rows; `Numerics` when ranks differ in images; or as for
    /// [`Comm::exchange`].
    pub fn next(&self, outputs: &[Tensor], comm: &Comm) -> Result<(Param, Array)> {
        let batch = batch_of("centre", outputs, comm)?;
        let now = self.value();
        let [n, k] = outputs[0].dims()?;
        if now.shape() != [k] {
            return Err(Error::new(ErrorKind::Shape, "centre", format!("outputs [{n}, {k}]"))
                .expected(format!("[n, {}]", now.numel())));
        }
        let share = (1.0 - self.momentum) / (batch.global * outputs.len()) as f64;
        let mut next = ops::scale(now.copy()?, self.momentum)?;
        for outputs in outputs {
            let sum = ops::cast(&total(outputs.array(), &batch, comm)?, next.dtype())?;
            next = ops::add_scaled(next, share, &sum)?;
        }
        Ok((self.value.clone(), next))
    }

    /// Shows c to `visitor`.
    pub fn visit(&self, visitor: &mut dyn ParamVisitor) {
        visitor.param(self.value.path(), &self.value);
    }
}
