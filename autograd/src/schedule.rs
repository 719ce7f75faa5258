//! `Schedule`: a value as a pure function of the step, so that resuming needs no state.

use selfsame_engine::{Error, ErrorKind, Result};
use selfsame_kernels::math::Real;

/// How a learning rate, momentum or temperature changes over the steps of a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// One value.
    Constant(f64),
    /// Linear from `start` to `peak` over `warmup` steps, then half a cosine from `peak` to `end` over the rest.
    ///
    /// At step t: `start + (peak - start)·t / warmup` below `warmup`, else
    /// `end + (peak - end)·(1 + cos(π·(t - warmup) / (total - warmup))) / 2`, and `end` from step `total` on. The last
    /// step of a run, `total - 1`, is therefore just short of `end`.
    WarmupCosine {
        /// At step 0 of a warm-up.
        start: f64,
        /// After the warm-up.
        peak: f64,
        /// At step `total`.
        end: f64,
        /// Steps of warm-up; 0 for none.
        warmup: u64,
        /// Steps altogether.
        total: u64,
    },
    /// Linear from `start` to `peak` over `warmup` steps, then `peak`, times `factor` for each step of `at` that is
    /// reached.
    WarmupDrops {
        /// At step 0 of a warm-up.
        start: f64,
        /// After the warm-up.
        peak: f64,
        /// Steps of warm-up; 0 for none.
        warmup: u64,
        /// What each drop leaves of the value.
        factor: f64,
        /// Steps of the drops, in any order.
        at: Vec<u64>,
    },
}

impl Schedule {
    /// A warm-up from 0 and a cosine to `end`.
    ///
    /// # Errors
    /// `Config` when the warm-up is longer than the run.
    pub fn warmup_cosine(peak: f64, end: f64, warmup: u64, total: u64) -> Result<Schedule> {
        if warmup > total {
            return Err(Error::new(
                ErrorKind::Config,
                "schedule",
                format!("{warmup} steps of warm-up in {total} steps"),
            )
            .expected("a warm-up no longer than the run"));
        }
        Ok(Schedule::WarmupCosine { start: 0.0, peak, end, warmup, total })
    }

    /// Half a cosine from `from` at step 0 to `to` at step `total`: momentum of an EMA, weight decay.
    pub fn cosine(from: f64, to: f64, total: u64) -> Schedule {
        Schedule::WarmupCosine { start: from, peak: from, end: to, warmup: 0, total }
    }

    /// The value at a step, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        match *self {
            Schedule::Constant(value) => value,
            Schedule::WarmupCosine { start, peak, warmup, .. } | Schedule::WarmupDrops { start, peak, warmup, .. }
                if step < warmup =>
            {
                start + (peak - start) * (step as f64 / warmup as f64)
            }
            Schedule::WarmupCosine { end, total, .. } if step >= total => end,
            Schedule::WarmupCosine { peak, end, warmup, total, .. } => {
                let angle = std::f64::consts::PI * ((step - warmup) as f64 / (total - warmup) as f64);
                end + (peak - end) * (0.5 * (1.0 + <f64 as Real>::cos(angle)))
            }
            Schedule::WarmupDrops { peak, factor, ref at, .. } => {
                at.iter().filter(|drop| step >= **drop).fold(peak, |value, _| value * factor)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_is_linear_and_the_cosine_ends_where_it_should() {
        let lr = Schedule::warmup_cosine(0.4, 0.1, 10, 110).unwrap();
        assert_eq!(lr.at(0), 0.0);
        assert_eq!(lr.at(5), 0.2);
        assert_eq!(lr.at(10), 0.4);
        // Half-way, and a third of the way: cos(π/2) = 0; a quarter turn back at 60 degrees needs t = 10 + 100/3.
        assert!((lr.at(60) - 0.25).abs() < 1e-15);
        let third = Schedule::warmup_cosine(1.0, 0.0, 0, 3).unwrap();
        assert!((third.at(1) - 0.75).abs() < 1e-15);
        assert!((third.at(2) - 0.25).abs() < 1e-15);
        assert_eq!((lr.at(110), lr.at(1_000_000)), (0.1, 0.1));
        assert!((0..200).all(|t| t < 10 || lr.at(t + 1) <= lr.at(t)));
    }

    #[test]
    fn drops_multiply_from_their_step_on() {
        let lr = Schedule::WarmupDrops { start: 0.0, peak: 8.0, warmup: 4, factor: 0.25, at: vec![20, 10] };
        assert_eq!([0, 2, 4, 9, 10, 19, 20, 99].map(|t| lr.at(t)), [0.0, 4.0, 8.0, 8.0, 2.0, 2.0, 0.5, 0.5]);
    }

    #[test]
    fn a_constant_and_a_run_that_is_all_warm_up() {
        assert_eq!(Schedule::Constant(0.3).at(7), 0.3);
        let ramp = Schedule::warmup_cosine(1.0, 0.0, 4, 4).unwrap();
        assert_eq!([0, 1, 2, 3].map(|t| ramp.at(t)), [0.0, 0.25, 0.5, 0.75]);
        assert!(Schedule::warmup_cosine(1.0, 0.0, 5, 4).is_err());
    }

    #[test]
    fn an_ema_momentum_rises_to_one() {
        let momentum = Schedule::cosine(0.996, 1.0, 100);
        assert_eq!((momentum.at(0), momentum.at(100)), (0.996, 1.0));
        assert!((momentum.at(50) - 0.998).abs() < 1e-15);
    }
}
