//! `apply`: runs an operation forward and, when an input is tracked, records it in the graph.

use crate::Tensor;
use crate::graph::{Edge, Node, Origin, Work, next_seq};
use crate::op::{Gradient, Op, Saved};
use selfsame_engine::{Array, Error, ErrorKind, Result, ops};
use std::panic::Location;

/// Applies `op` to `x`. The outputs are tracked when an input is.
///
/// # Errors
/// `NoVjp` when an input is tracked and the operation has no backward; what the forward returns. They name the
/// caller's line, and so do errors of the backward.
#[track_caller]
pub fn apply(op: impl Op, x: &[&Tensor]) -> Result<Vec<Tensor>> {
    let at = Location::caller();
    record(Box::new(op), x, at).map_err(|e| e.located(at))
}

/// Takes the operation boxed: compiled once, not once for each operation.
fn record(op: Box<dyn Op>, x: &[&Tensor], at: &'static Location<'static>) -> Result<Vec<Tensor>> {
    let spec = op.spec();
    let tracked = x.iter().any(|x| x.is_tracked());
    if tracked && let Gradient::None(why) = spec.gradient {
        return Err(Error::new(ErrorKind::NoVjp, spec.name, "a tracked input")
            .expected(format!("an untracked one: {why}"))
            .hint("call detach() to say that no gradient should flow"));
    }
    let arrays: Vec<&Array> = x.iter().map(|x| x.array()).collect();
    let profiler = arrays.first().map(|x| x.device().profiler());
    let _span = profiler.map(|p| p.open_op(spec.name, false, None, || module_of(x.iter().filter_map(|x| x.origin()))));
    let mut saved = Saved::default();
    let mut outputs = op.forward(&arrays, &mut saved)?;
    if let Some(log) = arrays.first().and_then(|x| x.device().op_log()) {
        log.forward(spec.name, module_of(x.iter().filter_map(|x| x.origin())), &mut outputs)?;
    }
    if arrays.first().is_some_and(|x| x.device().checks_finite()) {
        outputs.iter().try_for_each(|y| expect_finite(spec.name, "forward", &arrays, y))?;
    }
    if !tracked {
        return Ok(outputs.into_iter().map(Tensor::constant).collect());
    }
    saved.leave_to_inputs(&arrays, |input| x[input].origin().is_some_and(Origin::is_rematerialized));
    saved.claim();
    let region = profiler.and_then(|p| p.region());
    let untracked: Vec<bool> = (0..outputs.len()).map(|i| saved.is_untracked(i)).collect();
    let node = Node::new(next_seq(), spec.name, outputs.len(), edges(x), Work::Op { op, saved, at, region });
    Ok(outputs
        .into_iter()
        .zip(untracked)
        .enumerate()
        .map(|(i, (array, untracked))| {
            if untracked { Tensor::constant(array) } else { Tensor::with_origin(array, Origin::Node(node.clone(), i)) }
        })
        .collect())
}

/// Applies an operation of one output.
///
/// # Errors
/// As for [`apply`]; `Config` when there is not exactly one output.
#[track_caller]
pub fn apply1(op: impl Op, x: &[&Tensor]) -> Result<Tensor> {
    let name = op.spec().name;
    only(name, apply(op, x)?)
}

/// The one output of the operation `name`.
fn only(name: &str, mut outputs: Vec<Tensor>) -> Result<Tensor> {
    match (outputs.pop(), outputs.is_empty()) {
        (Some(output), true) => Ok(output),
        (last, _) => {
            Err(Error::new(ErrorKind::Config, name, format!("{} outputs", outputs.len() + usize::from(last.is_some())))
                .expected("one output"))
        }
    }
}

/// The path of the module whose parameters are among `origins`.
pub(crate) fn module_of<'a>(mut origins: impl Iterator<Item = &'a Origin>) -> Option<String> {
    origins.find_map(|origin| Some(origin.params().first()?.param.path().rsplit_once('.')?.0.to_string()))
}

pub(crate) fn edges(x: &[&Tensor]) -> Vec<Option<Edge>> {
    x.iter().map(|x| x.origin().map(|origin| Edge { origin: origin.clone(), shape: x.shape().to_vec() })).collect()
}

/// An error when `made`, which `op` computed from `inputs`, holds NaN or infinity and none of the inputs does: a value
/// that came in (the minus infinity of a mask) was not born here.
pub(crate) fn expect_finite(op: &str, direction: &str, inputs: &[&Array], made: &Array) -> Result<()> {
    let is_finite = |x: &Array| Ok::<bool, Error>(!x.dtype().is_float() || ops::is_finite(x)?);
    if is_finite(made)? {
        return Ok(());
    }
    for input in inputs {
        if !is_finite(input)? {
            return Ok(());
        }
    }
    let shapes: Vec<&[usize]> = inputs.iter().map(|x| x.shape()).collect();
    Err(Error::new(ErrorKind::NonFinite, op, format!("NaN or infinity from its {direction}, finite inputs {shapes:?}")))
}
