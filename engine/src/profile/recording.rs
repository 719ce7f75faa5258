//! [`Recording`]: events on lanes, and totals by name that hold even when there are too many events to keep.

use super::roof::Roof;
use super::span::SpanLane;
use super::work::Work;
use std::collections::{BTreeMap, HashMap};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// Events that are kept; totals go on beyond it.
const EVENTS: usize = 1 << 21;

/// What a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A phase of a step.
    Phase,
    /// A named part of a phase.
    Region,
    /// The forward of a differentiable operation.
    Op,
    /// The backward of a differentiable operation.
    OpBackward,
    /// A primitive on arrays.
    Primitive,
    /// A kernel launch on a GPU device.
    Kernel,
    /// The share of one thread of the pool in a primitive.
    Job,
    /// Reading an image.
    Load,
    /// Making a view of an image.
    Augment,
}

impl Kind {
    /// Its name in traces.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Phase => "phase",
            Kind::Region => "region",
            Kind::Op => "forward",
            Kind::OpBackward => "backward",
            Kind::Primitive => "primitive",
            Kind::Kernel => "kernel",
            Kind::Job => "job",
            Kind::Load => "load",
            Kind::Augment => "augment",
        }
    }

    fn is_op(self) -> bool {
        matches!(self, Kind::Op | Kind::OpBackward)
    }
}

/// A span that is over. Times are nanoseconds since the recording began.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Index into [`Recording::lanes`].
    pub lane: u16,
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: &'static str,
    /// Index into [`Recording::modules`].
    pub module: Option<u32>,
    /// When it began.
    pub start: u64,
    /// When it ended.
    pub end: u64,
    /// What it had to do.
    pub work: Work,
    /// Nanoseconds that its work takes at least; 0 where the roof is not known.
    pub bound: u64,
}

/// A track of the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// The thread's or device's name.
    pub name: String,
}

/// The sum over the spans of one kind and name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Total {
    /// How many.
    pub calls: u64,
    /// Time from begin to end.
    pub time: Duration,
    /// The same without spans of the same kind inside.
    pub own: Duration,
    /// What they had to do.
    pub work: Work,
    /// The time that takes at least.
    pub bound: Duration,
}

impl Total {
    /// Share of its own roof: the least time over the time taken, both without spans inside.
    pub fn share_of_roof(&self) -> Option<f64> {
        let share = self.bound.as_secs_f64() / self.own.as_secs_f64();
        (self.bound > Duration::ZERO && share.is_finite()).then_some(share)
    }
}

/// What a profiler recorded.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// When it began.
    pub began: Option<Instant>,
    /// From begin to end.
    pub duration: Duration,
    /// The lanes, in order of their first span.
    pub lanes: Vec<Lane>,
    /// Paths of modules.
    pub modules: Vec<String>,
    /// The spans, in order of their end on each lane.
    pub events: Vec<Event>,
    /// Spans beyond the number that is kept; they are in the totals.
    pub dropped: u64,
    /// Totals by kind and name.
    pub totals: BTreeMap<(Kind, &'static str), Total>,
    /// Time of the outermost differentiable operations by region, forward and backward.
    pub regions: BTreeMap<&'static str, Duration>,
    /// Time of differentiable operations by module path, forward and backward.
    pub module_time: BTreeMap<String, Duration>,
}

impl Recording {
    /// Totals of one kind, the longest own time first.
    pub fn of(&self, kind: Kind) -> Vec<(&'static str, Total)> {
        let mut rows: Vec<_> =
            self.totals.iter().filter(|((k, _), _)| *k == kind).map(|((_, name), total)| (*name, *total)).collect();
        rows.sort_by(|a, b| b.1.own.cmp(&a.1.own).then(a.0.cmp(b.0)));
        rows
    }

    /// Time of the spans of one kind and name.
    pub fn time(&self, kind: Kind, name: &'static str) -> Duration {
        self.totals.get(&(kind, name)).map_or(Duration::ZERO, |total| total.time)
    }
}

/// A span as it is opened.
pub(super) struct Opened {
    pub(super) kind: Kind,
    pub(super) name: &'static str,
    pub(super) module: Option<String>,
    pub(super) region: Option<&'static str>,
    pub(super) work: Work,
}

impl Opened {
    pub(super) fn new(kind: Kind, name: &'static str) -> Opened {
        Opened { kind, name, module: None, region: None, work: Work::default() }
    }
}

