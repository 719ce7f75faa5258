//! `Cotangent`: what a backward hands to one of its inputs.

use crate::Derivation;
use selfsame_engine::{Array, Device, Error, ErrorKind, Result, SampleSum, ops};

/// The gradient with respect to one input of an operation.
#[derive(Clone)]
pub enum Cotangent {
    /// The gradient itself.
    Dense(Array),
    /// A sum over samples of which this micro-batch or rank holds some leaves. Parameters keep it as tree nodes until
    /// the step ends; for any other input it is finished at once, which needs all leaves.
    Samples(SampleSum),
    /// A sum over samples in the space of a tensor derived from the parameter; see [`derive()`](crate::derive()).
    Derived(SampleSum, Derivation),
}

impl From<Array> for Cotangent {
    fn from(array: Array) -> Cotangent {
        Cotangent::Dense(array)
    }
}

impl From<SampleSum> for Cotangent {
    fn from(sum: SampleSum) -> Cotangent {
        Cotangent::Samples(sum)
    }
}

impl Cotangent {
    /// The gradient as one array.
    ///
    /// # Errors
    /// `Numerics` when leaves of a sum over samples are missing.
    pub fn total(self) -> Result<Array> {
        match self {
            Cotangent::Dense(array) => Ok(array),
            Cotangent::Samples(sum) => sum.total(),
            Cotangent::Derived(sum, derivation) => derivation.pull_back(sum.total()?),
        }
    }

    /// The cotangent times `factor`, nodes and all.
    ///
    /// # Errors
    /// What the primitives return.
    pub fn scale(self, factor: f64) -> Result<Cotangent> {
        match self {
            Cotangent::Dense(array) => Ok(Cotangent::Dense(ops::scale(array, factor)?)),
            Cotangent::Samples(sum) => Ok(Cotangent::Samples(each(sum, |node| ops::scale(node, factor))?)),
            Cotangent::Derived(sum, derivation) => {
                Ok(Cotangent::Derived(each(sum, |node| ops::scale(node, factor))?, derivation))
            }
        }
    }

    /// The same use in another micro-batch or on another rank: nodes meet in the sample tree, arrays are added.
    pub(crate) fn join(self, other: Cotangent, path: &str) -> Result<Cotangent> {
        match (self, other) {
            (Cotangent::Dense(a), Cotangent::Dense(b)) => Ok(Cotangent::Dense(ops::add_assign(a, &b)?)),
            (Cotangent::Samples(mut a), Cotangent::Samples(b)) => {
                a.merge(b)?;
                Ok(Cotangent::Samples(a))
            }
            (Cotangent::Derived(mut a, derivation), Cotangent::Derived(b, _)) => {
                a.merge(b)?;
                Ok(Cotangent::Derived(a, derivation))
            }
            _ => Err(Error::new(
                ErrorKind::Numerics,
                path,
                "a sum over samples in one part of the step, an array in another",
            )
            .expected("the same forward for every micro-batch and rank")),
        }
    }

    /// The array, or the nodes that are here.
    pub(crate) fn arrays(&self) -> Vec<&Array> {
        match self {
            Cotangent::Dense(array) => vec![array],
            Cotangent::Samples(sum) | Cotangent::Derived(sum, _) => sum.values().collect(),
        }
    }

    /// The device of its arrays; `None` for a sum that holds no leaf yet.
    pub(crate) fn device(&self) -> Option<Device> {
        self.arrays().first().map(|array| array.device().clone())
    }

    /// The same values for use on another rank's device.
    pub(crate) fn moved_to(self, device: &Device) -> Result<Cotangent> {
        match self {
            Cotangent::Dense(array) => Ok(Cotangent::Dense(array.to_device(device)?)),
            Cotangent::Samples(sum) => Ok(Cotangent::Samples(each(sum, |node| node.to_device(device))?)),
            Cotangent::Derived(sum, derivation) => {
                Ok(Cotangent::Derived(each(sum, |node| node.to_device(device))?, derivation))
            }
        }
    }
}

/// The sum with `f` applied to its nodes.
fn each(sum: SampleSum, f: impl Fn(Array) -> Result<Array>) -> Result<SampleSum> {
    let mut mapped = SampleSum::default();
    for (first, level, node) in sum.into_blocks() {
        mapped.add(first, level, f(node)?)?;
    }
    Ok(mapped)
}
