//! What is known of a loss besides its formula.

use selfsame_autograd::{Gen, Tensor};
use selfsame_engine::{Array, Error, ErrorKind, Result, nearest};
use std::collections::BTreeMap;

/// Tensors by the name of their [`Port`].
pub type NamedTensors = BTreeMap<String, Tensor>;

/// How a loss behaves when the batch is spread over ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrossRank {
    /// Each sample's term depends on that sample alone.
    Local,
    /// Samples are compared with those of other ranks, which are gathered with their gradient.
    GatherNegatives,
    /// Statistics over samples are reduced over ranks.
    ReduceStats,
}

/// What a loss does with an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Floats that it is differentiated by.
    Differentiated,
    /// Floats that it takes as they are: no gradient goes there.
    Constant,
    /// Integers (i64) that name things, such as classes: equal or not, and nothing else.
    Labels,
}

/// An input or output tensor.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// Its name in files.
    pub name: &'static str,
    /// Its shape, in letters.
    pub shape: &'static str,
    /// What it holds.
    pub doc: &'static str,
    /// As an input: what the loss does with it.
    pub role: Role,
    /// As an input: whether it may be missing.
    pub optional: bool,
}

impl Port {
    /// An output, or an input that the loss is differentiated by.
    pub const fn new(name: &'static str, shape: &'static str, doc: &'static str) -> Port {
        Port { name, shape, doc, role: Role::Differentiated, optional: false }
    }

    /// An input of that role.
    #[must_use]
    pub const fn role(self, role: Role) -> Port {
        Port { role, ..self }
    }

    /// An input that may be missing.
    #[must_use]
    pub const fn optional(self) -> Port {
        Port { optional: true, ..self }
    }
}

/// A number that can be set.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    /// Its key.
    pub name: &'static str,
    /// Its value when not set.
    pub default: f64,
    /// Whether a value is allowed.
    pub allowed: fn(f64) -> bool,
    /// What values are allowed, in words.
    pub range: &'static str,
    /// What it does, and advice.
    pub doc: &'static str,
}

/// A known value of a loss: what a run that is stuck at it is stuck at.
#[derive(Clone, Copy)]
pub struct Fact {
    /// The formula and its meaning.
    pub what: &'static str,
    /// The value for a batch of that many images under these options.
    pub value: fn(images: usize, options: &Options) -> f64,
}

/// One set of inputs and options.
pub struct LossCase {
    /// Inputs by name: f64, and i64 labels.
    pub inputs: BTreeMap<String, Array>,
    /// The options.
    pub options: Options,
}

/// A loss in the registry.
pub struct LossSpec {
    /// Name on the command line; that of its file.
    pub name: &'static str,
    /// One line for lists.
    pub doc: &'static str,
    /// Where it was published.
    pub paper: &'static str,
    /// How it behaves across ranks.
    pub cross_rank: CrossRank,
    /// What goes in.
    pub inputs: &'static [Port],
    /// What comes out; the first is the scalar `loss`.
    pub outputs: &'static [Port],
    /// What can be set.
    pub options: &'static [OptionSpec],
    /// Runs it on named tensors. The inputs that are not optional are there, in the type of their role, and the options
    /// valid when this is called.
    pub run: fn(&NamedTensors, &Options) -> Result<NamedTensors>,
    /// Generates inputs and options for the check.
    pub cases: fn(&mut Gen) -> Result<LossCase>,
    /// The value by another way: f64, scalar loops, written from the paper.
    pub oracle: fn(&LossCase) -> Result<f64>,
    /// Known values.
    pub facts: &'static [Fact],
}

/// The loss called `name` in `losses`.
///
/// # Errors
/// `Config` with the nearest name.
pub fn find(losses: &[&'static LossSpec], name: &str) -> Result<&'static LossSpec> {
    losses
        .iter()
        .copied()
        .find(|spec| spec.name == name)
        .ok_or_else(|| unknown("loss", name, losses.iter().map(|spec| spec.name).collect()))
}

/// "There is no such name", with the known ones and the nearest.
pub(crate) fn unknown(what: &str, name: &str, known: Vec<&str>) -> Error {
    let error = Error::new(ErrorKind::Config, what, format!("'{name}'")).expected(known.join(", "));
    match nearest(name, known) {
        Some(near) => error.hint(format!("is '{near}' meant?")),
        None => error,
    }
}

/// The values of a loss's options.
#[derive(Clone, Debug, PartialEq)]
pub struct Options(Vec<(&'static str, f64)>);

impl Options {
    /// The defaults of `spec`, changed by `set` in order.
    ///
    /// # Errors
    /// `Config` for an unknown key (with the nearest), a value that is no number, or one that is not allowed.
    pub fn parse(spec: &LossSpec, set: &[(String, String)]) -> Result<Options> {
        let mut values: Vec<(&'static str, f64)> = spec.options.iter().map(|o| (o.name, o.default)).collect();
        for (key, text) in set {
            let what = format!("{} option", spec.name);
            let Some(at) = spec.options.iter().position(|o| o.name == key) else {
                return Err(unknown(&what, key, spec.options.iter().map(|o| o.name).collect()));
            };
            let option = &spec.options[at];
            values[at].1 = text.trim().parse().ok().filter(|v| (option.allowed)(*v)).ok_or_else(|| {
                Error::new(ErrorKind::Config, format!("{what} '{key}'"), format!("'{text}'")).expected(option.range)
            })?;
        }
        Ok(Options(values))
    }

    /// The value of option `name`.
    ///
    /// # Errors
    /// `Config` when the loss has no such option.
    pub fn get(&self, name: &str) -> Result<f64> {
        let found = self.0.iter().find(|(n, _)| *n == name);
        found.map(|(_, v)| *v).ok_or_else(|| unknown("option", name, self.0.iter().map(|(n, _)| *n).collect()))
    }
}
