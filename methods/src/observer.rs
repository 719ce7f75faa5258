//! What a run tells whoever watches it: a terminal, a log, a test.

use crate::run::Fingerprint;
use crate::trainer::{Plan, StepRecord};

/// Receives news of a run, in the order in which things happen. Nothing it does reaches back into the run.
pub trait Observer {
    /// Training begins, `done` steps of the plan being done already.
    fn begin(&mut self, plan: &Plan, done: u64) {
        let _ = (plan, done);
    }

    /// Step `step`, of which the first is 1, is about to run.
    fn before_step(&mut self, step: u64) {
        let _ = step;
    }

    /// What a step computed, when it is recorded. Comes before [`Observer::step`] of that step.
    fn fingerprint(&mut self, fingerprint: &Fingerprint) {
        let _ = fingerprint;
    }

    /// Whether accuracy is to be measured along the way.
    fn measures(&self) -> bool {
        true
    }

    /// A step is done.
    fn step(&mut self, record: &StepRecord) {
        let _ = record;
    }

    /// kNN accuracy after `epoch` epochs.
    fn evaluated(&mut self, epoch: u64, knn: f64) {
        let _ = (epoch, knn);
    }

    /// Something that is not a step begins: `features of 4,096 images`.
    fn phase(&mut self, what: &str) {
        let _ = what;
    }

    /// Something that the user should know.
    fn note(&mut self, text: &str) {
        let _ = text;
    }
}

/// Watches nothing.
pub struct Silent;

impl Observer for Silent {}
