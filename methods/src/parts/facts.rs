//! Values at which the loss of more than one method is known to sit when nothing is learned.

use selfsame_engine::Result;
use selfsame_kernels::math;

use crate::config::Config;
use crate::method::Fact;

/// The cross-entropy of uniform outputs. `value` is [`ln_of`] the key that holds K.
pub const fn uniform_outputs(value: fn(&Config, usize) -> Result<f64>) -> Fact {
    Fact {
        formula: "ln K",
        meaning: "every class is as likely for every image: nothing is learned yet, or the embeddings have collapsed",
        advice: "lower temperatures, weaker augmentation or another learning rate; look at embed/std and prototypes/used",
        value,
    }
}

/// InfoNCE of a query that is as similar to its key as to each one of the queue.
pub const UNIFORM_QUEUE: Fact = Fact {
    formula: "ln(1+K)",
    meaning: "a query's key looks no more similar than the queue's: nothing is learned yet, or the encoder has collapsed",
    advice: "a lower temperature, a longer warm-up or a lower learning rate; look at embed/std",
    value: |config, _| Ok(math::f64::log(1.0 + config.at_least("queue", 1)? as f64)),
};

/// The logarithm of the whole number under `key`.
///
/// # Errors
/// `Config` when it is none.
pub fn ln_of(config: &Config, key: &str) -> Result<f64> {
    Ok(math::f64::log(config.at_least(key, 1)? as f64))
}
