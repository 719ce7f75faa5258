//! The options of Sinkhorn, and what it returns.

use super::OP;
use crate::{Array, Error, ErrorKind, Result};

/// How [`sinkhorn`](super::sinkhorn()) normalises.
#[derive(Clone, Debug, PartialEq)]
pub struct Sinkhorn {
    /// The entropy's weight; scores are divided by it. Positive.
    pub epsilon: f64,
    /// When to stop.
    pub stop: SinkhornStop,
    /// The mass of each row (sample); given weights are those of this rank's rows.
    pub rows: Marginal,
    /// The mass of each column (prototype).
    pub columns: Marginal,
    /// What codes add up to.
    pub codes: CodeScale,
    /// The domain; `None` takes scaling where it is safe, the log domain elsewhere.
    pub domain: Option<SinkhornDomain>,
}

/// When Sinkhorn stops. A row half is always the last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SinkhornStop {
    /// After this many iterations, at least 1.
    Iterations(usize),
    /// As soon as the columns' masses were wrong by at most `column_error` in all (L1; the masses add up to 1), or
    /// after `at_most` iterations. An iteration learns the error of the one before and improves on it.
    Tolerance {
        /// The largest error accepted.
        column_error: f64,
        /// Iterations after which to stop anyway, at least 1.
        at_most: usize,
    },
}

/// Masses along one side.
#[derive(Clone, Debug, PartialEq)]
pub enum Marginal {
    /// The same for all.
    Balanced,
    /// In proportion to these positive weights.
    Given(Vec<f64>),
}

/// What codes add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeScale {
    /// Each row to 1: probabilities over prototypes.
    Probabilities,
    /// Each row to its mass, and all codes to 1: a transport plan.
    Plan,
}

/// Where the potentials live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkhornDomain {
    /// Factors of exponentials that are computed once: one pass over memory and no exponential per iteration.
    Scaling,
    /// Terms beside scores / epsilon: two exponentials per score and iteration, any temperature.
    Log,
}

/// What [`sinkhorn`](super::sinkhorn()) returns.
#[derive(Clone, Debug)]
pub struct SinkhornResult {
    /// The codes of this rank's rows `[n, k]`.
    pub codes: Array,
    /// How far the rows of all ranks are from their masses: rounding, since a row half is the last.
    pub row_error: MarginalError,
    /// How far the columns are from theirs.
    pub column_error: MarginalError,
    /// Iterations done.
    pub iterations: usize,
    /// The domain that was taken.
    pub domain: SinkhornDomain,
}

/// The distance of a side from its masses, which add up to 1; measured on the codes as they are returned.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MarginalError {
    /// The sum of absolute differences.
    pub l1: f64,
    /// The largest absolute difference.
    pub max: f64,
}

impl Sinkhorn {
    /// SwAV's codes (Caron et al. 2020): Q = exp(scores / epsilon) with prototypes and samples balanced, prototypes
    /// first; columns of the paper's Q are rows here. Its division by the sum of Q cancels in the first half. Defaults
    /// there: epsilon 0.05, 3 iterations, scores being cosines.
    pub fn swav(epsilon: f64, iterations: usize) -> Sinkhorn {
        Sinkhorn {
            epsilon,
            stop: SinkhornStop::Iterations(iterations),
            rows: Marginal::Balanced,
            columns: Marginal::Balanced,
            codes: CodeScale::Probabilities,
            domain: None,
        }
    }

    /// DINOv2's and iBOT's centring: SwAV's with teacher logits as scores, the teacher's temperature as epsilon and 3
    /// iterations. For masked patches give the masked ones as rows: B there is the number of rows over all ranks.
    pub fn dino(teacher_temperature: f64) -> Sinkhorn {
        Sinkhorn::swav(teacher_temperature, 3)
    }

    /// SeLa's labels (Asano et al. 2020): scores are log p, so that p^lambda = exp(scores / epsilon) with epsilon = 1 /
    /// lambda. Its a are the columns' factors and its b the rows', from b constant and a first, as here; labels are
    /// the argmax of a row of codes, which b does not change. It stops by the change of b, summed over samples, every
    /// tenth iteration; here `column_error` bounds the columns' error, in every iteration.
    pub fn sela(lambda: f64, column_error: f64, at_most: usize) -> Sinkhorn {
        let stop = SinkhornStop::Tolerance { column_error, at_most };
        Sinkhorn { stop, codes: CodeScale::Plan, ..Sinkhorn::swav(1.0 / lambda, at_most) }
    }

    /// The most iterations that will be done.
    pub(super) fn iterations(&self) -> usize {
        match self.stop {
            SinkhornStop::Iterations(iterations) => iterations,
            SinkhornStop::Tolerance { at_most, .. } => at_most,
        }
    }

    /// Refuses what is wrong on this rank alone.
    pub(super) fn check(&self, scores: &Array) -> Result<()> {
        let config = |got: String, expected: &str| Err(Error::new(ErrorKind::Config, OP, got).expected(expected));
        let [n, k] = match scores.shape() {
            [n, k] if *n > 0 && *k > 0 => [*n, *k],
            shape => {
                return Err(Error::new(ErrorKind::Shape, OP, format!("scores {shape:?}"))
                    .expected("[samples, prototypes], at least one of each on every rank"));
            }
        };
        if !(self.epsilon > 0.0 && self.epsilon.is_finite()) {
            return config(format!("epsilon {}", self.epsilon), "a positive number");
        }
        let scale = (1.0 / self.epsilon) as f32;
        if !(scale.is_finite() && scale > 0.0) {
            return config(format!("epsilon {:e}", self.epsilon), "one whose inverse is a positive f32");
        }
        if self.iterations() == 0 {
            return config("0 iterations".into(), "at least 1");
        }
        if let SinkhornStop::Tolerance { column_error, .. } = self.stop
            && (column_error.is_nan() || column_error <= 0.0)
        {
            return config(format!("a tolerance of {column_error}"), "a positive number");
        }
        for (side, marginal, len) in [("rows", &self.rows, n), ("columns", &self.columns, k)] {
            let Marginal::Given(weights) = marginal else { continue };
            if weights.len() != len {
                return Err(Error::new(ErrorKind::Shape, OP, format!("{} weights of {side}", weights.len()))
                    .expected(format!("{len}, one for each")));
            }
            if let Some(at) = weights.iter().position(|w| !(*w > 0.0 && w.is_finite())) {
                return config(format!("weight {} at {at} of {side}", weights[at]), "positive finite weights");
            }
            let (low, high) = weights.iter().fold((f64::INFINITY, 0.0f64), |(l, h), w| (l.min(*w), h.max(*w)));
            if high / low > 1e6 {
                return config(format!("weights of {side} from {low:e} to {high:e}"), "a ratio of at most 1e6")
                    .map_err(|e| e.hint("leave out what has next to no mass"));
            }
        }
        Ok(())
    }
}

impl MarginalError {
    /// Of the absolute differences of a side.
    pub(super) fn of(differences: impl Iterator<Item = f64>) -> MarginalError {
        differences.fold(MarginalError::default(), |e, d| MarginalError { l1: e.l1 + d, max: e.max.max(d) })
    }
}
