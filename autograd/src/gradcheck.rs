//! Finite differences against backward, in f64 and along one random direction at a time.
//!
//! For inputs x, a direction u, output gradients dy and the Jacobian J, both sides of ⟨dy, J u⟩ = ⟨vjp(dy), u⟩ are
//! computed: the left by central differences of the forward, the right by backward. One inner product sees an error in
//! any element. The inputs keep away from kinks; that is part of each operation's cases.

use crate::backward::Pass;
use crate::generate::{Domain, Gen};
use crate::op::Gradient;
use crate::{Case, Cotangent, Grads, OpSpec, Tensor, apply};
use selfsame_engine::{Array, Device, Error, ErrorKind, Result};
use selfsame_kernels::math::Real;

/// Step of the central difference. Its truncation error is STEP²/6 = 4e-11 times a third derivative, its rounding
/// error EPSILON/STEP = 1.5e-11 times an output.
const STEP: f64 = 1.0 / 65536.0;

/// Tolerance relative to the sum of the magnitudes of the products that make up the two sides: 25 000 times the
/// truncation error at a third derivative of 1, as third derivatives inside the domains reach thousands.
const RELATIVE: f64 = 1e-6;

/// Tolerance relative to Σ |dy| max(|y|, 1): a hundred times the rounding error of the differences, since an output
/// may be the small difference of large intermediate values.
const ABSOLUTE: f64 = 1.5e-9;

/// What the check of one operation found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The operation.
    pub op: &'static str,
    /// Cases that were run.
    pub cases: u64,
    /// The largest deviation in units of its tolerance; below 1 everywhere when the check passes.
    pub worst: f64,
    /// The first case that failed.
    pub failure: Option<String>,
}

impl Outcome {
    /// Whether every case passed.
    pub fn passed(&self) -> bool {
        self.failure.is_none()
    }
}

/// Checks each of `specs` on `cases` generated cases; the first failure of an operation ends its check.
///
/// # Errors
/// When the CPU device cannot be opened.
pub fn check(specs: &[&OpSpec], cases: u64, seed: u64) -> Result<Vec<Outcome>> {
    let device = Device::cpu_with(1)?;
    Ok(specs.iter().map(|spec| check_op(spec, &device, cases, seed)).collect())
}

fn check_op(spec: &OpSpec, device: &Device, cases: u64, seed: u64) -> Outcome {
    let mut outcome = Outcome { op: spec.name, cases: 0, worst: 0.0, failure: None };
    for number in 0..cases {
        let mut g = Gen::new(device, spec.name, seed, number);
        outcome.cases += 1;
        let (deviation, described) = match (spec.cases)(&mut g) {
            Ok(case) => (check_case(&case, &mut g), describe(&case)),
            Err(e) => (Err(e), "no case".to_string()),
        };
        let problem = match deviation {
            Ok(deviation) => {
                outcome.worst = outcome.worst.max(deviation);
                // A NaN is a failure too.
                if deviation <= 1.0 {
                    continue;
                }
                format!("backward is off by {deviation:.3e} tolerances")
            }
            Err(e) => e.sentence(),
        };
        outcome.failure = Some(format!("{}: {problem}; {described}; seed {seed}, case {number}", spec.name));
        break;
    }
    outcome
}

/// Shapes and strides of a case, for the message.
fn describe(case: &Case) -> String {
    let inputs: Vec<String> =
        case.inputs.iter().map(|x| format!("{:?} strides {:?}", x.shape(), x.layout().strides())).collect();
    format!("inputs {} in slots {:?}", inputs.join(", "), case.slots)
}

/// Checks one case and returns its deviation in units of the tolerance.
///
/// # Errors
/// What forward and backward return, and `Numerics` when the layout of the inputs changes the output.
pub fn check_case(case: &Case, g: &mut Gen) -> Result<f64> {
    let run = |x: &[Tensor]| {
        let slots: Vec<&Tensor> = case.slots.iter().map(|&i| &x[i]).collect();
        apply(case.op.clone(), &slots)
    };
    if let Gradient::None(_) = case.op.spec().gradient {
        return refuses_tracked(run, &case.inputs).map(|()| 0.0);
    }
    check_function(run, &case.inputs, g)
}

