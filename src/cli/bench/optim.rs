//! Steps of optimisers and of a moving average over ResNet-50's parameters (25.6 million), gradients given.
//!
//! Beside them a read-modify-write stream over the bytes that a step of LARS moves: the roof of this machine, now.

use selfsame_autograd::ema::ema_update;
use selfsame_autograd::optim::{AdamW, Lamb, LambOptions, Lars, LarsOptions, LarsVariant, Optimizer, Sgd};
use selfsame_autograd::{Grads, Param, ParamSet, Role, Tensor};
use selfsame_engine::{Array, DType, Result, ops};

use super::{Bench, Timing};

/// A shape and a role for each parameter of ResNet-50 with its classifier.
fn resnet50() -> Vec<(Vec<usize>, Role)> {
    fn conv(params: &mut Vec<(Vec<usize>, Role)>, kernel: usize, c_in: usize, c_out: usize) {
        params.push((vec![kernel, kernel, c_in, c_out], Role::Weight));
        params.push((vec![c_out], Role::NormScale));
        params.push((vec![c_out], Role::NormBias));
    }
    let (mut params, mut c_in) = (Vec::new(), 64);
    conv(&mut params, 7, 3, 64);
    for (blocks, width) in [(3, 64), (4, 128), (6, 256), (3, 512)] {
        for block in 0..blocks {
            conv(&mut params, 1, c_in, width);
            conv(&mut params, 3, width, width);
            conv(&mut params, 1, width, 4 * width);
            if block == 0 {
                conv(&mut params, 1, c_in, 4 * width);
            }
            c_in = 4 * width;
        }
    }
    params.push((vec![c_in, 1000], Role::Weight));
    params.push((vec![1000], Role::Bias));
    params
}

fn param_set(bench: &Bench<'_>, scale: f64) -> Result<ParamSet> {
    let mut params = Vec::new();
    for (i, (shape, role)) in resnet50().into_iter().enumerate() {
        let value = ops::scale(bench.normal(i as u64, &shape)?, scale)?;
        params.push(Param::new(format!("{i:03}"), role, value));
    }
    ParamSet::collect(|v| params.iter().for_each(|p| v.param(p.path(), p)))
}

/// Gradients of a loss that is linear in the parameters.
fn gradients(params: &ParamSet) -> Result<Grads> {
    let mut loss: Option<Tensor> = None;
    for (_, param) in params.trainable() {
        let factor = Tensor::constant(ops::scale(param.array().copy()?, 0.01)?);
        let term = param.tensor().mul(&factor)?.sum_all()?;
        loss = Some(match loss {
            None => term,
            Some(loss) => loss.add(&term)?,
        });
    }
    loss.expect("ResNet-50 has parameters").backward()
}

pub(super) fn run(bench: &Bench<'_>) -> Result<Vec<Timing>> {
    let params = param_set(bench, 0.02)?;
    let gradients = gradients(&params)?;
    let elements = params.trainable_elements();
    let mut timings = Vec::new();
    let mut time = |name: &str, words: usize, work: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        let mut timing = bench.time(format!("optim resnet50 {name}"), None, work)?;
        timing.extra.push(("moves", (4 * words * elements) as f64 / timing.median() / 1e9, "GB per s"));
        timings.push(timing);
        Ok(())
    };

    // Words that a step moves per parameter: what the norms read, then what the update reads and writes.
    let lars = || Lars::new(&params, LarsOptions::of(LarsVariant::SimclrClassic));
    let optimisers: [(&str, usize, Box<dyn Optimizer>); 4] = [
        ("lars", 2 + 5, Box::new(lars()?)),
        ("sgd", 1 + 5, Box::new(Sgd::new(&params, 0.9, false, 1e-4)?)),
        ("adamw", 1 + 7, Box::new(AdamW::new(&params, (0.9, 0.999), 1e-8, 0.01)?)),
        ("lamb", 1 + 6 + 4, Box::new(Lamb::new(&params, LambOptions::default())?)),
    ];
    for (name, words, mut optimiser) in optimisers {
        time(name, words, &mut || optimiser.step(&params, &gradients, 1e-6).map(drop))?;
    }
    let teacher = param_set(bench, 0.02)?;
    time("ema", 3, &mut || ema_update(&teacher, &params, 0.99))?;
    let mut stream = Array::zeros(&[7 * elements / 2], DType::F32, bench.device)?;
    time("read-modify-write", 7, &mut || {
        stream = ops::scale(std::mem::replace(&mut stream, Array::zeros(&[0], DType::F32, bench.device)?), 1.5)?;
        Ok(())
    })?;
    Ok(timings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shapes_are_those_of_resnet_50() {
        let elements: usize = resnet50().iter().map(|(shape, _)| shape.iter().product::<usize>()).sum();
        assert_eq!((resnet50().len(), elements), (161, 25_557_032));
    }
}
