//! What changes over the steps of a training.

use selfsame_autograd::schedule::Schedule;
use selfsame_engine::{Error, ErrorKind, Result};

use crate::config::Config;
use crate::trainer::Plan;

/// The momentum of a [`Teacher`](super::Teacher): a cosine from `teacher_momentum` at the first step to
/// `teacher_momentum_end` at the end of the training.
///
/// # Errors
/// `Config` for values outside `0..=1`, or a method that does not declare the two keys.
pub fn teacher_momentum(config: &Config, plan: &Plan) -> Result<Schedule> {
    let (start, end) = (config.fraction("teacher_momentum")?, config.fraction("teacher_momentum_end")?);
    Ok(Schedule::cosine(start, end, plan.steps()))
}

/// The key `key`, a number of epochs, in steps.
///
/// # Errors
/// `Config` for a negative number.
pub fn epochs_in_steps(config: &Config, key: &str, plan: &Plan) -> Result<u64> {
    let epochs = config.f64(key)?;
    if epochs.is_finite() && epochs >= 0.0 {
        return Ok((epochs * plan.steps_per_epoch as f64).round() as u64);
    }
    Err(Error::new(ErrorKind::Config, format!("configuration key '{key}'"), epochs.to_string())
        .expected("a number of epochs, at least 0"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;
    use crate::zoo::byol;

    #[test]
    fn a_teacher_s_momentum_goes_from_its_start_to_its_end_and_never_back() {
        let mut config = settings::defaults(&byol::SPEC).unwrap();
        config.apply_setting("teacher_momentum=0.9").unwrap();
        let plan = Plan { steps_per_epoch: 10, epochs: 5, images: 160, dropped: 0 };
        let momentum = teacher_momentum(&config, &plan).unwrap();
        assert_eq!([momentum.at(0), momentum.at(50)], [0.9, 1.0]);
        assert!((momentum.at(25) - 0.95).abs() < 1e-15);
        assert!((0..50).all(|step| momentum.at(step) < momentum.at(step + 1)));
        config.apply_setting("teacher_momentum=1.1").unwrap();
        assert!(teacher_momentum(&config, &plan).is_err());
    }

    #[test]
    fn epochs_become_steps() {
        let mut config = settings::defaults(&byol::SPEC).unwrap();
        let plan = Plan { steps_per_epoch: 8, epochs: 5, images: 128, dropped: 0 };
        config.apply_setting("warmup_epochs=1.5").unwrap();
        assert_eq!(epochs_in_steps(&config, "warmup_epochs", &plan).unwrap(), 12);
        config.apply_setting("warmup_epochs=-1").unwrap();
        assert!(epochs_in_steps(&config, "warmup_epochs", &plan).is_err());
    }
}
