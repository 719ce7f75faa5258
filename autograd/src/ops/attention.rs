//! y = p·v with p = softmax(q·kᵀ / √d), per image and head.  Backward: dv = pᵀ·dy, ds = p·(dp - Σ p·dp) with
//! dp = dy·vᵀ, dq = ds·k / √d, dk = dsᵀ·q / √d.
//!
//! The probabilities `[images, heads, queries, keys]`, which outgrow everything else where tokens are many, never exist
//! as a whole: forward and backward go through a head of a block of images at a time, and backward computes p again
//! from q and k, to the same bits. Products read the heads in place, as strided views.

use super::prelude::*;
use std::ops::Range;

/// Probabilities that exist at a time, at least those of one head of one image: 4 MiB of f32.
const BLOCK: usize = 1 << 20;

struct Attention {
    heads: usize,
}

/// See [`Tensor::attention`].
pub(super) static ATTENTION: OpSpec = OpSpec {
    name: "attention",
    gradient: Gradient::Vjp,
    cases: |g| {
        let (images, heads) = (g.pick(&[1, 2, 3]), g.pick(&[1, 2, 3]));
        let (queries, keys) = (g.pick(&[1, 2, 5]), g.pick(&[1, 3, 4]));
        let (d, e) = (g.pick(&[1, 3, 4]), g.pick(&[1, 2]));
        let inputs = if g.one_in(2) {
            vec![g.array(&[images, queries, 3 * heads * d], Domain::Normal)?]
        } else {
            vec![
                g.array(&[images, queries, heads * d], Domain::Normal)?,
                g.array(&[images, keys, heads * d], Domain::Normal)?,
                g.array(&[images, keys, heads * e], Domain::Normal)?,
            ]
        };
        Ok(Case::new(Attention { heads }, inputs))
    },
};

/// Queries, keys and values, each as `[images, tokens, heads, channels of a head]`.
struct Operands {
    parts: [Array; 3],
    scale: f64,
}

impl Operands {
    /// Views of three inputs, or of one that holds all three side by side.
    fn of(x: &[&Array], heads: usize) -> Result<Operands> {
        let misfit = |expected: &str| {
            let shapes: Vec<&[usize]> = x.iter().map(|x| x.shape()).collect();
            Error::new(ErrorKind::Shape, "attention", format!("inputs {shapes:?} with {heads} heads"))
                .expected(expected.to_string())
        };
        let by_head = |x: &Array, heads: usize| match *x.shape() {
            [n, t, c] if heads > 0 && c > 0 && c.is_multiple_of(heads) => x.reshape(&[n, t, heads, c / heads]),
            _ => Err(misfit("[images, tokens, channels], of which each head has as many")),
        };
        let parts = match x {
            [qkv] => {
                let all = by_head(qkv, 3 * heads)?;
                let part = |i: usize| all.slice(2, i * heads, (i + 1) * heads);
                [part(0)?, part(1)?, part(2)?]
            }
            [q, k, v] => [by_head(q, heads)?, by_head(k, heads)?, by_head(v, heads)?],
            _ => return Err(misfit("queries, keys and values")),
        };
        let [q, k, v] = &parts;
        if q.shape()[0] != k.shape()[0] || q.shape()[3] != k.shape()[3] || k.shape()[..2] != v.shape()[..2] {
            return Err(misfit("queries [n, t, heads d], keys [n, s, heads d], values [n, s, heads e]"));
        }
        if k.shape()[1] == 0 {
            return Err(misfit("at least one key"));
        }
        let scale = 1.0 / (q.shape()[3] as f64).sqrt();
        Ok(Operands { parts, scale })
    }

    fn images(&self) -> usize {
        self.parts[0].shape()[0]
    }

    /// Ranges of images whose probabilities of one head fill a block; an empty one where there are no images.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let images = self.images();
        let pairs = self.parts[0].shape()[1] * self.parts[1].shape()[1];
        let step = (BLOCK / pairs.max(1)).max(1);
        (0..images.max(1)).step_by(step).map(move |start| start..images.min(start + step))
    }

    /// Scaled queries, keys and values of a head: `[images, tokens, channels]` each.
    fn head(&self, images: &Range<usize>, head: usize) -> Result<[Array; 3]> {
        let [q, k, v] = &self.parts;
        let q = ops::binary_scalar(Binary::Mul, &one_head(q, images, head)?, self.scale)?;
        Ok([q, one_head(k, images, head)?, one_head(v, images, head)?])
    }
}

/// Head `head` of `images` as a view `[images, tokens, channels]`.
fn one_head(x: &Array, images: &Range<usize>, head: usize) -> Result<Array> {
    let [_, tokens, _, channels] = x.dims()?;
    let x = x.slice(0, images.start, images.end)?.slice(2, head, head + 1)?;
    x.reshape(&[images.len(), tokens, channels])
}

/// softmax(q·kᵀ).
fn probabilities(q: &Array, k: &Array) -> Result<Array> {
    ops::softmax(&ops::matmul(q, &k.transpose(1, 2)?)?)
}

