//! Exponential moving average of one set of parameters into another: momentum encoders, teachers, averaged weights.

use crate::{Param, ParamSet};
use selfsame_engine::ops::{self, Tensors};
use selfsame_engine::{Error, ErrorKind, Result, nearest};
use selfsame_kernels::optim::Average;

/// `target = momentum·target + (1 - momentum)·source` for every trainable parameter of `target`, matched by path.
///
/// Buffers stay as they are: a target network keeps running statistics of its own. `momentum` may come from a
/// [`Schedule`](crate::schedule::Schedule); 0 copies, 1 leaves the target alone.
///
/// # Errors
/// `Config` when `source` has no parameter at a path, or `momentum` is not in `0..=1`; `Shape` or `DType` when theirs
/// differ. All are found before anything is written.
pub fn ema_update(target: &ParamSet, source: &ParamSet, momentum: f64) -> Result<()> {
    let mut pairs = Vec::new();
    for (path, target) in target.trainable() {
        let Some(source) = source.get(path) else {
            let error = Error::new(ErrorKind::Config, "ema", format!("no source parameter '{path}'"))
                .expected("the same paths in both sets");
            return Err(match nearest(path, source.iter().map(|(path, _)| path)) {
                Some(known) => error.hint(format!("is '{known}' meant?")),
                None => error,
            });
        };
        pairs.push((target, source));
    }
    ema_update_pairs(&pairs, momentum)
}

/// [`ema_update`] of each `(target, source)`.
///
/// # Errors
/// `Config` when `momentum` is not in `0..=1`; `Shape` or `DType` when those of a pair differ. All are found before
/// anything is written.
pub fn ema_update_pairs(pairs: &[(&Param, &Param)], momentum: f64) -> Result<()> {
    if !(0.0..=1.0).contains(&momentum) {
        return Err(Error::new(ErrorKind::Config, "ema", format!("momentum {momentum}")).expected("0 <= momentum <= 1"));
    }
    let (mut targets, mut sources) = (Vec::new(), Vec::new());
    for &(target, source) in pairs {
        let path = target.path();
        let t = target.array();
        let s = source.array().to_device(t.device())?;
        if t.shape() != s.shape() {
            return Err(Error::new(ErrorKind::Shape, path, format!("source {:?}, target {:?}", s.shape(), t.shape()))
                .expected("equal shapes"));
        }
        if t.dtype() != s.dtype() {
            return Err(Error::new(ErrorKind::DType, path, format!("source {}, target {}", s.dtype(), t.dtype()))
                .expected("equal element types"));
        }
        targets.push([target]);
        sources.push(s);
    }
    Param::update_rows(&targets, |targets| {
        let tensors = targets.into_iter().zip(&sources).map(|(written, x)| Tensors { written, read: [x] });
        ops::average(&mut tensors.collect::<Vec<_>>(), Average { momentum, share: 1.0 - momentum })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Param, Role};
    use selfsame_engine::{Array, Device};

    fn set(path: &str, role: Role, values: &[f32]) -> ParamSet {
        let device = Device::cpu_with(1).unwrap();
        let p = Param::new(path, role, Array::from_slice(values, &[values.len()], &device).unwrap());
        ParamSet::collect(|v| v.param(path, &p)).unwrap()
    }

    fn value(set: &ParamSet, path: &str) -> Vec<f32> {
        set.get(path).unwrap().array().to_vec().unwrap()
    }

    #[test]
    fn the_average_by_hand_and_its_ends() {
        let (target, source) = (set("w", Role::Weight, &[1.0, 2.0]), set("w", Role::Weight, &[3.0, -2.0]));
        ema_update(&target, &source, 0.75).unwrap();
        assert_eq!(value(&target, "w"), [1.5, 1.0]);
        ema_update(&target, &source, 1.0).unwrap();
        assert_eq!(value(&target, "w"), [1.5, 1.0]);
        ema_update(&target, &source, 0.0).unwrap();
        assert_eq!(value(&target, "w"), [3.0, -2.0]);
    }

    #[test]
    fn buffers_stay_and_paths_must_match() {
        let (target, source) = (set("mean", Role::Buffer, &[1.0]), set("mean", Role::Buffer, &[3.0]));
        ema_update(&target, &source, 0.5).unwrap();
        assert_eq!(value(&target, "mean"), [1.0]);
        let (target, source) = (set("a.w", Role::Weight, &[1.0]), set("b.w", Role::Weight, &[1.0]));
        assert_eq!(ema_update(&target, &source, 0.5).unwrap_err().kind(), ErrorKind::Config);
    }
}
