//! [`Roof`]: what a machine can do at most, and so how long some work takes at least. To be measured by a release build.

use super::work::Work;
use crate::cpu::CpuDevice;
use crate::{Array, Device, Result};
use selfsame_kernels::elementwise::{self, Unary};
use selfsame_kernels::math::Real;
use selfsame_kernels::stamp;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Rates of a machine, all threads together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roof {
    /// f32 operations per second, a fused multiply-add being two.
    pub flops: f64,
    /// f32 exponentials per second.
    pub specials: f64,
    /// Bytes per second of a copy, read and written ones counted.
    pub bandwidth: f64,
}

/// Elements of each side of the copied stream: 192 MiB, beyond the caches of most machines.
const STREAM: usize = 48 << 20;

/// Elements whose exponentials are taken: they stay in the first-level cache.
const BLOCK: usize = 2048;

/// Tries; the fastest counts, since what disturbs a loop only slows it down.
const TRIES: usize = 5;

impl Roof {
    /// Measures `cpu` on the instruction set that its loops run on: chains of fused multiply-adds in registers,
    /// exponentials from the first-level cache, a copy from memory to memory. Takes about a second.
    ///
    /// # Errors
    /// `OutOfMemory` for the copied stream.
    pub fn measure(cpu: &CpuDevice) -> Result<Roof> {
        let threads = cpu.workers().threads();
        let rounds = 1 << 18;
        let rate = |chains: usize, seconds: f64| (threads * rounds * chains * LANES * 2) as f64 / seconds;
        let eight = fastest(|| {
            cpu.workers().run(threads, |i| {
                black_box(eight_chains(cpu.isa(), rounds, i as f32));
            });
        });
        let seven = fastest(|| {
            cpu.workers().run(threads, |i| {
                black_box(seven_chains(cpu.isa(), rounds, i as f32));
            });
        });
        let rounds_exp = 512;
        let exponentials = fastest(|| {
            cpu.workers().run(threads, |_| {
                let (x, mut y) = (black_box([0.37f32; BLOCK]), [0f32; BLOCK]);
                for _ in 0..rounds_exp {
                    elementwise::unary(cpu.isa(), Unary::Exp, &x, &mut y);
                    black_box(&mut y);
                }
            });
        });
        let device = Device::Cpu(cpu.clone());
        let from = Array::full(1f32, &[STREAM], &device)?;
        let mut to = Array::full(0f32, &[STREAM], &device)?;
        let (source, target) = (from.as_slice::<f32>()?, to.make_mut::<f32>()?);
        let chunk = STREAM.div_ceil(4 * threads);
        let copy = fastest(|| {
            cpu.workers().run_chunks(target, chunk, |i, out| out.copy_from_slice(&source[i * chunk..][..out.len()]));
        });
        drop((from, to));
        cpu.memory().trim();
        Ok(Roof {
            flops: rate(8, eight).max(rate(7, seven)),
            specials: (threads * rounds_exp * BLOCK) as f64 / exponentials,
            bandwidth: (2 * STREAM * size_of::<f32>()) as f64 / copy,
        })
    }

    /// How long `work` takes at least: arithmetic and exponentials share the units, traffic goes on beside them.
    pub fn least_time(&self, work: Work) -> Duration {
        let compute = work.flop as f64 / self.flops + work.special as f64 / self.specials;
        let traffic = work.bytes as f64 / self.bandwidth;
        Duration::try_from_secs_f64(compute.max(traffic)).unwrap_or_default()
    }

    /// What bounds `work`: `memory` or `compute`.
    pub fn bound_by(&self, work: Work) -> &'static str {
        let compute = work.flop as f64 / self.flops + work.special as f64 / self.specials;
        if work.bytes as f64 / self.bandwidth >= compute { "memory" } else { "compute" }
    }
}

/// Elements of a chain: one register of the widest instruction set.
const LANES: usize = 16;

/// Steps each of the named chains `rounds` times. A variable per chain: an array of chains would live in memory, and
/// the loop would measure that.
macro_rules! step_chains {
    ($rounds:expr, $start:expr, [$($chain:ident)+]) => {{
        $(let mut $chain = [$start; LANES];)+
        for _ in 0..$rounds {
            $(for x in &mut $chain {
                *x = Real::mul_add(*x, 0.999, 0.5);
            })+
        }
        [$($chain),+]
    }};
}

stamp! {
    /// Chains of fused multiply-adds that stay in registers: eight hide a latency of four on two ports.
    fn eight_chains(rounds: usize, start: f32) -> [[f32; LANES]; 8] {
        step_chains!(rounds, start, [a b c d e f g h])
    }

    /// Seven are what sixteen registers of half the width hold beside the two factors.
    fn seven_chains(rounds: usize, start: f32) -> [[f32; LANES]; 7] {
        step_chains!(rounds, start, [a b c d e f g])
    }
}

/// Seconds of the fastest of some tries.
fn fastest(mut work: impl FnMut()) -> f64 {
    let seconds = (0..TRIES).map(|_| {
        let started = Instant::now();
        work();
        started.elapsed().as_secs_f64()
    });
    seconds.fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOF: Roof = Roof { flops: 100.0, specials: 10.0, bandwidth: 20.0 };

    #[test]
    fn the_slower_of_compute_and_memory_bounds() {
        let seconds = |work| ROOF.least_time(work).as_secs_f64();
        // The ridge lies at an intensity of 100 / 20 = 5 FLOP per byte.
        assert_eq!(seconds(Work::moving(40).flop(100)), 2.0);
        assert_eq!(ROOF.bound_by(Work::moving(40).flop(100)), "memory");
        assert_eq!(seconds(Work::moving(40).flop(400)), 4.0);
        assert_eq!(ROOF.bound_by(Work::moving(40).flop(400)), "compute");
        // Exponentials take the units of the arithmetic.
        assert_eq!(seconds(Work::moving(40).flop(200).special(30)), 5.0);
        assert_eq!(seconds(Work::default()), 0.0);
    }

    #[test]
    fn a_machine_has_rates() {
        let roof = Roof::measure(&CpuDevice::new(1).unwrap()).unwrap();
        assert!(roof.flops > 1e8 && roof.bandwidth > 1e8 && roof.specials > 1e6, "{roof:?}");
    }
}
