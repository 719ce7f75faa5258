//! Parameters of small models and gradients that are given rather than computed, for tests of optimisers.

use selfsame_autograd::{Grads, Param, ParamSet, Role, Tensor};
use selfsame_engine::{Array, DType, Device, ops};

/// A parameter's path, role and shape.
pub(crate) type Spec = (&'static str, Role, &'static [usize]);

/// An array of these values in a type.
pub(crate) fn array(values: &[f64], shape: &[usize], dtype: DType, device: &Device) -> Array {
    match dtype {
        DType::F64 => Array::from_slice(values, shape, device).unwrap(),
        DType::F32 => {
            let values: Vec<f32> = values.iter().map(|x| *x as f32).collect();
            Array::from_slice(&values, shape, device).unwrap()
        }
        other => panic!("no parameters of type {other}"),
    }
}

/// Parameters of these values.
pub(crate) fn params(specs: &[Spec], values: &[Vec<f64>], dtype: DType, device: &Device) -> ParamSet {
    let params: Vec<Param> = specs
        .iter()
        .zip(values)
        .map(|((path, role, shape), values)| Param::new(*path, *role, array(values, shape, dtype, device)))
        .collect();
    ParamSet::collect(|v| params.iter().for_each(|p| v.param(p.path(), p))).unwrap()
}

/// The gradients `values`, as those of a loss that is linear in the parameters.
pub(crate) fn gradients(set: &ParamSet, specs: &[Spec], values: &[Vec<f64>]) -> Grads {
    let mut loss: Option<Tensor> = None;
    for ((path, _, shape), values) in specs.iter().zip(values) {
        let param = set.get(path).unwrap();
        let (dtype, device) = (param.array().dtype(), param.array().device().clone());
        let factor = Tensor::constant(array(values, shape, dtype, &device));
        let term = param.tensor().mul(&factor).unwrap().sum_all().unwrap();
        loss = Some(loss.map_or(term.clone(), |loss| loss.add(&term).unwrap()));
    }
    loss.expect("at least one parameter").backward().unwrap()
}

/// The elements of a parameter.
pub(crate) fn value(param: &Param) -> Vec<f64> {
    let value = param.array().to_device(&Device::cpu_with(1).unwrap()).unwrap();
    ops::cast(&value, DType::F64).unwrap().to_vec().unwrap()
}
