//! Every loss against its oracle and against finite differences, in f64.

use crate::{LossSpec, Role};
use selfsame_autograd::gradcheck::{self, Outcome};
use selfsame_autograd::{Gen, Tensor};
use selfsame_engine::{Array, Device, Error, ErrorKind, Result};

/// Largest difference from the oracle, relative to max(|value|, 1): a thousand roundings of f64 and more than the
/// losses of a few hundred terms accumulate.
const TOLERANCE: f64 = 1e-12;

/// Checks each of `specs` on `cases` generated cases; the first failure of a loss ends its check.
///
/// # Errors
/// When the CPU device cannot be opened.
pub fn check_all(specs: &[&'static LossSpec], cases: u64, seed: u64) -> Result<Vec<Outcome>> {
    let device = Device::cpu_with(1)?;
    Ok(specs.iter().map(|spec| check(spec, &device, cases, seed)).collect())
}

/// Checks one loss.
pub fn check(spec: &'static LossSpec, device: &Device, cases: u64, seed: u64) -> Outcome {
    let mut outcome = Outcome { op: spec.name, cases: 0, worst: 0.0, failure: None };
    for number in 0..cases {
        outcome.cases += 1;
        let problem = match check_one(spec, &mut Gen::new(device, spec.name, seed, number)) {
            Ok(deviation) => {
                outcome.worst = outcome.worst.max(deviation);
                // A NaN is a failure too.
                if deviation <= 1.0 {
                    continue;
                }
                format!("off by {deviation:.3e} tolerances")
            }
            Err(error) => error.sentence(),
        };
        outcome.failure = Some(format!("{}: {problem}; seed {seed}, case {number}", spec.name));
        break;
    }
    outcome
}

/// The larger of the deviations from oracle and differences, in units of their tolerances. The differences are by the
/// inputs that the loss is differentiated by.
fn check_one(spec: &LossSpec, g: &mut Gen) -> Result<f64> {
    let case = (spec.cases)(g)?;
    let role = |name: &str| spec.inputs.iter().find(|port| port.name == name).map(|port| port.role);
    let (moved, fixed): (Vec<_>, Vec<_>) =
        case.inputs.iter().partition(|(name, _)| role(name) == Some(Role::Differentiated));
    let arrays: Vec<Array> = moved.iter().map(|(_, array)| (*array).clone()).collect();
    let loss = |x: &[Tensor]| {
        let moved = moved.iter().map(|(name, _)| name.to_string()).zip(x.iter().cloned());
        let fixed = fixed.iter().map(|(name, array)| (name.to_string(), Tensor::constant((*array).clone())));
        let mut outputs = (spec.run)(&moved.chain(fixed).collect(), &case.options)?;
        outputs.remove("loss").ok_or_else(|| Error::new(ErrorKind::Config, spec.name, "no output 'loss'"))
    };
    let constants: Vec<Tensor> = arrays.iter().cloned().map(Tensor::constant).collect();
    let value = loss(&constants)?.array().item::<f64>()?;
    let oracle = (spec.oracle)(&case)?;
    let deviation = (value - oracle).abs() / (TOLERANCE * oracle.abs().max(1.0));
    let gradient = gradcheck::check_function(|x| Ok(vec![loss(x)?]), &arrays, g)?;
    // `f64::max` would drop a NaN.
    Ok(if deviation > gradient || deviation.is_nan() { deviation } else { gradient })
}
