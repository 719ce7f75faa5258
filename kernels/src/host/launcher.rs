//! The host executor as a device.

use super::checker::{Checker, Name, Output, Region};
use super::clock::Clocks;
use super::counters::{Counters, Requests};
use super::exec::{BoundArg, View};
use super::finding::{Finding, Findings};
use super::memory::{Memory, Range};
use super::mutation::Mutation;
use super::schedule::Schedule;
use super::shadow::Shadow;
use super::site::{NO_MEMORY, Site, Sites};
use super::stack::ThreadStack;
use super::worker::Worker;
use crate::kernel::{KernelSpec, ParamKind};
use crate::launch::{Address, ArgValue, Buffer, Geometry, LaunchError, Launcher};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How kernels are run and what they are held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether accesses and meetings are checked; bounds always are.
    pub checks: bool,
    /// Whether requests, sectors and the like are counted; with checks alone.
    pub count: bool,
    /// The order of blocks and threads.
    pub schedule: Schedule,
    /// With checks, a thread pauses before one in so many accesses.
    pub preempt: Option<NonZeroU32>,
    /// With checks, accesses after which a thread is taken not to end.
    pub steps: u64,
    /// With checks, whether a launch ends at its first finding.
    pub stop_at_first: bool,
    /// Threads of the host that run blocks where checks are off.
    pub workers: usize,
}

impl Options {
    /// All checks and counts, in order.
    pub fn checked() -> Options {
        Options {
            checks: true,
            count: true,
            schedule: Schedule::InOrder,
            preempt: None,
            steps: 1 << 24,
            stop_at_first: false,
            workers: 1,
        }
    }

    /// Bounds alone, blocks spread over `workers` threads of the host. Kernels must be free of races.
    pub fn unchecked(workers: usize) -> Options {
        Options { checks: false, count: false, workers, ..Options::checked() }
    }
}

/// A device whose memory is the host's and whose kernels run as coroutines.
#[derive(Debug)]
pub struct HostLauncher {
    options: Options,
    mutation: Option<Mutation>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    memory: Memory,
    /// Of coroutines, for reuse; by worker.
    stacks: Vec<Vec<ThreadStack>>,
    findings: Vec<Finding>,
    counters: BTreeMap<&'static str, Counters>,
    sites: BTreeMap<&'static str, BTreeSet<Site>>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("memory", &self.memory).finish_non_exhaustive()
    }
}

impl Default for HostLauncher {
    fn default() -> HostLauncher {
        HostLauncher::new()
    }
}

impl HostLauncher {
    /// A device with all checks on and no memory in use.
    pub fn new() -> HostLauncher {
        HostLauncher::with(Options::checked())
    }

    /// A device without memory in use.
    pub fn with(options: Options) -> HostLauncher {
        HostLauncher { options, mutation: None, state: Mutex::default() }
    }

    /// A device whose kernels run with one site weakened.
    pub(super) fn mutated(options: Options, mutation: Mutation) -> HostLauncher {
        HostLauncher { mutation: Some(mutation), ..HostLauncher::with(options) }
    }

    /// Changes how further kernels are run. Memory keeps what is known of it; `checks` cannot change.
    pub(super) fn reschedule(&mut self, schedule: Schedule, preempt: Option<NonZeroU32>) {
        self.options = Options { schedule, preempt, count: false, ..self.options };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found since the last call.
    pub fn take_findings(&self) -> Vec<Finding> {
        std::mem::take(&mut self.state().findings)
    }

    /// What was counted since the last call, by kernel.
    pub fn take_counters(&self) -> BTreeMap<&'static str, Counters> {
        std::mem::take(&mut self.state().counters)
    }

    /// The sites that launches under check have reached since the last call, by kernel.
    pub fn take_sites(&self) -> BTreeMap<&'static str, BTreeSet<Site>> {
        std::mem::take(&mut self.state().sites)
    }
}

/// A memory argument of a launch.
struct Argument {
    range: Range,
    bytes: usize,
}

impl State {
    /// The memory of each argument, as far as the launch rule says that the kernel uses it.
    fn arguments(&mut self, kernel: &KernelSpec, args: &[ArgValue]) -> Result<Vec<Option<Argument>>, LaunchError> {
        let lengths = (kernel.lengths)(args);
        let mut arguments = Vec::new();
        for ((param, arg), needed) in kernel.params.iter().zip(args).zip(lengths) {
            let size = param.kind.element().bytes();
            arguments.push(match *arg {
                ArgValue::Memory { address, len } => {
                    let bytes = if needed > 0 { needed } else { len } as usize * size;
                    Some(Argument { range: self.memory.find(address, bytes)?, bytes })
                }
                ArgValue::Scalar { .. } => None,
            });
        }
        Ok(arguments)
    }