/// Checks any differentiable function of f64 tensors (an objective, a layer) at `inputs` along a direction drawn from
/// `g`, and returns its deviation in units of the tolerance.
///
/// # Errors
/// What the function and its backward return, and `Numerics` when the layout of the inputs changes the output.
pub fn check_function(f: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>, inputs: &[Array], g: &mut Gen) -> Result<f64> {
    let leaves: Vec<Tensor> = inputs.iter().cloned().map(Tensor::leaf).collect();
    let outputs = f(&leaves)?;
    layout_does_not_matter(&f, inputs, &outputs)?;

    let mut pass = Pass::default();
    let mut dys = Vec::new();
    for y in &outputs {
        dys.push(match y.origin() {
            Some(origin) => {
                let dy = g.array(y.shape(), Domain::Normal)?;
                pass.seed(origin, Cotangent::Dense(dy.clone()))?;
                Some(dy.to_vec::<f64>()?)
            }
            None => None,
        });
    }
    pass.run()?;
    let grads = Grads::collect(pass)?;

    let (mut analytic, mut magnitude) = (0.0, 0.0);
    let mut directions = Vec::new();
    for (x, leaf) in inputs.iter().zip(&leaves) {
        let u = g.array(x.shape(), Domain::Normal)?.to_vec::<f64>()?;
        if let Some(dx) = grads.get(leaf)? {
            for (dx, u) in dx.to_vec::<f64>()?.iter().zip(&u) {
                analytic += dx * u;
                magnitude += Real::abs(dx * u);
            }
        }
        directions.push(u);
    }

    let shifted = |by: f64| -> Result<Vec<Tensor>> {
        let moved = inputs.iter().zip(&directions).map(|(x, u)| {
            let values: Vec<f64> = x.to_vec::<f64>()?.iter().zip(u).map(|(x, u)| x + by * u).collect();
            Ok(Tensor::constant(Array::from_slice(&values, x.shape(), x.device())?))
        });
        f(&moved.collect::<Result<Vec<_>>>()?)
    };
    let (above, below) = (shifted(STEP)?, shifted(-STEP)?);
    let (mut numeric, mut rounding) = (0.0, 0.0);
    for ((above, below), dy) in above.iter().zip(&below).zip(&dys) {
        let Some(dy) = dy else { continue };
        let (above, below) = (above.array().to_vec::<f64>()?, below.array().to_vec::<f64>()?);
        for ((above, below), dy) in above.iter().zip(&below).zip(dy) {
            let product = dy * (above - below) / (2.0 * STEP);
            numeric += product;
            magnitude += Real::abs(product);
            rounding += Real::abs(*dy) * Real::abs(*above).max(1.0);
        }
    }
    let tolerance = RELATIVE * magnitude + ABSOLUTE * rounding;
    if tolerance == 0.0 {
        return Ok(if analytic == numeric { 0.0 } else { f64::INFINITY });
    }
    Ok(Real::abs(analytic - numeric) / tolerance)
}

/// A strided operand must give the bits of its contiguous copy.
fn layout_does_not_matter(
    f: &impl Fn(&[Tensor]) -> Result<Vec<Tensor>>,
    inputs: &[Array],
    outputs: &[Tensor],
) -> Result<()> {
    let copies = inputs.iter().map(|x| Ok(Tensor::constant(x.copy()?))).collect::<Result<Vec<_>>>()?;
    for (i, (plain, strided)) in f(&copies)?.iter().zip(outputs).enumerate() {
        if plain.is_tracked() || plain.dtype() != selfsame_engine::DType::F64 {
            continue;
        }
        let bits = |y: &Tensor| Ok(y.array().to_vec::<f64>()?.into_iter().map(f64::to_bits).collect::<Vec<_>>());
        let (plain, strided): (Result<Vec<u64>>, Result<Vec<u64>>) = (bits(plain), bits(strided));
        if plain? != strided? {
            return Err(Error::new(
                ErrorKind::Numerics,
                "gradcheck",
                format!("another output {i} for contiguous inputs"),
            )
            .expected("the same bits in every layout"));
        }
    }
    Ok(())
}

