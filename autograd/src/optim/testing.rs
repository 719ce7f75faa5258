//! Small f64 parameter sets and gradients for the tests of optimisers.

use crate::{Grads, Param, ParamSet, Role, Tensor};
use selfsame_engine::{Array, Device};

/// Parameters by path, role and value: rows of a matrix where the role is a weight's, else of one dimension.
pub(super) fn params(described: &[(&str, Role, &[f64])]) -> ParamSet {
    let device = Device::cpu_with(2).unwrap();
    let params: Vec<Param> = described
        .iter()
        .map(|(path, role, values)| {
            let (matrix, vector) = ([1, values.len()], [values.len()]);
            let shape = if *role == Role::Weight { &matrix[..] } else { &vector };
            Param::new(*path, *role, Array::from_slice(values, shape, &device).unwrap())
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

/// A gradient for each of some parameters.
pub(super) fn gradients(set: &ParamSet, gradients: &[(&str, &[f64])]) -> Grads {
    let terms: Vec<Tensor> = gradients
        .iter()
        .map(|(path, gradient)| {
            let value = set.get(path).unwrap().array();
            let gradient = Tensor::constant(Array::from_slice(gradient, value.shape(), value.device()).unwrap());
            set.get(path).unwrap().tensor().mul(&gradient).unwrap().sum_all().unwrap()
        })
        .collect();
    terms[1..].iter().fold(terms[0].clone(), |total, term| total.add(term).unwrap()).backward().unwrap()
}

/// The elements of a parameter.
pub(super) fn value(set: &ParamSet, path: &str) -> Vec<f64> {
    set.get(path).unwrap().array().to_vec().unwrap()
}
