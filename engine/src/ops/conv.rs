//! 2-D convolution: NHWC images, HWIO weights, in canonical order. Taps in the padding are not part of any sum.

use super::linear::{WeightPass, is_rounded, rounded_grads, weight_grad};
use super::rows_sum::channels;
use super::{elements, expect_same_dtype, kernels_for, span, with_real};
use crate::cpu::contract::{self, Context, ConvShape, rounded, winograd};
use crate::gpu;
use crate::{Array, DType, Error, ErrorKind, Numerics, Result, Rows, SampleSum};

/// How a kernel moves over an image. Each pair is (height, width).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Pixels between neighbouring outputs.
    pub stride: [usize; 2],
    /// Pixels of border on each side.
    pub padding: [usize; 2],
    /// Pixels between neighbouring taps.
    pub dilation: [usize; 2],
    /// Channel groups that do not see each other.
    pub groups: usize,
}

impl Default for Conv2d {
    fn default() -> Self {
        Conv2d { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 }
    }
}

impl Conv2d {
    fn shape(&self, x: &[usize], weight: &[usize]) -> Result<ConvShape> {
        let misfit = |expected: String| {
            let got = format!("input {x:?}, weight {weight:?}, {self:?}");
            Err(Error::new(ErrorKind::Shape, "conv2d", got).expected(expected))
        };
        let (&[n, h, w, c], &[kh, kw, c_in, c_out]) = (x, weight) else {
            return misfit("input [n, h, w, c] and weight [kh, kw, c / groups, c_out]".into());
        };
        if self.groups == 0 || c % self.groups != 0 || c_out % self.groups != 0 || c_in != c / self.groups {
            return misfit(format!(
                "{c} input and {c_out} output channels to divide by groups, weight dim 2 = c / groups"
            ));
        }
        if kh == 0 || kw == 0 || self.stride.contains(&0) || self.dilation.contains(&0) {
            return misfit("kernel, stride and dilation of at least 1".into());
        }
        let shape = ConvShape {
            n,
            h,
            w,
            c,
            c_out,
            kernel: [kh, kw],
            stride: self.stride,
            padding: self.padding,
            dilation: self.dilation,
            groups: self.groups,
        };
        if shape.out_size().contains(&0) {
            return misfit("a kernel that fits inside the padded image".into());
        }
        Ok(shape)
    }

    /// Shape `[n, h, w, c_out]` of the result.
    ///
    /// # Errors
    /// `Shape` when input and weight do not fit.
    pub fn output_shape(&self, x: &[usize], weight: &[usize]) -> Result<[usize; 4]> {
        let shape = self.shape(x, weight)?;
        let [h, w] = shape.out_size();
        Ok([shape.n, h, w, shape.c_out])
    }
}

/// `x` `[n, h, w, c]` convolved with `weight` `[kh, kw, c / groups, c_out]`: `[n, h', w', c_out]`.
///
/// # Errors
/// `Shape` or `DType` when the operands do not fit.
pub fn conv2d(x: &Array, weight: &Array, options: &Conv2d) -> Result<Array> {
    let shape = options.shape(x.shape(), weight.shape())?;
    let output = options.output_shape(x.shape(), weight.shape())?;
    expect_same_dtype("conv2d", x, weight)?;
    let _span = span("conv2d", &[x, weight], |_| (elements(&output), 2 * elements(&output) * shape.taps(), 0));
    if let Some(gpu) = kernels_for(x) {
        return gpu::contract::conv2d(gpu, &shape, x, weight, &output);
    }
    if let Some(passes) = Passes::beside_canonical(x, &shape) {
        return of_f32(x, weight, &output, "conv2d", |cx, x, weight, y| (passes.forward)(cx, &shape, x, weight, y));
    }
    with_real!("conv2d", x.dtype(), T, {
        let (x, weight) = (x.contiguous()?, weight.contiguous()?);
        let (xs, weights) = (x.as_slice::<T>()?, weight.as_slice::<T>()?);
        Array::build::<T>(x.device(), &output, "conv2d", |cpu, y| {
            contract::conv2d(&cpu.contraction(), &shape, xs, weights, y);
            Ok(())
        })
    })
}