fn joined(parts: &[Array], axis: usize) -> Result<Array> {
    match parts {
        [one] => Ok(one.clone()),
        _ => ops::concat(&parts.iter().collect::<Vec<_>>(), axis),
    }
}

impl Op for Attention {
    fn spec(&self) -> &'static OpSpec {
        &ATTENTION
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let operands = Operands::of(x, self.heads)?;
        x.iter().for_each(|x| save.keep(x));
        let block = |images: Range<usize>| {
            let heads = (0..self.heads).map(|head| {
                let [q, k, v] = operands.head(&images, head)?;
                ops::matmul(&probabilities(&q, &k)?, &v)
            });
            joined(&heads.collect::<Result<Vec<_>>>()?, 2)
        };
        let blocks = operands.blocks().map(block).collect::<Result<Vec<_>>>()?;
        Ok(vec![joined(&blocks, 0)?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let packed = want.len() == 1;
        let x = (0..want.len()).map(|i| saved.array(i)).collect::<Result<Vec<_>>>()?;
        let operands = Operands::of(&x, self.heads)?;
        let [images, queries, channels] = only(dy)?.dims()?;
        let dy = only(dy)?.reshape(&[images, queries, self.heads, channels / self.heads])?;
        let wants = |i: usize| packed || want[i];
        // Of each input, its blocks of images.
        let mut blocks: Vec<Vec<Array>> = vec![Vec::new(); want.len()];
        for images in operands.blocks() {
            // Of queries, keys and values, their heads.
            let mut d: [Vec<Array>; 3] = Default::default();
            for head in 0..self.heads {
                let [q, k, v] = operands.head(&images, head)?;
                let dy = one_head(&dy, &images, head)?;
                let p = probabilities(&q, &k)?;
                if wants(2) {
                    d[2].push(ops::matmul(&p.transpose(1, 2)?, &dy)?);
                }
                if !wants(0) && !wants(1) {
                    continue;
                }
                let ds = ops::softmax_grad(&p, &ops::matmul(&dy, &v.transpose(1, 2)?)?)?;
                if wants(0) {
                    d[0].push(ops::scale(ops::matmul(&ds, &k)?, operands.scale)?);
                }
                if wants(1) {
                    d[1].push(ops::matmul(&ds.transpose(1, 2)?, &q)?);
                }
            }
            if packed {
                blocks[0].push(joined(&d.concat(), 2)?);
            } else {
                for (i, d) in d.iter().enumerate().filter(|(i, _)| want[*i]) {
                    blocks[i].push(joined(d, 2)?);
                }
            }
        }
        blocks.iter().enumerate().map(|(i, blocks)| wanted(want, i, || joined(blocks, 0))).collect()
    }
}

impl Tensor {
    /// Scaled dot-product attention (Vaswani et al. 2017): softmax(q·kᵀ / √d)·v for each image and each of `heads`
    /// heads.
    ///
    /// `self` holds the queries `[images, queries, heads·d]`, `keys` is `[images, keys, heads·d]`, `values`
    /// `[images, keys, heads·e]`; the result is `[images, queries, heads·e]`. Memory beyond these is that of some
    /// images' probabilities of one head, in backward too.
    ///
    /// # Errors
    /// `Shape` when shapes do not fit, the heads do not divide the channels, or there are no keys; `DType` unless f32
    /// or f64.
    #[track_caller]
    pub fn attention(&self, keys: &Tensor, values: &Tensor, heads: usize) -> Result<Tensor> {
        apply1(Attention { heads }, &[self, keys, values])
    }

