//! What a layer is, and how its parameters and buffers are listed.

use crate::Ctx;
use selfsame_autograd::{Param, ParamVisitor, Role, Tensor};
use selfsame_engine::{Error, ErrorKind, Result};

/// Something with parameters that maps one tensor to another.
pub trait Module: Send + Sync {
    /// Runs the module on `x` `[images, …]`.
    ///
    /// # Errors
    /// When the shape does not fit the module.
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor>;

    /// Shows every parameter and buffer once, in the order in which the module defines them, each at the full path it
    /// was made with, such as `backbone.layer1.0.conv1.weight`.
    fn visit(&self, v: &mut dyn ParamVisitor);
}

/// The parameters and buffers in definition order.
pub fn params(module: &dyn Module) -> Vec<Param> {
    let mut all = Vec::new();
    module.visit(&mut |_: &str, p: &Param| all.push(p.clone()));
    all
}

/// Number of trainable scalars.
pub fn param_count(module: &dyn Module) -> usize {
    params(module).iter().filter(|p| p.role() != Role::Buffer).map(|p| p.array().numel()).sum()
}

/// Writes all parameters and buffers of `from` into its twin `to`: the same definition built under another path, as
/// a momentum encoder is. Twins are matched by the path below the modules' own roots.
///
/// # Errors
/// `Config` naming the first parameter or buffer without a counterpart of the same shape; nothing is written then.
pub fn copy_values(from: &dyn Module, to: &dyn Module) -> Result<()> {
    let (from, to) = (params(from), params(to));
    if from.len() != to.len() {
        return Err(Error::new(ErrorKind::Config, "copy_values", format!("{} parameters and buffers", from.len()))
            .expected(format!("{} as in the twin", to.len())));
    }
    let (from_root, to_root) = (shared_root(&from), shared_root(&to));
    for (f, t) in from.iter().zip(&to) {
        let (shape, twin_shape) = (f.array().shape().to_vec(), t.array().shape().to_vec());
        if f.path()[from_root..] != t.path()[to_root..] || shape != twin_shape {
            return Err(Error::new(ErrorKind::Config, "copy_values", format!("'{}' {shape:?}", f.path()))
                .expected(format!("the twin of '{}' {twin_shape:?}", t.path())));
        }
    }
    from.iter().zip(&to).try_for_each(|(f, t)| t.set(f.array()))
}

/// Length of the path prefix, up to and with a dot, that all have in common.
fn shared_root(params: &[Param]) -> usize {
    let Some((first, rest)) = params.split_first() else { return 0 };
    let parent = |path: &str| path.rfind('.').map_or(0, |dot| dot + 1);
    let mut root = parent(first.path());
    for param in rest {
        while !param.path().starts_with(&first.path()[..root]) {
            root = parent(&first.path()[..root - 1]);
        }
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Init;
    use crate::layers::{BatchNorm, BatchNormOpts};
    use selfsame_engine::{Array, Device};

    #[test]
    fn the_shared_root_is_a_whole_number_of_path_parts() {
        let device = Device::cpu_with(1).unwrap();
        let root = |paths: &[&str]| {
            let value = Array::scalar(0f32, &device).unwrap();
            shared_root(&paths.iter().map(|p| Param::new(*p, Role::Weight, value.clone())).collect::<Vec<_>>())
        };
        assert_eq!(root(&["a.bn1.weight", "a.bn2.weight"]), "a.".len());
        assert_eq!(root(&["a.weight"]), "a.".len());
        assert_eq!(root(&["conv.weight", "bn.weight"]), 0);
        assert_eq!(root(&[]), 0);
    }

    #[test]
    fn twins_copy_parameters_and_buffers_and_strangers_do_not() {
        let device = Device::cpu_with(1).unwrap();
        let init = Init::new(&device, 7);
        let bn = |path, width| BatchNorm::new(&init.at(path), width, BatchNormOpts::default()).unwrap();
        let (online, target) = (bn("online.bn", 3), bn("target.bn", 3));
        for (i, p) in params(&online).iter().enumerate() {
            p.set(Array::full(i as f32 + 2.5, &[3], &device).unwrap()).unwrap();
        }
        copy_values(&online, &target).unwrap();
        for (i, p) in params(&target).iter().enumerate() {
            assert_eq!(p.array().to_vec::<f32>().unwrap(), [i as f32 + 2.5; 3]);
        }
        assert_eq!(copy_values(&online, &bn("wider.bn", 4)).unwrap_err().kind(), ErrorKind::Config);
    }
}