/// An operation without a backward must say so at forward.
fn refuses_tracked(f: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>, inputs: &[Array]) -> Result<()> {
    let constants: Vec<Tensor> = inputs.iter().cloned().map(Tensor::constant).collect();
    f(&constants)?;
    let leaves: Vec<Tensor> = inputs.iter().cloned().map(Tensor::leaf).collect();
    match f(&leaves) {
        Err(e) if e.kind() == ErrorKind::NoVjp => Ok(()),
        _ => Err(Error::new(ErrorKind::NoVjp, "gradcheck", "a tracked input was accepted")
            .expected("an error at forward: the operation has no backward")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::OPS;
    use crate::{Op, Saved};
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;
    use std::sync::Arc;

    #[test]
    fn every_operation_agrees_with_finite_differences() {
        let config = ProptestConfig::with_source_file(file!());
        for spec in OPS {
            let result = TestRunner::new(config.clone()).run(&any::<u64>(), |seed| {
                let outcome = check(&[spec], 1, seed).unwrap().remove(0);
                prop_assert!(outcome.passed(), "{}", outcome.failure.unwrap());
                Ok(())
            });
            assert!(result.is_ok(), "{}: {}", spec.name, result.unwrap_err());
        }
    }

    /// An operation whose backward is wrong by a factor.
    struct Mutant {
        op: Arc<dyn Op>,
        factor: f64,
    }

    impl Op for Mutant {
        fn spec(&self) -> &'static OpSpec {
            self.op.spec()
        }

        fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
            self.op.forward(x, save)
        }

        fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
            let dx = self.op.vjp(saved, dy, want)?;
            dx.into_iter().map(|d| d.map(|d| d.scale(self.factor)).transpose()).collect()
        }

        fn rematerialize(&self, saved: &Saved) -> Result<Array> {
            self.op.rematerialize(saved)
        }
    }

    #[test]
    fn a_wrong_backward_is_caught() {
        let device = Device::cpu_with(1).unwrap();
        for spec in OPS.iter().filter(|spec| spec.gradient == Gradient::Vjp) {
            for factor in [1.01, -1.0] {
                let caught = (0..20).any(|number| {
                    let mut g = Gen::new(&device, spec.name, 7, number);
                    let case = (spec.cases)(&mut g).unwrap();
                    let mutant = Case { op: Arc::new(Mutant { op: case.op, factor }), ..case };
                    check_case(&mutant, &mut g).unwrap() > 1.0
                });
                assert!(caught, "{}: a backward times {factor} passes", spec.name);
            }
        }
    }

    #[test]
    fn an_operation_without_backward_that_takes_tracked_inputs_is_caught() {
        let device = Device::cpu_with(1).unwrap();
        let x = Array::from_slice(&[1f64, 2.], &[2], &device).unwrap();
        let accepts = |x: &[Tensor]| Ok(vec![x[0].clone()]);
        assert_eq!(refuses_tracked(accepts, &[x]).unwrap_err().kind(), ErrorKind::NoVjp);
    }

    #[test]
    fn functions_of_several_outputs_are_checked() {
        let device = Device::cpu_with(1).unwrap();
        let mut g = Gen::new(&device, "polar", 1, 0);
        let inputs = [g.array(&[5], Domain::Range(0.5, 2.0)).unwrap(), g.array(&[5], Domain::Normal).unwrap()];
        let polar = |x: &[Tensor]| Ok(vec![x[0].mul(&x[1].cos()?)?, x[0].mul(&x[1].sin()?)?]);
        assert!(check_function(polar, &inputs, &mut g).unwrap() <= 1.0);
        let cut = |x: &[Tensor]| Ok(vec![x[0].mul(&x[1].cos()?)?, x[0].mul(&x[1].detach().sin()?)?]);
        assert!(check_function(cut, &inputs, &mut g).unwrap() > 1.0);
    }
}
