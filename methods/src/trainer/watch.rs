//! Says when a loss sits at a value that means something, such as ln(2N-1) for an encoder that tells nothing apart.

use std::collections::VecDeque;

use selfsame_engine::Result;

use crate::config::Config;
use crate::method::Fact;

/// Steps that the loss has to stay near a known value before it is said.
const PATIENCE: usize = 200;

/// How near: share of the known value, or the distance from zero.
const TOLERANCE: f64 = 0.01;
const TOLERANCE_AT_ZERO: f64 = 1e-3;

/// Watches the loss of one run.
pub(crate) struct Watch {
    known: Vec<(f64, &'static Fact)>,
    recent: VecDeque<f64>,
    warned: bool,
}

impl Watch {
    /// A watch over the known values of a method for a batch of `images`.
    ///
    /// # Errors
    /// `Config` for a value that cannot be had from the configuration.
    pub(crate) fn new(facts: &'static [Fact], config: &Config, images: usize) -> Result<Watch> {
        let known = facts.iter().map(|fact| Ok(((fact.value)(config, images)?, fact))).collect::<Result<_>>()?;
        Ok(Watch { known, recent: VecDeque::new(), warned: false })
    }

    /// The known values with their formulas.
    pub(crate) fn constants(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        self.known.iter().map(|(value, fact)| (fact.formula, *value))
    }

    /// Takes the loss of a step; the first time it has stayed near a known value, says so.
    pub(crate) fn see(&mut self, loss: f64) -> Option<String> {
        self.recent.push_back(loss);
        if self.recent.len() > PATIENCE {
            self.recent.pop_front();
        }
        if self.warned || self.recent.len() < PATIENCE {
            return None;
        }
        let tolerance = |value: f64| if value == 0.0 { TOLERANCE_AT_ZERO } else { TOLERANCE * value.abs() };
        let near = |value: f64| self.recent.iter().all(|loss| (loss - value).abs() <= tolerance(value));
        let (value, fact) = self.known.iter().find(|(value, _)| near(*value))?;
        self.warned = true;
        Some(format!(
            "loss {loss:.4} for {PATIENCE} steps is {} = {value:.4}: {} (try {})",
            fact.formula, fact.meaning, fact.advice
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{METHODS, settings};

    const FACT: Fact =
        Fact { formula: "ln K", meaning: "uniform", advice: "something", value: |_, images| Ok(images as f64) };
    static FACTS: [Fact; 1] = [FACT];

    #[test]
    fn a_stuck_loss_is_named_once() {
        let mut watch = Watch::new(&FACTS, &Config::default(), 5).unwrap();
        for _ in 1..PATIENCE {
            assert_eq!(watch.see(5.01), None);
        }
        let text = watch.see(4.99).unwrap();
        assert!(text.contains("ln K = 5.0000") && text.contains("uniform"), "{text}");
        assert_eq!(watch.see(5.0), None);
    }

    #[test]
    fn a_loss_at_zero_is_named_although_it_never_gets_there() {
        static NOTHING: [Fact; 1] = [Fact { value: |_, _| Ok(0.0), ..FACT }];
        let mut watch = Watch::new(&NOTHING, &Config::default(), 5).unwrap();
        let said: Vec<String> = (0..PATIENCE).filter_map(|_| watch.see(2e-4)).collect();
        assert_eq!(said.len(), 1);
    }

    #[test]
    fn every_method_knows_its_values_from_its_configuration() {
        for spec in METHODS {
            let config = settings::defaults(spec).unwrap();
            for (formula, value) in Watch::new(spec.facts, &config, 256).unwrap().constants() {
                assert!(value.is_finite(), "{}: {formula} = {value}", spec.name);
            }
        }
        let spec = METHODS.iter().find(|spec| spec.name == "swav").unwrap();
        let mut config = settings::defaults(spec).unwrap();
        config.apply_setting("prototypes=50").unwrap();
        let watch = Watch::new(spec.facts, &config, 256).unwrap();
        assert_eq!(watch.constants().collect::<Vec<_>>(), [("ln K", f64::ln(50.0))]);
    }

    #[test]
    fn a_moving_loss_is_left_alone() {
        let mut watch = Watch::new(&FACTS, &Config::default(), 5).unwrap();
        for step in 0..3 * PATIENCE {
            assert_eq!(watch.see(if step % 100 == 0 { 4.0 } else { 5.0 }), None);
        }
    }
}