/// The gradient of the input, of shape `x_shape`, from `dy` `[n, h', w', c_out]`.
///
/// # Errors
/// `Shape` or `DType` when the operands do not fit.
pub fn conv2d_input_grad(dy: &Array, weight: &Array, x_shape: &[usize], options: &Conv2d) -> Result<Array> {
    let shape = options.shape(x_shape, weight.shape())?;
    expect_output(dy, options, x_shape, weight.shape())?;
    expect_same_dtype("conv2d backward", dy, weight)?;
    let _span = span("conv2d_input_grad", &[dy, weight], |n| (elements(x_shape), 2 * n * shape.taps(), 0));
    if let Some(gpu) = kernels_for(dy) {
        return gpu::contract::conv2d_input_grad(gpu, &shape, dy, weight, x_shape);
    }
    if let Some(passes) = Passes::beside_canonical(dy, &shape) {
        return of_f32(dy, weight, x_shape, "conv2d backward", |cx, dy, weight, dx| {
            (passes.input_grad)(cx, &shape, dy, weight, dx);
        });
    }
    with_real!("conv2d backward", dy.dtype(), T, {
        let (dy, weight) = (dy.contiguous()?, weight.contiguous()?);
        let (dys, weights) = (dy.as_slice::<T>()?, weight.as_slice::<T>()?);
        Array::build::<T>(dy.device(), x_shape, "conv2d backward", |cpu, dx| {
            contract::conv2d_input_grad(&cpu.contraction(), &shape, dys, weights, dx);
            Ok(())
        })
    })
}

/// The gradient of the weight, of shape `weight_shape`: a sum over samples, whose rows are the output pixels `rows`.
///
/// # Errors
/// `Shape` or `DType` when the operands do not fit; `Numerics` when `rows` does not start on a leaf.
pub fn conv2d_weight_grad(
    x: &Array,
    dy: &Array,
    weight_shape: &[usize],
    options: &Conv2d,
    rows: Rows,
) -> Result<SampleSum> {
    let shape = options.shape(x.shape(), weight_shape)?;
    expect_output(dy, options, x.shape(), weight_shape)?;
    channels("conv2d backward", dy, rows)?;
    expect_same_dtype("conv2d backward", x, dy)?;
    let _span = span("conv2d_weight_grad", &[dy, x], |n| (elements(weight_shape), 2 * n * shape.taps(), 0));
    if let Some(gpu) = kernels_for(x) {
        return gpu::contract::conv2d_weight_grad(gpu, &shape, x, dy, rows, weight_shape);
    }
    let owner = "conv2d backward";
    if let Some(passes) = Passes::beside_canonical(x, &shape) {
        return weight_grad::<f32>(x, dy, rows, weight_shape, owner, &shape, passes.weight_grad);
    }
    with_real!(owner, x.dtype(), T, {
        weight_grad::<T>(x, dy, rows, weight_shape, owner, &shape, contract::conv2d_weight_grad)
    })
}

/// Both gradients, those of [`conv2d_input_grad`] and [`conv2d_weight_grad`]; on the CPU in bf16 numerics from one rounding of
/// dy.
///
/// # Errors
/// As for these.
pub fn conv2d_grads(x: &Array, dy: &Array, weight: &Array, options: &Conv2d, rows: Rows) -> Result<(Array, SampleSum)> {
    if !is_rounded(&[x, dy, weight]) {
        let dx = conv2d_input_grad(dy, weight, x.shape(), options)?;
        return Ok((dx, conv2d_weight_grad(x, dy, weight.shape(), options, rows)?));
    }
    let shape = options.shape(x.shape(), weight.shape())?;
    expect_output(dy, options, x.shape(), weight.shape())?;
    channels("conv2d backward", dy, rows)?;
    let written = elements(x.shape()) + elements(weight.shape());
    let _span = span("conv2d_grads", &[x, dy, weight], |_| (written, 4 * elements(dy.shape()) * shape.taps(), 0));
    rounded_grads([x, dy, weight], rows, "conv2d backward", &shape)
}

