//! L-BFGS (Liu and Nocedal 1989): minimises a smooth function of many numbers from values and gradients.

use selfsame_engine::Result;

/// Pairs of steps and gradient changes that stand for the curvature.
const MEMORY: usize = 10;

/// When to stop, and what is good enough a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stop {
    /// Steps at most.
    pub(crate) steps: usize,
    /// Largest absolute element of the gradient at a minimum.
    pub(crate) gradient: f64,
}

/// Sufficient decrease of a step, as a share of what the slope promises.
const ARMIJO: f64 = 1e-4;

/// Halvings of a step before the function counts as flat to rounding.
const HALVINGS: usize = 40;

/// A step and the change of the gradient along it, with the inverse of their product.
struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    inverse: f64,
}

/// A point near a minimum of `f`, which gives value and gradient, from `x` on. The function should be convex: steps are
/// halved until the value falls enough, and a step of negative curvature is not remembered.
///
/// # Errors
/// Those of `f`.
pub(crate) fn minimise(
    mut x: Vec<f64>,
    stop: Stop,
    mut f: impl FnMut(&[f64]) -> Result<(f64, Vec<f64>)>,
) -> Result<Vec<f64>> {
    let (mut value, mut gradient) = f(&x)?;
    let mut pairs: Vec<Pair> = Vec::new();
    for _ in 0..stop.steps {
        if gradient.iter().all(|g| g.abs() <= stop.gradient) {
            break;
        }
        let direction = direction(&gradient, &pairs);
        let slope = dot(&gradient, &direction);
        // Without a memory the length of the gradient means nothing.
        let mut length = if pairs.is_empty() { 1.0 / dot(&gradient, &gradient).sqrt().max(1.0) } else { 1.0 };
        let mut found = None;
        for _ in 0..HALVINGS {
            let next: Vec<f64> = x.iter().zip(&direction).map(|(x, d)| x + length * d).collect();
            let (next_value, next_gradient) = f(&next)?;
            if next_value <= value + ARMIJO * length * slope {
                found = Some((next, next_value, next_gradient));
                break;
            }
            length *= 0.5;
        }
        let Some((next, next_value, next_gradient)) = found else { break };
        let step: Vec<f64> = next.iter().zip(&x).map(|(a, b)| a - b).collect();
        let change: Vec<f64> = next_gradient.iter().zip(&gradient).map(|(a, b)| a - b).collect();
        let curvature = dot(&step, &change);
        if curvature > 0.0 {
            if pairs.len() == MEMORY {
                pairs.remove(0);
            }
            pairs.push(Pair { step, change, inverse: 1.0 / curvature });
        }
        (x, value, gradient) = (next, next_value, next_gradient);
    }
    Ok(x)
}

/// Minus the approximate inverse Hessian times the gradient: the two-loop recursion.
fn direction(gradient: &[f64], pairs: &[Pair]) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut weights = Vec::with_capacity(pairs.len());
    for pair in pairs.iter().rev() {
        let weight = pair.inverse * dot(&pair.step, &q);
        add_scaled(&mut q, -weight, &pair.change);
        weights.push(weight);
    }
    if let Some(last) = pairs.last() {
        let scale = 1.0 / (last.inverse * dot(&last.change, &last.change));
        q.iter_mut().for_each(|q| *q *= scale);
    }
    for (pair, weight) in pairs.iter().zip(weights.into_iter().rev()) {
        let correction = weight - pair.inverse * dot(&pair.change, &q);
        add_scaled(&mut q, correction, &pair.step);
    }
    q
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_scaled(a: &mut [f64], factor: f64, b: &[f64]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += factor * b);
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOP: Stop = Stop { steps: 200, gradient: 1e-10 };

    #[test]
    fn the_minimum_of_a_badly_scaled_bowl_is_found() {
        let scale = |i: usize| [1.0, 100.0, 1e4, 0.01][i % 4];
        let bowl = |x: &[f64]| {
            let value = x.iter().enumerate().map(|(i, x)| 0.5 * scale(i) * (x - i as f64) * (x - i as f64)).sum();
            Ok((value, x.iter().enumerate().map(|(i, x)| scale(i) * (x - i as f64)).collect()))
        };
        let x = minimise(vec![0.0; 12], STOP, bowl).unwrap();
        x.iter().enumerate().for_each(|(i, x)| assert!((x - i as f64).abs() < 1e-6, "{i}: {x}"));
    }

    #[test]
    fn rosenbrocks_valley_is_followed_to_its_end() {
        let valley = |x: &[f64]| {
            let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
            Ok((a * a + 100.0 * b * b, vec![-2.0 * a - 400.0 * x[0] * b, 200.0 * b]))
        };
        let x = minimise(vec![-1.2, 1.0], STOP, valley).unwrap();
        assert!((x[0] - 1.0).abs() < 1e-6 && (x[1] - 1.0).abs() < 1e-6, "{x:?}");
    }

    #[test]
    fn errors_of_the_function_come_through() {
        let fails = |_: &[f64]| Err(selfsame_engine::Error::new(selfsame_engine::ErrorKind::Config, "f", "no value"));
        assert!(minimise(vec![0.0], STOP, fails).is_err());
    }
}