    /// Binds the arguments of a launch without checks.
    fn bind(
        &mut self,
        kernel: &KernelSpec,
        args: &[ArgValue],
        arguments: &[Option<Argument>],
    ) -> Result<Vec<BoundArg>, LaunchError> {
        let mut bound = Vec::new();
        for ((param, arg), argument) in kernel.params.iter().zip(args).zip(arguments) {
            bound.push(match (arg, argument) {
                (_, Some(Argument { range, bytes })) => {
                    let data = self.memory.allocation(*range).data().wrapping_add(range.offset);
                    let size = param.kind.element().bytes();
                    if !(data as usize).is_multiple_of(size) {
                        return Err(LaunchError::Arguments {
                            kernel: kernel.name,
                            got: format!("{} at byte {} of its memory", param.name, range.offset),
                            expected: format!("an address that is a multiple of {size}"),
                        });
                    }
                    BoundArg::Memory(View { data, bytes: *bytes, memory: NO_MEMORY, skipped: 0 })
                }
                (ArgValue::Scalar { bits, .. }, None) => BoundArg::Scalar(*bits),
                (ArgValue::Memory { .. }, None) => unreachable!("`arguments` has an entry per memory argument"),
            });
        }
        Ok(bound)
    }

    /// Binds the arguments of a launch under check: regions, names and views.
    fn bind_checked(
        &mut self,
        kernel: &KernelSpec,
        args: &[ArgValue],
        arguments: &[Option<Argument>],
        checker: &mut Checker,
    ) -> Vec<BoundArg> {
        // By allocation: the range used, the smallest element, whether it is written.
        let mut used: BTreeMap<u64, (usize, usize, usize, bool)> = BTreeMap::new();
        for (param, argument) in kernel.params.iter().zip(arguments) {
            let Some(Argument { range, bytes }) = argument else { continue };
            let size = param.kind.element().bytes();
            let (first, end, granule, written) = used.entry(range.start).or_insert((usize::MAX, 0, size, false));
            (*first, *end) = ((*first).min(range.offset), (*end).max(range.offset + bytes));
            *granule = (*granule).min(size);
            *written |= !matches!(param.kind, ParamKind::In(_));
        }
        let mut numbers = BTreeMap::new();
        for (start, (first, end, granule, written)) in used {
            let part = Range { start, offset: first };
            let allocation = self.memory.allocation(part);
            numbers.insert(start, (checker.regions.len(), first));
            checker.regions.push(Region {
                base: allocation.data().wrapping_add(first),
                initialised: allocation.initialised[first..end].to_vec(),
                shadow: written.then(|| Shadow::new(end - first, granule)),
                part: Some(part),
            });
        }
        let bind = |((param, arg), argument): ((&crate::kernel::ParamSpec, &ArgValue), &Option<Argument>)| {
            let Some(Argument { range, bytes }) = argument else {
                let ArgValue::Scalar { bits, .. } = arg else {
                    unreachable!("`arguments` has an entry per memory argument")
                };
                return BoundArg::Scalar(*bits);
            };
            let (region, first) = numbers[&range.start];
            let size = param.kind.element().bytes();
            let output = matches!(param.kind, ParamKind::Out(_)).then(|| Output {
                start: range.offset - first,
                size,
                written: vec![0; bytes / size],
            });
            checker.names.push(Name { name: param.name.into(), region, output });
            let data = checker.regions[region].base.wrapping_add(range.offset - first);
            BoundArg::Memory(View { data, bytes: *bytes, memory: checker.names.len() as u32 - 1, skipped: 0 })
        };
        kernel.params.iter().zip(args).zip(arguments).map(bind).collect()
    }

    /// Keeps what a launch under check has learnt.
    fn keep(&mut self, checker: Checker, geometry: &Geometry) -> Vec<Finding> {
        let kernel = checker.kernel.name;
        let sites = checker.sites.all().iter().map(|(place, operation, memory)| Site {
            place: *place,
            operation: *operation,
            memory: (*memory != NO_MEMORY).then(|| checker.names[*memory as usize].name.clone()),
        });
        self.sites.entry(kernel).or_default().extend(sites);
        let launch = Counters {
            launches: 1,
            blocks: geometry.grid.iter().product(),
            threads: geometry.threads(),
            ..checker.counters
        };
        *self.counters.entry(kernel).or_default() += launch;
        for region in &checker.regions {
            if let Some(part) = region.part {
                let initialised = &mut self.memory.allocation(part).initialised;
                initialised[part.offset..][..region.initialised.len()].copy_from_slice(&region.initialised);
            }
        }
        checker.findings.into_list()
    }

