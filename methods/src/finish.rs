//! The end of a run: measurement, report.

use std::path::PathBuf;

use selfsame_engine::Result;

use crate::measure::{Measurement, Scope, Setting, measure};
use crate::observer::Observer;
use crate::session::{Pretrain, Run, pretrain};
use crate::summary::report;

/// A run with everything that came out of it.
pub struct Finished {
    /// The run.
    pub run: Run,
    /// What its encoder was measured to be; `None` without labels, or when interrupted.
    pub measured: Option<Measurement>,
    /// Its `report.html`.
    pub report: PathBuf,
}

/// Trains, measures what `scope` asks for, and writes the report. An interrupted run is reported as far as it came.
///
/// # Errors
/// As for [`pretrain`], and those of the measurement.
pub fn train_and_report(request: Pretrain, scope: Scope, observer: &mut dyn Observer) -> Result<Finished> {
    let (spec, device, workers) = (request.spec, request.device.clone(), request.workers);
    let run = pretrain(request, observer)?;
    let measured = match &run.labelled {
        Some(labelled) if !run.interrupted => {
            let setting = Setting { labelled, config: &run.config, device: &device, workers };
            Some(measure(spec, &run.plan, run.trainer.method().encoder(), &setting, scope, observer)?)
        }
        _ => None,
    };
    observer.phase("report");
    let report = run.dir.write_report(&report(&run, measured.as_ref())?)?;
    Ok(Finished { run, measured, report })
}
