//! Loss and gradients of a batch under a [`Cut`].
//!
//! ```text
//! whole      embed ─ objective ─ backward             one graph; with ranks, a thread and a graph for each one's share
//! cached     embed each micro-batch without a graph ─ objective on all ─ for each: embed again ─ backward
//! lockstep   embed all micro-batches together ─ objective on all ─ backward of all together; a thread for each
//! ```
//! Caching (GradCache: Gao et al. 2021, arXiv:2101.06983) keeps the activations of one micro-batch at a time and pays
//! with a second forward, which draws the same random numbers because these are keyed by image. In lockstep every
//! micro-batch is a rank to batch norm, whose statistics are exchanged layer by layer; micro-batches of one rank take
//! turns on its device, so that one workspace serves all.
//!
//! The bits are those of one graph: the objective sees the same embeddings, sums over samples meet in one tree, and a
//! parameter's uses in the objective come behind those in the networks.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use selfsame_autograd::{GradSum, Grads, Tensor};
use selfsame_engine::comm::Turn;
use selfsame_engine::op_log::enter_lane;
use selfsame_engine::profile::{Phase, PhaseScope};
use selfsame_engine::{Array, Comm, Device, Error, ErrorKind, Result, ops};
use selfsame_models::{Ctx, Updates};

use super::{Clock, Cut, scalar};
use crate::method::{Embeddings, Method, NamedArrays, Step, Views};

/// One step's work: shared by the threads that do it.
pub(super) struct Job<'a> {
    pub(super) method: &'a dyn Method,
    pub(super) cut: &'a Cut,
    /// The device as each rank has it.
    pub(super) shares: &'a [Device],
    /// What every part's context is made from.
    pub(super) context: &'a (dyn Fn() -> Ctx + Sync),
}

/// What a batch gave. Nothing is written yet.
pub(super) struct Computed {
    pub(super) objective: Objective,
    pub(super) grads: Grads,
    pub(super) updates: Updates,
    pub(super) forward: Duration,
    pub(super) backward: Duration,
}

/// What the objective gave.
pub(super) struct Objective {
    pub(super) loss: f64,
    pub(super) scalars: Vec<(String, f64)>,
    /// Embeddings to watch, `[n, d]`.
    pub(super) embeddings: Option<Array>,
}

/// What one thread gave: a rank, or in lockstep a micro-batch.
struct Part {
    updates: Updates,
    /// One per rank, with the gradients of the parameters that the objective uses itself.
    objective: Option<(Objective, Grads)>,
    forward: Duration,
    backward: Duration,
}

/// What the objective gave on a rank's embeddings.
struct Evaluated {
    objective: Objective,
    /// Of the parameters that it uses itself.
    grads: Grads,
    /// Of each embedding.
    dz: Vec<Option<Array>>,
}

/// A micro-batch that advances together with all others.
struct Participant {
    number: usize,
    rank: usize,
    images: Range<usize>,
    turn: Turn,
    /// All micro-batches of all ranks.
    batch: Comm,
    /// The micro-batches of this rank.
    peers: Comm,
    /// All ranks; held by each rank's first micro-batch.
    ranks: Option<Comm>,
}

