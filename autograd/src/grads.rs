//! `Grads`: the gradients of one step, kept as tree nodes and uses until they are asked for.

use crate::backward::Pass;
use crate::graph::Origin;
use crate::{Cotangent, Param, Tensor};
use selfsame_engine::profile::Owner;
use selfsame_engine::{Array, Comm, Device, Error, ErrorKind, Result, ops};
use std::collections::BTreeMap;
use std::fmt;

/// Gradients of leaves and parameters.
///
/// A parameter's gradient is the sum over its *uses* in forward order, and each use is either one array or the part
/// of a sum over samples that this micro-batch or rank has seen. [`Grads::merge`] joins micro-batches and
/// [`Grads::all_sum`] joins ranks, use by use, so the bits do not depend on how the batch was cut.
#[derive(Default)]
pub struct Grads {
    leaves: BTreeMap<u64, Array>,
    params: BTreeMap<u64, ParamGrads>,
}

pub(crate) struct ParamGrads {
    pub(crate) param: Param,
    /// In forward order.
    pub(crate) uses: Vec<Cotangent>,
}

impl ParamGrads {
    fn scale(self, factor: f64) -> Result<ParamGrads> {
        let uses = self.uses.into_iter().map(|d| d.scale(factor)).collect::<Result<_>>()?;
        Ok(ParamGrads { param: self.param, uses })
    }
}

impl Grads {
    pub(crate) fn of_params(params: BTreeMap<u64, ParamGrads>) -> Grads {
        Grads { leaves: BTreeMap::new(), params }
    }

    pub(crate) fn collect(mut pass: Pass) -> Result<Grads> {
        let mut grads = Grads::default();
        grads.add_leaves(pass.leaves)?;
        pass.uses.sort_by(|a, b| a.key.cmp(&b.key));
        for used in pass.uses {
            let entry = grads.params.entry(used.param.id());
            entry.or_insert_with(|| ParamGrads { param: used.param, uses: Vec::new() }).uses.push(used.cotangent);
        }
        Ok(grads)
    }

    fn add_leaves(&mut self, leaves: impl IntoIterator<Item = (u64, Array)>) -> Result<()> {
        for (leaf, d) in leaves {
            let sum = match self.leaves.remove(&leaf) {
                None => d,
                Some(sum) => ops::add_assign(sum, &d)?,
            };
            self.leaves.insert(leaf, sum);
        }
        Ok(())
    }

    /// The gradient of a leaf or, for a tensor taken from a parameter, of that parameter; `None` when none arrived.
    ///
    /// # Errors
    /// `Config` for a computed or untracked tensor; else as for [`Grads::param`].
    #[track_caller]
    pub fn get(&self, tensor: &Tensor) -> Result<Option<Array>> {
        match tensor.origin() {
            Some(Origin::Leaf(leaf)) => Ok(self.leaves.get(leaf).cloned()),
            Some(Origin::Param(snapshot)) => self.param(&snapshot.param),
            Some(Origin::Derived(_) | Origin::Node(..)) | None => Err(Error::new(
                ErrorKind::Config,
                "gradient",
                format!("asked of a tensor of shape {:?}", tensor.shape()),
            )
            .expected("a leaf or a parameter's tensor")
            .hint("gradients of computed and untracked tensors are not kept")),
        }
    }

    /// The gradient of a parameter: its uses added in forward order; `None` when none arrived.
    ///
    /// # Errors
    /// `Numerics` when a micro-batch or rank of a sum over samples is missing.
    pub fn param(&self, param: &Param) -> Result<Option<Array>> {
        let Some(grads) = self.params.get(&param.id()) else { return Ok(None) };
        let mut uses = grads.uses.iter().cloned().map(Cotangent::total);
        let Some(first) = uses.next() else { return Ok(None) };
        let total = uses.try_fold(first?, |sum, d| ops::add_assign(sum, &d?))?;
        total.claim(Owner::Gradients);
        Ok(Some(total))
    }

