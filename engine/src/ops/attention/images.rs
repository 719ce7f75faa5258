//! Attention on the CPU, image by image, each head from copies of its rows.

use super::Operands;
use crate::cpu::CpuDevice;
use crate::cpu::contract::{self, Context, Lease, Matrix, Plain, matmul};
use crate::ops::Float;
use crate::ops::softmax::{softmax_grad_row, softmax_row};
use crate::{Array, Element, Result};
use selfsame_kernels::math::Real;

/// Queries, keys, values or the result's gradient where they lie.
struct Part<'a, T> {
    data: &'a [T],
    tokens: usize,
    channels: usize,
    /// From an image, a token, a head and a channel to the next.
    strides: [usize; 4],
}

impl<'a, T: Element> Part<'a, T> {
    /// Of an array `[images, tokens, heads, channels]` without negative strides.
    fn new(x: &'a Array) -> Result<Part<'a, T>> {
        let [_, tokens, _, channels] = x.dims()?;
        let data = x.storage_slice::<T>()?.get(x.layout().offset()..).unwrap_or(&[]);
        let strides = std::array::from_fn(|axis| x.layout().strides()[axis].unsigned_abs());
        Ok(Part { data, tokens, channels, strides })
    }

    /// Elements of a head of an image.
    fn head_len(&self) -> usize {
        self.tokens * self.channels
    }

    /// Copies a token of a head.
    fn read(&self, [image, token, head]: [usize; 3], to: &mut [T]) {
        let [of_images, of_tokens, of_heads, of_channels] = self.strides;
        let from = &self.data[image * of_images + token * of_tokens + head * of_heads..];
        match of_channels {
            1 => to.copy_from_slice(&from[..to.len()]),
            stride => to.iter_mut().enumerate().for_each(|(i, to)| *to = from[i * stride]),
        }
    }
}

/// The array, or a copy without negative strides.
fn forwards(x: &Array) -> Result<Array> {
    if x.layout().strides().iter().all(|stride| *stride >= 0) { Ok(x.clone()) } else { x.copy() }
}

/// Rows of `cols` elements, one after another.
fn rows<T>(data: &[T], cols: usize) -> Matrix<'_, T> {
    Matrix { data, rows: data.len() / cols, cols, row_stride: cols, col_stride: 1, batch_stride: 0 }
}

/// The same, transposed.
fn columns<T>(data: &[T], rows: usize) -> Matrix<'_, T> {
    Matrix { data, rows, cols: data.len() / rows, row_stride: 1, col_stride: rows, batch_stride: 0 }
}

/// Puts the rows of a head among those of all heads, of which it begins at channel `first`.
fn put<T: Copy>(head: &[T], channels: usize, first: usize, to: &mut [T], row_len: usize) {
    for (to, head) in to.chunks_exact_mut(row_len).zip(head.chunks_exact(channels)) {
        to[first..first + channels].copy_from_slice(head);
    }
}

/// A head of an image, in memory of its task.
struct Head<'a, 'x, T: Plain, const N: usize> {
    parts: &'x [Part<'x, T>; N],
    /// Rows of queries, scaled, keys, values and what else there is.
    rows: [Lease<'a, T>; N],
    scores: Lease<'a, T>,
    p: Lease<'a, T>,
}

impl<'a, 'x, T: Float + contract::Real, const N: usize> Head<'a, 'x, T, N> {
    fn new(cx: &Context<'a>, parts: &'x [Part<'x, T>; N]) -> Head<'a, 'x, T, N> {
        let pairs = parts[0].tokens * parts[1].tokens;
        let rows = parts.each_ref().map(|part| cx.scratch.lease(part.head_len()));
        Head { parts, rows, scores: cx.scratch.lease(pairs), p: cx.scratch.lease(pairs) }
    }

    /// Reads a head of an image, token by token of all parts, so that more reads are under way, and finds
    /// p = softmax(scale q·kᵀ).
    fn find(&mut self, cx: &Context<'_>, image: usize, head: usize, scale: T) {
        for token in 0..self.parts.iter().map(|part| part.tokens).max().unwrap_or(0) {
            for (part, rows) in self.parts.iter().zip(&mut self.rows).filter(|(part, _)| token < part.tokens) {
                part.read([image, token, head], &mut rows[token * part.channels..][..part.channels]);
            }
        }
        self.rows[0].iter_mut().for_each(|x| *x *= scale);
        let [depth, keys] = [self.parts[1].channels, self.parts[1].tokens];
        matmul(cx, 1, &rows(&self.rows[0], depth), &columns(&self.rows[1], depth), None, &mut self.scores);
        for (x, y) in self.scores.chunks_exact(keys).zip(self.p.chunks_exact_mut(keys)) {
            softmax_row(cx.isa, x, y);
        }
    }

    /// The rows of a part.
    fn part(&self, i: usize) -> Matrix<'_, T> {
        rows(&self.rows[i], self.parts[i].channels)
    }
}

