//! Activation checkpointing: a segment keeps its inputs alone and runs again when backward reaches it.
//!
//! The bits are those of the plain graph. Parameter uses inside a segment keep their place in forward order, and
//! gradients of its inputs are handed on one contribution at a time, in the order in which the plain graph would have
//! added them.

use crate::apply::edges;
use crate::backward::Pass;
use crate::graph::{Node, Origin, Work, next_seq};
use crate::param::Snapshot;
use crate::{Cotangent, Tensor};
use selfsame_engine::profile::Owner;
use selfsame_engine::{Array, Error, ErrorKind, Result};
use std::collections::BTreeSet;

/// What a segment computes from its inputs; run once in forward and once more in backward.
type Body = Box<dyn Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync>;

/// A part of the forward that is kept as its inputs and a function.
pub(crate) struct Segment {
    body: Body,
    inputs: Vec<Input>,
    /// Which of the body's outputs the node's outputs are.
    outputs: Vec<usize>,
    /// The parameters that the forward read.
    read: Vec<Snapshot>,
}

/// An input of a segment, without the graph behind it.
enum Input {
    Constant(Array),
    Tracked(Array),
    /// A parameter or derived from parameters: handed to the body as it is, so that its uses inside stay theirs.
    Param(Array, Origin),
}

impl Input {
    fn of(x: &Tensor) -> Input {
        match x.origin() {
            None => Input::Constant(x.array().clone()),
            Some(origin @ (Origin::Param(_) | Origin::Derived(_))) => Input::Param(x.array().clone(), origin.clone()),
            Some(_) => Input::Tracked(x.array().clone()),
        }
    }

    fn tensor(&self) -> Tensor {
        match self {
            Input::Constant(array) => Tensor::constant(array.clone()),
            Input::Tracked(array) => Tensor::leaf(array.clone()),
            Input::Param(array, origin) => Tensor::with_origin(array.clone(), origin.clone()),
        }
    }
}

/// Gradients that leave a segment: of its inputs by number, and of the parameters used inside.
pub(crate) struct Replayed {
    pub(crate) leaves: Vec<(usize, Array)>,
    pub(crate) uses: Vec<crate::backward::Use>,
}

/// Runs `body` on `inputs` now and again in backward, keeping only the inputs in between.
///
/// `body` must compute the same values both times: randomness comes from keys that it captures, and state (running
/// statistics) is returned, not written. Parameters may be captured; a captured tensor must be untracked.
///
/// # Errors
/// `Config` when `body` captured a tracked tensor; what `body` returns. Backward: `Stale` when a parameter was written
/// in between.
#[track_caller]
pub fn recompute(
    body: impl Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync + 'static,
    inputs: &[&Tensor],
) -> Result<Vec<Tensor>> {
    let first = next_seq();
    inputs.iter().for_each(|x| x.array().claim(Owner::Saved));
    let segment_inputs: Vec<Input> = inputs.iter().map(|x| Input::of(x)).collect();
    let locals: Vec<Tensor> = segment_inputs.iter().map(Input::tensor).collect();
    let computed = body(&locals)?;
    let read = read_parameters(&computed, first)?;

    // An output that is an input, or that was listed before, is that tensor: another node output in its place would
    // sum its gradients in another order than the plain graph.
    enum Place {
        Untracked,
        Input(usize),
        Output(usize),
    }
    let mut outputs: Vec<usize> = Vec::new();
    let places: Vec<Place> = computed
        .iter()
        .enumerate()
        .map(|(i, y)| {
            let Some(origin) = y.origin() else { return Place::Untracked };
            let same = |x: &Tensor| x.origin().is_some_and(|x| x.is(origin));
            if let Some(input) = locals.iter().position(same) {
                return Place::Input(input);
            }
            let known = outputs.iter().position(|&j| same(&computed[j]));
            Place::Output(known.unwrap_or_else(|| {
                outputs.push(i);
                outputs.len() - 1
            }))
        })
        .collect();

    let segment = Segment { body: Box::new(body), inputs: segment_inputs, outputs: outputs.clone(), read };
    let node = Node::new(next_seq(), "recompute", outputs.len(), edges(inputs), Work::Segment(segment));
    Ok(places
        .into_iter()
        .zip(computed)
        .map(|(place, y)| match place {
            Place::Untracked => y,
            Place::Input(i) => inputs[i].clone(),
            Place::Output(i) => Tensor::with_origin(y.array().clone(), Origin::Node(node.clone(), i)),
        })
        .collect())
}

/// The parameters that `outputs` depend on. Everything else they depend on must be younger than `first`.
fn read_parameters(outputs: &[Tensor], first: u64) -> Result<Vec<Snapshot>> {
    let mut read: Vec<Snapshot> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut left: Vec<Origin> = outputs.iter().filter_map(|y| y.origin().cloned()).collect();
    while let Some(origin) = left.pop() {
        let seq = match &origin {
            Origin::Param(_) | Origin::Derived(_) => {
                for snapshot in origin.params() {
                    if !read.iter().any(|known| known.is(snapshot)) {
                        read.push(snapshot.clone());
                    }
                }
                continue;
            }
            Origin::Leaf(seq) => *seq,
            Origin::Node(node, _) => node.seq,
        };
        if seq < first {
            return Err(Error::new(ErrorKind::Config, "recompute", "the body captured a tracked tensor")
                .expected("tracked tensors among the inputs")
                .hint("pass it as an input, or detach it"));
        }
        if let Origin::Node(node, _) = origin
            && seen.insert(seq)
        {
            left.extend(node.edges.iter().flatten().map(|edge| edge.origin.clone()));
        }
    }
    Ok(read)
}