    /// Adds the gradients of another micro-batch of the same step: its k-th use of a parameter meets the k-th here.
    ///
    /// # Errors
    /// `Numerics` when the two did not come from the same program: another number or kind of uses, or the same images
    /// twice.
    pub fn merge(&mut self, other: Grads) -> Result<()> {
        self.add_leaves(other.leaves)?;
        for (id, theirs) in other.params {
            match self.params.remove(&id) {
                None => {
                    self.params.insert(id, theirs);
                }
                Some(ours) => {
                    let param = ours.param.clone();
                    let uses = join(param.path(), ours.uses, theirs.uses)?;
                    self.params.insert(id, ParamGrads { param, uses });
                }
            }
        }
        Ok(())
    }

    /// Adds the gradients of a later part of the same forward: its uses of a parameter come behind those here.
    ///
    /// # Errors
    /// What the primitives return.
    pub fn append(&mut self, later: Grads) -> Result<()> {
        self.add_leaves(later.leaves)?;
        for (id, theirs) in later.params {
            let entry = self.params.entry(id);
            entry.or_insert_with(|| ParamGrads { param: theirs.param, uses: Vec::new() }).uses.extend(theirs.uses);
        }
        Ok(())
    }

    /// The gradients for use on `device`, as [`Array::to_device`] moves them.
    ///
    /// # Errors
    /// As for [`Array::to_device`].
    pub fn to_device(mut self, device: &Device) -> Result<Grads> {
        for d in self.leaves.values_mut() {
            *d = d.to_device(device)?;
        }
        for grads in self.params.values_mut() {
            let uses = std::mem::take(&mut grads.uses).into_iter();
            grads.uses = uses.map(|d| d.moved_to(device)).collect::<Result<_>>()?;
        }
        Ok(self)
    }

    /// Joins the ranks' gradients of parameters, so that every rank holds the whole batch's. Leaves stay local.
    ///
    /// Sums over samples meet in the sample tree; other gradients are added in rank order. Every rank must have used
    /// the same parameters (by path) equally often.
    ///
    /// # Errors
    /// As for [`Comm::exchange`] and [`Grads::merge`].
    pub fn all_sum(mut self, comm: &Comm) -> Result<Grads> {
        if comm.size() == 1 {
            return Ok(self);
        }
        let mut order: Vec<(String, u64)> =
            self.params.iter().map(|(id, g)| (g.param.path().to_string(), *id)).collect();
        order.sort();
        let paths: Vec<&str> = order.iter().map(|(path, _)| path.as_str()).collect();
        let theirs = comm.exchange(order.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>())?;
        if let Some(other) = theirs.iter().position(|other| *other != paths) {
            return Err(Error::new(
                ErrorKind::Numerics,
                "gradients over ranks",
                format!(
                    "rank {other} has gradients of {} parameters, rank {} of {}",
                    theirs[other].len(),
                    comm.rank(),
                    paths.len()
                ),
            )
            .expected("the same parameters on every rank"));
        }
        for (path, id) in &order {
            let grads = self.params.get_mut(id).expect("the order was taken from these keys");
            let device = grads.uses.first().and_then(Cotangent::device);
            let Some(device) = device else { continue };
            let mut ranks = comm
                .exchange(std::mem::take(&mut grads.uses))?
                .into_iter()
                .map(|uses| uses.into_iter().map(|d| d.moved_to(&device)).collect::<Result<Vec<_>>>());
            let first = ranks.next().expect("a group has at least one rank")?;
            grads.uses = ranks.try_fold(first, |sum, uses| join(path, sum, uses?))?;
        }
        Ok(self)
    }

    /// The parameters that gradients arrived at, in the order they were made.
    pub fn params(&self) -> impl Iterator<Item = &Param> {
        self.params.values().map(|g| &g.param)
    }

    /// Multiplies every gradient, uses and nodes alike: loss weights, gradient clipping.
    ///
    /// # Errors
    /// What the primitives return.
    pub fn scale(self, factor: f64) -> Result<Grads> {
        let leaves = self.leaves.into_iter().map(|(id, d)| Ok((id, ops::scale(d, factor)?))).collect::<Result<_>>()?;
        let params = self.params.into_iter().map(|(id, g)| Ok((id, g.scale(factor)?))).collect::<Result<_>>()?;
        Ok(Grads { leaves, params })
    }