impl Job<'_> {
    /// Loss, gradients and buffer updates of the batch.
    ///
    /// # Errors
    /// `Config` when the batch is not the one that the cut is for; `NonFinite` for such a loss; `Numerics` when the
    /// method or its networks need more of the batch than a part of it; `Device` when a thread of its own ended in a
    /// panic; and those of the operations.
    pub(super) fn run(&self, views: &Views) -> Result<Computed> {
        let images = views.images();
        if !self.cut.is_whole() && images != self.cut.images() {
            return Err(Error::new(ErrorKind::Config, "batch", format!("{images} images")).expected(format!(
                "{}, cut into {:?}",
                self.cut.images(),
                self.cut.micro_batches()
            )));
        }
        let sum = GradSum::new(&self.shares[0]);
        let parts = if self.cut.is_whole() {
            vec![self.whole(views, 0, (self.context)(), &sum)?]
        } else if self.cut.has_micro_batches() && !self.cut.runs_apart() {
            on_threads("micro-batch", self.participants()?, |participant| self.lockstep(views, participant, &sum))?
        } else {
            on_threads("rank", Comm::emulated(self.cut.ranks())?, |comm| self.rank(views, Arc::new(comm), &sum))?
        };
        joined(parts, sum.finish()?)
    }

    /// Tells the profiler of a phase. Threads that work side by side have none: an owner of memory is the device's.
    fn phase(&self, phase: Phase) -> Option<PhaseScope> {
        (self.shares.len() == 1).then(|| self.shares[0].phase(phase))
    }

    /// A rank whose micro-batches, if any, run one after another.
    fn rank(&self, views: &Views, comm: Arc<Comm>, sum: &GradSum) -> Result<Part> {
        let rank = comm.rank();
        match &self.cut.parts()[rank][..] {
            // With micro-batches on other ranks, uses in networks and objective are kept apart here as there.
            [all] if !self.cut.has_micro_batches() => {
                let cx = (self.context)().comm(comm).first_image(all.start);
                self.whole(&views.part(all, &self.shares[rank])?, rank, cx, sum)
            }
            micro => self.cached(views, micro, comm, sum),
        }
    }

    /// One graph.
    fn whole(&self, views: &Views, rank: usize, cx: Ctx, sum: &GradSum) -> Result<Part> {
        let mut clock = Clock::start();
        let phase = self.phase(Phase::Forward);
        let (loss, objective) = evaluated(self.method.loss(views, &cx)?)?;
        drop(phase);
        let forward = clock.lap();
        let phase = self.phase(Phase::Backward);
        sum.add_loss(rank, &loss)?;
        drop(loss);
        drop(phase);
        let objective = Some((objective, Grads::default()));
        Ok(Part { updates: cx.take_updates(), objective, forward, backward: clock.lap() })
    }

    /// Gradient caching.
    fn cached(&self, views: &Views, micro: &[Range<usize>], comm: Arc<Comm>, sum: &GradSum) -> Result<Part> {
        let mut clock = Clock::start();
        let phase = self.phase(Phase::Forward);
        let (device, first) = (&self.shares[comm.rank()], micro[0].start);
        let context = |images: &Range<usize>| (self.context)().comm(Arc::clone(&comm)).first_image(images.start);
        let (mut embedded, mut targets, mut updates) = (Vec::new(), Vec::new(), Updates::default());
        for images in micro {
            let (part, cx) = (views.part(images, device)?, context(images).apart(true).no_grad());
            embedded.push(self.method.embed(&part, &cx)?.arrays(images.len())?);
            targets.push(self.method.targets(&part, &cx)?.arrays(images.len())?);
            updates.merge(cx.take_updates())?;
        }
        let cx = context(&micro[0]);
        let Evaluated { objective, grads: own, dz } = self.objective(&embedded, &targets, &cx)?;
        updates.merge(cx.take_updates())?;
        drop((embedded, targets));
        drop(phase);
        let forward = clock.lap();
        let phase = self.phase(Phase::Backward);

        let earlier: usize = self.cut.parts()[..comm.rank()].iter().map(Vec::len).sum();
        for (i, images) in micro.iter().enumerate() {
            // What this forward observes, the first one has: its updates go nowhere.
            let z = self.method.embed(&views.part(images, device)?, &context(images).apart(true))?;
            sum.add(earlier + i, &roots(&z, &dz, images.start - first..images.end - first)?)?;
        }
        drop(phase);
        Ok(Part { updates, objective: Some((objective, own)), forward, backward: clock.lap() })
    }

    /// All micro-batches, in global order.
    fn participants(&self) -> Result<Vec<Participant>> {
        let parts = self.cut.parts();
        let mut batch = Comm::emulated(parts.iter().map(Vec::len).sum())?.into_iter();
        let mut participants = Vec::new();
        for (ranks, micro) in Comm::emulated(parts.len())?.into_iter().zip(parts) {
            let (turn, rank) = (Turn::default(), ranks.rank());
            let mut ranks = Some(ranks.in_turns(&turn));
            for ((images, peers), batch) in micro.iter().zip(Comm::emulated(micro.len())?).zip(&mut batch) {
                participants.push(Participant {
                    number: batch.rank(),
                    rank,
                    images: images.clone(),
                    turn: turn.clone(),
                    batch: batch.in_turns(&turn),
                    peers: peers.in_turns(&turn),
                    ranks: ranks.take(),
                });
            }
        }
        Ok(participants)
    }

    /// One micro-batch of those that advance together.
    fn lockstep(&self, views: &Views, participant: Participant, sum: &GradSum) -> Result<Part> {
        let Participant { number, rank, images, turn, batch, peers, ranks } = participant;
        let _turn = turn.take();
        let mut clock = Clock::start();
        let cx = (self.context)().comm(Arc::new(batch)).first_image(images.start);
        let part = views.part(&images, &self.shares[rank])?;
        let z = self.method.embed(&part, &cx)?;
        let targets = self.method.targets(&part, &cx.clone().no_grad())?.arrays(images.len())?;
        let mut updates = cx.take_updates();

        let first = self.cut.parts()[rank][0].start;
        let all = peers.exchange((z.arrays(images.len())?, targets))?;
        let (mut objective, mut dz) = (None, None);
        if let Some(ranks) = ranks {
            let cx = (self.context)().comm(Arc::new(ranks)).first_image(first);
            let (embedded, targets): (Vec<_>, Vec<_>) = all.into_iter().unzip();
            let evaluated = self.objective(&embedded, &targets, &cx)?;
            updates.merge(cx.take_updates())?;
            (objective, dz) = (Some((evaluated.objective, evaluated.grads)), Some(evaluated.dz));
        }
        let dz = peers.exchange(dz)?.into_iter().flatten().next().expect("a rank's first micro-batch has given it");
        let forward = clock.lap();
        sum.add(number, &roots(&z, &dz, images.start - first..images.end - first)?)?;
        Ok(Part { updates, objective, forward, backward: clock.lap() })
    }

    /// The objective on a rank's embeddings, those of its micro-batches in order.
    fn objective(&self, embedded: &[NamedArrays], targets: &[NamedArrays], cx: &Ctx) -> Result<Evaluated> {
        let z = Embeddings::concat(embedded, Tensor::leaf)?;
        let all = z.clone().and(Embeddings::concat(targets, Tensor::constant)?)?;
        let _loss = self.shares[0].region("loss");
        let (loss, objective) = evaluated(self.method.objective(&all, cx)?)?;
        let grads = loss.backward()?;
        let dz = z.iter().map(|(_, z)| grads.get(z)).collect::<Result<_>>()?;
        Ok(Evaluated { objective, grads: grads.to_device(&self.shares[0])?, dz })
    }
}