impl Segment {
    /// Runs the body again and walks its graph back from the output gradients `dy`.
    pub(crate) fn replay(self, dy: &[Option<Array>]) -> Result<Replayed> {
        self.read.iter().try_for_each(Snapshot::check)?;
        let locals: Vec<Tensor> = self.inputs.iter().map(Input::tensor).collect();
        let computed = (self.body)(&locals)?;
        let mut pass = Pass::default();
        for (&output, dy) in self.outputs.iter().zip(dy) {
            let Some(dy) = dy else { continue };
            let y = computed.get(output).filter(|y| y.shape() == dy.shape());
            let Some(origin) = y.and_then(Tensor::origin) else {
                return Err(Error::new(
                    ErrorKind::Stale,
                    "recompute",
                    format!("another output {output} the second time"),
                )
                .expected("a body that computes the same values both times"));
            };
            pass.seed(origin, Cotangent::Dense(dy.clone()))?;
        }
        drop(computed);
        pass.run()?;
        let input_of =
            |leaf: u64| locals.iter().position(|x| matches!(x.origin(), Some(Origin::Leaf(l)) if *l == leaf));
        // A leaf that the body made for itself has no input to go to.
        let leaves = pass.leaves.into_iter().filter_map(|(leaf, d)| Some((input_of(leaf)?, d))).collect();
        Ok(Replayed { leaves, uses: pass.uses })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Param, Role};
    use selfsame_engine::{Device, Rows, ops};

    /// Two layers that share their weight, an output that is an input, and one that is listed twice.
    fn block(w: &Param, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let rows = Rows::of(x[0].shape(), 0)?;
        let hidden = x[0].linear(&w.tensor(), None, rows)?.tanh()?;
        let y = hidden.linear(&w.tensor(), None, rows)?.mul(&x[0])?.add(&hidden)?;
        Ok(vec![y.clone(), x[0].clone(), y, hidden])
    }

    fn setup() -> (Param, Array) {
        let device = Device::cpu_with(2).unwrap();
        let values = |n: usize| (0..n).map(|i| ((i * 7919) % 1013) as f32 * 1e-3 - 0.4).collect::<Vec<_>>();
        let w = Array::from_slice(&values(25), &[5, 5], &device).unwrap();
        (Param::new("w", Role::Weight, w), Array::from_slice(&values(200), &[40, 5], &device).unwrap())
    }

    fn run(depth: usize) -> Vec<Vec<u32>> {
        let (w, x) = setup();
        let x = Tensor::leaf(x);
        let start = x.linear(&w.tensor(), None, Rows::of(x.shape(), 0).unwrap()).unwrap();
        let inner = w.clone();
        let middle = match depth {
            0 => block(&w, std::slice::from_ref(&start)),
            1 => recompute(move |x| block(&inner, x), &[&start]),
            _ => recompute(
                move |x| {
                    let inner = inner.clone();
                    recompute(move |x| block(&inner, x), &[&x[0]])
                },
                &[&start],
            ),
        }
        .unwrap();
        let end = middle[0].mul(&middle[1]).unwrap().add(&middle[2]).unwrap().sub(&middle[3]).unwrap();
        let end = end.linear(&w.tensor(), None, Rows::of(end.shape(), 0).unwrap()).unwrap().mul(&start).unwrap();
        let grads = end.square().unwrap().sum_all().unwrap().backward().unwrap();
        let found = [end.array().clone(), grads.get(&x).unwrap().unwrap(), grads.param(&w).unwrap().unwrap()];
        found.map(|a| a.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()).to_vec()
    }

    #[test]
    fn recomputing_does_not_change_a_bit() {
        let plain = run(0);
        assert_eq!(run(1), plain);
        assert_eq!(run(2), plain);
    }

    #[test]
    fn a_parameter_written_in_between_is_stale() {
        let (w, x) = setup();
        let x = Tensor::leaf(x);
        let inner = w.clone();
        let y = recompute(move |x| block(&inner, x), &[&x]).unwrap();
        let loss = y[0].sum_all().unwrap();
        w.set(ops::scale(w.array(), 2.0).unwrap()).unwrap();
        assert_eq!(loss.backward().unwrap_err().kind(), ErrorKind::Stale);
    }

    #[test]
    fn a_captured_tracked_tensor_is_refused() {
        let (_, x) = setup();
        let captured = Tensor::leaf(x.clone()).square().unwrap();
        let result = recompute(move |x| Ok(vec![x[0].mul(&captured)?]), &[&Tensor::leaf(x)]);
        assert_eq!(result.err().map(|e| e.kind()), Some(ErrorKind::Config));
    }

    #[test]
    fn untracked_segments_stay_untracked() {
        let (_, x) = setup();
        let y = recompute(|x| Ok(vec![x[0].square()?]), &[&Tensor::constant(x)]).unwrap();
        assert!(!y[0].is_tracked());
    }
}