    /// [`Tensor::attention`] of tokens among themselves: `self` `[images, tokens, 3·heads·d]` holds the queries of all
    /// heads, then the keys, then the values, as one linear layer makes them; the result is
    /// `[images, tokens, heads·d]`.
    ///
    /// # Errors
    /// As for [`Tensor::attention`].
    #[track_caller]
    pub fn self_attention(&self, heads: usize) -> Result<Tensor> {
        apply1(Attention { heads }, &[self])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::Device;
    use selfsame_kernels::philox::{Key, Purpose};

    fn normal(shape: &[usize], number: u64, device: &Device) -> Array {
        let stream = Key::new(5, Purpose::Check).stream(0, number, 0);
        ops::normal(shape, selfsame_engine::DType::F32, 0.0, 1.0, &stream, device).unwrap()
    }

    fn bits(x: &Array) -> Vec<u32> {
        x.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    }

    /// The same from operations of their own, with all probabilities at once.
    fn composed(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
        let by_head = |x: &Tensor| {
            let [n, t, c] = x.dims()?;
            x.reshape(&[n, t, heads, c / heads])?.permute(&[0, 2, 1, 3])
        };
        let (q, k, v) = (by_head(q)?, by_head(k)?, by_head(v)?);
        let [n, _, t, d] = q.dims()?;
        let p = q.scale(1.0 / (d as f64).sqrt())?.matmul(&k.transpose(2, 3)?)?.softmax()?;
        let y = p.matmul(&v)?.permute(&[0, 2, 1, 3])?;
        y.reshape(&[n, t, y.shape()[2] * y.shape()[3]])
    }

    /// Result and gradients of `f` at leaves of these values.
    fn run(values: &[Array], dy: &Array, f: impl Fn(&[Tensor]) -> Result<Tensor>) -> Vec<Vec<u32>> {
        let x: Vec<Tensor> = values.iter().cloned().map(Tensor::leaf).collect();
        let y = f(&x).unwrap();
        let grads = y.backward_from(dy.clone()).unwrap();
        let d = x.iter().map(|x| bits(&grads.get(x).unwrap().unwrap()));
        [bits(y.array())].into_iter().chain(d).collect()
    }

    /// Enough images for several blocks, the last of them ragged.
    #[test]
    fn blocks_and_threads_have_the_bits_of_the_composed_form() {
        let (heads, images, tokens) = (2, 2 * BLOCK / (64 * 64) + 5, 64);
        let expected: Vec<Vec<Vec<u32>>> = [1, 2]
            .map(|threads| {
                let device = Device::cpu_with(threads).unwrap();
                let qkv = [6, 6, 4].map(|c| normal(&[images, tokens, c], c as u64, &device));
                let dy = normal(&[images, tokens, 4], 9, &device);
                let fused = run(&qkv, &dy, |x| x[0].attention(&x[1], &x[2], heads));
                assert!(fused == run(&qkv, &dy, |x| composed(&x[0], &x[1], &x[2], heads)));
                fused
            })
            .into();
        assert!(expected[0] == expected[1]);
    }

    #[test]
    fn packed_inputs_have_the_bits_of_three() {
        let device = Device::cpu_with(2).unwrap();
        let qkv = normal(&[5, 7, 24], 1, &device);
        let dy = normal(&[5, 7, 8], 2, &device);
        let packed = run(std::slice::from_ref(&qkv), &dy, |x| x[0].self_attention(2));
        let three = run(std::slice::from_ref(&qkv), &dy, |x| {
            let part = |i: usize| x[0].slice(2, 8 * i, 8 * (i + 1));
            part(0)?.attention(&part(1)?, &part(2)?, 2)
        });
        assert_eq!(packed, three);
        let images = |from: usize, to: usize| {
            let part = Tensor::constant(qkv.slice(0, from, to).unwrap());
            bits(part.self_attention(2).unwrap().array())
        };
        assert_eq!(packed[0], [images(0, 2), images(2, 5)].concat(), "images do not see each other");
        assert_eq!(images(0, 0), Vec::<u32>::new());
    }

    /// Keys ±k at a query q: p = sigmoid(2 q k / √d) for the first; one head of one channel has d = 1.
    #[test]
    fn two_keys_by_hand() {
        let device = Device::cpu_with(1).unwrap();
        let of = |values: &[f64], shape: &[usize]| Tensor::constant(Array::from_slice(values, shape, &device).unwrap());
        let ln3 = selfsame_kernels::math::f64::log(3.0);
        // Scores ±ln(3)/2 make probabilities 3/4 and 1/4; the second head, at query 0, halves.
        let q = of(&[ln3 / 2.0, 0.0], &[1, 1, 2]);
        let k = of(&[1.0, 5.0, -1.0, 7.0], &[1, 2, 2]);
        let v = of(&[8.0, 2.0, 16.0, 4.0], &[1, 2, 2]);
        let y = q.attention(&k, &v, 2).unwrap().array().to_vec::<f64>().unwrap();
        assert!((y[0] - 10.0).abs() < 1e-14 && y[1] == 3.0, "{y:?}");
        // With d = 4 the scores are halved: the same probabilities from twice the dot product.
        let q = of(&[ln3; 4], &[1, 1, 4]);
        let k = of(&[0.25, 0.25, 0.25, 0.25, -0.25, -0.25, -0.25, -0.25], &[1, 2, 4]);
        let y = q.attention(&k, &of(&[8.0, 16.0], &[1, 2, 1]), 1).unwrap().array().to_vec::<f64>().unwrap();
        assert!((y[0] - 10.0).abs() < 1e-14, "{y:?}");
    }

    #[test]
    fn misfits_are_named() {
        let device = Device::cpu_with(1).unwrap();
        let zeros = |shape: &[usize]| Tensor::constant(normal(shape, 0, &device));
        for (q, k, v, heads) in [
            ([2, 3, 6], [2, 3, 6], [2, 3, 6], 4),
            ([2, 3, 6], [2, 3, 6], [2, 3, 6], 0),
            ([2, 3, 6], [2, 3, 4], [2, 3, 6], 2),
            ([2, 3, 6], [1, 3, 6], [1, 3, 6], 2),
            ([2, 3, 6], [2, 3, 6], [2, 5, 6], 2),
            ([2, 3, 6], [2, 0, 6], [2, 0, 6], 2),
        ] {
            let error = zeros(&q).attention(&zeros(&k), &zeros(&v), heads).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Shape);
            assert!(error.sentence().contains(&format!("{heads} heads")), "{error}");
        }
        assert_eq!(zeros(&[2, 3, 8]).self_attention(2).unwrap_err().kind(), ErrorKind::Shape);
    }
}
