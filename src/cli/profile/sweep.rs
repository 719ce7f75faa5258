//! Several batches, or several forms of a loss, in one table.

use super::super::output;
use super::{Measured, mib};

/// One line per batch and form.
pub(super) fn table(unit: &str, measured: &[Measured]) -> String {
    let row = |one: &Measured| {
        let run = one.run.as_ref();
        let step = run.map(|run| run.step().as_secs_f64());
        vec![
            one.label.clone(),
            one.batch.to_string(),
            step.map_or("-".into(), |seconds| format!("{:.1}", 1e3 * seconds)),
            step.map_or("-".into(), |seconds| format!("{:.0}", one.batch as f64 / seconds)),
            one.planned.as_ref().map_or("-".into(), |plan| mib(plan.bytes())),
            run.map_or("-".into(), |run| mib(run.peak())),
            run.and_then(|run| run.loss_share()).map_or("-".into(), |share| format!("{:.1} %", 100.0 * share)),
        ]
    };
    let rows: Vec<Vec<String>> = measured.iter().map(row).collect();
    let rate = format!("{unit}/s");
    let headings = ["", unit, "ms", &rate, "planned", "measured", "loss share"];
    format!("\n{}", output::table(&headings, &[false, true, true, true, true, true, true], &rows))
}
