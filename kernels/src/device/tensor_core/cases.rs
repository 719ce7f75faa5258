//! Cases of the tensor-core kernels: products in the order of the host's model.

use super::super::conv_cases::shapes;
use super::*;
use crate::case::{Case, Expected, exactly, nearly, noise};
use crate::half_precision::{bf16_of_f32, f32_of_bf16};
use crate::reference::Conv2d;

/// Elements of `batch` matrices of `elements`.
pub(super) fn span(batch: u64, batch_stride: u64, elements: u64) -> u64 {
    if batch == 0 { 0 } else { (batch - 1) * batch_stride + elements }
}

/// Bytes read again; see [`product_reread`], which counts f32.
pub(super) fn tensor_reread<P: Precision>(elements: u64, k: u64) -> u64 {
    product_reread(elements, k, u64::from(EDGE), u64::from(EDGE)) / u64::from(P::PER_WORD)
}

/// How results are expected: the bits of the host's model, or the distance that hardware is held to.
#[derive(Clone, Copy)]
pub(super) enum Held {
    Bits,
    Near,
}

/// Elements that are chains over their terms (a, b), padded with zeros to `depth` numbers a step.
pub(super) fn chains(held: Held, depth: usize, elements: Vec<Vec<(f32, f32)>>) -> Expected<f32> {
    let k = elements.first().map_or(0, Vec::len);
    let padding = k.next_multiple_of(depth) - k;
    let chain = |terms: &Vec<(f32, f32)>| {
        let padded = terms.iter().copied().chain(std::iter::repeat_n((0.0, 0.0), padding));
        padded.fold(0f32, |sum, (a, b)| a.mul_add(b, sum))
    };
    let values = elements.iter().map(chain).collect();
    let size = |terms: &Vec<(f32, f32)>| terms.iter().map(|&(a, b)| f64::from(a * b).abs()).sum::<f64>();
    match held {
        Held::Bits => exactly(values),
        Held::Near => nearly(values, (k + 16) as f64 * 2f64.powi(-23) * elements.iter().map(size).fold(0.0, f64::max)),
    }
}

/// Numbers as they lie in memory, and as they are multiplied.
trait Numbers: Precision {
    fn memory(values: &[f32]) -> Vec<Self::Memory>;
    fn value(number: Self::Memory) -> f32;
}

impl Numbers for Bf16 {
    fn memory(values: &[f32]) -> Vec<u16> {
        values.iter().map(|x| bf16_of_f32(*x).to_bits()).collect()
    }
    fn value(number: u16) -> f32 {
        f32_of_bf16(half::bf16::from_bits(number))
    }
}

impl Numbers for Tf32 {
    fn memory(values: &[f32]) -> Vec<f32> {
        values.to_vec()
    }
    /// To the nearest multiple of the last bit kept, ties away: written with numbers, where the kernel has bits.
    fn value(number: f32) -> f32 {
        if number == 0.0 || !number.is_finite() {
            return number;
        }
        let wide = f64::from(number);
        let unit = 2f64.powi(wide.abs().log2().floor() as i32 - 10);
        ((wide / unit).round() * unit) as f32
    }
}

/// (batch, m, k, n).
fn shapes_of_products() -> [[usize; 4]; 6] {
    [[1, 1, 1, 1], [2, 3, 35, 5], [1, 129, 4, 8], [1, 4, 8, 132], [1, 5, 68, 12], [1, 2, 32, 4]]
}

macro_rules! product_cases {
    ($($name:ident $kernel:ident $precision:ident [$a_along_k:literal $b_along_k:literal];)+) => {$(
        pub(super) fn $name() -> Vec<Case> {
            $kernel(Held::Near)
        }

        pub(super) fn $kernel(held: Held) -> Vec<Case> {
            let case = |held, [batch, m, k, n]: [usize; 4], [a, b]: [Vec<f32>; 2]| {
                let (a, b) = ($precision::memory(&a), $precision::memory(&b));
                let element = |i: usize| {
                    let (matrix, row, column) = (i / (m * n), i / n % m, i % n);
                    let term = |p: usize| {
                        let of_a = if $a_along_k { row * k + p } else { p * m + row };
                        let of_b = if $b_along_k { column * k + p } else { p * n + column };
                        ($precision::value(a[matrix * m * k + of_a]), $precision::value(b[matrix * k * n + of_b]))
                    };
                    (0..k).map(term).collect()
                };
                let depth = (WORDS * $precision::PER_WORD) as usize;
                let c = chains(held, depth, (0..batch * m * n).map(element).collect());
                let [m, n, k, batch] = [m, n, k, batch].map(|n| n as u32);
                super::$kernel::TestCase { a, b, c, m, n, k, a_batch: m * k, b_batch: k * n, batch }
                    .named(format!("{batch} x [{m}, {k}] x [{k}, {n}]"))
            };
            let noisy = shapes_of_products().map(|[batch, m, k, n]| {
                case(held, [batch, m, k, n], [noise(batch * m * k, 1), noise(batch * k * n, 2)])
            });
            // Whole numbers are exact in any order; infinite ones are seen where zeros beyond k are not zeros.
            let (mut a, mut b) = (vec![1.0; 10], vec![1.0; 20]);
            (a[9], b[19]) = (f32::INFINITY, f32::INFINITY);
            noisy.into_iter().chain([case(Held::Bits, [1, 2, 5, 4], [a, b])]).collect()
        }
    )+};
}
product_cases! {
    matmul_bf16_cases matmul_bf16 Bf16 [true false];
    matmul_bf16_nt_cases matmul_bf16_nt Bf16 [true true];
    matmul_bf16_tn_cases matmul_bf16_tn Bf16 [false false];
    matmul_tf32_cases matmul_tf32 Tf32 [true false];
    matmul_tf32_nt_cases matmul_tf32_nt Tf32 [true true];
    matmul_tf32_tn_cases matmul_tf32_tn Tf32 [false false];
}

