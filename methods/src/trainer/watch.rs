//! Says when a loss sits at a value that means something, such as ln(2N-1) for an encoder that tells nothing apart.

use std::collections::VecDeque;

use crate::method::Fact;

/// Steps that the loss has to stay near a known value before it is said.
const PATIENCE: usize = 200;

/// How near: share of the known value.
const TOLERANCE: f64 = 0.01;

/// Watches the loss of one run.
pub(crate) struct Watch {
    known: Vec<(f64, &'static Fact)>,
    recent: VecDeque<f64>,
    warned: bool,
}

impl Watch {
    /// A watch over the known values of a method for a batch of `images`.
    pub(crate) fn new(facts: &'static [Fact], images: usize) -> Watch {
        let known = facts.iter().map(|fact| ((fact.value)(images), fact)).collect();
        Watch { known, recent: VecDeque::new(), warned: false }
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
        let near = |value: f64| self.recent.iter().all(|loss| (loss - value).abs() <= TOLERANCE * value.abs());
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

    static FACTS: [Fact; 1] =
        [Fact { formula: "ln K", meaning: "uniform", advice: "something", value: |images| images as f64 }];

    #[test]
    fn a_stuck_loss_is_named_once() {
        let mut watch = Watch::new(&FACTS, 5);
        for _ in 1..PATIENCE {
            assert_eq!(watch.see(5.01), None);
        }
        let text = watch.see(4.99).unwrap();
        assert!(text.contains("ln K = 5.0000") && text.contains("uniform"), "{text}");
        assert_eq!(watch.see(5.0), None);
    }

    #[test]
    fn a_moving_loss_is_left_alone() {
        let mut watch = Watch::new(&FACTS, 5);
        for step in 0..3 * PATIENCE {
            assert_eq!(watch.see(if step % 100 == 0 { 4.0 } else { 5.0 }), None);
        }
    }
}
