//! The checks of one launch: what every access and meeting is held to.

use super::clock::{Clocks, Moment};
use super::counters::{Counters, Requests};
use super::exec::{Position, View};
use super::finding::{Finding, FindingKind, Findings, Place};
use super::launcher::Options;
use super::memory::Range;
use super::mutation::Mutation;
use super::schedule::position;
use super::shadow::{Conflict, Shadow};
use super::site::{Operation, SiteNumber, Sites};
use crate::kernel::KernelSpec;
use crate::philox::Stream;
use crate::simt::Dim3;
use std::panic::Location;

/// A stretch of memory under check: an allocation, or a shared tile.
pub(super) struct Region {
    pub(super) base: *mut u8,
    /// By byte.
    pub(super) initialised: Vec<bool>,
    /// `None`: the launch only reads it.
    pub(super) shadow: Option<Shadow>,
    /// The allocation, and where in it the region starts. `None`: a shared tile.
    pub(super) part: Option<Range>,
}

impl Region {
    pub(super) fn is_shared(&self) -> bool {
        self.part.is_none()
    }
}

/// A name under which a kernel sees a region.
pub(super) struct Name {
    pub(super) name: String,
    pub(super) region: usize,
    /// For outputs.
    pub(super) output: Option<Output>,
}

/// An output: where it starts in its region, and by element the site that wrote it, plus 1.
pub(super) struct Output {
    pub(super) start: usize,
    pub(super) size: usize,
    pub(super) written: Vec<SiteNumber>,
}

/// The state of the checks during a launch.
pub(super) struct Checker {
    pub(super) kernel: &'static KernelSpec,
    pub(super) options: Options,
    pub(super) mutation: Option<Mutation>,
    pub(super) grid: Dim3,
    pub(super) block_dim: Dim3,
    pub(super) sites: Sites,
    pub(super) findings: Findings,
    pub(super) regions: Vec<Region>,
    pub(super) names: Vec<Name>,
    pub(super) clocks: Clocks,
    pub(super) requests: Requests,
    pub(super) counters: Counters,
    /// Accesses of the running block's threads.
    pub(super) steps: Vec<u64>,
    /// Whether the launch is to end.
    pub(super) stop: bool,
    /// Chooses where to preempt.
    pub(super) random: Stream,
}

/// An access that a thread asks for.
#[derive(Clone, Copy)]
pub(super) struct Access {
    pub(super) view: View,
    pub(super) index: u32,
    /// Bytes of an element.
    pub(super) size: usize,
    pub(super) operation: Operation,
    pub(super) at: &'static Location<'static>,
}

impl Checker {
    /// A block starts.
    pub(super) fn start_block(&mut self, number: u32, threads: u32) {
        self.clocks.start(number, threads);
        self.steps.clear();
        self.steps.resize(threads as usize, 0);
        for region in self.regions.iter_mut().filter(|region| region.is_shared()) {
            region.initialised.fill(false);
            region.shadow.as_mut().into_iter().for_each(Shadow::clear);
        }
    }

    /// The block has ended.
    pub(super) fn finish_block(&mut self) {
        self.requests.finish(&mut self.counters);
    }