/// Elements of x and of the weights.
fn lengths(shape: &Conv2d) -> (usize, usize) {
    (shape.n * shape.h * shape.w * shape.c, shape.kh * shape.kw * shape.group_c() * shape.c_out)
}

/// The shapes of the other convolutions, and one whose channels come in fours.
fn convolutions(held: Held, case: fn(Held, Conv2d, [Vec<f32>; 2]) -> Case) -> Vec<Case> {
    let fours = Conv2d { n: 1, h: 4, w: 5, c: 8, c_out: 8, padding: [1, 1], groups: 2, ..shapes()[0] };
    let fours = Conv2d { kh: 3, kw: 3, stride: [2, 1], ..fours };
    let noisy = shapes().into_iter().chain([fours]).map(|shape| {
        let (x, weight) = lengths(&shape);
        case(held, shape, [noise(x, 1), noise(weight, 2)])
    });
    // Whole numbers are exact in any order; infinite ones are seen where zeros beyond the taps are not zeros.
    let whole = Conv2d { h: 2, c: 3, c_out: 4, ..shapes()[0] };
    let (x, weight) = lengths(&whole);
    let (mut x, mut weight) = (vec![1.0; x], vec![1.0; weight]);
    (x[0], weight[9]) = (f32::INFINITY, f32::INFINITY);
    noisy.chain([case(Held::Bits, whole, [x, weight])]).collect()
}

macro_rules! convolution_cases {
    ($($name:ident $kernel:ident $precision:ident;)+) => {$(
        pub(super) fn $name() -> Vec<Case> {
            $kernel(Held::Near)
        }

        pub(super) fn $kernel(held: Held) -> Vec<Case> {
            let case = |held, shape: Conv2d, [x, weight]: [Vec<f32>; 2]| {
                let (group_c, group_c_out) = (shape.group_c(), shape.group_c_out());
                let (x, weight) = ($precision::memory(&x), $precision::memory(&weight));
                let (oh, ow) = (shape.oh(), shape.ow());
                let depth = (WORDS * $precision::PER_WORD) as usize;
                let element = |i: usize| {
                    let (out, ox, oy) = (i % shape.c_out, i / shape.c_out % ow, i / shape.c_out / ow % oh);
                    let image = i / (shape.c_out * ow * oh);
                    let term = |p: usize| {
                        let (ky, kx, channel) = (p / group_c / shape.kw, p / group_c % shape.kw, p % group_c);
                        let y = (oy * shape.stride[0] + ky * shape.dilation[0]).checked_sub(shape.padding[0]);
                        let x_at = (ox * shape.stride[1] + kx * shape.dilation[1]).checked_sub(shape.padding[1]);
                        let pixel = y.zip(x_at).filter(|&(y, x)| y < shape.h && x < shape.w);
                        let channel = out / group_c_out * group_c + channel;
                        let of_x = pixel.map(|(y, x)| ((image * shape.h + y) * shape.w + x) * shape.c + channel);
                        (of_x.map_or(0.0, |i| $precision::value(x[i])), $precision::value(weight[p * shape.c_out + out]))
                    };
                    (0..shape.kh * shape.kw * group_c).map(term).collect()
                };
                let y = chains(held, depth, (0..shape.n * oh * ow * shape.c_out).map(element).collect());
                let name = format!("{shape:?}");
                let Conv2d { n, h, w, c, c_out, kh, kw, stride, padding, dilation, groups } = shape;
                let [n, h, w, c, c_out, kh, kw, groups] = [n, h, w, c, c_out, kh, kw, groups].map(|n| n as u32);
                let [[stride_h, stride_w], [pad_h, pad_w], [dil_h, dil_w]] =
                    [stride, padding, dilation].map(|pair| pair.map(|n| n as u32));
                super::$kernel::TestCase {
                    x,
                    weight,
                    y,
                    n,
                    h,
                    w,
                    c,
                    oh: oh as u32,
                    ow: ow as u32,
                    c_out,
                    kh,
                    kw,
                    stride_h,
                    stride_w,
                    pad_h,
                    pad_w,
                    dil_h,
                    dil_w,
                    groups,
                }
                .named(name)
            };
            convolutions(held, case)
        }
    )+};
}
convolution_cases! {
    conv2d_bf16_cases conv2d_bf16 Bf16;
    conv2d_tf32_cases conv2d_tf32 Tf32;
}
