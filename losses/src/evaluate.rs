//! A loss and its gradients on named arrays: what `selfsame loss` does.

use crate::spec::unknown;
use crate::{LossSpec, Options, Port, Role};
use selfsame_autograd::Tensor;
use selfsame_engine::{Array, DType, Error, ErrorKind, Result, ops};
use std::collections::BTreeMap;

/// The outputs of `spec` on `inputs`, and for each input `x` that it is differentiated by the gradient of the loss as
/// `grad_x`.
///
/// Computed in f64 where an input is f64, else in f32; half-precision inputs are widened.
///
/// # Errors
/// `Config` for an input that is missing or unknown or a bad option, `DType` for inputs of mixed type, integers in place
/// of floats or labels other than i64, or what the loss says of the shapes.
pub fn evaluate(
    spec: &LossSpec,
    inputs: BTreeMap<String, Array>,
    options: &[(String, String)],
) -> Result<BTreeMap<String, Array>> {
    let options = Options::parse(spec, options)?;
    let known = || spec.inputs.iter().map(|port| port.name).collect::<Vec<_>>();
    if let Some(name) = inputs.keys().find(|name| !known().contains(&name.as_str())) {
        return Err(unknown(&format!("{} input", spec.name), name, known()));
    }
    let mut tensors = BTreeMap::new();
    for port in spec.inputs {
        let tensor = match inputs.get(port.name) {
            Some(array) => tensor(spec, port, array)?,
            None if port.optional => continue,
            None => {
                return Err(Error::new(ErrorKind::Config, spec.name, format!("no input '{}'", port.name))
                    .expected(format!("'{}' {}: {}", port.name, port.shape, port.doc)));
            }
        };
        tensors.insert(port.name.to_string(), tensor);
    }
    let outputs = (spec.run)(&tensors, &options)?;
    let loss = outputs.get("loss").ok_or_else(|| Error::new(ErrorKind::Config, spec.name, "no output 'loss'"))?;
    let grads = loss.backward()?;
    let mut arrays: BTreeMap<String, Array> = outputs.iter().map(|(k, v)| (k.clone(), v.array().clone())).collect();
    for (name, leaf) in tensors.iter().filter(|(_, tensor)| tensor.is_tracked()) {
        let grad = match grads.get(leaf)? {
            Some(grad) => grad,
            None => Array::zeros(leaf.shape(), leaf.dtype(), leaf.device())?,
        };
        arrays.insert(format!("grad_{name}"), grad);
    }
    Ok(arrays)
}

/// The input of `port`, in the type that the loss computes in.
fn tensor(spec: &LossSpec, port: &Port, array: &Array) -> Result<Tensor> {
    let found = |expected| {
        let what = format!("{} input '{}'", spec.name, port.name);
        Err(Error::new(ErrorKind::DType, what, array.dtype().name()).expected(expected))
    };
    if port.role == Role::Labels {
        return if array.dtype() == DType::I64 { Ok(Tensor::constant(array.clone())) } else { found("i64") };
    }
    let widened = match array.dtype() {
        DType::F32 | DType::F64 => array.clone(),
        DType::F16 | DType::BF16 => ops::cast(array, DType::F32)?,
        _ => return found("floats"),
    };
    Ok(if port.role == Role::Constant { Tensor::constant(widened) } else { Tensor::leaf(widened) })
}