    /// Holds an access to all rules; where its bytes are, if it may happen.
    pub(super) fn access(&mut self, access: Access, me: &Position) -> Option<*mut u8> {
        let Access { view, operation, size, at, .. } = access;
        let site = self.sites.number(at, operation, view.memory);
        let index = self.mutated_index(site, operation, access.index);
        let (width, bytes) = (operation.width(), operation.width() as usize * size);
        let start = index as usize * size;
        if start + bytes > view.bytes {
            let detail = format!("{} of {}", self.element(&view, index, width), view.bytes / size);
            self.report(FindingKind::OutOfBounds, Some(&view), Some(Place::from(at)), None, me, detail);
            return None;
        }
        let data = view.data.wrapping_add(start);
        let alignment = bytes.min(16);
        if !(data as usize).is_multiple_of(alignment) {
            let element = self.element(&view, index, width);
            let detail = format!("{element}, whose address is no multiple of {alignment} bytes");
            self.report(FindingKind::Misaligned, Some(&view), Some(Place::from(at)), None, me, detail);
            if !(data as usize).is_multiple_of(size) {
                return None;
            }
        }
        let name = &mut self.names[view.memory as usize];
        let region = &mut self.regions[name.region];
        let offset = data as usize - region.base as usize;
        if self.options.count {
            self.requests.access(me.number, site, offset, bytes, region.is_shared());
            self.counters.atomics += u64::from(operation == Operation::Atomic);
            if !region.is_shared() {
                self.counters.bytes_read += if operation.reads() { bytes as u64 } else { 0 };
                self.counters.bytes_written += if operation.writes() { bytes as u64 } else { 0 };
            }
        }
        let initialised = &mut region.initialised[offset..offset + bytes];
        let uninitialised = operation.reads() && initialised.contains(&false);
        if operation.writes() || uninitialised {
            initialised.fill(true);
        }
        let conflict = region
            .shadow
            .as_mut()
            .and_then(|shadow| shadow.access(&mut self.clocks, me.number, (offset, bytes), operation, site));
        let mut twice = None;
        if let (Some(output), true) = (&mut name.output, operation.writes()) {
            let first = (offset - output.start) / output.size;
            for written in &mut output.written[first..first + width as usize] {
                if *written != 0 {
                    twice = Some(*written - 1);
                }
                *written = site + 1;
            }
        }
        let report = |checker: &mut Checker, kind, other, more: String| {
            let detail = format!("{}{more}", checker.element(&view, index, width));
            checker.report(kind, Some(&view), Some(Place::from(at)), other, me, detail);
        };
        if uninitialised {
            report(self, FindingKind::Uninitialised, None, String::new());
        }
        if let Some(Conflict { site, with }) = conflict {
            let more = self.conflict(operation, site, with);
            report(self, FindingKind::Race, Some(self.sites.place(site)), more);
        } else if let Some(site) = twice {
            report(self, FindingKind::WrittenTwice, Some(self.sites.place(site)), String::new());
        }
        Some(data)
    }

    fn conflict(&self, operation: Operation, site: SiteNumber, with: Moment) -> String {
        let (thread, block) = (position(with.thread, self.block_dim), position(with.block, self.grid));
        let verb = |operation: Operation| match operation {
            Operation::Atomic => "atomic",
            operation if operation.writes() => "write",
            _ => "read",
        };
        format!(
            ", {} against the {} of thread ({},{},{}) in block ({},{},{})",
            verb(operation),
            verb(self.sites.operation(site)),
            thread.x,
            thread.y,
            thread.z,
            block.x,
            block.y,
            block.z,
        )
    }

    /// `name[index]` or `name[index..end]`.
    fn element(&self, view: &View, index: u32, width: u32) -> String {
        let name = &self.names[view.memory as usize].name;
        let shift = view.skipped;
        let place = |index: u64| if shift == 0 { index.to_string() } else { format!("{shift} + {index}") };
        match width {
            1 => format!("{name}[{}]", place(u64::from(index))),
            _ => format!("{name}[{}..{}]", place(u64::from(index)), u64::from(index) + u64::from(width)),
        }
    }

    /// Notes a finding.
    pub(super) fn report(
        &mut self,
        kind: FindingKind,
        view: Option<&View>,
        at: Option<Place>,
        other: Option<Place>,
        me: &Position,
        detail: String,
    ) {
        self.stop |= self.options.stop_at_first || kind == FindingKind::Runaway;
        self.findings.add(Finding {
            kind,
            kernel: self.kernel.name,
            memory: view.map(|view| self.names[view.memory as usize].name.clone()),
            at,
            other,
            thread: me.thread,
            block: me.block,
            detail,
            count: 1,
        });
    }

    /// The launch has ended, all its blocks to their ends: every output must be written.
    pub(super) fn finish(&mut self) {
        for name in &self.names {
            let Some(Output { written, .. }) = &name.output else { continue };
            let missing = written.iter().filter(|site| **site == 0).count();
            if let Some(first) = written.iter().position(|site| *site == 0) {
                self.findings.add(Finding {
                    kind: FindingKind::NotWritten,
                    kernel: self.kernel.name,
                    memory: Some(name.name.clone()),
                    at: None,
                    other: None,
                    thread: Dim3::new(0, 0, 0),
                    block: Dim3::new(0, 0, 0),
                    detail: format!("{}[{first}] and in all {missing} of {}", name.name, written.len()),
                    count: 1,
                });
            }
        }
    }
}