/// The parts, in global order, and the networks' gradients as one.
fn joined(parts: Vec<Part>, mut grads: Grads) -> Result<Computed> {
    let times = parts.first().map(|part| (part.forward, part.backward)).unwrap_or_default();
    let (mut updates, mut own, mut objectives) = (Updates::default(), Grads::default(), Vec::new());
    for part in parts {
        updates.merge(part.updates)?;
        if let Some((objective, theirs)) = part.objective {
            own.merge(theirs)?;
            objectives.push(objective);
        }
    }
    grads.append(own)?;
    let watched: Option<Vec<&Array>> = objectives.iter().map(|objective| objective.embeddings.as_ref()).collect();
    let embeddings = match watched.as_deref() {
        Some([only]) => Some((*only).clone()),
        Some(all) => Some(ops::concat(all, 0)?),
        None => None,
    };
    // Every rank has the same loss, and there is at least one rank.
    let objective = Objective { embeddings, ..objectives.swap_remove(0) };
    Ok(Computed { objective, grads, updates, forward: times.0, backward: times.1 })
}

/// The loss and the facts of a step, which must be finite.
fn evaluated(step: Step) -> Result<(Tensor, Objective)> {
    let Step { loss, scalars, embeddings } = step;
    let value = scalar(loss.array())?;
    if !value.is_finite() {
        return Err(Error::new(ErrorKind::NonFinite, "loss", value.to_string()));
    }
    let embeddings = embeddings.map(|z| z.array().clone());
    Ok((loss, Objective { loss: value, scalars, embeddings }))
}

