//! The contract of a differentiable operation.

use crate::Cotangent;
use crate::generate::{Case, Gen};
use selfsame_engine::profile::Owner;
use selfsame_engine::{Array, Error, ErrorKind, Result};

/// Whether an operation has a backward. Every operation says so; there is no default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradient {
    /// [`Op::vjp`] computes it.
    Vjp,
    /// There is none, for the reason given; a tracked input is an error at forward.
    None(&'static str),
}

/// What the lists, the gradient check and the error messages know of an operation.
pub struct OpSpec {
    /// Its name: that of its file, its method and its span in a profile.
    pub name: &'static str,
    /// Whether it has a backward.
    pub gradient: Gradient,
    /// Generates one case for the gradient check. The case keeps its inputs away from kinks and ties.
    pub cases: fn(&mut Gen) -> Result<Case>,
}

/// An operation: forward and backward on arrays, with its options as fields.
pub trait Op: Send + Sync + 'static {
    /// Name, kind of gradient and gradient-check cases.
    fn spec(&self) -> &'static OpSpec;

    /// The outputs. What the backward needs goes into `save`.
    ///
    /// # Errors
    /// When shapes, element types or devices do not fit.
    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>>;

    /// The vector-Jacobian product: from the gradients `dy` of the outputs (`None` where none arrived) the gradients
    /// of the inputs, at least those that `want` asks for. Each has its input's shape and element type.
    ///
    /// # Errors
    /// What the primitives return.
    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>>;
}

/// What a forward keeps for its backward, released as soon as the backward has run.
#[derive(Default)]
pub struct Saved {
    arrays: Vec<Array>,
    shapes: Vec<Vec<usize>>,
    untracked: Vec<usize>,
}

impl Saved {
    /// Keeps `array` as number 0, 1, … in the order of the calls.
    pub fn keep(&mut self, array: &Array) {
        self.arrays.push(array.clone());
    }

    /// Keeps the shape alone, as number 0, 1, … of its own count.
    pub fn keep_shape(&mut self, shape: &[usize]) {
        self.shapes.push(shape.to_vec());
    }

    /// Says that output `output` carries no gradient: indices, statistics.
    pub fn untracked_output(&mut self, output: usize) {
        self.untracked.push(output);
    }

    /// Says that the arrays are kept for backward.
    pub(crate) fn claim(&self) {
        self.arrays.iter().for_each(|array| array.claim(Owner::Saved));
    }

    pub(crate) fn is_untracked(&self, output: usize) -> bool {
        self.untracked.contains(&output)
    }

    /// The `i`-th array kept.
    ///
    /// # Errors
    /// `Config` when the forward kept fewer.
    pub fn array(&self, i: usize) -> Result<&Array> {
        self.arrays.get(i).ok_or_else(|| Self::missing("array", i, self.arrays.len()))
    }

    /// The `i`-th shape kept.
    ///
    /// # Errors
    /// `Config` when the forward kept fewer.
    pub fn shape(&self, i: usize) -> Result<&[usize]> {
        self.shapes.get(i).map(Vec::as_slice).ok_or_else(|| Self::missing("shape", i, self.shapes.len()))
    }

    fn missing(what: &str, i: usize, kept: usize) -> Error {
        Error::new(ErrorKind::Config, "saved for backward", format!("{what} {i}"))
            .expected(format!("one of the {kept} that forward kept"))
    }
}

/// The gradient of the only output of an operation; the graph calls a backward only when some output has one.
///
/// # Errors
/// `Config` when there is none.
pub(crate) fn only(dy: &[Option<Array>]) -> Result<&Array> {
    match dy {
        [Some(dy), ..] => Ok(dy),
        _ => Err(Error::new(ErrorKind::Config, "backward", "no gradient of the first output").expected("one")),
    }
}
