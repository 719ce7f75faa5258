//! Golden bits of what the gradient checks of operations and losses do not reach: primitives without a gradient, sizes
//! that are cut into chunks and leaves, 16-bit rows, and the steps of optimisers.

use selfsame_autograd::ema::ema_update;
use selfsame_autograd::optim::{AdamW, Lamb, LambOptions, Lars, LarsOptions, LarsVariant, Optimizer, Sgd};
use selfsame_autograd::{Param, ParamSet, Role, Tensor};
use selfsame_engine::cpu::CpuDevice;
use selfsame_engine::hash::ContentHasher;
use selfsame_engine::ops::{self, Conv2d, Sinkhorn, SinkhornDomain};
use selfsame_engine::{Array, Comm, DType, Device, Numerics, Result, Rows};
use selfsame_kernels::philox::{Key, Purpose, Stream};
use selfsame_losses::state::{KMeans, Start, k_means};
use selfsame_losses::{Form, NtXent, nt_xent};
use selfsame_methods::run::fingerprints::Digest;

type Made = Result<Vec<Array>>;
type Primitive = (&'static str, fn(&Device) -> Made);

/// Each by its name, with what it makes.
const PRIMITIVES: &[Primitive] = &[
    ("matmul", |device| {
        // Two chunks of the contraction, ragged tiles.
        let (a, b) = (normal(1, &[70, 600], device)?, normal(2, &[600, 130], device)?);
        Ok(vec![ops::matmul(&a, &b)?, ops::matmul(&double(&a)?, &double(&b)?)?])
    }),
    ("conv2d", |device| {
        // Two leaves of images, borders on all sides.
        let options = Conv2d { stride: [2, 1], padding: [1, 1], ..Conv2d::default() };
        convolved(&options, [24, 40], device)
    }),
    ("conv2d_fast", |device| {
        // The same, in tiles that are cut at the borders.
        let options = Conv2d { padding: [1, 1], ..Conv2d::default() };
        convolved(&options, [32, 48], &cpu_in(Numerics::Fast, device)?)
    }),
    ("conv2d_bf16", |device| {
        // Blocks across taps, and taps that share one.
        let (options, device) = (Conv2d { padding: [1, 1], ..Conv2d::default() }, &cpu_in(Numerics::Bf16, device)?);
        Ok([convolved(&options, [36, 40], device)?, convolved(&options, [3, 32], device)?].concat())
    }),
    ("linear_bf16", |device| {
        // Two chunks of the contraction, ragged blocks, two leaves.
        let device = &cpu_in(Numerics::Bf16, device)?;
        let (x, weight, dy) =
            (normal(1, &[20, 600], device)?, normal(2, &[600, 70], device)?, normal(3, &[20, 70], device)?);
        Ok(vec![
            ops::linear(&x, &weight, None)?,
            ops::linear_input_grad(&dy, &weight)?,
            ops::linear_weight_grad(&x, &dy, Rows::of(x.shape(), 0)?)?.total()?,
        ])
    }),
    ("sum_prod_cumsum", |device| {
        let x = normal(1, &[33, 700], device)?;
        Ok(vec![
            ops::sum(&x, &[1], false)?,
            ops::sum(&x, &[0], false)?,
            ops::prod(&x, &[0], false)?,
            ops::cumsum(&x, 1)?,
        ])
    }),
    ("sort_topk", |device| {
        let x = normal(1, &[5, 300], device)?;
        let ((values, order), (largest, places)) = (ops::sort(&x, true)?, ops::topk(&x, 7)?);
        Ok(vec![values, order, largest, places, ops::argmin(&x, 1)?])
    }),
    ("cast", |device| {
        let x = ops::scale(normal(1, &[1000], device)?, 1e30)?;
        [DType::BF16, DType::F16, DType::F64].map(|dtype| ops::cast(&x, dtype)).into_iter().collect()
    }),
    ("random", |device| {
        Ok(vec![
            ops::uniform(&[700], DType::F32, -1.0, 2.0, &stream(1), device)?,
            ops::normal(&[700], DType::F64, 1.0, 3.0, &stream(2), device)?,
            ops::bernoulli(&[700], 0.3, &stream(3), device)?,
            ops::permutation(700, &stream(4), device)?,
        ])
    }),
    ("sinkhorn_scaling", |device| codes(SinkhornDomain::Scaling, device)),
    ("sinkhorn_log", |device| codes(SinkhornDomain::Log, device)),
    ("kmeans", |device| {
        let x = normal(1, &[300, 20], device)?;
        let found = k_means(&x, &KMeans { iterations: 3, start: Start::PlusPlus, ..KMeans::new(7) }, 5, 0)?;
        Ok(vec![found.centroids, found.assignments])
    }),
    ("nt_xent_streaming", |device| loss_and_gradient(Form::Streaming, device)),
    ("nt_xent_bf16", |device| loss_and_gradient(Form::Bf16, device)),
    ("sgd", |device| stepped(device, |params| Ok(Box::new(Sgd::new(params, 0.9, true, 1e-4)?)))),
    ("adamw", |device| stepped(device, |params| Ok(Box::new(AdamW::new(params, (0.9, 0.999), 1e-8, 0.05)?)))),
    ("lamb", |device| stepped(device, |params| Ok(Box::new(Lamb::new(params, LambOptions::default())?)))),
    ("ema", |device| {
        let (teacher, student) = (parameters(1, device)?, parameters(2, device)?);
        ema_update(&teacher, &student, 0.996)?;
        Ok(values(&teacher))
    }),
];

/// The digest of every primitive, and of every form of LARS: kind, name, digest.
///
/// # Errors
/// Those of what is computed.
pub(super) fn digests(device: &Device) -> Result<Vec<(&'static str, &'static str, Digest)>> {
    let mut digests = Vec::new();
    for (name, make) in PRIMITIVES {
        digests.push(("primitive", *name, digest(&make(device)?)?));
    }
    for &variant in LarsVariant::ALL {
        // Decay large enough, and rates below and above a ratio, for the forms to differ.
        let options = LarsOptions { weight_decay: 0.05, trust: 0.1, ..LarsOptions::of(variant) };
        let made = stepped(device, |params| Ok(Box::new(Lars::new(params, options)?)))?;
        digests.push(("lars", variant.name(), digest(&made)?));
    }
    Ok(digests)
}

fn digest(arrays: &[Array]) -> Result<Digest> {
    let mut all = ContentHasher::new();
    arrays.iter().try_for_each(|array| all.array(array))?;
    Ok(Digest(all.finish()))
}

fn stream(seed: u64) -> Stream {
    Key::new(seed, Purpose::Check).stream(0, 0, 0)
}

fn normal(seed: u64, shape: &[usize], device: &Device) -> Result<Array> {
    ops::normal(shape, DType::F32, 0.0, 1.0, &stream(seed), device)
}

fn double(x: &Array) -> Result<Array> {
    ops::cast(x, DType::F64)
}

/// A CPU with the instruction set of `device`, in other numerics.
fn cpu_in(numerics: Numerics, device: &Device) -> Result<Device> {
    Device::open_with("cpu", CpuDevice::with_isa(1, device.host().isa())?, numerics)
}

/// The result and the gradients of a convolution of 20 images, 9 by 8, by 3 x 3 taps.
fn convolved(options: &Conv2d, [c, c_out]: [usize; 2], device: &Device) -> Made {
    let (x, w) = (normal(1, &[20, 9, 8, c], device)?, normal(2, &[3, 3, c, c_out], device)?);
    let y = ops::conv2d(&x, &w, options)?;
    let dx = ops::conv2d_input_grad(&y, &w, x.shape(), options)?;
    let dw = ops::conv2d_weight_grad(&x, &y, w.shape(), options, Rows::of(y.shape(), 0)?)?.total()?;
    Ok(vec![y, dx, dw])
}

fn codes(domain: SinkhornDomain, device: &Device) -> Made {
    let scores = normal(1, &[50, 30], device)?;
    let options = Sinkhorn { domain: Some(domain), ..Sinkhorn::swav(0.5, 3) };
    Ok(vec![ops::sinkhorn(&scores, &options, &Comm::single())?.codes])
}

fn loss_and_gradient(form: Form, device: &Device) -> Made {
    // Three blocks of columns.
    let z = Tensor::leaf(normal(1, &[1100, 24], device)?);
    let loss = nt_xent(&z, &NtXent { temperature: 0.2, form })?;
    let gradient = loss.backward()?.get(&z)?;
    Ok(std::iter::once(loss.array().clone()).chain(gradient).collect())
}

/// A matrix longer than a chunk of a norm, a bias and the scale of a norm.
fn parameters(seed: u64, device: &Device) -> Result<ParamSet> {
    let of = |i: u64, name, role, shape: &[usize]| Ok(Param::new(name, role, normal(10 * seed + i, shape, device)?));
    let params = [
        of(1, "weight", Role::Weight, &[90, 50])?,
        of(2, "bias", Role::Bias, &[50])?,
        of(3, "scale", Role::NormScale, &[50])?,
    ];
    ParamSet::collect(|visitor| params.iter().for_each(|param| visitor.param(param.path(), param)))
}

fn values(params: &ParamSet) -> Vec<Array> {
    params.iter().map(|(_, param)| param.array().clone()).collect()
}

/// The parameters after three steps along constant gradients, at rates that change.
fn stepped(device: &Device, make: impl Fn(&ParamSet) -> Result<Box<dyn Optimizer>>) -> Made {
    let params = parameters(1, device)?;
    let mut optimizer = make(&params)?;
    let gradients = parameters(2, device)?;
    for lr in [0.05, 0.2, 0.1] {
        let mut loss = Tensor::constant(Array::zeros(&[], DType::F32, device)?);
        for ((_, param), gradient) in params.trainable().zip(values(&gradients)) {
            loss = loss.add(&param.tensor().mul(&Tensor::constant(gradient))?.sum_all()?)?;
        }
        optimizer.step(&params, &loss.backward()?, lr)?;
    }
    Ok(values(&params))
}
