//! [`Trace`]: a recording as Chrome's trace format in JSON, which Perfetto (ui.perfetto.dev) opens.
//!
//! One track per lane, with two more for threads that load and augment images; one counter per owner of memory. Small
//! by construction: times in tenths of a microsecond, few arguments, runs of tiny spans drawn as one.

use super::ledger::{MemoryLog, OWNERS, Owner};
use super::recording::{Event, Kind, Recording};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Spans that a trace has at most: more is slow to look at.
const SPANS: usize = 200_000;

/// Shorter spans without spans inside are drawn together with their neighbours, in nanoseconds.
const TINY: u64 = 2_000;

/// Changes of a counter below this share of its maximum are not drawn.
const STEP: f64 = 1.0 / 200.0;

/// A recording as it is written.
pub struct Trace<'a> {
    recording: &'a Recording,
    memory: Option<&'a MemoryLog>,
}

/// One drawn span: several merged ones, or one.
#[derive(Clone, Copy)]
struct Drawn<'a> {
    event: &'a Event,
    track: u32,
    /// How many spans it stands for, and whether they have different names.
    count: usize,
    mixed: bool,
    end: u64,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Events of all kinds.
    pub events: usize,
    /// Bytes.
    pub bytes: usize,
}

impl<'a> Trace<'a> {
    /// The trace of `recording`, with counters from `memory`.
    pub fn new(recording: &'a Recording, memory: Option<&'a MemoryLog>) -> Trace<'a> {
        Trace { recording, memory }
    }

    /// Writes the JSON.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<Written> {
        let mut json = Json { out, events: 0, bytes: 0 };
        json.raw("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n")?;
        let tracks = self.tracks();
        for ((_, lane), (track, name)) in &tracks {
            let name = quoted(name);
            let thread = format!("\"pid\":1,\"tid\":{track}");
            json.event(&format!("{{\"ph\":\"M\",{thread},\"name\":\"thread_name\",\"args\":{{\"name\":{name}}}}}"))?;
            let order =
                format!("\"name\":\"thread_sort_index\",\"args\":{{\"sort_index\":{}}}", track + u32::from(*lane));
            json.event(&format!("{{\"ph\":\"M\",{thread},{order}}}"))?;
        }
        for span in self.spans(&tracks) {
            json.event(&self.span(&span))?;
        }
        self.counters(&mut json)?;
        json.raw("\n]}\n")?;
        Ok(Written { events: json.events, bytes: json.bytes })
    }

    /// Tracks by (order of kind, lane): number and name.
    fn tracks(&self) -> BTreeMap<(u8, u16), (u32, String)> {
        let mut tracks = BTreeMap::new();
        for event in &self.recording.events {
            let (order, suffix) = place(event.kind);
            let lane = &self.recording.lanes[usize::from(event.lane)].name;
            tracks.entry((order, event.lane)).or_insert_with(|| (0, format!("{lane}{suffix}")));
        }
        tracks.values_mut().zip(1..).for_each(|(track, number)| track.0 = number);
        tracks
    }

    /// The spans to draw, track by track, outer ones before inner ones.
    fn spans(&self, tracks: &BTreeMap<(u8, u16), (u32, String)>) -> Vec<Drawn<'a>> {
        let mut by_track: BTreeMap<u32, Vec<(usize, &Event)>> = BTreeMap::new();
        for (index, event) in self.recording.events.iter().enumerate() {
            let track = tracks[&(place(event.kind).0, event.lane)].0;
            by_track.entry(track).or_default().push((index, event));
        }
        for events in by_track.values_mut() {
            // Events are listed as they end: of two with the same times the later one is the outer.
            events.sort_by_key(|(index, event)| (event.start, std::cmp::Reverse(event.end), std::cmp::Reverse(*index)));
        }
        let mut tiny = TINY;
        loop {
            let merged: Vec<Drawn<'a>> =
                by_track.iter().flat_map(|(&track, events)| merge(track, events, tiny)).collect();
            if merged.len() <= SPANS || tiny > self.recording.duration.as_nanos() as u64 {
                return merged;
            }
            tiny *= 2;
        }
    }

    fn span(&self, drawn: &Drawn<'_>) -> String {
        let Drawn { event, track, count, mixed, end } = drawn;
        let (start, end) = (event.start / 100, end / 100);
        let name = match (count, mixed) {
            (1, _) => quoted(event.name),
            (_, false) => quoted(&format!("{count} {}", event.name)),
            (_, true) => quoted(&format!("{count} small")),
        };
        let head = format!(
            "{{\"ph\":\"X\",\"pid\":1,\"tid\":{track},\"ts\":{},\"dur\":{}",
            tenths(start),
            tenths(end - start)
        );
        let mut args = Vec::new();
        if *count == 1 {
            if event.kind == Kind::OpBackward {
                args.push("\"backward\":1".to_string());
            }
            if let Some(module) = event.module.and_then(|m| self.recording.modules.get(m as usize)) {
                args.push(format!("\"module\":{}", quoted(module)));
            }
            if event.bound > 0 && event.end > event.start {
                args.push(format!("\"roof\":\"{}%\"", 100 * event.bound / (event.end - event.start)));
            }
            if event.work.flop >= 1_000_000 {
                args.push(format!("\"mflop\":{}", event.work.flop / 1_000_000));
            }
        }
        match args.is_empty() {
            true => format!("{head},\"name\":{name}}}"),
            false => format!("{head},\"name\":{name},\"args\":{{{}}}}}", args.join(",")),
        }
    }

    /// Memory by owner, in MiB.
    fn counters(&self, json: &mut Json<'_>) -> io::Result<()> {
        let (Some(log), Some(began)) = (self.memory, self.recording.began) else { return Ok(()) };
        let mut most = [0usize; OWNERS];
        for (_, bytes) in log.timeline() {
            most.iter_mut().zip(bytes).for_each(|(most, bytes)| *most = (*most).max(bytes));
        }
        let end = began + self.recording.duration;
        let mut drawn: [Option<usize>; OWNERS] = [None; OWNERS];
        let mut before = [0usize; OWNERS];
        for (at, bytes) in log.timeline().take_while(|(at, _)| *at <= end) {
            if at < began {
                before = bytes;
                continue;
            }
            let now = at.saturating_duration_since(began).as_nanos() as u64 / 100;
            for (i, owner) in Owner::ALL.into_iter().enumerate().filter(|(i, _)| most[*i] > 0) {
                if drawn[i].is_none() {
                    json.counter(owner, 0, before[i])?;
                    drawn[i] = Some(before[i]);
                }
                let changed = drawn[i].is_some_and(|last| last.abs_diff(bytes[i]) as f64 > STEP * most[i] as f64);
                if changed {
                    json.counter(owner, now, bytes[i])?;
                    drawn[i] = Some(bytes[i]);
                }
            }
        }
        Ok(())
    }
}

