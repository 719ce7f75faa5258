//! y = p·v with p = softmax(q·kᵀ / √d), per image and head, and its gradients: dv = pᵀ·dy, ds = p·(dp - Σ p·dp) with
//! dp = dy·vᵀ, dq = ds·k / √d, dk = dsᵀ·q / √d.
//!
//! The probabilities `[images, heads, queries, keys]`, which outgrow everything else where tokens are many, never exist
//! as a whole, and backward computes them again from q and k, to the same bits. On the CPU a task has an image, whose
//! products stay in its caches (`images`); with kernels, or more threads than images, a head of a block of images goes
//! through the primitives (`blocks`), which read it in place, as a strided view.

mod blocks;
mod images;

use super::{elements, kernels_for, span, with_real};
use crate::{Array, Error, ErrorKind, Result};

/// Scaled dot-product attention (Vaswani et al. 2017) of `heads` heads: `[images, queries, heads·e]` from queries
/// `[images, queries, heads·d]`, keys `[images, keys, heads·d]` and values `[images, keys, heads·e]`, or from one array
/// `[images, tokens, 3·heads·d]` that holds all three side by side.
///
/// # Errors
/// `Shape` when shapes do not fit, the heads do not divide the channels, or there are no keys; `DType` unless f32 or f64.
pub fn attention(x: &[&Array], heads: usize) -> Result<Array> {
    const OP: &str = "attention";
    let operands = Operands::of(x, heads)?;
    let _span = span(OP, x, |_| operands.work(1));
    if operands.are_in_blocks() {
        return blocks::forward(&operands);
    }
    with_real!(OP, x[0].dtype(), T, images::forward::<T>(&operands))
}

/// The gradients of what [`attention`] takes that are wanted, from that of its result.
///
/// # Errors
/// As for [`attention`], and for a `dy` of another shape or type than its result.
pub fn attention_grads(x: &[&Array], heads: usize, dy: &Array, want: &[bool]) -> Result<Vec<Option<Array>>> {
    const OP: &str = "attention backward";
    let operands = Operands::of(x, heads)?;
    if dy.shape() != operands.output() || want.len() != x.len() {
        let got = format!("an output gradient {:?}, {} wanted", dy.shape(), want.len());
        let expected = format!("{:?}, and whether each of {} gradients is wanted", operands.output(), x.len());
        return Err(Error::new(ErrorKind::Shape, OP, got).expected(expected));
    }
    super::expect_same_dtype(OP, x[0], dy)?;
    let _span = span("attention_grads", &[x, &[dy]].concat(), |_| operands.work(3));
    if operands.are_in_blocks() {
        return blocks::backward(&operands, dy, want);
    }
    with_real!(OP, x[0].dtype(), T, images::backward::<T>(&operands, dy, want))
}

