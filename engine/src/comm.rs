//! Collectives between ranks, in canonical order: what a collective returns depends on ranks' values, never on who
//! arrived first.
//!
//! [`Comm::emulated`] gives ranks that are threads of one process. NCCL and MPI fit behind the same methods.
//! Micro-batches that advance together are ranks as well, which take [`Turn`]s on one device.

use crate::{Array, Error, ErrorKind, Result, SampleSum, ops};
use std::any::Any;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// One rank's end of a group of ranks.
///
/// Every rank must call the same collectives in the same order. No collective may be called from inside a worker task.
pub struct Comm {
    rank: usize,
    group: Option<Arc<Group>>,
    turn: Option<Turn>,
}

/// The right to compute, shared by threads of which one runs at a time: whoever waits in a collective lends it out.
///
/// Micro-batches that advance layer by layer hold one workspace that way, and the device's threads serve one of them.
#[derive(Clone, Default)]
pub struct Turn(Arc<(Mutex<bool>, Condvar)>);

/// A [`Turn`] that has been taken; it passes on when this is dropped.
pub struct Turned<'a>(&'a Turn);

impl Turn {
    /// Waits until nobody computes. The thread's collectives must know of it: [`Comm::in_turns`].
    pub fn take(&self) -> Turned<'_> {
        self.acquire();
        Turned(self)
    }

    fn acquire(&self) {
        let (taken, changed) = &*self.0;
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken {
            taken = changed.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken = true;
    }

    fn release(&self) {
        let (taken, changed) = &*self.0;
        *taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        changed.notify_one();
    }
}

impl Drop for Turned<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

struct Group {
    size: usize,
    round: Mutex<Round>,
    changed: Condvar,
}

type Parcel = Arc<dyn Any + Send + Sync>;

#[derive(Default)]
struct Round {
    number: u64,
    parcels: Vec<Option<Parcel>>,
    arrived: usize,
    delivered: Vec<Parcel>,
    /// The first rank that has left.
    left: Option<usize>,
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, Round> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the end of round `number` and returns what everybody gave. The next round cannot complete, and so
    /// cannot replace `delivered`, before the rank that waits here has joined it.
    fn delivery(&self, mut round: MutexGuard<'_, Round>, number: u64) -> Result<Vec<Parcel>> {
        while round.number == number {
            if let Some(rank) = round.left {
                return Err(Error::new(ErrorKind::Device, "collective", format!("rank {rank} has left the group"))
                    .expected("all ranks in the same collective"));
            }
            round = self.changed.wait(round).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(round.delivered.clone())
    }
}

impl Comm {
    /// The only rank of a group of one.
    pub fn single() -> Comm {
        Comm { rank: 0, group: None, turn: None }
    }

    /// `size` ranks of one process, to be moved to one thread each.
    ///
    /// # Errors
    /// When `size` is zero.
    pub fn emulated(size: usize) -> Result<Vec<Comm>> {
        if size == 0 {
            return Err(Error::new(ErrorKind::Config, "ranks", "0").expected("at least 1"));
        }
        let round = Round { parcels: vec![None; size], ..Round::default() };
        let group = Arc::new(Group { size, round: Mutex::new(round), changed: Condvar::new() });
        Ok((0..size).map(|rank| Comm { rank, group: Some(Arc::clone(&group)), turn: None }).collect())
    }

    /// This end for a thread that has taken `turn`: it lends the turn out while it waits for others.
    #[must_use]
    pub fn in_turns(mut self, turn: &Turn) -> Comm {
        self.turn = Some(turn.clone());
        self
    }

    /// This rank's number, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.group.as_ref().map_or(1, |g| g.size)
    }

