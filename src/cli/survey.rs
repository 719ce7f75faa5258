//! `selfsame doctor --math`: the error of every element function in f32, over as many inputs as asked for.

use std::thread;

use selfsame_engine::Result;
use selfsame_kernels::elementwise::Unary;
use selfsame_kernels::isa::Isa;
use selfsame_kernels::survey::{Survey, ulp_survey};
use serde_json::json;

use super::Outcome;
use super::output::{Output, table};

/// All bit patterns of f32.
const PATTERNS: u64 = 1 << 32;

/// Surveys every `stride`-th input of every function on all cores, against the same function in f64.
pub(super) fn run(stride: u64, as_json: bool, out: &mut Output) -> Result<Outcome> {
    let isa = Isa::detect();
    let surveys: Vec<(Unary, Survey)> = Unary::ALL
        .iter()
        .map(|&op| {
            eprintln!("surveying {}", op.name());
            (op, survey(isa, op, stride))
        })
        .collect();
    if as_json {
        let rows: Vec<_> = surveys
            .iter()
            // JSON has no infinity.
            .map(|(op, found)| json!({ "function": op.name(), "max_ulp": found.max_ulp.to_string(), "at": found.worst, "inputs": found.inputs }))
            .collect();
        out.json(&json!({ "isa": isa.name(), "stride": stride, "functions": rows }))?;
        return Ok(Outcome::Done);
    }
    out.text(&format!(
        "f32 on {isa}, every {stride}. of {PATTERNS} inputs: units in the last place of the true value, for gelu of the input"
    ))?;
    let rows: Vec<Vec<String>> = surveys
        .iter()
        .map(|(op, found)| {
            vec![
                op.name().into(),
                format!("{:.4}", found.max_ulp),
                format!("{:e}", found.worst),
                found.inputs.to_string(),
            ]
        })
        .collect();
    out.text(&table(&["function", "largest error", "at", "inputs"], &[false, true, true, true], &rows))?;
    Ok(Outcome::Done)
}

/// The survey of one function, its inputs in equal parts for all cores.
fn survey(isa: Isa, op: Unary, stride: u64) -> Survey {
    let cores = thread::available_parallelism().map_or(1, usize::from) as u64;
    let part = PATTERNS.div_ceil(stride).div_ceil(cores) * stride;
    thread::scope(|scope| {
        let parts: Vec<_> = (0..cores)
            .map(|i| scope.spawn(move || ulp_survey(isa, op, i * part..((i + 1) * part).min(PATTERNS), stride)))
            .collect();
        let surveys = parts.into_iter().map(|part| part.join().expect("a survey does not panic"));
        surveys.reduce(Survey::merge).expect("there is a core")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_inputs() {
        let stride = 1_000_003;
        let found = survey(Isa::detect(), Unary::Tanh, stride);
        assert_eq!(found, ulp_survey(Isa::detect(), Unary::Tanh, 0..PATTERNS, stride));
        assert_eq!(found.inputs, PATTERNS.div_ceil(stride));
    }
}
