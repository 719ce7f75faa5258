//! `Param`: a shared value with a path and a role. Forward takes snapshots; optimisers and after-step hooks write.

use crate::Tensor;
use crate::graph::{Origin, next_seq};
use selfsame_engine::profile::Owner;
use selfsame_engine::{Array, Error, ErrorKind, Result};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

/// What a parameter is for. Weight decay, learning-rate and LARS groups go by role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// A weight of a linear map or convolution.
    Weight,
    /// An additive bias of a linear map or convolution.
    Bias,
    /// The scale (gamma) of a normalisation layer.
    NormScale,
    /// The offset (beta) of a normalisation layer.
    NormBias,
    /// A learned table: tokens, positions.
    Embedding,
    /// State that no optimiser touches and no gradient reaches: running statistics, centres, queues.
    Buffer,
}

impl Role {
    /// Whether weight decay applies by convention: to weights and embeddings only.
    pub fn decays(self) -> bool {
        matches!(self, Role::Weight | Role::Embedding)
    }
}

/// A parameter or buffer of a model. Cloning gives another handle to the same value.
#[derive(Clone)]
pub struct Param(Arc<Inner>);

struct Inner {
    id: u64,
    path: String,
    role: Role,
    value: RwLock<Value>,
}

struct Value {
    array: Array,
    version: u64,
}

impl Param {
    /// A parameter with initial value `value`. `path` keys its initialisation and its place in checkpoints.
    pub fn new(path: impl Into<String>, role: Role, value: Array) -> Param {
        value.claim(Owner::Parameters);
        let value = RwLock::new(Value { array: value, version: 0 });
        Param(Arc::new(Inner { id: next_seq(), path: path.into(), role, value }))
    }

    /// The path it was made with.
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// Its role.
    pub fn role(&self) -> Role {
        self.0.role
    }

    /// The current value.
    pub fn array(&self) -> Array {
        self.read().0
    }

    /// The current value as a tensor that collects a gradient; untracked for a [`Role::Buffer`].
    ///
    /// Each operation it goes into is one *use* of the parameter; [`crate::Grads`] keeps uses apart, in forward order.
    pub fn tensor(&self) -> Tensor {
        let (array, version) = self.read();
        if self.role() == Role::Buffer {
            return Tensor::constant(array);
        }
        Tensor::with_origin(array, Origin::Param(Snapshot { param: self.clone(), version }))
    }

    /// The current value as an untracked tensor: frozen layers, momentum encoders, evaluation.
    pub fn constant(&self) -> Tensor {
        Tensor::constant(self.array())
    }

    /// Replaces the value. A backward that still needs the old one will be refused.
    ///
    /// # Errors
    /// `Shape` or `DType` when the new value's differ.
    #[track_caller]
    pub fn set(&self, value: Array) -> Result<()> {
        let mut current = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
        if value.shape() != current.array.shape() {
            return Err(Error::new(ErrorKind::Shape, self.path(), format!("a value of shape {:?}", value.shape()))
                .expected(format!("{:?}", current.array.shape())));
        }
        if value.dtype() != current.array.dtype() {
            return Err(Error::new(ErrorKind::DType, self.path(), format!("a value of type {}", value.dtype()))
                .expected(current.array.dtype().name()));
        }
        value.assign(current.array.owner());
        *current = Value { array: value, version: current.version + 1 };
        Ok(())
    }

    /// Changes the value in place; `write` gets the array and may use [`Array::make_mut`] without a copy when no
    /// forward holds a snapshot.
    ///
    /// # Errors
    /// What `write` returns.
    pub fn update<T>(&self, write: impl FnOnce(&mut Array) -> Result<T>) -> Result<T> {
        let mut current = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
        current.version += 1;
        write(&mut current.array)
    }