    /// Runs a launch with all checks.
    fn run_checked(
        &mut self,
        kernel: &'static KernelSpec,
        geometry: &Geometry,
        args: &[ArgValue],
        options: Options,
        mutation: Option<Mutation>,
    ) -> Result<Vec<Finding>, LaunchError> {
        let arguments = self.arguments(kernel, args)?;
        let mut checker = Checker {
            kernel,
            options,
            mutation,
            grid: geometry.grid_dim(),
            block_dim: geometry.block_dim(),
            sites: Sites::new(),
            findings: Findings::default(),
            regions: Vec::new(),
            names: Vec::new(),
            clocks: Clocks::default(),
            requests: Requests::default(),
            counters: Counters::default(),
            steps: Vec::new(),
            stop: false,
            random: options.schedule.random(u64::MAX),
        };
        let bound = self.bind_checked(kernel, args, &arguments, &mut checker);
        let checker_at = &raw mut checker;
        let stacks = self.stacks.pop().unwrap_or_default();
        let mut worker = Worker::new(kernel, geometry, &bound, options.schedule, checker_at, stacks);
        let mut whole = true;
        for block in options.schedule.blocks(blocks(geometry)?) {
            whole &= worker.run(block).map_err(no_stacks)?;
            if worker.is_stopped() {
                break;
            }
        }
        self.stacks.push(worker.finish().0);
        if whole {
            checker.finish();
        }
        Ok(self.keep(checker, geometry))
    }

    /// Runs a launch with bounds checks alone.
    fn run_unchecked(
        &mut self,
        kernel: &'static KernelSpec,
        geometry: &Geometry,
        args: &[ArgValue],
        options: Options,
    ) -> Result<Vec<Finding>, LaunchError> {
        let arguments = self.arguments(kernel, args)?;
        let bound = self.bind(kernel, args, &arguments)?;
        let blocks = blocks(geometry)?;
        // Below this many threads of the device, starting a thread of the host costs more than it saves.
        let useful = (geometry.threads() / 4096).max(1) as usize;
        let workers = options.workers.min(blocks as usize).min(useful).max(1);
        self.stacks.resize_with(self.stacks.len().max(workers), Vec::new);
        let next = AtomicU32::new(0);
        let work = |stacks: Vec<ThreadStack>| -> std::io::Result<(Vec<ThreadStack>, Findings)> {
            let mut worker = Worker::new(kernel, geometry, &bound, Schedule::InOrder, std::ptr::null_mut(), stacks);
            loop {
                let block = next.fetch_add(1, Ordering::Relaxed);
                if block >= blocks {
                    return Ok(worker.finish());
                }
                worker.run(block)?;
            }
        };
        let mut ours = self.stacks.split_off(self.stacks.len() - workers);
        let first = ours.pop().unwrap_or_default();
        let results: Vec<_> = std::thread::scope(|scope| {
            let others: Vec<_> = ours.into_iter().map(|stacks| scope.spawn(|| work(stacks))).collect();
            let first = work(first);
            let others =
                others.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            std::iter::once(first).chain(others).collect()
        });
        let mut found = Findings::default();
        for result in results {
            let (stacks, findings) = result.map_err(no_stacks)?;
            self.stacks.push(stacks);
            findings.into_list().into_iter().for_each(|finding| found.add(finding));
        }
        Ok(found.into_list())
    }
}

fn no_stacks(error: std::io::Error) -> LaunchError {
    LaunchError::Device {
        got: format!("no stack for a thread of the block ({error})"),
        hint: "each thread of a block maps 128 KiB; raise the limit of the process on memory maps".into(),
    }
}

/// The number of blocks.
fn blocks(geometry: &Geometry) -> Result<u32, LaunchError> {
    u32::try_from(geometry.grid.iter().map(|n| u128::from(*n)).product::<u128>()).map_err(|_| LaunchError::Device {
        got: format!("a grid of {:?} blocks", geometry.grid),
        hint: "the host executor numbers blocks in 32 bits: launch fewer".into(),
    })
}

impl Launcher for HostLauncher {
    fn name(&self) -> &str {
        if self.options.checks { "simt" } else { "simt:unchecked" }
    }

    fn allocate(&self, bytes: usize) -> Result<Buffer, LaunchError> {
        let address = self.state().memory.allocate(bytes, self.options.checks)?;
        Ok(Buffer { address, bytes })
    }

    fn free(&self, buffer: Buffer) {
        self.state().memory.free(buffer.address);
    }

    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), LaunchError> {
        self.state().memory.upload(to, bytes)
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), LaunchError> {
        self.state().memory.download(from, bytes)
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), LaunchError> {
        self.state().memory.copy(from, to, bytes)
    }

    fn run(&self, kernel: &'static KernelSpec, geometry: Geometry, args: &[ArgValue]) -> Result<(), LaunchError> {
        let mut state = self.state();
        let found = if self.options.checks {
            state.run_checked(kernel, &geometry, args, self.options, self.mutation.clone())?
        } else {
            state.run_unchecked(kernel, &geometry, args, self.options)?
        };
        if found.is_empty() {
            return Ok(());
        }
        let findings = found.iter().map(ToString::to_string).collect();
        state.findings.extend(found);
        Err(LaunchError::Findings { kernel: kernel.name, findings })
    }

    fn synchronize(&self) -> Result<(), LaunchError> {
        Ok(())
    }
}
