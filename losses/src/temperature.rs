//! What divides the similarities of contrastive losses: a fixed temperature, or a learned scale in place of 1 /
//! temperature.

use crate::batch::{Batch, TEMPERATURE_RANGE, check_scalar, check_temperature, constant, is_temperature, per_image};
use crate::spec::{LossCase, Port};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Array, Comm, DType, Error, ErrorKind, Result, ops};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The input that stands in place of the option `temperature`.
pub(crate) const SCALE: Port = Port::new("scale", "[]", "in place of 1 / temperature, with a gradient").optional();

/// What divides similarities.
#[derive(Clone, Copy)]
pub(crate) enum Temperature<'a> {
    /// A constant.
    Fixed(f64),
    /// 1 / `scale`, whose number is `value`.
    Learned { scale: &'a Tensor, value: f64 },
}

impl<'a> Temperature<'a> {
    /// 1 / `scale` where there is one, and `fixed`, which is not looked at otherwise; for embeddings `like`.
    ///
    /// # Errors
    /// `Config` unless it is positive; `Shape` unless a scale is `[]`; `DType` when it has another type than the
    /// embeddings.
    pub(crate) fn new(
        loss: &'static str,
        fixed: f64,
        scale: Option<&'a Tensor>,
        like: &Tensor,
    ) -> Result<Temperature<'a>> {
        let Some(scale) = scale else {
            check_temperature(loss, fixed)?;
            return Ok(Temperature::Fixed(fixed));
        };
        check_scalar(loss, scale, like)?;
        let number = ops::cast(scale.array(), DType::F64)?.item::<f64>()?;
        if !is_temperature(number) {
            return Err(Error::new(ErrorKind::Config, loss, format!("scale {number}")).expected(TEMPERATURE_RANGE));
        }
        Ok(Temperature::Learned { scale, value: 1.0 / number })
    }

    /// Its number, for the log.
    pub(crate) fn value(&self) -> f64 {
        match *self {
            Temperature::Fixed(value) | Temperature::Learned { value, .. } => value,
        }
    }

    /// `power` / temperature, a scalar of the type of `like`.
    pub(crate) fn inverse(&self, power: f64, like: &Tensor) -> Result<Tensor> {
        match *self {
            Temperature::Fixed(temperature) => constant(power / temperature, like),
            Temperature::Learned { scale, .. } => scale.scale(power),
        }
    }

    /// `x` / temperature, for `x` `[v n, c]` with a row for each of this rank's n images, v times over.
    pub(crate) fn divide(&self, x: &Tensor, batch: &Batch, comm: &Arc<Comm>) -> Result<Tensor> {
        match *self {
            Temperature::Fixed(temperature) => x.scale(1.0 / temperature),
            Temperature::Learned { scale, .. } => {
                let [rows, c] = x.dims()?;
                let by_image = x.reshape(&[rows / batch.local, batch.local, c])?;
                by_image.mul(&per_image(scale, batch, comm)?)?.reshape(&[rows, c])
            }
        }
    }
}

/// Gives a case a scale, as often as not.
pub(crate) fn scale_case(g: &mut Gen, inputs: &mut BTreeMap<String, Array>) -> Result<()> {
    if g.one_in(2) {
        inputs.insert(SCALE.name.to_string(), g.array(&[], Domain::Range(0.5, 5.0))?);
    }
    Ok(())
}

/// What multiplies the cosines of a case, for its oracle.
pub(crate) fn scale_of(case: &LossCase) -> Result<f64> {
    match case.inputs.get(SCALE.name) {
        Some(scale) => scale.item::<f64>(),
        None => Ok(1.0 / case.options.get("temperature")?),
    }
}
