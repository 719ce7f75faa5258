//! Attention through the primitives, a head of a block of images at a time.

use super::Operands;
use crate::ops::{self, Binary};
use crate::{Array, Result};
use std::ops::Range;

/// Probabilities that exist at a time, at least those of one head of one image: 4 MiB of f32.
const BLOCK: usize = 1 << 20;

impl Operands {
    /// Ranges of images whose probabilities of one head fill a block; an empty one where there are no images.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let images = self.parts[0].shape()[0];
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

pub(super) fn forward(operands: &Operands) -> Result<Array> {
    let block = |images: Range<usize>| {
        let heads = (0..operands.heads).map(|head| {
            let [q, k, v] = operands.head(&images, head)?;
            ops::matmul(&probabilities(&q, &k)?, &v)
        });
        joined(&heads.collect::<Result<Vec<_>>>()?, 2)
    };
    let blocks = operands.blocks().map(block).collect::<Result<Vec<_>>>()?;
    joined(&blocks, 0)
}

pub(super) fn backward(operands: &Operands, dy: &Array, want: &[bool]) -> Result<Vec<Option<Array>>> {
    let packed = want.len() == 1;
    let [images, queries, channels] = dy.dims()?;
    let dy = dy.reshape(&[images, queries, operands.heads, channels / operands.heads])?;
    let wants = |i: usize| if packed { want[0] } else { want[i] };
    // Of each input, its blocks of images.
    let mut blocks: Vec<Vec<Array>> = vec![Vec::new(); want.len()];
    for images in operands.blocks() {
        // Of queries, keys and values, their heads.
        let mut d: [Vec<Array>; 3] = Default::default();
        for head in 0..operands.heads {
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
        if packed && wants(0) {
            blocks[0].push(joined(&d.concat(), 2)?);
        } else {
            for (i, d) in d.iter().enumerate().filter(|(i, _)| wants(*i)) {
                blocks[i].push(joined(d, 2)?);
            }
        }
    }
    blocks.iter().zip(want).map(|(blocks, want)| want.then(|| joined(blocks, 0)).transpose()).collect()
}
