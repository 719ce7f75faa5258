//! Tensors computed from parameters alone: normalised weights, interpolated tables.
//!
//! A layer's weight gradient is a sum over samples, of which a micro-batch or rank holds some leaves. In front of an
//! operation on the weight it would have to be finished, which needs all of them. [`derive()`] keeps the sum as it is,
//! in the space of the computed tensor, and applies the operation's backward once, to the total: the bits do not depend
//! on how the batch was cut.

use crate::graph::Origin;
use crate::param::Snapshot;
use crate::{Cotangent, Tensor};
use selfsame_engine::profile::Owner;
use selfsame_engine::{Array, Error, ErrorKind, Result};
use std::fmt;
use std::sync::Arc;

type Function = dyn Fn(&[Tensor]) -> Result<Tensor> + Send + Sync;

/// What a derived tensor was computed from, and how.
pub(crate) struct Derived {
    function: Box<Function>,
    inputs: Vec<(Array, Option<Snapshot>)>,
}

/// How the gradient of a derived tensor becomes that of one of its parameters; see [`derive()`].
#[derive(Clone)]
pub struct Derivation {
    derived: Arc<Derived>,
    input: usize,
}

/// `function` of `inputs`, each a parameter's tensor or a constant. A use of the result is a use of each parameter.
///
/// `function` runs again in backward, for each parameter; it must compute the same both times and capture no tracked
/// tensor. Where an input was itself computed from tracked tensors, this is `function(inputs)`.
///
/// # Errors
/// `Config` when `function` captured a tracked tensor; what `function` returns.
#[track_caller]
pub fn derive(
    inputs: &[&Tensor],
    function: impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    let mut kept = Vec::with_capacity(inputs.len());
    for x in inputs {
        kept.push(match x.origin() {
            None => (x.array().clone(), None),
            Some(Origin::Param(snapshot)) => (x.array().clone(), Some(snapshot.clone())),
            Some(_) => return function(&inputs.iter().map(|x| (*x).clone()).collect::<Vec<_>>()),
        });
    }
    let constants: Vec<Tensor> = kept.iter().map(|(x, _)| Tensor::constant(x.clone())).collect();
    let y = function(&constants)?;
    if y.is_tracked() {
        return Err(Error::new(ErrorKind::Config, "derive", "the function captured a tracked tensor")
            .expected("tracked tensors among the inputs"));
    }
    if kept.iter().all(|(_, snapshot)| snapshot.is_none()) {
        return Ok(y);
    }
    let derived = Derived { function: Box::new(function), inputs: kept };
    Ok(Tensor::with_origin(y.array().clone(), Origin::Derived(Arc::new(derived))))
}

impl Derived {
    /// The parameters, each with the number of its input.
    pub(crate) fn params(&self) -> impl Iterator<Item = (usize, &Snapshot)> {
        self.inputs.iter().enumerate().filter_map(|(i, (_, snapshot))| Some((i, snapshot.as_ref()?)))
    }
}

impl Derivation {
    pub(crate) fn of(derived: &Arc<Derived>, input: usize) -> Derivation {
        Derivation { derived: Arc::clone(derived), input }
    }

    /// The gradient of the parameter from a cotangent of the derived tensor: at once, or for a sum over samples when
    /// its total is asked for.
    pub(crate) fn through(self, cotangent: Cotangent) -> Result<Cotangent> {
        match cotangent {
            Cotangent::Dense(dy) => Ok(Cotangent::Dense(self.pull_back(dy)?)),
            Cotangent::Samples(sum) => Ok(Cotangent::Derived(sum, self)),
            Cotangent::Derived(..) => Err(Error::new(ErrorKind::Config, "derive", "a derived tensor of a derived one")
                .expected("parameters as inputs")
                .hint("compute both steps in one function")),
        }
    }

    /// The gradient of the parameter from the gradient `dy` of the derived tensor, on the device of `dy`.
    pub(crate) fn pull_back(&self, dy: Array) -> Result<Array> {
        let device = dy.device().clone();
        let inputs: Vec<Tensor> = (self.derived.inputs.iter().enumerate())
            .map(|(i, (x, _))| {
                let x = x.to_device(&device)?;
                Ok(if i == self.input { Tensor::leaf(x) } else { Tensor::constant(x) })
            })
            .collect::<Result<_>>()?;
        let y = (self.derived.function)(&inputs)?;
        let dx = if y.is_tracked() { y.backward_from(dy)?.get(&inputs[self.input])? } else { None };
        let x = inputs[self.input].array();
        let dx = dx.map_or_else(|| Array::zeros(x.shape(), x.dtype(), &device), Ok)?;
        dx.claim(Owner::Gradients);
        Ok(dx)
    }
}