    /// Every rank's value, in rank order.
    ///
    /// # Errors
    /// `Device` when a rank has left the group, naming the first one, or when ranks exchange different types.
    pub fn exchange<T: Clone + Send + Sync + 'static>(&self, value: T) -> Result<Vec<T>> {
        let Some(group) = &self.group else { return Ok(vec![value]) };
        let mut round = group.lock();
        let number = round.number;
        round.parcels[self.rank] = Some(Arc::new(value));
        round.arrived += 1;
        let delivered = if round.arrived == group.size {
            round.delivered = round.parcels.iter_mut().map(|p| p.take().expect("every rank has arrived")).collect();
            round.arrived = 0;
            round.number += 1;
            group.changed.notify_all();
            round.delivered.clone()
        } else {
            if let Some(turn) = &self.turn {
                turn.release();
            }
            let delivered = group.delivery(round, number);
            // Taken back only when the group is unlocked: whoever has the turn may be about to lock it.
            if let Some(turn) = &self.turn {
                turn.acquire();
            }
            delivered?
        };
        delivered
            .iter()
            .map(|p| p.downcast_ref::<T>().cloned())
            .collect::<Option<Vec<T>>>()
            .ok_or_else(|| Error::new(ErrorKind::Device, "collective", "ranks are in different collectives"))
    }

    /// Waits until every rank is here.
    ///
    /// # Errors
    /// As for [`Comm::exchange`].
    pub fn barrier(&self) -> Result<()> {
        self.exchange(()).map(drop)
    }

    /// The ranks' arrays joined along axis 0, in rank order.
    ///
    /// # Errors
    /// As for [`Comm::exchange`], or when shapes differ beyond axis 0.
    pub fn all_gather(&self, local: &Array) -> Result<Array> {
        let parts = self.exchange(local.clone())?;
        let parts = parts.iter().map(|p| p.to_device(local.device())).collect::<Result<Vec<_>>>()?;
        ops::concat(&parts.iter().collect::<Vec<_>>(), 0)
    }

    /// Rank `root`'s array, on every rank.
    ///
    /// # Errors
    /// As for [`Comm::exchange`], or when `root` is not a rank.
    pub fn broadcast(&self, local: &Array, root: usize) -> Result<Array> {
        let parts = self.exchange(local.clone())?;
        let size = parts.len();
        let part = parts.get(root).ok_or_else(|| {
            Error::new(ErrorKind::Config, "broadcast", format!("root {root}")).expected(format!("a rank below {size}"))
        })?;
        part.to_device(local.device())
    }

    /// The sum over ranks, added in rank order, on every rank. Sums over samples go through [`Comm::all_sum`].
    ///
    /// # Errors
    /// As for [`Comm::exchange`].
    pub fn all_reduce(&self, local: &Array) -> Result<Array> {
        let mut parts = self.exchange(local.clone())?.into_iter().map(|p| p.to_device(local.device()));
        let first = parts.next().expect("a group has at least one rank")?;
        parts.try_fold(first, |sum, part| ops::add_assign(sum, &part?))
    }

    /// This rank's equal share along axis 0 of [`Comm::all_reduce`].
    ///
    /// # Errors
    /// As for [`Comm::exchange`], or `Shape` when axis 0 does not divide by the number of ranks.
    pub fn reduce_scatter(&self, local: &Array) -> Result<Array> {
        let sum = self.all_reduce(local)?;
        let rows = sum.shape().first().copied().unwrap_or(0);
        if rows % self.size() != 0 {
            return Err(Error::new(ErrorKind::Shape, "reduce_scatter", format!("{rows} rows"))
                .expected(format!("a multiple of {} ranks", self.size())));
        }
        let share = rows / self.size();
        sum.slice(0, self.rank * share, (self.rank + 1) * share)
    }

    /// All ranks' nodes of a sum over samples, on every rank.
    ///
    /// # Errors
    /// As for [`Comm::exchange`], or `Numerics` when two ranks hold the same leaf.
    pub fn all_sum(&self, local: SampleSum) -> Result<SampleSum> {
        if self.group.is_none() {
            return Ok(local);
        }
        let device = local.values().next().map(|node| node.device().clone());
        let mut total = SampleSum::default();
        for part in self.exchange(local)? {
            for (first, level, node) in part.into_blocks() {
                let node = device.as_ref().map(|device| node.to_device(device)).unwrap_or(Ok(node))?;
                total.add(first, level, node)?;
            }
        }
        Ok(total)
    }
}

