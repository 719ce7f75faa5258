//! `selfsame kernels bench`: kernels timed on a GPU, as a share of its roof.

use selfsame_engine::gpu::cuda::CudaLauncher;
use selfsame_engine::gpu::submitted;
use selfsame_engine::{Error, ErrorKind, Result};
use selfsame_kernels::kernel::{KernelSpec, ParamKind};
use selfsame_kernels::launch::{ArgValue, Buffer, LaunchError, Launcher, submit};
use serde_json::json;

use super::super::output::{Output, table};
use super::super::{Outcome, Registry};
use super::roof::GPUS;

/// Arguments of `kernels bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A kernel or a family; all that have a size here when left out
    name: Option<String>,
    /// The GPU's number
    #[arg(long, default_value_t = 0, value_name = "N")]
    gpu: usize,
    /// Measured launches of each, after three unmeasured ones
    #[arg(long, default_value_t = 20, value_name = "N")]
    repeats: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A kernel's numbers at a size that fills a large GPU; its memory follows from the launch rule.
struct Size {
    kernel: &'static str,
    numbers: &'static [(&'static str, u64)],
}

const fn size(kernel: &'static str, numbers: &'static [(&'static str, u64)]) -> Size {
    Size { kernel, numbers }
}

/// 3x3 convolution of 256 images of 32 x 32, 64 to 64 channels: the first stage of a CIFAR ResNet.
const CONV: &[(&str, u64)] = &[
    ("n", 256),
    ("h", 32),
    ("w", 32),
    ("c", 64),
    ("oh", 32),
    ("ow", 32),
    ("c_out", 64),
    ("kh", 3),
    ("kw", 3),
    ("stride_h", 1),
    ("stride_w", 1),
    ("pad_h", 1),
    ("pad_w", 1),
    ("dil_h", 1),
    ("dil_w", 1),
    ("groups", 1),
];

const PRODUCT: &[(&str, u64)] = &[
    ("m", 4096),
    ("n", 4096),
    ("k", 4096),
    ("a_row", 4096),
    ("a_col", 1),
    ("b_row", 4096),
    ("b_col", 1),
    ("batch", 1),
    ("a_batch", 0),
    ("b_batch", 0),
];

const SIZES: &[Size] = &[
    size("unary_exp", &[("n", 1 << 26)]),
    size("unary_gelu", &[("n", 1 << 26)]),
    size("binary_add", &[("n", 1 << 26)]),
    size("softmax", &[("rows", 65_536), ("cols", 1024)]),
    size("softmax_grad", &[("rows", 65_536), ("cols", 1024)]),
    size("layer_norm", &[("rows", 65_536), ("cols", 768)]),
    size("row_sum", &[("rows", 65_536), ("cols", 1024)]),
    size("col_sum", &[("outer", 1), ("reduced", 65_536), ("inner", 1024)]),
    size("l2_normalize", &[("rows", 65_536), ("cols", 128)]),
    size("batch_stats_leaves", &[("images", 256), ("rows_per_image", 1024), ("channels", 64)]),
    size("batch_norm_apply", &[("rows", 262_144), ("channels", 64)]),
    size("transpose_4", &[("batch", 1), ("rows", 8192), ("cols", 8192)]),
    size("matmul", PRODUCT),
    size("conv2d", CONV),
    size("conv2d_narrow", CONV),
    size("conv2d_input_grad_narrow", CONV),
    size("conv2d_weight_grad_leaves_narrow", CONV),
    size("global_avg_pool", &[("n", 256), ("pixels", 1024), ("c", 512)]),
];

struct Timing {
    kernel: &'static str,
    milliseconds: f64,
    flops: f64,
    bandwidth: f64,
    share: Option<f64>,
}

pub(crate) fn run(args: &Args, registry: &Registry, out: &mut Output) -> Result<Outcome> {
    let kernels = super::chosen(registry, args.name.as_deref())?;
    let gpu = submitted(CudaLauncher::open(args.gpu))?;
    let (model, _) = gpu.model();
    let mut timings = Vec::new();
    for size in SIZES {
        if let Some(kernel) = kernels.iter().find(|kernel| kernel.name == size.kernel) {
            timings.push(time(&gpu, kernel, size, args.repeats)?);
        }
    }
    if timings.is_empty() {
        let sized: Vec<&str> = SIZES.iter().map(|size| size.kernel).collect();
        return Err(Error::new(ErrorKind::Config, "kernels bench", "no kernel of that name has a size to be timed at")
            .expected(sized.join(", ")));
    }
    if args.json {
        let list: Vec<_> = timings
            .iter()
            .map(|t| {
                json!({ "kernel": t.kernel, "milliseconds": t.milliseconds, "flops": t.flops,
                        "bytes_per_second": t.bandwidth, "share_of_roof": t.share })
            })
            .collect();
        out.json(&json!({ "device": model, "repeats": args.repeats, "timings": list }))?;
    } else {
        let rows: Vec<Vec<String>> = timings
            .iter()
            .map(|t| {
                let share = t.share.map_or("-".into(), |share| format!("{:.0} %", 100.0 * share));
                let (ms, gflops, gbs) = (t.milliseconds, t.flops / 1e9, t.bandwidth / 1e9);
                vec![t.kernel.into(), format!("{ms:.3}"), format!("{gflops:.0}"), format!("{gbs:.0}"), share]
            })
            .collect();
        out.text(&format!("{model}, medians of {} launches by events", args.repeats))?;
        out.text(&table(&["kernel", "ms", "GFLOP/s", "GB/s", "of the roof"], &[false, true, true, true, true], &rows))?;
    }
    Ok(Outcome::Done)
}

fn time(gpu: &CudaLauncher, kernel: &'static KernelSpec, size: &Size, repeats: usize) -> Result<Timing> {
    let mut buffers: Vec<Buffer> = Vec::new();
    let result = submitted(timed(gpu, kernel, size, repeats, &mut buffers));
    buffers.into_iter().for_each(|buffer| gpu.free(buffer));
    let (milliseconds, args) = result?;
    let (cost, (read, written)) = ((kernel.cost)(&args), kernel.traffic(&args));
    let (flop, tensor, bytes) = (cost.flop as f64, cost.tensor_flop as f64, (read + written) as f64);
    let seconds = milliseconds / 1e3;
    let (model, _) = gpu.model();
    let roof = GPUS.iter().find(|known| model.contains(known.name));
    Ok(Timing {
        kernel: kernel.name,
        milliseconds,
        flops: (flop + tensor) / seconds,
        bandwidth: bytes / seconds,
        share: roof.map(|roof| roof.bound(flop, tensor, bytes).seconds / seconds),
    })
}

/// The median time in milliseconds, and the arguments.
fn timed(
    gpu: &CudaLauncher,
    kernel: &'static KernelSpec,
    size: &Size,
    repeats: usize,
    buffers: &mut Vec<Buffer>,
) -> std::result::Result<(f64, Vec<ArgValue>), LaunchError> {
    let number = |name: &str| size.numbers.iter().find(|(known, _)| *known == name).map_or(0, |(_, value)| *value);
    let mut args: Vec<ArgValue> = kernel
        .params
        .iter()
        .map(|param| match param.kind {
            ParamKind::Scalar(element) => ArgValue::Scalar { bits: number(param.name), element },
            _ => ArgValue::Memory { address: selfsame_kernels::launch::Address(0), len: 0 },
        })
        .collect();
    let lengths = (kernel.lengths)(&args);
    for ((arg, param), length) in args.iter_mut().zip(kernel.params).zip(lengths) {
        if let ArgValue::Memory { address, len } = arg {
            let bytes = length as usize * param.kind.element().bytes();
            let buffer = gpu.allocate(bytes)?;
            buffers.push(buffer);
            gpu.upload(buffer.address, &vec![0; bytes])?;
            (*address, *len) = (buffer.address, length);
        }
    }
    for _ in 0..3 {
        submit(gpu, kernel, &args)?;
    }
    let mut times = (0..repeats.max(1))
        .map(|_| gpu.time(|| submit(gpu, kernel, &args)))
        .collect::<std::result::Result<Vec<f32>, _>>()?;
    times.sort_by(f32::total_cmp);
    Ok((f64::from(times[times.len() / 2]), args))
}
