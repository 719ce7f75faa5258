//! Random arrays as kernels: element i is made from word i of the stream.

use super::{GpuDevice, extent};
use crate::{Array, DType, Result};
use selfsame_kernels::device::random as k;
use selfsame_kernels::philox::Stream;

/// Launches a kernel that draws `n` numbers from the start of a stream.
macro_rules! draw {
    ($gpu:expr, $kernel:ident { $($arg:ident),+ }, $y:expr, $stream:expr) => {{
        let ([k0, k1, s0, s1], n) = ($stream.key_words(), extent($y.numel())?);
        let args = k::$kernel::Args { y: $y.cells_mut()?, k0, k1, s0, s1, first: 0, $($arg,)+ n };
        $gpu.submit(|launcher| args.launch(launcher))?;
        Ok($y)
    }};
}

/// fma(width, u, low) in f32.
pub(crate) fn uniform(gpu: &GpuDevice, shape: &[usize], (width, low): (f32, f32), stream: &Stream) -> Result<Array> {
    let mut y = gpu.empty(shape, DType::F32, "uniform")?;
    draw!(gpu, random_uniform { width, low }, y, stream)
}

/// fma(std, z, mean) in f32.
pub(crate) fn normal(gpu: &GpuDevice, shape: &[usize], (std, mean): (f32, f32), stream: &Stream) -> Result<Array> {
    let mut y = gpu.empty(shape, DType::F32, "normal")?;
    draw!(gpu, random_normal { std, mean }, y, stream)
}

/// Whether u < p.
pub(crate) fn bernoulli(gpu: &GpuDevice, shape: &[usize], p: f64, stream: &Stream) -> Result<Array> {
    let mut y = gpu.empty(shape, DType::Bool, "bernoulli")?;
    draw!(gpu, random_bernoulli { p }, y, stream)
}
