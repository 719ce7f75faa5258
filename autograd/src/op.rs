//! The contract of a differentiable operation.

use crate::Cotangent;
use crate::generate::{Case, Gen};
use crate::graph::{Edge, Origin};
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

    /// The first output once more, to the bit, from what the forward kept. Asked for only where the forward called
    /// [`Saved::rematerializes`].
    ///
    /// # Errors
    /// `Config` where there is no such way; what the primitives return.
    fn rematerialize(&self, _saved: &Saved) -> Result<Array> {
        Err(Error::new(ErrorKind::Config, self.spec().name, "an output that was to be computed again")
            .expected("an operation that defines rematerialize"))
    }
}

/// What a forward keeps for its backward, released as soon as the backward has run.
#[derive(Default)]
pub struct Saved {
    arrays: Vec<Kept>,
    shapes: Vec<Vec<usize>>,
    untracked: Vec<usize>,
    rematerializes: bool,
    /// The first output, from when somebody asked for it again.
    output: Option<Array>,
}

/// One array that a backward reads.
enum Kept {
    Array(Array),
    /// The input of this number, which the operation that it came from computes again.
    Input(usize),
}

impl Saved {
    /// Keeps `array` as number 0, 1, … in the order of the calls.
    pub fn keep(&mut self, array: &Array) {
        self.arrays.push(Kept::Array(array.clone()));
    }

    /// Keeps the shape alone, as number 0, 1, … of its own count.
    pub fn keep_shape(&mut self, shape: &[usize]) {
        self.shapes.push(shape.to_vec());
    }

    /// Says that output `output` carries no gradient: indices, statistics.
    pub fn untracked_output(&mut self, output: usize) {
        self.untracked.push(output);
    }

    /// Says that the first output is cheap to compute again ([`Op::rematerialize`]): the operations that read it do not
    /// keep it for their backwards.
    pub fn rematerializes(&mut self) {
        self.rematerializes = true;
    }

    /// The first output, where a backward that ran before this one asked for it again.
    pub fn output(&self) -> Option<&Array> {
        self.output.as_ref()
    }

    pub(crate) fn has_rematerialized_output(&self) -> bool {
        self.rematerializes
    }

    /// The first output of `op`, whose this is; computed once.
    pub(crate) fn rematerialize(&mut self, op: &dyn Op) -> Result<Array> {
        let output = match self.output.take() {
            Some(output) => output,
            None => op.rematerialize(self)?,
        };
        Ok(self.output.insert(output).clone())
    }

    /// Gives up the arrays that are inputs which `is_rematerialized`.
    pub(crate) fn leave_to_inputs(&mut self, inputs: &[&Array], is_rematerialized: impl Fn(usize) -> bool) {
        for kept in &mut self.arrays {
            let Kept::Array(array) = kept else { continue };
            let found = inputs.iter().position(|input| input.is_same_view(array));
            if let Some(input) = found.filter(|input| is_rematerialized(*input)) {
                *kept = Kept::Input(input);
            }
        }
    }

    /// Has the inputs that were given up computed again, where they came from.
    pub(crate) fn fetch(&mut self, edges: &[Option<Edge>]) -> Result<()> {
        for kept in &mut self.arrays {
            if let Kept::Input(input) = *kept
                && let Some(Edge { origin: Origin::Node(node, _), .. }) = &edges[input]
            {
                *kept = Kept::Array(node.rematerialize()?);
            }
        }
        Ok(())
    }

    /// Says that the arrays are kept for backward.
    pub(crate) fn claim(&self) {
        for kept in &self.arrays {
            if let Kept::Array(array) = kept {
                array.claim(Owner::Saved);
            }
        }
    }

    pub(crate) fn is_untracked(&self, output: usize) -> bool {
        self.untracked.contains(&output)
    }

    /// The `i`-th array kept.
    ///
    /// # Errors
    /// `Config` when the forward kept fewer.
    pub fn array(&self, i: usize) -> Result<&Array> {
        match self.arrays.get(i) {
            Some(Kept::Array(array)) => Ok(array),
            _ => Err(Self::missing("array", i, self.arrays.len())),
        }
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