impl fmt::Debug for Derivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Derivation(input {})", self.input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GradSum, Grads, Param, Role, recompute};
    use selfsame_engine::{Device, Rows, ops};

    const IMAGES: usize = 80;

    fn array(shape: &[usize], seed: usize, device: &Device) -> Array {
        let n = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..n).map(|i| ((i + seed) * 7919 % 1013) as f32 * 1e-3 - 0.4).collect();
        Array::from_slice(&values, shape, device).unwrap()
    }

    /// Directions and gains of a weight.
    struct Model {
        v: Param,
        g: Param,
    }

    fn weight(x: &[Tensor]) -> Result<Tensor> {
        x[0].transpose(0, 1)?.l2_normalize(1e-12)?.transpose(0, 1)?.mul(&x[1])
    }

    impl Model {
        fn new() -> Model {
            let device = Device::cpu_with(2).unwrap();
            Model {
                v: Param::new("v", Role::Weight, array(&[3, 5], 1, &device)),
                g: Param::new("g", Role::Weight, array(&[5], 2, &device)),
            }
        }

        fn weight(&self, is_derived: bool) -> Tensor {
            let inputs = [self.v.tensor(), self.g.tensor()];
            if is_derived { derive(&[&inputs[0], &inputs[1]], weight).unwrap() } else { weight(&inputs).unwrap() }
        }

        /// The weight is used twice, on images `from..to`.
        fn loss(&self, w: &Tensor, from: usize, to: usize) -> Result<Tensor> {
            let x = array(&[IMAGES, 2, 3], 3, self.v.array().device()).slice(0, from, to)?;
            let rows = Rows::of(x.shape(), from)?;
            let x = Tensor::constant(x);
            let y = x.linear(w, None, rows)?.mul(&x.square()?.linear(w, None, rows)?)?;
            y.square()?.sum_all()
        }

        fn bits(&self, grads: &Grads) -> Vec<u32> {
            let found = [&self.v, &self.g].map(|p| grads.param(p).unwrap().unwrap());
            found.iter().flat_map(|d| d.to_vec::<f32>().unwrap()).map(f32::to_bits).collect()
        }
    }

    #[test]
    fn micro_batches_have_the_bits_of_the_whole_batch() {
        let model = Model::new();
        let w = model.weight(true);
        let whole = model.bits(&model.loss(&w, 0, IMAGES).unwrap().backward().unwrap());
        let parts = [(0, 16), (16, 48), (48, IMAGES)];
        let mut merged = Grads::default();
        let sum = GradSum::new(model.v.array().device());
        for (i, (from, to)) in parts.into_iter().enumerate() {
            let loss = || model.loss(&model.weight(true), from, to).unwrap();
            merged.merge(loss().backward().unwrap()).unwrap();
            sum.add_loss(i, &loss()).unwrap();
        }
        assert_eq!(model.bits(&merged), whole);
        assert_eq!(model.bits(&sum.finish().unwrap()), whole);
        let undivided = model.weight(false);
        let error = model.loss(&undivided, 16, 48).unwrap().backward().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Numerics, "why derive is needed");
    }

    #[test]
    fn gradients_are_those_of_the_plain_graph() {
        let model = Model::new();
        let grads = |is_derived| {
            let grads = model.loss(&model.weight(is_derived), 0, IMAGES).unwrap().backward().unwrap();
            [&model.v, &model.g].map(|p| grads.param(p).unwrap().unwrap().to_vec::<f32>().unwrap()).concat()
        };
        let (derived, plain) = (grads(true), grads(false));
        let largest = plain.iter().fold(0f32, |m, d| m.max(d.abs()));
        assert!(largest > 0.0);
        // Two uses: mapped and added here, added and mapped there. Each of the few roundings is below 2^-23.
        assert!(derived.iter().zip(&plain).all(|(a, b)| (a - b).abs() <= 1e-5 * largest), "{derived:?} {plain:?}");
    }

    #[test]
    fn recomputed_segments_take_derived_tensors() {
        let model = Model::new();
        let device = model.v.array().device().clone();
        let run = |again: bool| {
            let w = model.weight(true);
            let x = Tensor::constant(array(&[16, 3], 3, &device));
            let rows = Rows::of(&[16, 3], 16).unwrap();
            let body = move |x: &[Tensor]| Ok(vec![x[0].linear(&x[1], None, rows)?.tanh()?]);
            let y = if again { recompute(body, &[&x, &w]).unwrap() } else { body(&[x, w]).unwrap() };
            let mut grads = y[0].sum_all().unwrap().backward().unwrap();
            // The other leaf of the batch.
            let other = Tensor::constant(array(&[16, 3], 4, &device));
            let first = other.linear(&model.weight(true), None, Rows::of(&[16, 3], 0).unwrap()).unwrap();
            grads.merge(first.sum_all().unwrap().backward().unwrap()).unwrap();
            model.bits(&grads)
        };
        assert_eq!(run(true), run(false));
    }

    #[test]
    fn constants_stay_constant_and_captured_tensors_are_refused() {
        let model = Model::new();
        let [v, g] = [&model.v, &model.g].map(Param::constant);
        assert!(!derive(&[&v, &g], weight).unwrap().is_tracked());
        let captured = model.g.tensor();
        let error = derive(&[&model.v.tensor()], move |x| weight(&[x[0].clone(), captured.clone()]));
        assert_eq!(error.err().map(|e| e.kind()), Some(ErrorKind::Config));
        let w = model.weight(true);
        model.v.set(ops::scale(model.v.array(), 2.0).unwrap()).unwrap();
        let stale = model.loss(&w, 0, IMAGES).unwrap().backward();
        assert_eq!(stale.err().map(|e| e.kind()), Some(ErrorKind::Stale));
    }
}