/// Forward or input gradient, from two operands.
type Pass = fn(&Context<'_>, &ConvShape, &[f32], &[f32], &mut [f32]);

/// The passes of a convolution of f32 on the CPU.
struct Passes {
    forward: Pass,
    input_grad: Pass,
    weight_grad: WeightPass<f32>,
}

impl Passes {
    /// What the numerics of the operand's device have for such a convolution in place of the canonical order.
    fn beside_canonical(operand: &Array, shape: &ConvShape) -> Option<Passes> {
        match operand.device().numerics() {
            Numerics::Fast if operand.dtype() == DType::F32 && winograd::fits(shape) => Some(Passes {
                forward: winograd::conv2d,
                input_grad: winograd::conv2d_input_grad,
                weight_grad: if winograd::fits_weight_grad(shape) {
                    winograd::conv2d_weight_grad
                } else {
                    contract::conv2d_weight_grad
                },
            }),
            Numerics::Bf16 if operand.dtype() == DType::F32 => Some(Passes {
                forward: rounded::conv2d,
                input_grad: rounded::conv2d_input_grad,
                weight_grad: rounded::conv2d_weight_grad,
            }),
            _ => None,
        }
    }
}

/// An array of `shape` in f32 from two.
pub(super) fn of_f32(
    x: &Array,
    weight: &Array,
    shape: &[usize],
    name: &'static str,
    fill: impl FnOnce(&Context<'_>, &[f32], &[f32], &mut [f32]),
) -> Result<Array> {
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let (xs, weights) = (x.as_slice::<f32>()?, weight.as_slice::<f32>()?);
    Array::build::<f32>(x.device(), shape, name, |cpu, to| {
        fill(&cpu.contraction(), xs, weights, to);
        Ok(())
    })
}

fn expect_output(dy: &Array, options: &Conv2d, x: &[usize], weight: &[usize]) -> Result<()> {
    let output = options.output_shape(x, weight)?;
    if dy.shape() == output {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Shape, "conv2d backward", format!("output gradient {:?}", dy.shape()))
        .expected(format!("{output:?} for input {x:?} and weight {weight:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::cpu::CpuDevice;
    use crate::ops::testing::{devices, noise};
    use proptest::prelude::*;

    fn array(shape: &[usize], seed: u32, device: &Device) -> Array {
        let n: usize = shape.iter().product();
        let values: Vec<f64> = (0..n)
            .map(|i| ((i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f64 * 1e-7 - 0.8)
            .collect();
        Array::from_slice(&values, shape, device).unwrap()
    }

    fn inner(a: &Array, b: &Array) -> f64 {
        a.to_vec::<f64>().unwrap().iter().zip(b.to_vec::<f64>().unwrap()).map(|(x, y)| x * y).sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn gradients_are_adjoint_to_the_forward(
            n in 1usize..20, h in 3usize..8, w in 3usize..8, c in 1usize..4, k in 1usize..4, groups in 1usize..3,
            kernel in 1usize..4, stride in 1usize..3, padding in 0usize..2, seed in any::<u32>(),
        ) {
            let device = Device::cpu_with(2).unwrap();
            let options = Conv2d { stride: [stride; 2], padding: [padding; 2], groups, ..Conv2d::default() };
            let x = array(&[n, h, w, c * groups], seed, &device);
            let weight = array(&[kernel, kernel, c, k * groups], seed ^ 5, &device);
            let y = conv2d(&x, &weight, &options).unwrap();
            let dy = array(y.shape(), seed ^ 9, &device);
            let dx = conv2d_input_grad(&dy, &weight, x.shape(), &options).unwrap();
            let rows = Rows::of(y.shape(), 0).unwrap();
            let dw = conv2d_weight_grad(&x, &dy, weight.shape(), &options, rows).unwrap().total().unwrap();
            let value = inner(&y, &dy);
            let tolerance = 1e-10 * (1. + value.abs());
            prop_assert!((inner(&x, &dx) - value).abs() < tolerance);
            prop_assert!((inner(&weight, &dw) - value).abs() < tolerance);
        }
    }

    #[test]
    fn both_gradients_are_those_of_two_passes() {
        let in_bf16 = Device::open_with("cpu", CpuDevice::new(2).unwrap(), Numerics::Bf16).unwrap();
        for (device, [c, c_out]) in devices().iter().chain([&in_bf16]).flat_map(|x| [(x, [8, 36]), (x, [40, 6])]) {
            let (x, weight) = (noise(&[17, 5, 4, c], 1, device), noise(&[3, 2, c / 2, c_out], 2, device));
            let options = Conv2d { stride: [1, 2], padding: [1, 1], groups: 2, ..Conv2d::default() };
            let dy = noise(&options.output_shape(x.shape(), weight.shape()).unwrap(), 3, device);
            let rows = Rows::of(dy.shape(), 0).unwrap();
            let (dx, dw) = conv2d_grads(&x, &dy, &weight, &options, rows).unwrap();
            let one = conv2d_input_grad(&dy, &weight, x.shape(), &options).unwrap();
            let other = conv2d_weight_grad(&x, &dy, weight.shape(), &options, rows).unwrap();
            let bits = |x: &Array| x.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>();
            let same = bits(&dx) == bits(&one) && bits(&dw.total().unwrap()) == bits(&other.total().unwrap());
            assert!(same, "{c} to {c_out} channels, {device:?}");
            assert!(conv2d_grads(&x, &x, &weight, &options, rows).is_err());
        }
    }

    #[test]
    fn misfits_are_named() {
        let device = Device::cpu_with(1).unwrap();
        let (x, weight) = (array(&[1, 4, 4, 6], 0, &device), array(&[3, 3, 4, 8], 0, &device));
        let error = conv2d(&x, &weight, &Conv2d::default()).unwrap_err();
        assert!(error.to_string().contains("[3, 3, 4, 8]"), "{error}");
        let weight = array(&[5, 5, 6, 8], 0, &device);
        assert_eq!(conv2d(&x, &weight, &Conv2d::default()).unwrap_err().kind(), ErrorKind::Shape);
    }
}