    /// Limits the Euclidean norm of each parameter's gradient, one by one, to `largest` (times norm / (norm + 1e-6), as
    /// DINO's code does). Gradients that are not finite stay as they are.
    ///
    /// # Errors
    /// `Numerics` when parts of the batch are missing, and what the primitives return.
    pub fn clip_each(mut self, largest: f64) -> Result<Grads> {
        for (id, grads) in std::mem::take(&mut self.params) {
            let mut uses = grads.uses.iter().cloned().map(Cotangent::total);
            let Some(first) = uses.next() else { continue };
            let total = uses.try_fold(first?, |sum, d| ops::add_assign(sum, &d?))?;
            let factor = largest / (ops::norm_sq(&total)?.sqrt() + 1e-6);
            self.params.insert(id, if factor < 1.0 { grads.scale(factor)? } else { grads });
        }
        Ok(self)
    }
}

impl fmt::Debug for Grads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths = self.params.values().map(|g| (g.param.path(), g.uses.len()));
        f.debug_struct("Grads").field("leaves", &self.leaves.len()).field("uses", &paths.collect::<Vec<_>>()).finish()
    }
}

/// The k-th use of one with the k-th of the other.
fn join(path: &str, ours: Vec<Cotangent>, theirs: Vec<Cotangent>) -> Result<Vec<Cotangent>> {
    let (n, m) = (ours.len(), theirs.len());
    if n != m {
        return Err(Error::new(
            ErrorKind::Numerics,
            path,
            format!("{n} uses in one part of the step and {m} in another"),
        )
        .expected("the same forward for every micro-batch and rank"));
    }
    ours.into_iter().zip(theirs).map(|(a, b)| a.join(b, path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Role;
    use crate::ops::{BatchNorm, BatchStats};
    use selfsame_engine::Rows;
    use std::sync::Arc;

    const IMAGES: usize = 80;

    struct Model {
        w: Param,
        b: Param,
        gamma: Param,
    }

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| (((i + seed) * 7919) % 1013) as f32 * 1e-3 - 0.4).collect()
    }

    impl Model {
        fn new(device: &Device) -> Model {
            let array = |n: usize, shape: &[usize]| Array::from_slice(&values(n, n), shape, device).unwrap();
            Model {
                w: Param::new("w", Role::Weight, array(15, &[3, 5])),
                b: Param::new("b", Role::Bias, array(5, &[5])),
                gamma: Param::new("gamma", Role::NormScale, array(5, &[5])),
            }
        }

        /// The gradients of images `from..to`, whose layer is used twice.
        fn grads(&self, device: &Device, from: usize, to: usize, stats: Option<BatchStats>) -> Result<Grads> {
            let data = values(IMAGES * 2 * 3, 1);
            let x = Array::from_slice(&data[from * 6..to * 6], &[to - from, 2, 3], device)?;
            let rows = Rows::of(x.shape(), from)?;
            let x = Tensor::constant(x);
            let twice = [x.clone(), x.square()?];
            let hidden = twice.map(|x| x.linear(&self.w.tensor(), Some(&self.b.tensor()), rows));
            let [a, b] = hidden;
            let mut y = a?.mul(&b?)?;
            if let Some(stats) = stats {
                y = y.batch_norm(Some(&self.gamma.tensor()), None, &BatchNorm { eps: 1e-5, rows, stats })?.y;
            }
            y.square()?.sum_all()?.backward()
        }

        fn bits(&self, grads: &Grads) -> Vec<u32> {
            let found = [&self.w, &self.b, &self.gamma].map(|p| grads.param(p).unwrap());
            found.into_iter().flatten().flat_map(|d| d.to_vec::<f32>().unwrap()).map(f32::to_bits).collect()
        }
    }

    #[test]
    fn micro_batches_have_the_bits_of_the_whole_batch() {
        let device = Device::cpu_with(2).unwrap();
        let model = Model::new(&device);
        let whole = model.bits(&model.grads(&device, 0, IMAGES, None).unwrap());
        for cuts in [vec![0, 16, IMAGES], vec![0, 32, 64, IMAGES], vec![0, 16, 32, 48, 64, IMAGES]] {
            let mut grads = Grads::default();
            for part in cuts.windows(2) {
                grads.merge(model.grads(&device, part[0], part[1], None).unwrap()).unwrap();
            }
            assert_eq!(model.bits(&grads), whole);
        }
    }

    #[test]
    fn gradients_are_clipped_one_by_one() {
        let device = Device::cpu_with(1).unwrap();
        let model = Model::new(&device);
        let norm = |grads: &Grads, p| ops::norm_sq(&grads.param(p).unwrap().unwrap()).unwrap().sqrt();
        let plain = model.grads(&device, 0, IMAGES, None).unwrap();
        let (w, b) = (norm(&plain, &model.w), norm(&plain, &model.b));
        assert!(w != b);
        let between = (w + b) / 2.0;
        let clipped = model.grads(&device, 0, IMAGES, None).unwrap().clip_each(between).unwrap();
        for (param, before) in [(&model.w, w), (&model.b, b)] {
            let expected = if before > between { between } else { before };
            assert!((norm(&clipped, param) / expected - 1.0).abs() < 1e-5);
        }
        assert_eq!(
            model.bits(&model.grads(&device, 0, IMAGES, None).unwrap().clip_each(1e9).unwrap()),
            model.bits(&plain)
        );
    }

    #[test]
    fn a_missing_or_repeated_micro_batch_is_refused() {
        let device = Device::cpu_with(1).unwrap();
        let model = Model::new(&device);
        let mut grads = model.grads(&device, 16, 32, None).unwrap();
        assert_eq!(grads.param(&model.w).unwrap_err().kind(), ErrorKind::Numerics);
        let again = model.grads(&device, 16, 32, None).unwrap();
        assert_eq!(grads.merge(again).unwrap_err().kind(), ErrorKind::Numerics);
    }

    #[test]
    fn ranks_with_synchronised_batch_norm_have_the_bits_of_one() {
        let device = Device::cpu_with(1).unwrap();
        let model = Model::new(&device);
        let whole = model.bits(&model.grads(&device, 0, IMAGES, Some(BatchStats::Batch(None))).unwrap());
        for cuts in [vec![0, 32, IMAGES], vec![0, 16, 48, IMAGES]] {
            let comms = Comm::emulated(cuts.len() - 1).unwrap();
            std::thread::scope(|scope| {
                let ranks: Vec<_> = comms
                    .into_iter()
                    .map(|comm| {
                        let cuts = &cuts;
                        scope.spawn(move || {
                            let device = Device::cpu_with(1).unwrap();
                            let (model, comm) = (Model::new(&device), Arc::new(comm));
                            let (from, to) = (cuts[comm.rank()], cuts[comm.rank() + 1]);
                            let stats = BatchStats::Batch(Some(comm.clone()));
                            let grads = model.grads(&device, from, to, Some(stats)).unwrap();
                            model.bits(&grads.all_sum(&comm).unwrap())
                        })
                    })
                    .collect();
                for rank in ranks {
                    assert_eq!(rank.join().unwrap(), whole);
                }
            });
        }
    }

    #[test]
    fn gradients_of_computed_tensors_are_not_kept() {
        let device = Device::cpu_with(1).unwrap();
        let y = Tensor::leaf(Array::scalar(2f32, &device).unwrap()).square().unwrap();
        let grads = y.backward().unwrap();
        assert_eq!(grads.get(&y).unwrap_err().kind(), ErrorKind::Config);
    }

    #[test]
    fn scaling_reaches_every_node() {
        let device = Device::cpu_with(1).unwrap();
        let model = Model::new(&device);
        let grads = model.grads(&device, 0, IMAGES, None).unwrap();
        let plain = grads.param(&model.w).unwrap().unwrap().to_vec::<f32>().unwrap();
        let halved = grads.scale(0.5).unwrap().param(&model.w).unwrap().unwrap().to_vec::<f32>().unwrap();
        assert!(plain.iter().zip(&halved).all(|(p, h)| p * 0.5 == *h));
    }
}
