//! `Tensor`: an array plus its place in the graph. The operations on it are in [`crate::ops`].

use crate::backward::Pass;
use crate::graph::{Origin, next_seq};
use crate::{Cotangent, Grads};
use selfsame_engine::{Array, DType, Device, Error, ErrorKind, Result, ops};
use std::fmt;

/// An array and how it was computed. Cloning is cheap and gives the same tensor.
///
/// Whether a tensor is *tracked* (a gradient can flow through it) is a property of the tensor, never of a mode: a
/// forward without gradients runs on constants.
#[derive(Clone)]
pub struct Tensor {
    array: Array,
    origin: Option<Origin>,
}

impl Tensor {
    /// An untracked tensor.
    pub fn constant(array: Array) -> Tensor {
        Tensor { array, origin: None }
    }

    /// A tracked input whose gradient [`Grads::get`] returns.
    pub fn leaf(array: Array) -> Tensor {
        Tensor { array, origin: Some(Origin::Leaf(next_seq())) }
    }

    pub(crate) fn with_origin(array: Array, origin: Origin) -> Tensor {
        Tensor { array, origin: Some(origin) }
    }

    pub(crate) fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// The values.
    pub fn array(&self) -> &Array {
        &self.array
    }

    /// The lengths of the axes.
    pub fn shape(&self) -> &[usize] {
        self.array.shape()
    }

    /// The lengths of the axes, when there are exactly `N`: `let [n, h, w, c] = x.dims()?;`
    ///
    /// # Errors
    /// `Shape` when the rank differs.
    pub fn dims<const N: usize>(&self) -> Result<[usize; N]> {
        self.array.dims()
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.array.rank()
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.array.numel()
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.array.dtype()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.array.device()
    }

    /// Whether a gradient can flow through this tensor.
    pub fn is_tracked(&self) -> bool {
        self.origin.is_some()
    }

    /// The same values, untracked (stop-gradient).
    pub fn detach(&self) -> Tensor {
        Tensor::constant(self.array.clone())
    }

    /// Gradients of this scalar with respect to every leaf and parameter it was computed from.
    ///
    /// Arrays saved for backward are released as they are used, so a graph can be walked once.
    ///
    /// # Errors
    /// `Shape` when there is more than one element; `NoVjp` when nothing tracked led here; `Stale` when the graph was
    /// walked before or a parameter was written since the forward; whatever a primitive returns.
    #[track_caller]
    pub fn backward(&self) -> Result<Grads> {
        self.backward_from(self.one()?)
    }

    /// The output gradient of a backward from this scalar.
    #[track_caller]
    pub(crate) fn one(&self) -> Result<Array> {
        if self.numel() != 1 {
            return Err(Error::new(ErrorKind::Shape, "backward", format!("a tensor of shape {:?}", self.shape()))
                .expected("one element")
                .hint("reduce it to a scalar, or pass the output gradient to backward_from"));
        }
        ops::cast(&Array::full(1f32, self.shape(), self.device())?, self.dtype())
    }

    /// As [`Tensor::backward`], for a tensor of any shape and the gradient `dy` of the objective with respect to it.
    ///
    /// # Errors
    /// `Shape` or `DType` when `dy` does not have this tensor's; else as for [`Tensor::backward`].
    #[track_caller]
    pub fn backward_from(&self, dy: Array) -> Result<Grads> {
        let mut pass = Pass::default();
        pass.seed(self.root_for(&dy)?, Cotangent::Dense(dy))?;
        pass.run()?;
        Grads::collect(pass)
    }

    /// Where a backward with the output gradient `dy` begins.
    #[track_caller]
    pub(crate) fn root_for(&self, dy: &Array) -> Result<&Origin> {
        if dy.shape() != self.shape() {
            return Err(Error::new(
                ErrorKind::Shape,
                "backward",
                format!("an output gradient of shape {:?}", dy.shape()),
            )
            .expected(format!("the tensor's shape {:?}", self.shape())));
        }
        if dy.dtype() != self.dtype() {
            return Err(Error::new(ErrorKind::DType, "backward", format!("an output gradient of type {}", dy.dtype()))
                .expected(self.dtype().name()));
        }
        self.origin.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::NoVjp, "backward", "a tensor that no tracked tensor led to")
                .expected("a tensor computed from a leaf or a parameter")
                .hint("detach, Tensor::constant and Param::constant cut the graph")
        })
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({}{:?}", if self.is_tracked() { "tracked, " } else { "" }, self.array)?;
        f.write_str(")")
    }
}