    /// Changes several parameters in place at once, as [`Param::update`] does one: a row of `written` is what a step
    /// writes together. Each parameter stands there once.
    pub(crate) fn update_rows<const N: usize, T>(
        written: &[[&Param; N]],
        write: impl FnOnce(Vec<[&mut Array; N]>) -> Result<T>,
    ) -> Result<T> {
        let mut rows: Vec<[RwLockWriteGuard<'_, Value>; N]> = written
            .iter()
            .map(|row| row.map(|param| param.0.value.write().unwrap_or_else(PoisonError::into_inner)))
            .collect();
        rows.iter_mut().flatten().for_each(|value| value.version += 1);
        write(rows.iter_mut().map(|row| row.each_mut().map(|value| &mut value.array)).collect())
    }

    /// How often the value was written.
    pub fn version(&self) -> u64 {
        self.read().1
    }

    /// Whether both are handles to one value.
    pub fn is(&self, other: &Param) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }

    fn read(&self) -> (Array, u64) {
        let value = self.0.value.read().unwrap_or_else(PoisonError::into_inner);
        (value.array.clone(), value.version)
    }
}

impl fmt::Debug for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let array = self.array();
        write!(f, "Param {} ({:?}) {}{:?}", self.path(), self.role(), array.dtype(), array.shape())
    }
}

/// A parameter and the version of its value that a forward used.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) param: Param,
    pub(crate) version: u64,
}

impl Snapshot {
    pub(crate) fn is(&self, other: &Snapshot) -> bool {
        self.param.is(&other.param) && self.version == other.version
    }

    /// Refuses a backward over a value that was written since the forward.
    pub(crate) fn check(&self) -> Result<()> {
        if self.param.version() == self.version {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Stale, self.param.path(), "a parameter written between forward and backward")
            .expected("writes between steps only"))
    }
}

/// Visits parameters and buffers by path: optimisers, checkpoints, importers, reports.
pub trait ParamVisitor {
    /// Called once per parameter or buffer (see [`Param::role`]). `path` is its place in the visited whole.
    fn param(&mut self, path: &str, p: &Param);
}

/// Any closure visits.
impl<F: FnMut(&str, &Param)> ParamVisitor for F {
    fn param(&mut self, path: &str, p: &Param) {
        self(path, p);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::Device;

    fn param(role: Role) -> Param {
        let device = Device::cpu_with(1).unwrap();
        Param::new("layer.weight", role, Array::from_slice(&[1f32, 2.], &[2], &device).unwrap())
    }

    #[test]
    fn a_value_keeps_its_shape_and_type() {
        let p = param(Role::Weight);
        let device = p.array().device().clone();
        let wrong = Array::from_slice(&[1f32], &[1], &device).unwrap();
        assert_eq!(p.set(wrong).unwrap_err().kind(), ErrorKind::Shape);
        let wrong = Array::from_slice(&[1f64, 2.], &[2], &device).unwrap();
        assert_eq!(p.set(wrong).unwrap_err().kind(), ErrorKind::DType);
        assert_eq!(p.version(), 0);
    }

    #[test]
    fn a_write_after_the_forward_is_stale() {
        let p = param(Role::Weight);
        let loss = p.tensor().square().unwrap().sum_all().unwrap();
        p.set(p.array()).unwrap();
        assert_eq!(loss.backward().unwrap_err().kind(), ErrorKind::Stale);
    }

    #[test]
    fn snapshots_keep_their_value() {
        let p = param(Role::Weight);
        let before = p.constant();
        p.update(|a| {
            a.make_mut::<f32>()?[0] = 9.;
            Ok(())
        })
        .unwrap();
        assert_eq!(before.array().to_vec::<f32>().unwrap(), [1., 2.]);
        assert_eq!(p.array().to_vec::<f32>().unwrap(), [9., 2.]);
    }

    #[test]
    fn buffers_are_untracked() {
        assert!(!param(Role::Buffer).tensor().is_tracked());
        assert!(param(Role::Bias).tensor().is_tracked());
    }
}
