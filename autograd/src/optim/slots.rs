//! One kind of optimiser state for every parameter, such as the momentum buffers.

use crate::{Param, ParamSet, ParamVisitor, Role};
use selfsame_engine::profile::Owner;
use selfsame_engine::{Array, DType, Error, ErrorKind, Result};
use std::collections::BTreeMap;

/// A buffer per trainable parameter, zero at first.
pub(super) struct Slots {
    name: &'static str,
    slots: BTreeMap<String, Param>,
}

impl Slots {
    /// Buffers of the parameters' shapes and types.
    pub(super) fn like(name: &'static str, params: &ParamSet) -> Result<Slots> {
        Slots::new(name, params, |p| (p.shape().to_vec(), p.dtype()))
    }

    /// A counter per parameter.
    pub(super) fn counters(name: &'static str, params: &ParamSet) -> Result<Slots> {
        Slots::new(name, params, |_| (Vec::new(), DType::I64))
    }

    fn new(name: &'static str, params: &ParamSet, kind: impl Fn(&Array) -> (Vec<usize>, DType)) -> Result<Slots> {
        let slots = params.trainable().map(|(path, p)| {
            let value = p.array();
            let (shape, dtype) = kind(&value);
            let zeros = Array::zeros(&shape, dtype, value.device())?;
            zeros.assign(Owner::Optimizer);
            Ok((path.to_string(), Param::new(format!("{name}.{path}"), Role::Buffer, zeros)))
        });
        Ok(Slots { name, slots: slots.collect::<Result<_>>()? })
    }

    /// The buffer of the parameter at `path`.
    pub(super) fn get(&self, path: &str) -> Result<&Param> {
        self.slots.get(path).ok_or_else(|| {
            let error = Error::new(ErrorKind::Config, self.name, format!("no state for parameter '{path}'"))
                .expected("a parameter of the set that the optimiser was made for");
            match selfsame_engine::nearest(path, self.slots.keys().map(String::as_str)) {
                Some(known) => error.hint(format!("is '{known}' meant?")),
                None => error,
            }
        })
    }

    /// The number of updates of the parameter at `path` with the next one, which is counted.
    pub(super) fn count(&self, path: &str) -> Result<i64> {
        let counter = self.get(path)?;
        let before = counter.array();
        let t = before.item::<i64>()? + 1;
        counter.set(Array::scalar(t, before.device())?)?;
        Ok(t)
    }

    /// Zeroes the buffer of the parameter at `path`.
    pub(super) fn reset(&self, path: &str) -> Result<()> {
        let slot = self.get(path)?;
        let value = slot.array();
        slot.set(Array::zeros(value.shape(), value.dtype(), value.device())?)
    }

    /// Shows every buffer as `<name>.<path>`.
    pub(super) fn visit(&self, v: &mut dyn ParamVisitor) {
        self.slots.values().for_each(|slot| v.param(slot.path(), slot));
    }
}
