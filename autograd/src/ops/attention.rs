//! y = p·v with p = softmax(q·kᵀ / √d), per image and head.  Backward: dv = pᵀ·dy, ds = p·(dp - Σ p·dp) with
//! dp = dy·vᵀ, dq = ds·k / √d, dk = dsᵀ·q / √d. See [`ops::attention`].

use super::prelude::*;

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

impl Op for Attention {
    fn spec(&self) -> &'static OpSpec {
        &ATTENTION
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        x.iter().for_each(|x| save.keep(x));
        Ok(vec![ops::attention(x, self.heads)?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let x = (0..want.len()).map(|i| saved.array(i)).collect::<Result<Vec<_>>>()?;
        let d = ops::attention_grads(&x, self.heads, only(dy)?, want)?;
        Ok(d.into_iter().map(|d| d.map(Cotangent::from)).collect())
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

    #[test]
    fn threads_have_the_bits_of_the_composed_form() {
        let (heads, images, tokens) = (2, 7, 64);
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
