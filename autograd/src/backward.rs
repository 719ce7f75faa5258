//! The backward pass: nodes in descending sequence order, each once, when all its output gradients have arrived.

use crate::apply::{expect_finite, module_of};
use crate::graph::{Edge, Node, Origin, Work};
use crate::param::Snapshot;
use crate::{Cotangent, Derivation, Op, Param, Saved};
use selfsame_engine::profile::Owner;
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
        cotangent.arrays().into_iter().for_each(|array| array.claim(Owner::Gradients));
        match origin {
            Origin::Param(Snapshot { param, .. }) => {
                self.uses.push(Use { key: key(), param: param.clone(), cotangent });
            }
            Origin::Derived(derived) => {
                let key = key();
                for (input, Snapshot { param, .. }) in derived.params() {
                    let cotangent = Derivation::of(derived, input).through(cotangent.clone())?;
                    self.uses.push(Use { key: key.clone(), param: param.clone(), cotangent });
                }
            }
            Origin::Leaf(leaf) => self.leaves.push((*leaf, cotangent.total()?)),
            Origin::Node(node, output) => {
                let (_, dy) = self.pending.entry(node.seq).or_insert_with(|| (node.clone(), vec![None; node.outputs]));
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
    #[track_caller]
    pub(crate) fn run(&mut self) -> Result<()> {
        while self.advance()? {}
        Ok(())
    }

    /// Runs the backward of the youngest node that is pending; false when there is none.
    #[track_caller]
    pub(crate) fn advance(&mut self) -> Result<bool> {
        let Some((_, (node, dy))) = self.pending.pop_last() else { return Ok(false) };
        let work = node.take_work()?;
        for edge in node.edges.iter().flatten() {
            edge.origin.params().into_iter().try_for_each(Snapshot::check)?;
        }
        match work {
            Work::Op { op, saved, at, region } => {
                let profiler = dy.iter().flatten().next().map(|dy| Arc::clone(dy.device().profiler()));
                let module = || module_of(node.edges.iter().flatten().map(|edge| &edge.origin));
                let _span = profiler.map(|p| p.open_op(node.name, true, region, module));
                self.step(&node, op.as_ref(), saved, dy).map_err(|e| e.located(at))?;
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
        Ok(true)
    }

    /// Runs the backward of one operation and delivers what it returns.
    fn step(&mut self, node: &Node, op: &dyn Op, mut saved: Saved, dy: Vec<Option<Array>>) -> Result<()> {
        let want: Vec<bool> = node.edges.iter().map(Option::is_some).collect();
        saved.fetch(&node.edges)?;
        let dx = op.vjp(&saved, &dy, &want)?;
        if let Some(log) = dy.iter().flatten().next().and_then(|dy| dy.device().op_log()) {
            let module = module_of(node.edges.iter().flatten().map(|edge| &edge.origin));
            log.backward(node.name, module, &dx.iter().flatten().flat_map(Cotangent::arrays).collect::<Vec<_>>())?;
        }
        if let Some(dy) = dy.iter().flatten().find(|dy| dy.device().checks_finite()) {
            let mut made = dx.iter().flatten().flat_map(Cotangent::arrays);
            made.try_for_each(|d| expect_finite(node.name, "backward", &[dy], d))?;
        }
        drop((saved, dy));
        for (input, (edge, d)) in node.edges.iter().zip(dx).enumerate() {
            if let (Some(edge), Some(d)) = (edge, d) {
                check_shape(node, edge, &d)?;
                self.send(&edge.origin, d, || vec![node.seq, input as u64])?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Case, Gen, Gradient, OpSpec, Role, Tensor, apply1};
    use selfsame_engine::{DType, Device, Rows};

    fn leaf(values: &[f64]) -> Tensor {
        let device = Device::cpu_with(1).unwrap();
        Tensor::leaf(Array::from_slice(values, &[values.len()], &device).unwrap())
    }

    fn grad(grads: &crate::Grads, x: &Tensor) -> Vec<f64> {
        grads.get(x).unwrap().expect("a gradient").to_vec().unwrap()
    }

    #[test]
    fn a_tensor_used_twice_gets_both_gradients() {
        let x = leaf(&[2.0, 3.0]);
        let y = x.mul(&x).unwrap().add(&x).unwrap();
        let grads = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(grad(&grads, &x), [5.0, 7.0]);
    }

    #[test]
    fn detach_stops_the_gradient() {
        let x = leaf(&[2.0]);
        let y = x.mul(&x.detach()).unwrap();
        assert_eq!(grad(&y.sum_all().unwrap().backward().unwrap(), &x), [2.0]);
        assert!(!x.detach().square().unwrap().is_tracked());
    }

    #[test]
    fn a_tensor_that_the_loss_does_not_depend_on_has_no_gradient() {
        let (x, other) = (leaf(&[2.0]), leaf(&[1.0]));
        let grads = x.square().unwrap().sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&other).unwrap().is_none());
    }

    #[test]
    fn backward_needs_a_tracked_scalar_and_runs_once() {
        let x = leaf(&[2.0, 3.0]);
        let y = x.square().unwrap();
        assert_eq!(y.backward().unwrap_err().kind(), ErrorKind::Shape);
        let loss = y.sum_all().unwrap();
        assert_eq!(loss.detach().backward().unwrap_err().kind(), ErrorKind::NoVjp);
        loss.backward().unwrap();
        assert_eq!(loss.backward().unwrap_err().kind(), ErrorKind::Stale);
        assert_eq!(y.sum_all().unwrap().backward().unwrap_err().kind(), ErrorKind::Stale);
    }

    #[test]
    fn saved_arrays_are_released_as_they_are_used() {
        let x = leaf(&vec![1.0; 1 << 16]);
        let device = x.device().clone();
        let before = device.memory().live;
        let loss = (0..8).fold(x.clone(), |y, _| y.tanh().unwrap()).sum_all().unwrap();
        assert!(device.memory().live >= before + 8 * (8 << 16));
        let grads = loss.backward().unwrap();
        // What is left is the gradient of x and the loss, although the graph still stands.
        assert!(device.memory().live <= before + 2 * (8 << 16));
        drop((grads, loss));
        assert_eq!(device.memory().live, before);
    }

    /// What batch norm made is not kept for the operation behind it: there is x, and nothing else of its size.
    #[test]
    fn a_rematerialized_output_is_not_kept() {
        let elements = 1 << 16;
        let values: Vec<f64> = (0..elements).map(|i| (i % 7) as f64 - 3.0).collect();
        let device = Device::cpu_with(1).unwrap();
        let x = Tensor::leaf(Array::from_slice(&values, &[elements / 16, 16], &device).unwrap());
        let rows = Rows::of(x.shape(), 0).unwrap();
        let options = crate::ops::BatchNorm { eps: 1e-5, rows, stats: crate::ops::BatchStats::Batch(None) };
        let before = device.memory().live;
        let of = |y: Tensor| y.square().unwrap().sum_all().unwrap();
        let again = of(x.batch_norm_relu(None, None, &options).unwrap().y);
        assert!(device.memory().live < before + 4 * elements, "{}", device.memory().live - before);
        let kept = of(x.batch_norm(None, None, &options).unwrap().y.relu().unwrap());
        assert!(device.memory().live >= before + 8 * elements);
        let [again, kept] = [again, kept].map(|loss| loss.backward().unwrap());
        assert_eq!(grad(&again, &x), grad(&kept, &x));
    }

    #[test]
    fn an_output_that_two_losses_read_is_gone_after_the_first_backward() {
        let x = leaf(&[1.0, 2.0, 4.0]).reshape(&[3, 1]).unwrap();
        let rows = Rows::of(x.shape(), 0).unwrap();
        let options = crate::ops::BatchNorm { eps: 1e-5, rows, stats: crate::ops::BatchStats::Batch(None) };
        let y = x.batch_norm_relu(None, None, &options).unwrap().y;
        let losses = [y.square().unwrap(), y.tanh().unwrap()].map(|y| y.sum_all().unwrap());
        losses[1].backward().unwrap();
        assert_eq!(losses[0].backward().unwrap_err().kind(), ErrorKind::Stale);
    }

    #[test]
    fn a_deep_graph_neither_overflows_the_stack_in_backward_nor_in_drop() {
        let small_stack = std::thread::Builder::new().stack_size(128 << 10);
        let walked = small_stack.spawn(|| {
            let x = leaf(&[1.0]);
            let deep = |depth: usize| (0..depth).fold(x.clone(), |y, _| y.add_scalar(0.5).unwrap());
            drop(deep(50_000));
            grad(&deep(50_000).sum_all().unwrap().backward().unwrap(), &x)
        });
        assert_eq!(walked.unwrap().join().unwrap(), [1.0]);
    }

    #[test]
    fn uses_of_a_parameter_are_added_in_forward_order() {
        let device = Device::cpu_with(1).unwrap();
        let p = crate::Param::new("p", Role::Weight, Array::scalar(1f32, &device).unwrap());
        // In forward order (1 + 1e8) - 1e8 = 0 in f32; in the order of the walk (-1e8 + 1e8) + 1 = 1.
        let uses = [1.0, 1e8, -1e8].map(|factor| p.tensor().scale(factor).unwrap());
        let loss = uses[2].add(&uses[0]).unwrap().add(&uses[1]).unwrap();
        let grads = loss.backward().unwrap();
        assert_eq!(grads.param(&p).unwrap().unwrap().item::<f32>().unwrap(), 0.0);
    }

    struct Wrong;

    static WRONG: OpSpec = OpSpec {
        name: "wrong",
        gradient: Gradient::Vjp,
        cases: |g: &mut Gen| Ok(Case::new(Wrong, vec![g.array(&[2], crate::Domain::Normal)?])),
    };

    impl Op for Wrong {
        fn spec(&self) -> &'static OpSpec {
            &WRONG
        }

        fn forward(&self, x: &[&Array], _: &mut Saved) -> Result<Vec<Array>> {
            Ok(vec![x[0].clone()])
        }

        fn vjp(&self, _: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
            let dy = crate::op::only(dy)?;
            Ok(vec![Some(ops::sum(dy, &[0], true)?.into())])
        }
    }

    #[test]
    fn a_backward_of_another_shape_is_refused() {
        let x = leaf(&[2.0, 3.0]);
        let (line, y) = (line!(), apply1(Wrong, &[&x]).unwrap());
        let error = y.sum_all().unwrap().backward().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shape);
        assert!(error.to_string().contains("backward of wrong"));
        assert!(error.to_string().ends_with(&format!("{}:{line}", file!())), "{error}");
    }

    #[test]
    fn an_error_of_the_engine_names_the_line_that_asked() {
        let device = Device::cpu_with(1).unwrap();
        let zeros = |shape: &[usize]| Tensor::leaf(Array::zeros(shape, DType::F32, &device).unwrap());
        let expect_line = |error: Error, line: u32| {
            assert_eq!(error.kind(), ErrorKind::Shape);
            assert!(error.to_string().ends_with(&format!("{}:{line}", file!())), "{error}");
        };
        let (line, product) = (line!(), zeros(&[2, 3]).matmul(&zeros(&[4, 5])));
        expect_line(product.unwrap_err(), line);
        let (image, weight) = (zeros(&[1, 4, 4, 3]), zeros(&[3, 3, 2, 5]));
        let rows = Rows::of(image.shape(), 0).unwrap();
        let (line, maps) = (line!(), image.conv2d(&weight, ops::Conv2d::default(), rows));
        expect_line(maps.unwrap_err(), line);
    }
}
