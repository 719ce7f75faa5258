//! Weights of networks trained elsewhere: PyTorch's state dicts, saved as safetensors.
//!
//! Our networks use the names of the best-known definitions: [`ResNet`](crate::backbones::ResNet) those of torchvision
//! and timm, [`Vit`](crate::backbones::Vit) those of timm and DINO, [`PlainNet`](crate::backbones::PlainNet) those of
//! torchvision's VGG and of DeepCluster. What differs is the layout of weights, and prefixes that training frameworks
//! put before the names.

use crate::weights::Tensors;
use crate::weights::{Faults, relative};
use crate::{Module, params};
use selfsame_autograd::Param;
use selfsame_engine::{Array, Error, ErrorKind, Result, TensorFile, ops};
use std::path::Path;

/// How a PyTorch array becomes ours.
struct Rule {
    /// Name of the parameter without its layer.
    name: &'static str,
    /// Number of axes in PyTorch.
    rank: usize,
    /// Order in which PyTorch's axes are taken.
    axes: &'static [usize],
}

const RULES: &[Rule] = &[
    // Convolution: [out, in, h, w] to [h, w, in, out].
    Rule { name: "weight", rank: 4, axes: &[2, 3, 1, 0] },
    // Linear: [out, in] to [in, out].
    Rule { name: "weight", rank: 2, axes: &[1, 0] },
    // Weight normalisation: directions [out, in], lengths [out, 1].
    Rule { name: "weight_v", rank: 2, axes: &[1, 0] },
    Rule { name: "weight_g", rank: 2, axes: &[1, 0] },
    // Class token and positions [1, tokens, channels].
    Rule { name: "cls_token", rank: 3, axes: &[0, 1, 2] },
    Rule { name: "pos_embed", rank: 3, axes: &[0, 1, 2] },
    // Norms and biases.
    Rule { name: "weight", rank: 1, axes: &[0] },
    Rule { name: "bias", rank: 1, axes: &[0] },
    Rule { name: "running_mean", rank: 1, axes: &[0] },
    Rule { name: "running_var", rank: 1, axes: &[0] },
];

/// Put before the names by wrappers and training frameworks; the longest that fits all of a file is taken off.
const PREFIXES: &[&str] =
    &["module.encoder_q.", "module.backbone.", "module.encoder.", "module.", "backbone.", "encoder.", "model.", ""];

/// Entries of a state dict that no module of ours holds.
const IGNORED: &[&str] = &["num_batches_tracked"];

/// What [`torch`] did besides copying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Prefix taken off the names.
    pub prefix: String,
    /// Names of the file that the module has no use for: `fc` when it has no classification layer, other heads.
    pub unused: Vec<String>,
}

/// Loads PyTorch's state dict from the safetensors file at `path` into `module`, whose paths lie below `root`.
///
/// # Errors
/// `Io` or `Corrupt` for the file, or as for [`torch_state`].
pub fn torch(module: &dyn Module, root: &str, path: impl AsRef<Path>) -> Result<Imported> {
    let all = params(module);
    let first = all.first().ok_or_else(|| Error::new(ErrorKind::Config, "import", "a module without parameters"))?;
    let file = TensorFile::read(path, first.array().device())?;
    torch_state(module, root, &file.tensors)
}

/// As [`torch`], from arrays already read. f16 and bf16 weights are widened. Nothing is written unless every
/// parameter and buffer of `module` is found with its shape.
///
/// # Errors
/// `Config` that lists what is missing or has another shape.
pub fn torch_state(module: &dyn Module, root: &str, state: &Tensors) -> Result<Imported> {
    let params = params(module);
    let mut wanted = Vec::with_capacity(params.len());
    for p in &params {
        wanted.push((relative(p, root)?, p));
    }
    let matches =
        |prefix: &str| wanted.iter().filter(|(name, _)| state.contains_key(&format!("{prefix}{name}"))).count();
    // Of equally good prefixes the first, and so the longest.
    let prefix = PREFIXES.iter().rev().copied().filter(|p| matches(p) > 0).max_by_key(|p| matches(p)).unwrap_or("");
    let mut unused: Vec<&str> = state.keys().map(|k| k.strip_prefix(prefix).unwrap_or(k)).collect();
    unused.retain(|name| !IGNORED.contains(&name.rsplit('.').next().unwrap_or(name)));
    unused.retain(|name| !wanted.iter().any(|(w, _)| w == name));
    let mut faults = Faults::default();
    let mut values: Vec<(&Param, Array)> = Vec::new();
    for (name, p) in wanted {
        match state.get(&format!("{prefix}{name}")) {
            None => faults.missing(name, &unused),
            Some(array) => match converted(name, array, p)? {
                None => faults.0.push(format!("'{name}' has {} axes in the file", array.rank())),
                Some(value) => {
                    faults.compare(name, &value, p);
                    values.push((p, value));
                }
            },
        }
    }
    faults.into_result("import")?;
    values.into_iter().try_for_each(|(p, value)| p.set(value))?;
    Ok(Imported { prefix: prefix.to_string(), unused: unused.into_iter().map(str::to_string).collect() })
}

/// The file's array in our layout, type and device; `None` when no rule fits its rank.
fn converted(name: &str, array: &Array, p: &Param) -> Result<Option<Array>> {
    let own = p.array();
    let last = name.rsplit('.').next().unwrap_or(name);
    let Some(rule) = RULES.iter().find(|r| r.name == last && r.rank == array.rank() && r.rank == own.rank()) else {
        return Ok(None);
    };
    let value = array.permute(rule.axes)?.contiguous()?;
    Ok(Some(ops::cast(&value, own.dtype())?.to_device(own.device())?))
}