/// An open span.
struct Open {
    span: Opened,
    start: Instant,
    /// Time of spans of the same kind inside.
    inner: Duration,
}

/// A recording in the making.
#[derive(Default)]
pub(super) struct Recorder {
    generation: u64,
    roof: Option<Roof>,
    recording: Recording,
    threads: HashMap<ThreadId, u16>,
    named: BTreeMap<String, u16>,
    modules: BTreeMap<String, u32>,
    /// Open spans by lane.
    open: Vec<Vec<Open>>,
}

impl Recorder {
    pub(super) fn begin(&mut self, roof: Option<Roof>) {
        let recording = Recording { began: Some(Instant::now()), ..Recording::default() };
        *self = Recorder { generation: self.generation + 1, roof, recording, ..Recorder::default() };
    }

    pub(super) fn finish(&mut self) -> Recording {
        let mut recording = std::mem::take(&mut self.recording);
        recording.duration = recording.began.map_or(Duration::ZERO, |began| began.elapsed());
        *self = Recorder { generation: self.generation + 1, ..Recorder::default() };
        recording
    }

    /// Opens a span; returns what closes it.
    pub(super) fn open(&mut self, span: Opened) -> (u64, usize) {
        let lane = self.own_lane();
        let stack = &mut self.open[usize::from(lane)];
        stack.push(Open { span, start: Instant::now(), inner: Duration::ZERO });
        (self.generation, stack.len())
    }

    /// Closes the span at `depth` of the calling thread's lane, if that recording still goes on.
    pub(super) fn close(&mut self, generation: u64, depth: usize, now: Instant) {
        if generation != self.generation {
            return;
        }
        let lane = self.own_lane();
        let stack = &mut self.open[usize::from(lane)];
        // A span that outlived its parent was closed with it.
        if stack.len() < depth {
            return;
        }
        stack.truncate(depth);
        let Some(Open { span, start, inner }) = stack.pop() else { return };
        let time = now.saturating_duration_since(start);
        if let Some(parent) = stack.iter_mut().rev().find(|open| open.span.kind == span.kind) {
            parent.inner += time;
        }
        let is_outermost_op = span.kind.is_op() && !stack.iter().any(|open| open.span.kind.is_op());
        let region =
            span.region.or_else(|| stack.iter().rev().find(|o| o.span.kind == Kind::Region).map(|o| o.span.name));
        if is_outermost_op {
            if let Some(region) = region {
                *self.recording.regions.entry(region).or_default() += time;
            }
            if let Some(module) = &span.module {
                *self.recording.module_time.entry(module.clone()).or_default() += time;
            }
        }
        let module = span.module.map(|module| self.module(module));
        self.enter(lane, span.kind, span.name, module, [start, now], time.saturating_sub(inner), span.work);
    }

    /// Enters a span that is over.
    pub(super) fn record(
        &mut self,
        lane: SpanLane<'_>,
        kind: Kind,
        name: &'static str,
        time: [Instant; 2],
        work: Work,
    ) {
        let lane = match lane {
            SpanLane::Named(name) => self.named_lane(name),
            SpanLane::Thread => self.own_lane(),
        };
        let own = time[1].saturating_duration_since(time[0]);
        self.enter(lane, kind, name, None, time, own, work);
    }

    fn enter(
        &mut self,
        lane: u16,
        kind: Kind,
        name: &'static str,
        module: Option<u32>,
        [start, end]: [Instant; 2],
        own: Duration,
        work: Work,
    ) {
        let Some(began) = self.recording.began else { return };
        let bound = self.roof.map_or(Duration::ZERO, |roof| roof.least_time(work));
        let total = self.recording.totals.entry((kind, name)).or_default();
        total.calls += 1;
        total.time += end.saturating_duration_since(start);
        total.own += own;
        total.work += work;
        total.bound += bound;
        if self.recording.events.len() >= EVENTS {
            self.recording.dropped += 1;
            return;
        }
        let since = |at: Instant| at.saturating_duration_since(began).as_nanos() as u64;
        let (start, end, bound) = (since(start), since(end), bound.as_nanos() as u64);
        self.recording.events.push(Event { lane, kind, name, module, start, end, work, bound });
    }

