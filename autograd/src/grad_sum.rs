//! `GradSum`: the gradients of a step whose batch is cut, joined while the backwards of its parts run.

use crate::backward::{Pass, Use, UseKey};
use crate::grads::ParamGrads;
use crate::{Cotangent, Derivation, Grads, Param, Tensor};
use selfsame_engine::{Array, Device, Error, ErrorKind, Result, SampleSum, ops};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Gradients of parameters, summed over the parts of a step: micro-batches and ranks, one after another or on threads of
/// their own.
///
/// The bits are those of [`Grads::merge`] over the parts in order. But a sum over samples takes a part's nodes as soon
/// as an operation's backward has made them, so that parts which run together hold the gradients of one.
pub struct GradSum {
    device: Device,
    params: Mutex<BTreeMap<u64, Sums>>,
}

/// The uses of one parameter.
struct Sums {
    param: Param,
    /// In order of arrival.
    uses: Vec<Sum>,
    /// Places of `uses` in forward order, once a part is done.
    order: Option<Vec<usize>>,
}

/// One use.
#[derive(Default)]
struct Sum {
    samples: Option<SampleSum>,
    /// What the total of `samples` goes through.
    derivation: Option<Derivation>,
    /// What is no sum over samples, by part: added in the order of the parts.
    dense: BTreeMap<usize, Array>,
}

impl GradSum {
    /// No gradients yet; they will be on `device`.
    pub fn new(device: &Device) -> GradSum {
        GradSum { device: device.clone(), params: Mutex::default() }
    }

    /// Adds the gradients of the scalar `loss` of part `part`: see [`Tensor::backward`].
    ///
    /// # Errors
    /// As for [`GradSum::add`].
    pub fn add_loss(&self, part: usize, loss: &Tensor) -> Result<()> {
        self.add(part, &[(loss.clone(), loss.one()?)])
    }

    /// Adds the gradients of Σ ⟨y, dy⟩ over the tensors y of part `part` and their output gradients dy: one backward from
    /// several places of a graph, as when the objective's part of the graph was walked before. Gradients of leaves are
    /// dropped.
    ///
    /// # Errors
    /// As for [`Tensor::backward_from`]; `Numerics` when the parts did not come from the same program, or when two hold
    /// the same images.
    pub fn add(&self, part: usize, roots: &[(Tensor, Array)]) -> Result<()> {
        let mut pass = Pass::default();
        for (y, dy) in roots {
            pass.seed(y.root_for(dy)?, Cotangent::Dense(dy.clone()))?;
        }
        let mut arrived: BTreeMap<u64, Vec<UseKey>> = BTreeMap::new();
        loop {
            let goes_on = pass.advance()?;
            for Use { key, param, cotangent } in pass.uses.drain(..) {
                let keys = arrived.entry(param.id()).or_default();
                self.take(part, keys.len(), param, cotangent.moved_to(&self.device)?)?;
                keys.push(key);
            }
            if !goes_on {
                break;
            }
        }
        let mut params = self.lock();
        for (id, keys) in arrived {
            let mut order: Vec<usize> = (0..keys.len()).collect();
            order.sort_by(|&a, &b| keys[a].cmp(&keys[b]));
            let sums = params.get_mut(&id).expect("its uses have arrived");
            if *sums.order.get_or_insert_with(|| order.clone()) != order {
                return Err(unlike(&sums.param, "other uses in one part of the step than in another"));
            }
        }
        Ok(())
    }

    /// The `arrival`-th gradient of `param` that a backward delivers. Backwards of the same program deliver in the same
    /// order.
    fn take(&self, part: usize, arrival: usize, param: Param, cotangent: Cotangent) -> Result<()> {
        let mut params = self.lock();
        let sums = params.entry(param.id()).or_insert_with(|| Sums { param, uses: Vec::new(), order: None });
        if sums.uses.len() <= arrival {
            sums.uses.resize_with(arrival + 1, Sum::default);
        }
        let sum = &mut sums.uses[arrival];
        match cotangent {
            Cotangent::Samples(nodes) => sum.samples.get_or_insert_default().merge(nodes),
            Cotangent::Derived(nodes, derivation) => {
                sum.derivation.get_or_insert(derivation);
                sum.samples.get_or_insert_default().merge(nodes)
            }
            Cotangent::Dense(array) => {
                sum.dense.insert(part, array);
                Ok(())
            }
        }
    }