/// Queries, keys and values, each as `[images, tokens, heads, channels of a head]`.
struct Operands {
    parts: [Array; 3],
    heads: usize,
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
        for x in &parts[1..] {
            super::operand::same_kind("attention", q, x)?;
        }
        let scale = 1.0 / (q.shape()[3] as f64).sqrt();
        Ok(Operands { parts, heads, scale })
    }

    /// Whether the primitives serve best: they have kernels, or threads would be without an image.
    fn are_in_blocks(&self) -> bool {
        let q = &self.parts[0];
        kernels_for(q).is_some() || q.shape()[0] < q.device().host().workers().threads()
    }

    /// The shape of the result.
    fn output(&self) -> [usize; 3] {
        let [q, _, v] = &self.parts;
        [q.shape()[0], q.shape()[1], self.heads * v.shape()[3]]
    }

    /// Elements that are written, floating-point operations and exponentials, where so many pairs of products are made.
    fn work(&self, pairs: usize) -> (usize, usize, usize) {
        let [q, k, v] = &self.parts;
        let scores = self.heads * q.shape()[0] * q.shape()[1] * k.shape()[1];
        (elements(&self.output()), 2 * pairs * scores * (q.shape()[3] + v.shape()[3]), 2 * scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{devices, noise};
    use crate::{DType, Device};

    /// All that both functions return.
    fn all(of: &Operands, dy: &Array, want: &[bool], is_by_image: bool) -> Vec<Vec<f32>> {
        let (y, d) = if is_by_image {
            (images::forward::<f32>(of).unwrap(), images::backward::<f32>(of, dy, want).unwrap())
        } else {
            (blocks::forward(of).unwrap(), blocks::backward(of, dy, want).unwrap())
        };
        assert_eq!(d.iter().map(Option::is_some).collect::<Vec<_>>(), want);
        [y].into_iter().chain(d.into_iter().flatten()).map(|x| x.to_vec::<f32>().unwrap()).collect()
    }

    #[test]
    fn images_have_the_bits_of_blocks() {
        // Fewer images than threads, and more; more tokens than a tile has rows; a batch of none.
        for (images, queries, keys, heads, d, e) in
            [(1, 37, 37, 3, 8, 8), (5, 6, 21, 2, 3, 5), (4, 1, 1, 1, 1, 1), (0, 2, 3, 2, 4, 4), (3, 0, 2, 1, 2, 2)]
        {
            for device in [Device::cpu_with(1).unwrap(), Device::cpu_with(3).unwrap()] {
                let x = |tokens, channels, seed| noise(&[images, tokens, heads * channels], seed, &device);
                let (q, k, v, dy) = (x(queries, d, 1), x(keys, d, 2), x(keys, e, 3), x(queries, e, 4));
                let of = Operands::of(&[&q, &k, &v], heads).unwrap();
                for want in [[true; 3], [false, true, false], [false, false, true], [true, false, false]] {
                    assert!(all(&of, &dy, &want, true) == all(&of, &dy, &want, false), "{images} {queries} {keys}");
                }
                let qkv = noise(&[images, keys, 3 * heads * d], 5, &device).flip(1).unwrap();
                let of = Operands::of(&[&qkv], heads).unwrap();
                let dy = noise(&of.output(), 6, &device);
                assert!(all(&of, &dy, &[true], true) == all(&of, &dy, &[true], false), "{images} {keys} packed");
                let one = noise(&[1, 1, 1], 7, &device).broadcast_to(qkv.shape()).unwrap();
                let (of, dy) = (Operands::of(&[&one], heads).unwrap(), one.slice(2, 0, heads * d).unwrap());
                assert!(all(&of, &dy, &[true], true) == all(&of, &dy, &[true], false), "{images} {keys} broadcast");
            }
        }
    }

    #[test]
    fn devices_agree() {
        let results = devices().into_iter().map(|device| {
            let (qkv, dy) = (noise(&[3, 7, 24], 1, &device), noise(&[3, 7, 8], 2, &device));
            let d = attention_grads(&[&qkv], 2, &dy, &[true]).unwrap();
            [attention(&[&qkv], 2).unwrap(), d[0].clone().unwrap()].map(|x| x.to_vec::<f32>().unwrap())
        });
        let results: Vec<_> = results.collect();
        assert!(results.iter().all(|result| *result == results[0]));
    }

    #[test]
    fn misfits_are_named() {
        let device = Device::cpu_with(1).unwrap();
        let x = noise(&[2, 3, 6], 1, &device);
        let kind = |error: Error| error.kind();
        assert_eq!(kind(attention(&[&x, &x], 2).unwrap_err()), ErrorKind::Shape);
        let double = Array::zeros(&[2, 3, 6], DType::F64, &device).unwrap();
        assert_eq!(kind(attention(&[&x, &x, &double], 2).unwrap_err()), ErrorKind::DType);
        let grads = |dy: &Array, want: &[bool]| kind(attention_grads(&[&x, &x, &x], 2, dy, want).unwrap_err());
        assert_eq!(grads(&noise(&[2, 3, 5], 1, &device), &[true; 3]), ErrorKind::Shape);
        assert_eq!(grads(&x, &[true]), ErrorKind::Shape);
        assert_eq!(grads(&double, &[true; 3]), ErrorKind::DType);
    }
}
