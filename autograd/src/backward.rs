//! The backward pass: nodes in descending sequence order, each once, when all its output gradients have arrived.

use crate::apply::expect_finite;
use crate::graph::{Edge, Node, Origin, Work};
use crate::param::Snapshot;
use crate::{Cotangent, Param};
use selfsame_engine::{Array, Error, ErrorKind, Result, ops};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Place of a parameter's use in the forward: the consuming node's number and the input's, behind the numbers of the
/// recomputed segments around it. Lexicographic order is forward order.
pub(crate) type UseKey = Vec<u64>;

/// One use of a parameter and its gradient.
pub(crate) struct Use {
    pub(crate) key: UseKey,
    pub(crate) param: Param,
    pub(crate) cotangent: Cotangent,
}

/// What has arrived so far.
#[derive(Default)]
pub(crate) struct Pass {
    pending: BTreeMap<u64, (Arc<Node>, Vec<Option<Array>>)>,
    /// Gradients of leaves, one entry per contribution, in order of arrival.
    pub(crate) leaves: Vec<(u64, Array)>,
    pub(crate) uses: Vec<Use>,
}

impl Pass {
    /// Starts the pass with the gradient of one of its roots.
    pub(crate) fn seed(&mut self, origin: &Origin, cotangent: Cotangent) -> Result<()> {
        self.send(origin, cotangent, || vec![u64::MAX])
    }

    /// Delivers a gradient; `key` says which use it belongs to if it reaches a parameter.
    fn send(&mut self, origin: &Origin, cotangent: Cotangent, key: impl FnOnce() -> UseKey) -> Result<()> {
        match origin {
            Origin::Param(Snapshot { param, .. }) => {
                self.uses.push(Use { key: key(), param: param.clone(), cotangent });
            }
            Origin::Leaf(leaf) => self.leaves.push((*leaf, cotangent.total()?)),
            Origin::Node(node, output) => {
                let (_, dy) =
                    self.pending.entry(node.seq).or_insert_with(|| (node.clone(), vec![None; node.outputs]));
                let sum = match dy[*output].take() {
                    None => cotangent.total()?,
                    Some(sum) => ops::add_assign(sum, &cotangent.total()?)?,
                };
                dy[*output] = Some(sum);
            }
        }
        Ok(())
    }

    /// Walks the graph until nothing is pending.
    pub(crate) fn run(&mut self) -> Result<()> {
        while let Some((_, (node, dy))) = self.pending.pop_last() {
            let work = node.take_work().ok_or_else(|| {
                Error::new(ErrorKind::Stale, "backward", format!("{} a second time", node.name))
                    .expected("one backward per forward: saved arrays are released as they are used")
                    .hint("add losses that share a graph before calling backward")
            })?;
            for edge in node.edges.iter().flatten() {
                if let Origin::Param(snapshot) = &edge.origin {
                    snapshot.check()?;
                }
            }
            match work {
                Work::Op(op, saved) => {
                    let want: Vec<bool> = node.edges.iter().map(Option::is_some).collect();
                    let dx = op.vjp(&saved, &dy, &want)?;
                    if let Some(dy) = dy.iter().flatten().find(|dy| dy.device().checks_finite()) {
                        for d in dx.iter().flatten().cloned() {
                            expect_finite(node.name, "backward", &[dy], &d.total()?)?;
                        }
                    }
                    drop((saved, dy));
                    for (input, (edge, d)) in node.edges.iter().zip(dx).enumerate() {
                        if let (Some(edge), Some(d)) = (edge, d) {
                            check_shape(&node, edge, &d)?;
                            self.send(&edge.origin, d, || vec![node.seq, input as u64])?;
                        }
                    }
                }
                Work::Segment(segment) => {
                    let inner = segment.replay(&dy)?;
                    for (input, d) in inner.leaves {
                        if let Some(edge) = &node.edges[input] {
                            self.send(&edge.origin, d.into(), || vec![node.seq, input as u64])?;
                        }
                    }
                    self.uses.extend(inner.uses.into_iter().map(|mut inner| {
                        inner.key.insert(0, node.seq);
                        inner
                    }));
                }
            }
        }
        Ok(())
    }
}

/// A backward that returns another shape would be broadcast or cut somewhere else; say it where it happens.
fn check_shape(node: &Node, edge: &Edge, d: &Cotangent) -> Result<()> {
    match d {
        Cotangent::Dense(d) if d.shape() != edge.shape => Err(Error::new(
            ErrorKind::Shape,
            format!("backward of {}", node.name),
            format!("an input gradient of shape {:?}", d.shape()),
        )
        .expected(format!("the input's shape {:?}", edge.shape))),
        _ => Ok(()),
    }
}
