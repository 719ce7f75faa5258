//! The levels of the promise: the conditions under which a run may be repeated without a bit changing.

use selfsame_engine::cpu::CpuDevice;
use selfsame_engine::{Device, Numerics, Result};
use selfsame_kernels::isa::Isa;
use selfsame_kernels::order::LEAF;

use super::{Execution, Recorded};

/// Threads of level 1.
const THREADS: [usize; 4] = [1, 2, 3, 8];
/// Loader workers of level 1; 0 prepares batches in the training thread.
const WORKERS: [usize; 3] = [0, 1, 4];
/// Ranks of level 3.
const RANKS: [usize; 3] = [2, 3, 4];

/// One condition to replay under.
pub struct Level {
    /// `L0` to `L4`.
    pub name: &'static str,
    /// In words: `3 threads, 4 loader workers`.
    pub what: String,
    /// The condition.
    pub execution: Execution,
    /// First and last step.
    pub steps: (u64, u64),
    /// Whether it takes a hundred times as long as the others: portable loops, kernels on the host.
    pub slow: bool,
}

impl Recorded {
    /// All levels, in the run's numerics, on the steps asked for (all recorded ones when left out). The slow ones, portable
    /// loops and kernels on the host, come last and take the first of the steps. Kernels are there for strict numerics.
    ///
    /// # Errors
    /// `Config` for steps that the run has not recorded; `Device` when the system refuses a thread.
    pub fn levels(&self, steps: Option<(u64, u64)>) -> Result<Vec<Level>> {
        let steps = self.steps(steps)?;
        let numerics = Numerics::parse(&self.manifest().numerics)?;
        let on = |cpu| Device::open_with("cpu", cpu, numerics).map(Execution::on);
        let cpu = |threads| CpuDevice::new(threads).and_then(on);
        let mut levels = Vec::new();
        let mut add = |name, what: String, execution| levels.push(Level { name, what, execution, steps, slow: false });
        add("L0", "the same again".into(), cpu(2)?);
        for threads in THREADS {
            add("L1", counted(threads, "thread"), cpu(threads)?);
        }
        for workers in WORKERS {
            add("L1", counted(workers, "loader worker"), Execution { workers, ..cpu(2)? });
        }
        let batch = self.config().usize("batch")?;
        // With batch norm over the whole batch, micro-batches advance together; where nothing couples samples they may
        // also come one after another, with a second forward.
        let together = self.config().str("batch_norm")? == "lockstep";
        let halves = batch.div_ceil(2).next_multiple_of(LEAF);
        let quarters = batch.div_ceil(4).next_multiple_of(LEAF);
        // The largest leaf-aligned size that leaves a smaller rest.
        let unequal = (1..batch.div_ceil(LEAF)).rev().map(|leaves| leaves * LEAF).find(|size| batch % size != 0);
        let mut sizes: Vec<usize> =
            [halves, quarters].into_iter().chain(unequal).filter(|size| *size < batch).collect();
        sizes.dedup();
        for micro_batch in sizes {
            let cut = Execution { micro_batch, grad_cache: Some(!together), ..cpu(2)? };
            add("L2", format!("micro-batches of {micro_batch} of {batch}"), cut.clone());
            add("L2", "the same, recomputed in backward".into(), Execution { recompute: Some(true), ..cut });
        }
        for ranks in RANKS.into_iter().filter(|ranks| *ranks <= batch.div_ceil(LEAF)) {
            add("L3", format!("{ranks} ranks"), Execution { ranks, ..cpu(2)? });
        }
        let sets = Isa::available();
        for isa in sets.iter().rev() {
            add("L4", format!("CPU, {isa}"), on(CpuDevice::with_isa(2, *isa)?)?);
        }
        if numerics == Numerics::Strict {
            let kernels = Device::open_with("simt:unchecked", CpuDevice::new(2)?, numerics)?;
            add("L4", "GPU kernels on the host".into(), Execution::on(kernels));
        }
        for level in levels.iter_mut().filter(|level| level.name == "L4") {
            let device = &level.execution.device;
            if device.gpu().is_some() || device.host().isa() == Isa::PORTABLE && sets.len() > 1 {
                (level.slow, level.steps.1) = (true, level.steps.0);
            }
        }
        Ok(levels)
    }
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
