//! A loss and its gradients on named arrays: what `selfsame loss` does.

use crate::spec::unknown;
use crate::{LossSpec, Options};
use selfsame_autograd::Tensor;
use selfsame_engine::{Array, DType, Error, ErrorKind, Result, ops};
use std::collections::BTreeMap;

/// The outputs of `spec` on `inputs`, and for each input `x` the gradient of the loss as `grad_x`.
///
/// Computed in f64 where an input is f64, else in f32; half-precision inputs are widened.
///
/// # Errors
/// `Config` for an input that is missing or unknown or a bad option, `DType` for inputs of mixed or integer type, or
/// what the loss says of the shapes.
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
    let mut leaves = BTreeMap::new();
    for port in spec.inputs {
        let array = inputs.get(port.name).ok_or_else(|| {
            Error::new(ErrorKind::Config, spec.name, format!("no input '{}'", port.name))
                .expected(format!("'{}' {}: {}", port.name, port.shape, port.doc))
        })?;
        leaves.insert(port.name.to_string(), Tensor::leaf(widened(spec, port.name, array)?));
    }
    let outputs = (spec.run)(&leaves, &options)?;
    let loss = outputs.get("loss").ok_or_else(|| Error::new(ErrorKind::Config, spec.name, "no output 'loss'"))?;
    let grads = loss.backward()?;
    let mut arrays: BTreeMap<String, Array> = outputs.iter().map(|(k, v)| (k.clone(), v.array().clone())).collect();
    for (name, leaf) in &leaves {
        let grad = match grads.get(leaf)? {
            Some(grad) => grad,
            None => Array::zeros(leaf.shape(), leaf.dtype(), leaf.device())?,
        };
        arrays.insert(format!("grad_{name}"), grad);
    }
    Ok(arrays)
}

fn widened(spec: &LossSpec, name: &str, array: &Array) -> Result<Array> {
    match array.dtype() {
        DType::F32 | DType::F64 => Ok(array.clone()),
        DType::F16 | DType::BF16 => ops::cast(array, DType::F32),
        other => {
            Err(Error::new(ErrorKind::DType, format!("{} input '{name}'", spec.name), other.name()).expected("floats"))
        }
    }
}