/// Which of a lane's tracks a span goes to, and what is added to the lane's name.
fn place(kind: Kind) -> (u8, &'static str) {
    match kind {
        Kind::Phase | Kind::Region | Kind::Op | Kind::OpBackward | Kind::Primitive => (0, ": operations"),
        Kind::Job => (1, ": pool"),
        Kind::Kernel => (2, ": kernels"),
        Kind::Load => (3, ": loading"),
        Kind::Augment => (4, ": augmentation"),
    }
}

/// The spans of one track in order, with runs of tiny neighbours joined.
fn merge<'a>(track: u32, events: &[(usize, &'a Event)], tiny: u64) -> Vec<Drawn<'a>> {
    let mut merged: Vec<Drawn<'a>> = Vec::new();
    // Ends of the spans around the current one.
    let mut around: Vec<u64> = Vec::new();
    // Whether the last of `merged` may take in the next, and how deep it lies.
    let mut open_run: Option<usize> = None;
    for (at, (_, event)) in events.iter().enumerate() {
        while around.last().is_some_and(|end| *end <= event.start) && around.pop().is_some() {}
        let is_leaf = events.get(at + 1).is_none_or(|(_, next)| next.start >= event.end);
        let is_tiny = is_leaf && event.end - event.start < tiny;
        let joins = is_tiny
            && open_run == Some(around.len())
            && merged.last().is_some_and(|last| event.start.saturating_sub(last.end) < tiny);
        match merged.last_mut() {
            Some(last) if joins => {
                last.count += 1;
                last.mixed |= last.event.name != event.name;
                last.end = last.end.max(event.end);
            }
            _ => merged.push(Drawn { event, track, count: 1, mixed: false, end: event.end }),
        }
        open_run = is_tiny.then_some(around.len());
        if !is_leaf {
            around.push(event.end);
        }
    }
    merged
}