    /// All gradients.
    ///
    /// # Errors
    /// `Numerics` when the parts did not come from the same program.
    pub fn finish(self) -> Result<Grads> {
        let params = self.params.into_inner().unwrap_or_else(PoisonError::into_inner);
        let finish = |(id, sums): (u64, Sums)| {
            let Sums { param, mut uses, order } = sums;
            let order = order.filter(|order| order.len() == uses.len());
            let order = order.ok_or_else(|| unlike(&param, "a use that one part of the step does not have"))?;
            let uses = order.iter().map(|&place| std::mem::take(&mut uses[place]).joined(&param));
            Ok((id, ParamGrads { uses: uses.collect::<Result<_>>()?, param }))
        };
        params.into_iter().map(finish).collect::<Result<_>>().map(Grads::of_params)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Sums>> {
        self.params.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sum {
    fn joined(self, param: &Param) -> Result<Cotangent> {
        let mut dense = self.dense.into_values();
        match (self.samples, dense.next()) {
            (Some(sum), None) => Ok(match self.derivation {
                Some(derivation) => Cotangent::Derived(sum, derivation),
                None => Cotangent::Samples(sum),
            }),
            (None, Some(first)) => dense.try_fold(first, |sum, d| ops::add_assign(sum, &d)).map(Cotangent::Dense),
            _ => Err(unlike(param, "a sum over samples in one part of the step, an array in another")),
        }
    }
}

fn unlike(param: &Param, got: &str) -> Error {
    Error::new(ErrorKind::Numerics, param.path(), got).expected("the same forward for every micro-batch and rank")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Role;
    use selfsame_engine::Rows;

    const IMAGES: usize = 80;

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| (((i + seed) * 7919) % 1013) as f32 * 1e-3 - 0.4).collect()
    }

    struct Model {
        w: Param,
        gamma: Param,
    }

    impl Model {
        fn new() -> Model {
            let device = Device::cpu_with(1).unwrap();
            let array = |n: usize, shape: &[usize]| Array::from_slice(&values(n, n), shape, &device).unwrap();
            Model {
                w: Param::new("w", Role::Weight, array(9, &[3, 3])),
                gamma: Param::new("gamma", Role::NormScale, array(3, &[3])),
            }
        }

        fn device(&self) -> Device {
            self.w.array().device().clone()
        }

        /// Two tensors of the images `from..to`, of which one leads to the other. Uses w twice and gamma once.
        fn embed(&self, from: usize, to: usize) -> [Tensor; 2] {
            let x = Array::from_slice(&values(IMAGES * 3, 1)[from * 3..to * 3], &[to - from, 3], &self.device());
            let (x, rows) = (Tensor::constant(x.unwrap()), Rows::of(&[to - from, 3], from).unwrap());
            let h = x.linear(&self.w.tensor(), None, rows).unwrap().tanh().unwrap();
            let z = h.linear(&self.w.tensor(), None, rows).unwrap().mul(&self.gamma.tensor()).unwrap();
            [h, z]
        }

        /// Uses gamma again.
        fn objective(&self, [h, z]: &[Tensor; 2]) -> Tensor {
            let y = h.mul(z).unwrap().add(h).unwrap().mul(&self.gamma.tensor()).unwrap();
            y.square().unwrap().sum_all().unwrap()
        }

        fn bits(&self, grads: &Grads) -> Vec<u32> {
            let found = [&self.w, &self.gamma].map(|p| grads.param(p).unwrap().unwrap());
            found.iter().flat_map(|d| d.to_vec::<f32>().unwrap()).map(f32::to_bits).collect()
        }
    }

    #[test]
    fn a_backward_in_two_halves_has_the_bits_of_one() {
        let model = Model::new();
        let whole = model.bits(&model.objective(&model.embed(0, IMAGES)).backward().unwrap());
        let sum = GradSum::new(&model.device());
        sum.add_loss(0, &model.objective(&model.embed(0, IMAGES))).unwrap();
        assert_eq!(model.bits(&sum.finish().unwrap()), whole);

        let embedded = model.embed(0, IMAGES);
        let leaves = embedded.clone().map(|z| Tensor::leaf(z.array().clone()));
        let later = model.objective(&leaves).backward().unwrap();
        let dz = leaves.map(|leaf| later.get(&leaf).unwrap().unwrap());
        let roots: Vec<(Tensor, Array)> = embedded.into_iter().zip(dz).collect();
        let sum = GradSum::new(&model.device());
        sum.add(0, &roots).unwrap();
        let mut grads = sum.finish().unwrap();
        grads.append(later).unwrap();
        assert_eq!(model.bits(&grads), whole);
    }

    #[test]
    fn parts_in_any_order_have_the_bits_of_merged_ones() {
        let model = Model::new();
        let loss = |(from, to): (usize, usize)| model.objective(&model.embed(from, to));
        let parts = [(0, 16), (16, 48), (48, IMAGES)];
        let mut merged = Grads::default();
        parts.iter().for_each(|part| merged.merge(loss(*part).backward().unwrap()).unwrap());
        for order in [[0, 1, 2], [2, 0, 1]] {
            let sum = GradSum::new(&model.device());
            std::thread::scope(|scope| {
                for part in order {
                    let (sum, loss) = (&sum, &loss);
                    scope.spawn(move || sum.add_loss(part, &loss(parts[part])).unwrap());
                }
            });
            assert_eq!(model.bits(&sum.finish().unwrap()), model.bits(&merged));
        }
    }

    #[test]
    fn parts_of_different_programs_are_refused() {
        let model = Model::new();
        let sum = GradSum::new(&model.device());
        sum.add_loss(0, &model.objective(&model.embed(0, 16))).unwrap();
        let other = model.embed(16, 32)[0].square().unwrap().sum_all().unwrap();
        let added = sum.add_loss(1, &other);
        assert_eq!(added.and_then(|()| sum.finish().map(drop)).unwrap_err().kind(), ErrorKind::Numerics);
        let sum = GradSum::new(&model.device());
        sum.add_loss(0, &model.objective(&model.embed(0, 16))).unwrap();
        let again = sum.add_loss(1, &model.objective(&model.embed(0, 16)));
        assert_eq!(again.unwrap_err().kind(), ErrorKind::Numerics);
    }
}