    /// The region of the calling thread.
    pub(super) fn region(&mut self) -> Option<&'static str> {
        let lane = self.own_lane();
        let open = self.open[usize::from(lane)].iter().rev();
        open.filter_map(|o| if o.span.kind == Kind::Region { Some(o.span.name) } else { o.span.region }).next()
    }

    /// The innermost span of the calling thread.
    pub(super) fn current(&mut self) -> Option<&'static str> {
        let lane = self.own_lane();
        self.open[usize::from(lane)].last().map(|open| open.span.name)
    }

    fn module(&mut self, path: String) -> u32 {
        let modules = &mut self.recording.modules;
        *self.modules.entry(path).or_insert_with_key(|path| {
            modules.push(path.clone());
            (modules.len() - 1) as u32
        })
    }

    fn own_lane(&mut self) -> u16 {
        let thread = std::thread::current();
        if let Some(lane) = self.threads.get(&thread.id()) {
            return *lane;
        }
        let lane = self.new_lane(thread.name().unwrap_or("thread").to_string());
        self.threads.insert(thread.id(), lane);
        lane
    }

    fn named_lane(&mut self, name: &str) -> u16 {
        if let Some(lane) = self.named.get(name) {
            return *lane;
        }
        let lane = self.new_lane(name.to_string());
        self.named.insert(name.to_string(), lane);
        lane
    }

    fn new_lane(&mut self, name: String) -> u16 {
        self.recording.lanes.push(Lane { name });
        self.open.push(Vec::new());
        (self.recording.lanes.len() - 1) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use std::sync::Arc;

    #[test]
    fn own_time_leaves_out_spans_of_the_same_kind_and_work_adds_up() {
        let device = Device::cpu_with(1).unwrap();
        device.profiler().start(None);
        {
            let _outer = device.span("outer", Work::default);
            for _ in 0..3 {
                let _inner = device.span("inner", || Work::moving(8).flop(5).special(2));
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let recording = device.profiler().stop();
        let total = |name| recording.totals[&(Kind::Primitive, name)];
        assert_eq!(total("inner").calls, 3);
        assert_eq!(total("inner").work, Work { flop: 15, special: 6, bytes: 24 });
        assert!(total("outer").time >= total("inner").time);
        assert_eq!(total("outer").own, total("outer").time - total("inner").time);
        assert_eq!(recording.events.len(), 4);
    }

    #[test]
    fn regions_follow_an_operation_into_its_backward() {
        let device = Device::cpu_with(1).unwrap();
        let profiler = device.profiler();
        profiler.start(None);
        let region = {
            let _region = device.region("loss");
            let _op = profiler.open_op("softmax", false, None, || None);
            profiler.region()
        };
        assert_eq!(region, Some("loss"));
        drop(profiler.open_op("softmax", true, region, || Some("head.fc".into())));
        drop(profiler.open_op("conv2d", true, None, || None));
        let recording = profiler.stop();
        assert_eq!(recording.regions.len(), 1);
        let of = |kind, name| recording.time(kind, name);
        assert_eq!(recording.regions["loss"], of(Kind::Op, "softmax") + of(Kind::OpBackward, "softmax"));
        assert_eq!(recording.module_time["head.fc"], of(Kind::OpBackward, "softmax"));
    }

    #[test]
    fn off_nothing_is_recorded_and_a_span_across_the_end_is_left_out() {
        let device = Device::cpu_with(1).unwrap();
        let profiler = Arc::clone(device.profiler());
        drop(device.span("before", || unreachable!("work is not asked for while off")));
        profiler.start(None);
        let across = device.span("across", Work::default);
        let first = profiler.stop();
        profiler.start(None);
        drop(across);
        let second = profiler.stop();
        assert!(first.totals.is_empty() && second.totals.is_empty());
        assert_eq!(profiler.region(), None);
    }

    #[test]
    fn threads_have_lanes_of_their_own() {
        let device = Device::cpu_with(1).unwrap();
        device.profiler().start(None);
        let _here = device.span("here", Work::default);
        std::thread::scope(|scope| {
            for name in ["left", "right"] {
                let work = || drop(device.span("there", Work::default));
                std::thread::Builder::new().name(name.into()).spawn_scoped(scope, work).unwrap();
            }
        });
        drop(_here);
        let recording = device.profiler().stop();
        assert_eq!(recording.lanes.len(), 3);
        let mut lanes: Vec<u16> = recording.events.iter().map(|event| event.lane).collect();
        lanes.sort_unstable();
        assert_eq!(lanes, [0, 1, 2]);
    }
}