/// Tenths of a microsecond as microseconds.
fn tenths(tenths: u64) -> String {
    match tenths % 10 {
        0 => (tenths / 10).to_string(),
        tenth => format!("{}.{tenth}", tenths / 10),
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

struct Json<'a> {
    out: &'a mut dyn Write,
    events: usize,
    bytes: usize,
}

impl Json<'_> {
    fn raw(&mut self, text: &str) -> io::Result<()> {
        self.bytes += text.len();
        self.out.write_all(text.as_bytes())
    }

    fn event(&mut self, event: &str) -> io::Result<()> {
        if self.events > 0 {
            self.raw(",\n")?;
        }
        self.events += 1;
        self.raw(event)
    }

    fn counter(&mut self, owner: Owner, at: u64, bytes: usize) -> io::Result<()> {
        let (name, mib) = (owner.name(), bytes as f64 / (1 << 20) as f64);
        let at = tenths(at);
        self.event(&format!("{{\"ph\":\"C\",\"pid\":1,\"ts\":{at},\"name\":\"{name}\",\"args\":{{\"MiB\":{mib:.2}}}}}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Work;
    use crate::{Array, DType, Device, ops};
    use serde_json::Value;
    use std::time::Duration;

    fn written(recording: &Recording, memory: Option<&MemoryLog>) -> (Vec<Value>, Written) {
        let mut bytes = Vec::new();
        let size = Trace::new(recording, memory).write(&mut bytes).unwrap();
        assert_eq!(size.bytes, bytes.len());
        let json: Value = serde_json::from_slice(&bytes).unwrap();
        let events = json["traceEvents"].as_array().unwrap().clone();
        assert_eq!(size.events, events.len());
        (events, size)
    }

    /// Spans of each track as (start, end) in tenths of a microsecond.
    fn spans(events: &[Value]) -> BTreeMap<u64, Vec<(u64, u64)>> {
        let mut tracks: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
        let tenths = |value: &Value| (value.as_f64().unwrap() * 10.0).round() as u64;
        for event in events.iter().filter(|event| event["ph"] == "X") {
            let start = tenths(&event["ts"]);
            tracks.entry(event["tid"].as_u64().unwrap()).or_default().push((start, start + tenths(&event["dur"])));
        }
        tracks
    }

    fn assert_nested(tracks: &BTreeMap<u64, Vec<(u64, u64)>>) {
        for spans in tracks.values() {
            let mut around: Vec<(u64, u64)> = Vec::new();
            for &(start, end) in spans {
                while around.last().is_some_and(|outer| outer.1 <= start) {
                    around.pop();
                }
                assert!(
                    around.last().is_none_or(|outer| outer.0 <= start && end <= outer.1),
                    "{around:?} {start} {end}"
                );
                around.push((start, end));
            }
        }
    }

    #[test]
    fn a_trace_is_json_whose_spans_lie_inside_each_other() {
        let device = Device::cpu_with(2).unwrap();
        device.begin_memory_log();
        device.profiler().start(None);
        for _ in 0..20 {
            let _phase = device.phase(super::super::Phase::Forward);
            let x = Array::zeros(&[300, 400], DType::F32, &device).unwrap();
            let y = ops::matmul(&x, &x.transpose(0, 1).unwrap()).unwrap();
            drop(ops::softmax(&y).unwrap());
            drop(ops::mean(&y, &[0], false).unwrap());
        }
        let (recording, log) = (device.profiler().stop(), device.end_memory_log().unwrap());
        let (events, size) = written(&recording, Some(&log));
        let tracks = spans(&events);
        assert_nested(&tracks);
        assert!(tracks.len() >= 2, "the calling thread and the pool");
        assert!(events.iter().any(|event| event["ph"] == "C" && event["name"] == "workspace"));
        assert!(size.bytes < 100 * size.events, "{} bytes for {} events", size.bytes, size.events);
    }

    fn event(name: &'static str, start: u64, end: u64) -> Event {
        Event { lane: 0, kind: Kind::Primitive, name, module: None, start, end, work: Work::default(), bound: 0 }
    }

    #[test]
    fn runs_of_tiny_spans_are_drawn_as_one_within_their_parent() {
        let mut recording = Recording { duration: Duration::from_millis(1), ..Recording::default() };
        recording.lanes.push(super::super::Lane { name: "main".into() });
        for parent in 0..2u64 {
            let base = parent * 100_000;
            recording.events.extend((0..10).map(|i| event("copy", base + 1000 * i, base + 1000 * i + 900)));
            recording.events.push(event("exp", base + 10_000, base + 10_500));
            recording.events.push(event("parent", base, base + 90_000));
        }
        let (events, _) = written(&recording, None);
        let names: Vec<&str> = events.iter().filter(|e| e["ph"] == "X").map(|e| e["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["parent", "11 small", "parent", "11 small"]);
        assert_nested(&spans(&events));
    }

    #[test]
    fn too_many_spans_are_joined_until_they_fit() {
        let mut recording = Recording { duration: Duration::from_secs(10), ..Recording::default() };
        recording.lanes.push(super::super::Lane { name: "a \"quoted\"\nname".into() });
        recording.events.extend((0..3 * SPANS as u64).map(|i| event("relu", 10_000 * i, 10_000 * i + 9_000)));
        let (events, _) = written(&recording, None);
        assert!(events.len() < SPANS);
    }
}
