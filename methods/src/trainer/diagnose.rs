//! Where the first NaN or infinity of a step was born.

use selfsame_engine::{Error, ErrorKind, Result, ops};

use super::Trainer;
use crate::method::Views;

impl Trainer {
    /// The error for a step that gave `what`, a value that is not finite: looks at inputs and parameters, then runs
    /// the step again with checks on every operation.
    pub(super) fn diagnose(&mut self, views: &Views, what: &str) -> Error {
        let origin = self.origin(views).unwrap_or_else(|error| format!("and the search for its origin failed: {error}"));
        Error::new(ErrorKind::NonFinite, format!("step {}", self.step + 1), format!("{what}; {origin}"))
            .hint("a lower learning rate, a longer warm-up or a higher temperature; nothing of this step was kept")
    }

    fn origin(&mut self, views: &Views) -> Result<String> {
        for (i, view) in views.iter().enumerate() {
            if !ops::is_finite(view.array())? {
                return Ok(format!("view {i} of the batch holds such a value"));
            }
        }
        for (path, param) in self.params.iter() {
            if !ops::is_finite(&param.array())? {
                return Ok(format!("{path} held such a value before the step"));
            }
        }
        let cx = self.context();
        self.device.set_finite_checks(true);
        let result = self.method.loss(views, &cx).and_then(|step| step.loss.backward());
        self.device.set_finite_checks(false);
        Ok(match result {
            Err(error) if error.kind() == ErrorKind::NonFinite => format!("the first is in {}", error.sentence()),
            Err(error) => format!("the search for its origin failed: {}", error.sentence()),
            Ok(_) => "no single operation produced it: the gradients' sum overflows".to_string(),
        })
    }
}
