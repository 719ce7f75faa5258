//! 3. An operation of your own, with its backward and its gradient check. Run with `cargo run --example 03_custom_op`.

use selfsame::autograd::{Case, Cotangent, Domain, Gradient, Op, OpSpec, Saved, gradcheck};
use selfsame::prelude::*;

/// Swish with a slope (Ramachandran, Zoph and Le 2017): y = x σ(βx).
/// Backward: dx = dy (s + βx s (1 - s)) with s = σ(βx).
struct Swish {
    beta: f64,
    /// The factor of the second term of the backward. 1 is right; the example also shows what 0.9 does.
    second_term: f64,
}

/// What the gradient check generates: any shape and layout, values around zero.
static SWISH: OpSpec = OpSpec {
    name: "swish",
    gradient: Gradient::Vjp,
    cases: |g| {
        let op = Swish { beta: g.uniform(0.5, 2.0), second_term: 1.0 };
        g.one_input(op, Domain::Normal)
    },
};

/// The same with a mistake in it.
static WRONG_SWISH: OpSpec = OpSpec {
    name: "wrong_swish",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = g.full_shape((1, 3));
        Ok(Case::new(Swish { beta: 1.0, second_term: 0.9 }, vec![g.array(&shape, Domain::Normal)?]))
    },
};

impl Op for Swish {
    fn spec(&self) -> &'static OpSpec {
        &SWISH
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let s = ops::unary(ops::Unary::Sigmoid, &ops::binary_scalar(ops::Binary::Mul, x[0], self.beta)?)?;
        save.keep(x[0]);
        save.keep(&s);
        Ok(vec![ops::mul(x[0], &s)?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (x, s) = (saved.array(0)?, saved.array(1)?);
        let Some(dy) = &dy[0] else { return Ok(vec![None]) };
        let falling = ops::scalar_binary(ops::Binary::Sub, 1.0, s)?;
        let second = ops::scale(ops::mul(x, &ops::mul(s, &falling)?)?, self.beta * self.second_term)?;
        Ok(vec![Some(ops::mul(dy, &ops::add(s, &second)?)?.into())])
    }
}

fn swish(x: &Tensor, beta: f64) -> Result<Tensor> {
    apply1(Swish { beta, second_term: 1.0 }, &[x])
}

fn main() -> Result<()> {
    // It takes part in a graph like any other operation.
    let device = Device::cpu()?;
    let x = Tensor::leaf(Array::from_slice(&[-2.0f32, 0.0, 2.0], &[3], &device)?);
    let y = swish(&x, 1.0)?;
    println!("swish    {:?}", y.array());
    println!("gradient {:?}\n", y.sum_all()?.backward()?.get(&x)?.expect("y depends on x"));

    // Finite differences along random directions, over generated shapes and strides.
    for outcome in gradcheck::check(&[&SWISH, &WRONG_SWISH], 64, 0)? {
        match &outcome.failure {
            None => println!("{}: {} cases, worst {:.3} of the tolerance", outcome.op, outcome.cases, outcome.worst),
            Some(failure) => println!("{}: caught. {failure}", outcome.op),
        }
    }
    Ok(())
}
