//! y = x / (1 - p) where a draw of probability 1 - p holds, else 0.  Backward: the same mask and factor on dy.
//! The draws of an image depend on its number in the global batch and on nothing else of the batch, so cutting the
//! batch does not change them, and a recomputed forward draws them again.

use super::prelude::*;
use selfsame_kernels::philox::{Key, Purpose, fill_uniform};

/// What the masks of [`Tensor::dropout`] are drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutKey {
    /// Of the seed and the layer, for `Purpose::Dropout`.
    pub key: Key,
    /// Number of the training step.
    pub step: u64,
    /// Which view of its images the activation is of.
    pub view: u16,
    /// Index in the global batch of the first image.
    pub first_image: usize,
}

struct Dropout {
    p: f64,
    draws: DropoutKey,
}

/// See [`Tensor::dropout`].
pub(super) static DROPOUT: OpSpec = OpSpec {
    name: "dropout",
    gradient: Gradient::Vjp,
    cases: |g| {
        let key = Key::new(g.below(1000) as u64, Purpose::Dropout);
        let draws = DropoutKey { key, step: g.below(9) as u64, view: 0, first_image: g.below(100) };
        let shape = g.shape((1, 4));
        Ok(Case::new(Dropout { p: g.pick(&[0.0, 0.1, 0.5]), draws }, vec![g.array(&shape, Domain::Normal)?]))
    },
};

impl Dropout {
    /// Which elements stay: draw u of image and position is at least p.
    fn mask(&self, x: &Array) -> Result<Array> {
        let DropoutKey { key, step, view, first_image } = self.draws;
        let per_image = x.shape().iter().skip(1).product::<usize>().max(1);
        Array::build(x.device(), x.shape(), "dropout", |cpu, mask| {
            cpu.workers().run_chunks(mask, per_image, |image, mask: &mut [bool]| {
                let stream = key.stream(step, (first_image + image) as u64, view);
                let mut u = vec![0f32; mask.len()];
                fill_uniform(cpu.isa(), &stream, 0, &mut u);
                for (stays, u) in mask.iter_mut().zip(u) {
                    *stays = f64::from(u) >= self.p;
                }
            });
            Ok(())
        })
    }

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
        let mask = self.mask(x[0])?;
        save.keep(&mask);
        Ok(vec![self.drop(x[0], &mask)?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        Ok(vec![Some(self.drop(only(dy)?, saved.array(0)?)?.into())])
    }
}

impl Tensor {
    /// Zeroes each element of `self` `[images, ..]` with probability `p` and scales the others by 1 / (1 - p)
    /// (Srivastava et al. 2014). Equal `draws` give an image equal masks, in whatever batch it stands.
    ///
    /// # Errors
    /// `Config` when `p` is not in `0.0..1.0`; `DType` for a type that is not a float.
    #[track_caller]
    pub fn dropout(&self, p: f64, draws: DropoutKey) -> Result<Tensor> {
        if !(0.0..1.0).contains(&p) {
            return Err(Error::new(ErrorKind::Config, "dropout", format!("probability {p}")).expected("0 <= p < 1"));
        }
        apply1(Dropout { p, draws }, &[self])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::Device;

    const DRAWS: DropoutKey = DropoutKey { key: Key::new(1, Purpose::Dropout), step: 5, view: 0, first_image: 0 };

    fn dropped(images: usize, p: f64, draws: DropoutKey) -> Result<Vec<f32>> {
        let x = Tensor::constant(Array::full(3f32, &[images, 5, 25], &Device::cpu_with(2)?)?);
        x.dropout(p, draws)?.array().to_vec()
    }

    #[test]
    fn kept_elements_are_scaled_and_about_as_many_as_asked() {
        let y = dropped(80, 0.25, DRAWS).unwrap();
        let kept = y.iter().filter(|y| **y != 0.0).count();
        // Six standard deviations of a binomial distribution: 6·√(10 000 · 0.75 · 0.25) = 260.
        assert!((7240..7760).contains(&kept), "{kept} kept");
        assert!(y.iter().all(|y| *y == 0.0 || *y == 4.0));
        assert_eq!(dropped(80, 1.0, DRAWS).unwrap_err().kind(), ErrorKind::Config);
    }

    #[test]
    fn masks_belong_to_images_not_to_batches() {
        let whole = dropped(32, 0.25, DRAWS).unwrap();
        let tail = dropped(12, 0.25, DropoutKey { first_image: 20, ..DRAWS }).unwrap();
        assert_eq!(whole[20 * 125..], tail);
        assert_ne!(whole, dropped(32, 0.25, DropoutKey { step: 6, ..DRAWS }).unwrap());
        assert_ne!(whole, dropped(32, 0.25, DropoutKey { view: 1, ..DRAWS }).unwrap());
        assert_ne!(whole[..125], whole[125..250]);
    }
}
