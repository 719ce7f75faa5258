//! Weights of a module in and out of safetensors files, by path name.

use crate::{Module, params};
use selfsame_autograd::Param;
use selfsame_engine::{Array, Error, ErrorKind, Result, TensorFile, nearest};
use std::collections::BTreeMap;
use std::path::Path;

/// The key of a weights file's metadata that holds the text given to [`save`].
pub const ABOUT: &str = "selfsame";

/// Arrays by name.
pub type Tensors = BTreeMap<String, Array>;

/// At most this many names are listed in an error.
const LISTED: usize = 8;

/// All parameters and buffers of `module` by their path below `root`: for `root` `backbone`, the parameter
/// `backbone.conv1.weight` is called `conv1.weight`. An empty root keeps full paths.
///
/// # Errors
/// `Config` when a path does not lie below `root`.
pub fn state(module: &dyn Module, root: &str) -> Result<Tensors> {
    params(module).iter().map(|p| Ok((relative(p, root)?.to_string(), p.array()))).collect()
}

/// Writes `state` into `module`; see [`state()`] for names. Nothing is written unless everything fits.
///
/// # Errors
/// `Config` listing every name that is missing (with the nearest unexpected one), unexpected, or of another shape.
pub fn restore(module: &dyn Module, root: &str, state: &Tensors) -> Result<()> {
    let params = params(module);
    let mut faults = Faults::default();
    let mut pairs: Vec<(&Param, &Array)> = Vec::new();
    let mut unexpected: Vec<&str> = state.keys().map(String::as_str).collect();
    let mut missing = Vec::new();
    for p in &params {
        let name = relative(p, root)?;
        unexpected.retain(|u| *u != name);
        match state.get(name) {
            None => missing.push(name),
            Some(value) => {
                faults.compare(name, value, p);
                pairs.push((p, value));
            }
        }
    }
    for name in missing {
        faults.missing(name, &unexpected);
    }
    faults.0.extend(unexpected.iter().map(|name| format!("unexpected '{name}'")));
    faults.into_result("weights")?;
    pairs.into_iter().try_for_each(|(p, value)| p.set(value.to_device(p.array().device())?))
}

/// Saves all parameters and buffers of `module` under their paths below `root`, with a text for the file's metadata.
///
/// # Errors
/// `Io`, or as for [`state()`].
pub fn save(module: &dyn Module, root: &str, path: impl AsRef<Path>, about: Option<&str>) -> Result<()> {
    let metadata = about.map(|text| (ABOUT.to_string(), text.to_string())).into_iter().collect();
    TensorFile { tensors: state(module, root)?, metadata }.write(path)
}

/// Loads what [`save`] saved, and returns the text it was saved with.
///
/// # Errors
/// `Io` or `Corrupt` for the file, or as for [`restore`].
pub fn load(module: &dyn Module, root: &str, path: impl AsRef<Path>) -> Result<Option<String>> {
    let Some(first) = params(module).into_iter().next() else { return Ok(None) };
    let mut file = TensorFile::read(path, first.array().device())?;
    restore(module, root, &file.tensors)?;
    Ok(file.metadata.remove(ABOUT))
}

pub(crate) fn relative<'a>(p: &'a Param, root: &str) -> Result<&'a str> {
    let below =
        if root.is_empty() { Some(p.path()) } else { p.path().strip_prefix(root).and_then(|r| r.strip_prefix('.')) };
    below.ok_or_else(|| {
        Error::new(ErrorKind::Config, "weights", format!("path '{}'", p.path()))
            .expected(format!("a path below '{root}'"))
    })
}

/// What does not fit between a file and a module, collected so that one error names all of it.
#[derive(Default)]
pub(crate) struct Faults(pub(crate) Vec<String>);

impl Faults {
    /// Notes a difference of shape or element type.
    pub(crate) fn compare(&mut self, name: &str, value: &Array, p: &Param) {
        let own = p.array();
        if value.shape() != own.shape() || value.dtype() != own.dtype() {
            let (d, s) = (value.dtype(), value.shape());
            self.0.push(format!("'{name}' is {d}{s:?}, not {}{:?}", own.dtype(), own.shape()));
        }
    }

    /// Notes a name that the file lacks, and the nearest of those it has too many.
    pub(crate) fn missing(&mut self, name: &str, unexpected: &[&str]) {
        let near = nearest(name, unexpected.iter().copied()).map(|u| format!(" (is '{u}' meant?)")).unwrap_or_default();
        self.0.push(format!("missing '{name}'{near}"));
    }

    pub(crate) fn into_result(self, what: &str) -> Result<()> {
        let count = self.0.len();
        if count == 0 {
            return Ok(());
        }
        let mut listed = self.0;
        listed.truncate(LISTED);
        if count > LISTED {
            listed.push(format!("{} more", count - LISTED));
        }
        Err(Error::new(ErrorKind::Config, what, listed.join("; ")).expected("the parameters and buffers of the module"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Init;
    use crate::layers::Linear;
    use selfsame_engine::Device;

    fn linear(seed: u64, outputs: usize) -> Linear {
        let device = Device::cpu_with(1).unwrap();
        Linear::new(&Init::new(&device, seed).at("model.fc"), 3, outputs, true).unwrap()
    }

    #[test]
    fn saved_weights_load_into_a_twin_under_their_relative_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let (from, to) = (linear(1, 2), linear(2, 2));
        assert_ne!(format!("{:?}", state(&from, "").unwrap()), format!("{:?}", state(&to, "").unwrap()));
        save(&from, "model", &path, Some("linear")).unwrap();
        assert_eq!(load(&to, "model", &path).unwrap().as_deref(), Some("linear"));
        assert_eq!(format!("{:?}", state(&from, "").unwrap()), format!("{:?}", state(&to, "").unwrap()));
        let names: Vec<String> = state(&from, "model").unwrap().into_keys().collect();
        assert_eq!(names, ["fc.bias", "fc.weight"]);
        assert_eq!(state(&from, "backbone").unwrap_err().kind(), ErrorKind::Config);
    }

    #[test]
    fn everything_that_does_not_fit_is_listed_and_nothing_written() {
        let module = linear(1, 2);
        let before = format!("{:?}", state(&module, "model").unwrap());
        let mut other = state(&linear(2, 5), "model").unwrap();
        let bias = other.remove("fc.bias").unwrap();
        other.insert("fc.biass".into(), bias);
        let sentence = restore(&module, "model", &other).unwrap_err().sentence();
        for part in
            ["'fc.weight' is f32[3, 5], not f32[3, 2]", "missing 'fc.bias' (is 'fc.biass' meant?)", "unexpected"]
        {
            assert!(sentence.contains(part), "{sentence}");
        }
        assert_eq!(format!("{:?}", state(&module, "model").unwrap()), before);
    }
}
