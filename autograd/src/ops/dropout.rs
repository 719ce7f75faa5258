//! y = x / (1 - p) where a draw of probability 1 - p holds, else 0.  Backward: the same mask and factor on dy.
//! The mask depends on the stream and the position alone, so a recomputed forward draws it again.

use super::prelude::*;
use selfsame_kernels::philox::{Key, Purpose, Stream};

struct Dropout {
    p: f64,
    stream: Stream,
}

/// See [`Tensor::dropout`].
pub(super) static DROPOUT: OpSpec = OpSpec {
    name: "dropout",
    gradient: Gradient::Vjp,
    cases: |g| {
        let stream = Key::new(g.below(1000) as u64, Purpose::Dropout).stream(0, 0, 0);
        let op = Dropout { p: g.pick(&[0.0, 0.1, 0.5]), stream };
        g.one_input(op, Domain::Normal)
    },
};

impl Dropout {
    fn drop(&self, x: &Array, mask: &Array) -> Result<Array> {
        let zero = Array::zeros(&[], x.dtype(), x.device())?;
        ops::scale(ops::select(mask, x, &zero)?, 1.0 / (1.0 - self.p))
    }
}

impl Op for Dropout {
    fn spec(&self) -> &'static OpSpec {
        &DROPOUT
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let mask = ops::bernoulli(x[0].shape(), 1.0 - self.p, &self.stream, x[0].device())?;
        save.keep(&mask);
        Ok(vec![self.drop(x[0], &mask)?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        Ok(vec![Some(self.drop(only(dy)?, saved.array(0)?)?.into())])
    }
}

impl Tensor {
    /// Zeroes each element with probability `p` and scales the others by 1 / (1 - p). `stream` is keyed by seed, step
    /// and layer ([`Purpose::Dropout`]).
    ///
    /// # Errors
    /// `Config` when `p` is not in `0.0..1.0`; `DType` for a type that is not a float.
    #[track_caller]
    pub fn dropout(&self, p: f64, stream: &Stream) -> Result<Tensor> {
        if !(0.0..1.0).contains(&p) {
            return Err(Error::new(ErrorKind::Config, "dropout", format!("probability {p}")).expected("0 <= p < 1"));
        }
        apply1(Dropout { p, stream: stream.clone() }, &[self])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::Device;

    #[test]
    fn kept_elements_are_scaled_and_about_as_many_as_asked() -> Result<()> {
        let device = Device::cpu_with(1)?;
        let x = Tensor::constant(Array::full(3f32, &[10_000], &device)?);
        let stream = Key::new(1, Purpose::Dropout).stream(5, 0, 0);
        let y = x.dropout(0.25, &stream)?.array().to_vec::<f32>()?;
        let kept = y.iter().filter(|y| **y != 0.0).count();
        // Six standard deviations of a binomial distribution: 6·√(10 000 · 0.75 · 0.25) = 260.
        assert!((7240..7760).contains(&kept), "{kept} kept");
        assert!(y.iter().all(|y| *y == 0.0 || *y == 4.0));
        assert_eq!(x.dropout(0.25, &stream)?.array().to_vec::<f32>()?, y);
        assert_eq!(x.dropout(1.0, &stream).unwrap_err().kind(), ErrorKind::Config);
        Ok(())
    }
}
