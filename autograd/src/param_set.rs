//! `ParamSet`: the parameters and buffers of a model, by path.

use crate::{Param, ParamVisitor, Role};
use selfsame_engine::{Error, ErrorKind, Result};
use std::collections::BTreeMap;

/// Parameters and buffers by path, in path order.
#[derive(Clone, Debug, Default)]
pub struct ParamSet {
    params: BTreeMap<String, Param>,
}

impl ParamSet {
    /// What `visit` shows: `ParamSet::collect(|v| model.visit("encoder", v))`.
    ///
    /// A parameter shown at two paths (tied weights) is listed at the first.
    ///
    /// # Errors
    /// `Config` when two parameters share a path.
    pub fn collect(visit: impl FnOnce(&mut dyn ParamVisitor)) -> Result<ParamSet> {
        let mut collector = Collector::default();
        visit(&mut collector);
        match collector.clash {
            None => Ok(collector.set),
            Some(path) => Err(Error::new(ErrorKind::Config, "parameters", format!("two at path '{path}'"))
                .expected("a path for each parameter")),
        }
    }

    /// The parameter or buffer at `path`.
    pub fn get(&self, path: &str) -> Option<&Param> {
        self.params.get(path)
    }

    /// All parameters and buffers, in path order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Param)> {
        self.params.iter().map(|(path, p)| (path.as_str(), p))
    }

    /// What optimisers change: all but buffers, in path order.
    pub fn trainable(&self) -> impl Iterator<Item = (&str, &Param)> {
        self.iter().filter(|(_, p)| p.role() != Role::Buffer)
    }

    /// Number of parameters and buffers.
    pub fn len(&self) -> usize {
        self.params.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.params.is_empty()
    }

    /// Number of trainable elements.
    pub fn trainable_elements(&self) -> usize {
        self.trainable().map(|(_, p)| p.array().numel()).sum()
    }
}

#[derive(Default)]
struct Collector {
    set: ParamSet,
    clash: Option<String>,
}

impl ParamVisitor for Collector {
    fn param(&mut self, path: &str, p: &Param) {
        let tied = self.set.params.values().any(|known| known.is(p));
        if tied {
            return;
        }
        if self.set.params.insert(path.to_string(), p.clone()).is_some() {
            self.clash.get_or_insert_with(|| path.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::{Array, Device};

    #[test]
    fn tied_parameters_are_listed_once_and_clashes_refused() {
        let device = Device::cpu_with(1).unwrap();
        let p = |path| Param::new(path, Role::Weight, Array::scalar(1f32, &device).unwrap());
        let (a, b) = (p("a"), p("b"));
        let set = ParamSet::collect(|v| {
            v.param("b", &b);
            v.param("a", &a);
            v.param("tied", &a);
        })
        .unwrap();
        assert_eq!(set.iter().map(|(path, _)| path).collect::<Vec<_>>(), ["a", "b"]);
        let clash = ParamSet::collect(|v| {
            v.param("a", &a);
            v.param("a", &b);
        });
        assert_eq!(clash.unwrap_err().kind(), ErrorKind::Config);
    }
}