/// Runs `task` for each image with its part of each of `results`.
fn for_each_image<T: Send>(
    cpu: &CpuDevice,
    images: usize,
    results: &mut [&mut [T]],
    task: impl Fn(&Context<'_>, usize, Vec<&mut [T]>) + Sync,
) {
    let mut rest: Vec<_> = results.iter_mut().map(|x| x.chunks_exact_mut((x.len() / images.max(1)).max(1))).collect();
    let parts = (0..images).map(|_| rest.iter_mut().map(|x| x.next().unwrap_or_default()).collect::<Vec<_>>());
    let cx = cpu.contraction().serial();
    cpu.workers().run_parts(parts, |image, parts| task(&cx, image, parts));
}

pub(super) fn forward<T: Float + contract::Real>(operands: &Operands) -> Result<Array> {
    let scale = <T as Real>::from_f64(operands.scale);
    let [q, k, v] = operands.parts.each_ref().map(forwards);
    let (q, k, v) = (q?, k?, v?);
    let parts = [Part::<T>::new(&q)?, Part::new(&k)?, Part::new(&v)?];
    let [Part { tokens: queries, .. }, Part { tokens: keys, .. }, Part { channels, .. }] = parts;
    let shape @ [images, _, row_len] = operands.output();
    Array::build::<T>(q.device(), &shape, "attention", |cpu, y| {
        for_each_image(cpu, images, &mut [y], |cx, image, mut y| {
            let mut head = Head::new(cx, &parts);
            let mut of_head = cx.scratch.lease::<T>(queries * channels);
            for number in 0..operands.heads {
                head.find(cx, image, number, scale);
                matmul(cx, 1, &rows(&head.p, keys), &head.part(2), None, &mut of_head);
                put(&of_head, channels, number * channels, y[0], row_len);
            }
        });
        Ok(())
    })
}

/// Where the gradient of queries, keys or values goes: among which results, from which channel on, in rows of how many.
#[derive(Clone, Copy)]
struct Place {
    result: usize,
    first: usize,
    row_len: usize,
}

/// The places of the gradients that are wanted, and the shapes of the results.
fn places<T>(
    parts: &[Part<'_, T>],
    images: usize,
    heads: usize,
    want: &[bool],
) -> ([Option<Place>; 3], Vec<[usize; 3]>) {
    let mut places = [None; 3];
    let mut shapes = Vec::new();
    if let &[is_wanted] = want {
        let row_len = heads * parts[0].channels;
        let place = |i| Place { result: 0, first: i * row_len, row_len: 3 * row_len };
        places = std::array::from_fn(|i| is_wanted.then(|| place(i)));
        shapes.extend(is_wanted.then_some([images, parts[0].tokens, 3 * row_len]));
    } else {
        for (i, part) in parts.iter().enumerate().filter(|(i, _)| want[*i]) {
            let row_len = heads * part.channels;
            places[i] = Some(Place { result: shapes.len(), first: 0, row_len });
            shapes.push([images, part.tokens, row_len]);
        }
    }
    (places, shapes)
}

pub(super) fn backward<T: Float + contract::Real>(
    operands: &Operands,
    dy: &Array,
    want: &[bool],
) -> Result<Vec<Option<Array>>> {
    let (heads, scale) = (operands.heads, <T as Real>::from_f64(operands.scale));
    let [images, queries, channels] = dy.dims()?;
    let dy = forwards(&dy.reshape(&[images, queries, heads, channels / heads])?)?;
    let [q, k, v] = operands.parts.each_ref().map(forwards);
    let (q, k, v) = (q?, k?, v?);
    let parts = [Part::<T>::new(&q)?, Part::new(&k)?, Part::new(&v)?, Part::new(&dy)?];
    let keys = parts[1].tokens;
    let ([of_q, of_k, of_v], shapes) = places(&parts[..3], images, heads, want);
    let result = |shape: &[usize; 3]| Array::build::<T>(dy.device(), shape, "attention backward", |_, _| Ok(()));
    let mut results = shapes.iter().map(result).collect::<Result<Vec<_>>>()?;
    let mut slices = results.iter_mut().map(Array::make_mut::<T>).collect::<Result<Vec<_>>>()?;
    for_each_image(dy.device().host(), images, &mut slices, |cx, image, mut results| {
        let mut head = Head::new(cx, &parts);
        let [mut dp, mut ds] = [(); 2].map(|()| cx.scratch.lease::<T>(queries * keys));
        let mut d = cx.scratch.lease::<T>(parts.iter().map(Part::head_len).max().unwrap_or(0));
        for number in 0..heads {
            head.find(cx, image, number, scale);
            let mut store = |i: usize, place: Place, a: &Matrix<'_, T>, b: &Matrix<'_, T>, factor: Option<T>| {
                let Part { channels, .. } = parts[i];
                let d = &mut d[..parts[i].head_len()];
                matmul(cx, 1, a, b, None, d);
                if let Some(factor) = factor {
                    d.iter_mut().for_each(|d| *d *= factor);
                }
                put(d, channels, place.first + number * channels, results[place.result], place.row_len);
            };
            if let Some(place) = of_v {
                store(2, place, &columns(&head.p, keys), &head.part(3), None);
            }
            if of_q.is_none() && of_k.is_none() {
                continue;
            }
            matmul(cx, 1, &head.part(3), &columns(&head.rows[2], parts[2].channels), None, &mut dp);
            let of_rows = head.p.chunks_exact(keys).zip(dp.chunks_exact(keys));
            for ((p, dp), ds) in of_rows.zip(ds.chunks_exact_mut(keys)) {
                softmax_grad_row(cx.isa, p, dp, ds);
            }
            if let Some(place) = of_q {
                store(0, place, &rows(&ds, keys), &head.part(1), Some(scale));
            }
            if let Some(place) = of_k {
                store(1, place, &columns(&ds, keys), &head.part(0), None);
            }
        }
    });
    let mut results = results.into_iter();
    Ok(want.iter().map(|is_wanted| is_wanted.then(|| results.next()).flatten()).collect())
}
