//! Nodes and edges of the graph that a forward leaves behind.
//!
//! A node's sequence number is drawn when it is made, so a node's number is above those of everything it depends on.
//! Only the order of numbers is used. The forward of one loss runs on one thread, which makes that order a property
//! of the program; numbers drawn by other threads in between do not change it.

use crate::derive::Derived;
use crate::op::{Op, Saved};
use crate::param::Snapshot;
use crate::recompute::Segment;
use selfsame_engine::{Array, Error, ErrorKind, Result};
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

static NEXT_SEQ: AtomicU64 = AtomicU64::new(0);

pub(crate) fn next_seq() -> u64 {
    NEXT_SEQ.fetch_add(1, Ordering::Relaxed)
}

/// Where a tracked tensor comes from.
#[derive(Clone)]
pub(crate) enum Origin {
    /// A leaf, by its number.
    Leaf(u64),
    /// A parameter as it was when its tensor was taken.
    Param(Snapshot),
    /// Computed from parameters alone.
    Derived(Arc<Derived>),
    /// An output of a node.
    Node(Arc<Node>, usize),
}

impl Origin {
    /// Whether both are the same tensor.
    pub(crate) fn is(&self, other: &Origin) -> bool {
        match (self, other) {
            (Origin::Leaf(a), Origin::Leaf(b)) => a == b,
            (Origin::Param(a), Origin::Param(b)) => a.is(b),
            (Origin::Derived(a), Origin::Derived(b)) => Arc::ptr_eq(a, b),
            (Origin::Node(a, i), Origin::Node(b, j)) => Arc::ptr_eq(a, b) && i == j,
            _ => false,
        }
    }

    /// Whether this can be computed again, and so need not be kept.
    pub(crate) fn is_rematerialized(&self) -> bool {
        matches!(self, Origin::Node(node, 0) if node.rematerializes)
    }

    /// The parameters that this is, or is derived from; none for what a node or the caller made.
    pub(crate) fn params(&self) -> Vec<&Snapshot> {
        match self {
            Origin::Param(snapshot) => vec![snapshot],
            Origin::Derived(derived) => derived.params().map(|(_, snapshot)| snapshot).collect(),
            Origin::Leaf(_) | Origin::Node(..) => Vec::new(),
        }
    }
}

/// One tracked input of a node.
pub(crate) struct Edge {
    pub(crate) origin: Origin,
    pub(crate) shape: Vec<usize>,
}

/// What runs when a node's output gradients are complete. Taken by the backward, so that it can run once.
pub(crate) enum Work {
    Op {
        op: Box<dyn Op>,
        saved: Saved,
        /// Where it was applied, for errors.
        at: &'static Location<'static>,
        /// The profile's region that it was applied in, to which its backward belongs as well.
        region: Option<&'static str>,
    },
    Segment(Segment),
}

/// One operation that was applied to at least one tracked tensor.
pub(crate) struct Node {
    pub(crate) seq: u64,
    pub(crate) name: &'static str,
    pub(crate) outputs: usize,
    /// Per input: `None` for an untracked one.
    pub(crate) edges: Vec<Option<Edge>>,
    /// Whether its first output can be computed again until its backward has run.
    rematerializes: bool,
    work: Mutex<Option<Work>>,
}

impl Node {
    pub(crate) fn new(seq: u64, name: &'static str, outputs: usize, edges: Vec<Option<Edge>>, work: Work) -> Arc<Node> {
        let rematerializes = matches!(&work, Work::Op { saved, .. } if saved.has_rematerialized_output());
        Arc::new(Node { seq, name, outputs, edges, rematerializes, work: Mutex::new(Some(work)) })
    }

    /// What is left to do, once.
    pub(crate) fn take_work(&self) -> Result<Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(|| self.is_used_up())
    }

    /// The first output, which nobody kept.
    pub(crate) fn rematerialize(&self) -> Result<Array> {
        match &mut *self.work.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Work::Op { op, saved, at, .. }) => saved.rematerialize(op.as_ref()).map_err(|e| e.located(at)),
            _ => Err(self.is_used_up()),
        }
    }

    fn is_used_up(&self) -> Error {
        Error::new(ErrorKind::Stale, "backward", format!("{} a second time", self.name))
            .expected("one backward per forward: saved arrays are released as they are used")
            .hint("add losses that share a graph before calling backward")
    }
}

/// A chain of nodes is as long as the network is deep; dropping it by recursion would overflow the stack.
impl Drop for Node {
    fn drop(&mut self) {
        fn parents(node: &mut Node) -> impl Iterator<Item = Arc<Node>> + '_ {
            node.edges.drain(..).flatten().filter_map(|edge| match edge.origin {
                Origin::Node(parent, _) => Some(parent),
                _ => None,
            })
        }
        let mut orphans: Vec<Arc<Node>> = parents(self).collect();
        while let Some(node) = orphans.pop() {
            if let Some(mut node) = Arc::into_inner(node) {
                orphans.extend(parents(&mut node));
            }
        }
    }
}
