//! Small f64 parameter sets and gradients for the tests of optimisers.

use crate::{Grads, Param, ParamSet, Role, Tensor};
use selfsame_engine::{Array, Device};

/// Parameters by path, role and value.
pub(super) fn params(described: &[(&str, Role, &[f64])]) -> ParamSet {
    let device = Device::cpu_with(2).unwrap();
    let params: Vec<Param> = described
        .iter()
        .map(|(path, role, values)| {
            Param::new(*path, *role, Array::from_slice(values, &[values.len()], &device).unwrap())
        })
        .collect();
    ParamSet::collect(|v| params.iter().for_each(|p| v.param(p.path(), p))).unwrap()
}

/// The same gradient for every element.
pub(super) fn gradient(set: &ParamSet, value: f64) -> Grads {
    let sums: Vec<Tensor> = set.trainable().map(|(_, p)| p.tensor().sum_all().unwrap()).collect();
    let total = sums[1..].iter().fold(sums[0].clone(), |total, sum| total.add(sum).unwrap());
    total.scale(value).unwrap().backward().unwrap()
}

/// The elements of a parameter.
pub(super) fn value(set: &ParamSet, path: &str) -> Vec<f64> {
    set.get(path).unwrap().array().to_vec().unwrap()
}