/// Where the backward of a micro-batch, `images` of its rank's, begins: with the rank's gradients `dz` of each embedding.
fn roots(z: &Embeddings, dz: &[Option<Array>], images: Range<usize>) -> Result<Vec<(Tensor, Array)>> {
    let mut roots = Vec::new();
    for ((name, z), dz) in z.iter().zip(dz) {
        let Some(dz) = dz else { continue };
        if !z.is_tracked() {
            return Err(Error::new(ErrorKind::NoVjp, format!("embedding '{name}'"), "no gradient can flow through it")
                .expected("it among the method's targets, or computed from trainable parameters"));
        }
        roots.push((z.clone(), dz.slice(0, images.start, images.end)?));
    }
    Ok(roots)
}

/// Runs every item on a thread of its own (a single one on this) and returns the results in order. `what` an item is, and
/// its number, name it in an error.
fn on_threads<T: Send, R: Send>(what: &str, items: Vec<T>, run: impl Fn(T) -> Result<R> + Sync) -> Result<Vec<R>> {
    if items.len() == 1 {
        return items.into_iter().map(run).collect();
    }
    let run = &run;
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let threads: Vec<_> = items
            .into_iter()
            .enumerate()
            .map(|(i, item)| {
                let name = format!("selfsame-rank-{i}");
                let run = move || {
                    enter_lane(i);
                    run(item)
                };
                std::thread::Builder::new().name(name).spawn_scoped(scope, run)
            })
            .collect();
        for (i, thread) in threads.into_iter().enumerate() {
            let ended = |how: String| Error::new(ErrorKind::Device, format!("{what} {i}"), how);
            match thread.map(|thread| thread.join()) {
                Ok(Ok(Ok(value))) => done.push(value),
                // Whoever fails leaves its groups, and others then fail because it left: their errors say less.
                Ok(Ok(Err(error))) => failed.push((error.kind() == ErrorKind::Device, error)),
                Ok(Err(panic)) => failed.push((false, ended(format!("a panic: {}", message(&*panic))))),
                Err(error) => failed.push((false, ended(format!("no thread: {error}")))),
            }
        }
    });
    failed.sort_by_key(|(says_less, _)| *says_less);
    match failed.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(done),
    }
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> &str {
    let literal = panic.downcast_ref::<&str>().copied();
    literal.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three ranks, of which rank 1 does `last` in place of the collective that the others wait in: their error.
    fn ended(last: impl Fn() -> Result<()> + Sync) -> Error {
        let run = |comm: Comm| if comm.rank() == 1 { last() } else { comm.barrier() };
        on_threads("rank", Comm::emulated(3).unwrap(), run).map(drop).unwrap_err()
    }

    #[test]
    fn a_rank_that_panics_is_an_error_that_names_it() {
        let row = 7;
        let literal = ended(|| panic!("no such row"));
        let formatted = ended(|| panic!("no row {row}"));
        for (error, said) in [(literal, "no such row"), (formatted, "no row 7")] {
            assert_eq!(error.kind(), ErrorKind::Device);
            assert_eq!(error.sentence(), format!("rank 1: a panic: {said}"));
        }
    }

    #[test]
    fn the_error_of_the_rank_that_failed_is_the_one_that_is_said() {
        let error = ended(|| Err(Error::new(ErrorKind::Shape, "matmul", "[2, 3] by [4, 5]")));
        assert_eq!(error.sentence(), "matmul: [2, 3] by [4, 5]");
        let error = ended(|| Ok(()));
        assert!(error.sentence().contains("rank 1 has left the group"), "{}", error.sentence());
    }
}