impl Drop for Comm {
    fn drop(&mut self) {
        if let Some(group) = &self.group {
            group.lock().left.get_or_insert(self.rank);
            group.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, Rows};

    fn on_ranks<T: Send>(size: usize, body: impl Fn(Comm) -> T + Sync) -> Vec<T> {
        let comms = Comm::emulated(size).unwrap();
        std::thread::scope(|scope| {
            let threads: Vec<_> = comms.into_iter().map(|comm| scope.spawn(|| body(comm))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        })
    }

    #[test]
    fn gather_is_in_rank_order_and_rounds_do_not_mix() {
        for gathered in on_ranks(3, |comm| {
            let device = Device::cpu_with(1).unwrap();
            let mut seen = Vec::new();
            for round in 0..20 {
                let local = Array::full(comm.rank() as i32 * 100 + round, &[1], &device).unwrap();
                seen.extend(comm.all_gather(&local).unwrap().to_vec::<i32>().unwrap());
            }
            seen
        }) {
            let expected: Vec<i32> = (0..20).flat_map(|round| [round, 100 + round, 200 + round]).collect();
            assert_eq!(gathered, expected);
        }
    }

    #[test]
    fn sample_sums_do_not_depend_on_ranks() {
        let rows: Vec<f32> = (0..96 * 3).map(|i| ((i * 7919) % 1013) as f32 * 1e-3 - 0.4).collect();
        let total = |size: usize| {
            let mut sums = on_ranks(size, |comm| {
                let device = Device::cpu_with(1).unwrap();
                let share = 96 / size;
                let (from, to) = (comm.rank() * share, (comm.rank() + 1) * share);
                let x = Array::from_slice(&rows[from * 3..to * 3], &[share, 3], &device).unwrap();
                let local = ops::rows_sum(&x, Rows::of(x.shape(), from).unwrap()).unwrap();
                comm.all_sum(local).unwrap().total().unwrap().to_vec::<f32>().unwrap()
            });
            sums.dedup();
            assert_eq!(sums.len(), 1);
            sums.remove(0)
        };
        let single = total(1);
        assert_eq!(total(2), single);
        assert_eq!(total(3), single);
    }

    #[test]
    fn in_turns_one_rank_computes_at_a_time() {
        let (turn, inside) = (Turn::default(), std::sync::atomic::AtomicUsize::new(0));
        let sums = on_ranks(4, |comm| {
            let comm = comm.in_turns(&turn);
            let _turn = turn.take();
            let mut sum = 0;
            for round in 0..50 {
                assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0, "another rank computes");
                std::thread::yield_now();
                inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                sum += comm.exchange(comm.rank() * round).unwrap().iter().sum::<usize>();
            }
            sum
        });
        assert_eq!(sums, [6 * 49 * 25; 4]);
    }

    #[test]
    fn a_rank_that_leaves_is_an_error_not_a_hang() {
        let results = on_ranks(2, |comm| if comm.rank() == 0 { comm.barrier().is_err() } else { true });
        assert_eq!(results, [true, true]);
        let turn = Turn::default();
        let results = on_ranks(3, |comm| {
            let comm = comm.in_turns(&turn);
            let _turn = turn.take();
            comm.rank() == 1 || comm.barrier().is_err()
        });
        assert_eq!(results, [true; 3]);
    }

    /// Rank 2 leaves first; each of the others leaves when it has failed.
    #[test]
    fn the_rank_that_left_first_is_named_to_all_others() {
        let results = on_ranks(4, |comm| (comm.rank() != 2).then(|| comm.barrier().unwrap_err().sentence()));
        for (rank, sentence) in results.into_iter().enumerate() {
            let names_it = sentence.as_ref().map(|sentence| sentence.contains("rank 2 has left the group"));
            assert_eq!(names_it, (rank != 2).then_some(true), "{sentence:?}");
        }
    }
}
