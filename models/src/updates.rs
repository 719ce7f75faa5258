//! `Updates`: the buffer values that a step has collected, committed once, when it ends.

use selfsame_autograd::Param;
use selfsame_engine::ops::Binary;
use selfsame_engine::{Array, Error, ErrorKind, Result, SampleSum, ops};
use std::collections::BTreeMap;

/// New values of buffers, in the order of their first update.
///
/// A running average moves once per forward of the whole batch. Micro-batches and ranks each see part of what it
/// averages, so their observations are kept by statistics group until [`Updates::merge`] has joined them: the value
/// does not depend on the cut.
#[derive(Default)]
pub struct Updates(Vec<(Param, Update)>);

enum Update {
    Value(Array),
    /// In forward order.
    Averages(Vec<Observation>),
}

/// What one forward saw.
struct Observation {
    momentum: f64,
    /// The observed value by the first image of its statistics group.
    groups: BTreeMap<usize, Array>,
}

impl Updates {
    pub(crate) fn set(&mut self, buffer: &Param, value: Array) {
        match self.0.iter_mut().find(|(known, _)| known.is(buffer)) {
            Some((_, update)) => *update = Update::Value(value),
            None => self.0.push((buffer.clone(), Update::Value(value))),
        }
    }

    /// Adds an observation of values `[groups, …]`, behind those of earlier forwards.
    pub(crate) fn observe(&mut self, buffer: &Param, momentum: f64, groups: &[usize], values: &Array) -> Result<()> {
        let shape = &values.shape()[1..];
        let parts = groups.iter().enumerate();
        let parts = parts.map(|(i, first)| Ok((*first, values.slice(0, i, i + 1)?.reshape(shape)?)));
        let seen = Observation { momentum, groups: parts.collect::<Result<_>>()? };
        match self.0.iter_mut().find(|(known, _)| known.is(buffer)) {
            Some((_, Update::Averages(all))) => all.push(seen),
            Some((_, update)) => *update = Update::Averages(vec![seen]),
            None => self.0.push((buffer.clone(), Update::Averages(vec![seen]))),
        }
        Ok(())
    }

    /// Whether no buffer changes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Joins what another micro-batch or rank has collected in the same step: its k-th observation of a buffer meets
    /// the k-th here. Where both have a value (or a group) of their own, it was computed from all of them and is the
    /// same; that here stays.
    ///
    /// # Errors
    /// `Numerics` when a buffer was not observed equally often.
    pub fn merge(&mut self, other: Updates) -> Result<()> {
        for (buffer, theirs) in other.0 {
            match (self.0.iter_mut().find(|(known, _)| known.is(&buffer)), theirs) {
                (None, theirs) => self.0.push((buffer, theirs)),
                (Some((_, Update::Averages(ours))), Update::Averages(theirs)) if ours.len() == theirs.len() => {
                    for (ours, theirs) in ours.iter_mut().zip(theirs) {
                        for (first, value) in theirs.groups {
                            ours.groups.entry(first).or_insert(value);
                        }
                    }
                }
                (Some((_, Update::Value(_))), Update::Value(_)) => {}
                _ => {
                    return Err(Error::new(ErrorKind::Numerics, buffer.path(), "another number of observations")
                        .expected("the same forward for every micro-batch and rank"));
                }
            }
        }
        Ok(())
    }

    /// The new value of each buffer.
    ///
    /// # Errors
    /// What the primitives return.
    pub fn values(self) -> Result<Vec<(Param, Array)>> {
        let value = |(buffer, update): (Param, Update)| {
            let device = buffer.array().device().clone();
            let value = match update {
                Update::Value(value) => value.to_device(&device)?,
                Update::Averages(seen) => seen.into_iter().try_fold(buffer.array(), |running, seen| {
                    let kept = ops::scale(running, 1.0 - seen.momentum)?;
                    ops::add_scaled(kept, seen.momentum, &seen.mean()?.to_device(&device)?)
                })?,
            };
            Ok((buffer, value))
        };
        self.0.into_iter().map(value).collect()
    }

    /// Writes every buffer.
    ///
    /// # Errors
    /// As for [`Updates::values`] and [`Param::set`].
    pub fn commit(self) -> Result<()> {
        self.values()?.into_iter().try_for_each(|(buffer, value)| buffer.set(value))
    }
}

impl Observation {
    /// The mean over groups, added in a tree with a group to a leaf.
    fn mean(self) -> Result<Array> {
        let count = self.groups.len();
        let mut groups = self.groups.into_values();
        if count == 1 {
            return Ok(groups.next().expect("there is one"));
        }
        let mut sum = SampleSum::default();
        for (i, value) in groups.enumerate() {
            sum.add(i, 0, value)?;
        }
        ops::binary_scalar(Binary::Div, &sum.total()?, count as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_autograd::Role;
    use selfsame_engine::Device;

    fn collected(buffer: &Param, observations: &[(usize, f32)]) -> Updates {
        let mut updates = Updates::default();
        for (first, value) in observations {
            let value = Array::from_slice(&[*value], &[1, 1], buffer.array().device()).unwrap();
            updates.observe(buffer, 0.5, &[*first], &value).unwrap();
        }
        updates
    }

    #[test]
    fn parts_of_a_batch_move_an_average_as_often_as_the_batch() {
        let device = Device::cpu_with(1).unwrap();
        let buffer = Param::new("mean", Role::Buffer, Array::from_slice(&[8f32], &[1], &device).unwrap());
        // Two forwards, of which each part saw one of two groups.
        let [a, b] = [[(0, 1.0), (0, 10.0)], [(16, 3.0), (16, 20.0)]];
        for (first, second) in [(&a, &b), (&b, &a)] {
            let mut updates = collected(&buffer, first);
            updates.merge(collected(&buffer, second)).unwrap();
            let value = updates.values().unwrap()[0].1.item::<f32>().unwrap();
            assert_eq!(value, 0.5 * (0.5 * 8.0 + 0.5 * 2.0) + 0.5 * 15.0);
        }
        // Ranks that synchronise saw the same group of the whole batch.
        let mut updates = collected(&buffer, &[(0, 4.0)]);
        updates.merge(collected(&buffer, &[(0, 4.0)])).unwrap();
        updates.commit().unwrap();
        assert_eq!(buffer.array().item::<f32>().unwrap(), 6.0);
        let error = collected(&buffer, &a).merge(collected(&buffer, &[(16, 3.0)])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Numerics);
    }
}
