//! `fingerprints.jsonl`: what every recorded step computed, as hashes; one JSON object a line.
//!
//! ```text
//! {"step":0,"chain":"…","state":"…"}
//! {"step":1,"chain":"…","state":"…","indices":"…","pixels":"…","loss":"…","gradients":"…"}
//! ```
//! `indices` and `pixels` are the batch as the loader gave it, `loss` is the loss itself (the bits of an f64),
//! `gradients` are those of all parameters, `state` is everything that the step wrote: parameters, buffers, optimiser.
//! `chain` hashes the line before and this one, so that two equal chains are two equal histories of recorded steps. The
//! first line of a run, or of one that began to record, is the state alone. Denser records ([`Detail`]) add to a line and
//! leave its chain as it is. All hashes are XXH3 (64 bits) of content alone: no clock, thread or device is in them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use selfsame_engine::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::lines::{self, LineWriter, Trimmed};

/// What a line should be, for errors.
const LINE: &str = "a fingerprint: a JSON object with a step and hashes";

/// A hash of 64 bits, written as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest(pub u64);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Digest, String> {
        // `from_str_radix` alone would take a sign.
        match text.len() == 16 && text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            true => u64::from_str_radix(&text, 16).map(Digest).map_err(|error| error.to_string()),
            false => Err(format!("'{text}' is no hash of 16 hexadecimal digits")),
        }
    }
}

/// How much a run records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Nothing.
    #[default]
    Off,
    /// The line of a step.
    Step,
    /// And a hash of every parameter's gradient.
    Gradients,
    /// And a hash of everything that every operation made, forward and backward.
    Operations,
}

impl Detail {
    /// The names, as the configuration key `fingerprints` takes them.
    pub const NAMES: [&'static str; 4] = ["off", "step", "gradients", "operations"];

    /// The detail of that name.
    pub fn parse(name: &str) -> Option<Detail> {
        let all = [Detail::Off, Detail::Step, Detail::Gradients, Detail::Operations];
        Detail::NAMES.iter().position(|known| *known == name).map(|at| all[at])
    }
}

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Steps done.
    pub step: u64,
    /// Of the line before and this one.
    pub chain: Digest,
    /// Of parameters, buffers and optimiser after the step.
    pub state: Digest,
    /// What the step computed; missing in a first line.
    #[serde(flatten)]
    pub work: Option<Work>,
}

/// What a step computed on its way to the next state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Which images the batch was made of, in order.
    pub indices: Digest,
    /// Their augmented views.
    pub pixels: Digest,
    /// The loss: the bits of an f64.
    pub loss: Digest,
    /// The gradients of all parameters.
    pub gradients: Digest,
    /// Each of them, by path; only from [`Detail::Gradients`] on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gradient: BTreeMap<String, Digest>,
    /// What every operation made, in the order of the program; only from [`Detail::Operations`] on. An entry is
    /// `lane:operation/direction/part hash`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<String>,
}

/// A part of a [`Fingerprint`], in the order in which a step computes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// Which images.
    Indices,
    /// Their augmented views.
    Pixels,
    /// The loss.
    Loss,
    /// The gradients.
    Gradients,
    /// Parameters, buffers and optimiser after the step.
    State,
}

impl Field {
    /// In words, for a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Field::Indices => "the images of the batch",
            Field::Pixels => "the augmented pixels",
            Field::Loss => "the loss",
            Field::Gradients => "the gradients",
            Field::State => "parameters, buffers or optimiser",
        }
    }
}

impl Fingerprint {
    /// The line of a run that begins, or begins to record, in this state.
    pub fn first(step: u64, state: Digest) -> Fingerprint {
        Fingerprint { step, state, ..Fingerprint::default() }.chained(None)
    }

    /// With the chain that follows from the line `before`.
    #[must_use]
    pub fn chained(mut self, before: Option<&Fingerprint>) -> Fingerprint {
        let mut chain = Xxh3::new();
        let mut take = |number: u64| chain.update(&number.to_le_bytes());
        before.into_iter().for_each(|line| take(line.chain.0));
        take(self.step);
        take(self.state.0);
        if let Some(Work { indices, pixels, loss, gradients, .. }) = &self.work {
            [indices, pixels, loss, gradients].iter().for_each(|digest| take(digest.0));
        }
        self.chain = Digest(chain.digest());
        self
    }

    /// The first part that differs, with its value here and there; `None` when all that both have is the same.
    pub fn first_difference(&self, other: &Fingerprint) -> Option<(Field, Digest, Digest)> {
        let mut parts = Vec::new();
        if let (Some(a), Some(b)) = (&self.work, &other.work) {
            parts.extend([
                (Field::Indices, a.indices, b.indices),
                (Field::Pixels, a.pixels, b.pixels),
                (Field::Loss, a.loss, b.loss),
                (Field::Gradients, a.gradients, b.gradients),
            ]);
        }
        parts.push((Field::State, self.state, other.state));
        parts.into_iter().find(|(_, a, b)| a != b)
    }
}

/// Appends to `fingerprints.jsonl`.
#[derive(Debug)]
pub struct FingerprintWriter {
    lines: LineWriter,
    last: Option<Fingerprint>,
}

impl FingerprintWriter {
    /// Starts an empty file at `path`.
    ///
    /// # Errors
    /// `Io`.
    pub fn create(path: impl Into<PathBuf>) -> Result<FingerprintWriter> {
        Ok(FingerprintWriter { lines: LineWriter::create(path.into())?, last: None })
    }

    /// Continues the file at `path` after `step` steps, as [`super::MetricsWriter::resume`] does.
    ///
    /// # Errors
    /// `Io`; `Corrupt` when a line before the last is no fingerprint.
    pub fn resume(path: impl Into<PathBuf>, step: u64) -> Result<(FingerprintWriter, Trimmed)> {
        let (lines, mut kept, trimmed) =
            LineWriter::resume(path.into(), LINE, parse_line, |line: &Fingerprint| line.step <= step)?;
        Ok((FingerprintWriter { lines, last: kept.pop() }, trimmed))
    }

    /// The last line.
    pub fn last(&self) -> Option<&Fingerprint> {
        self.last.as_ref()
    }

    /// Appends a line, chained to the last one, and returns it.
    ///
    /// # Errors
    /// `Io`.
    pub fn write(&mut self, fingerprint: Fingerprint) -> Result<&Fingerprint> {
        let line = fingerprint.chained(self.last.as_ref());
        let text = serde_json::to_string(&line)
            .map_err(|error| Error::new(ErrorKind::Config, "fingerprint", error.to_string()))?;
        self.lines.write(&text)?;
        Ok(self.last.insert(line))
    }

    /// Makes all lines durable; to be called before the checkpoint of the same step is saved.
    ///
    /// # Errors
    /// `Io`.
    pub fn sync(&mut self) -> Result<()> {
        self.lines.sync()
    }
}

/// Reads a file, whose steps must ascend and whose chain must hold; a torn last line is left out.
///
/// # Errors
/// `Io`; `Corrupt` when a line before the last is no fingerprint, or was changed.
pub fn read(path: &Path) -> Result<Vec<Fingerprint>> {
    let lines = lines::read_all(path, LINE, parse_line)?;
    for (number, line) in lines.iter().enumerate() {
        let before = number.checked_sub(1).map(|before| &lines[before]);
        let follows = before.is_none_or(|before| before.step < line.step);
        if !follows || line.clone().chained(before).chain != line.chain {
            let what = format!("{} line {}", path.display(), number + 1);
            return Err(Error::new(
                ErrorKind::Corrupt,
                what,
                "a fingerprint that does not follow from the line before",
            )
            .expected("the lines as the run wrote them")
            .hint("the file was changed: record the run again"));
        }
    }
    Ok(lines)
}

fn parse_line(line: &str) -> Option<Fingerprint> {
    serde_json::from_str(line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn work(step: u64) -> Work {
        let digest = |n: u64| Digest(step.wrapping_mul(0x9e37_79b9_7f4a_7c15) + n);
        Work { indices: digest(1), pixels: digest(2), loss: digest(3), gradients: digest(4), ..Work::default() }
    }

    fn line(step: u64) -> Fingerprint {
        Fingerprint { step, state: Digest(step + 7), work: Some(work(step)), ..Fingerprint::default() }
    }

    fn file_of(steps: u64) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fingerprints.jsonl");
        let mut writer = FingerprintWriter::create(&path).unwrap();
        writer.write(Fingerprint::first(0, Digest(7))).unwrap();
        (1..=steps).for_each(|step| drop(writer.write(line(step)).unwrap().clone()));
        writer.sync().unwrap();
        (folder, path)
    }

    #[test]
    fn lines_read_back_and_a_resumed_file_equals_an_uninterrupted_one() {
        let (_folder, straight) = file_of(5);
        let (_other, path) = file_of(4);
        assert_eq!(read(&straight).unwrap().len(), 6);
        let mut torn = fs::read(&path).unwrap();
        torn.extend(b"{\"step\":5,\"cha");
        fs::write(&path, torn).unwrap();
        assert_eq!(read(&path).unwrap().len(), 5);
        let (mut writer, trimmed) = FingerprintWriter::resume(&path, 2).unwrap();
        assert_eq!(trimmed, Trimmed { kept: 3, later: 2, torn: true });
        (3..=5).for_each(|step| drop(writer.write(line(step)).unwrap().clone()));
        assert_eq!(fs::read(&path).unwrap(), fs::read(&straight).unwrap());
    }

    #[test]
    fn every_field_is_in_the_chain_and_denser_records_are_not() {
        let first = Fingerprint::first(0, Digest(7));
        let chain = |line: Fingerprint| line.chained(Some(&first)).chain;
        let plain = chain(line(1));
        let mut changed = vec![line(2), Fingerprint { state: Digest(0), ..line(1) }];
        for field in 0..4 {
            let mut other = work(1);
            *[&mut other.indices, &mut other.pixels, &mut other.loss, &mut other.gradients][field] = Digest(0);
            changed.push(Fingerprint { work: Some(other), ..line(1) });
        }
        changed.into_iter().for_each(|other| assert_ne!(chain(other), plain));
        assert_ne!(line(1).chained(None).chain, plain);
        let gradient = [("w".to_string(), Digest(1))].into();
        let dense = Work { gradient, operations: vec!["0:relu/forward/0 00".into()], ..work(1) };
        assert_eq!(chain(Fingerprint { work: Some(dense), ..line(1) }), plain);
    }

    #[test]
    fn a_changed_line_is_found() {
        let (_folder, path) = file_of(3);
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (at, bad) in [(1, lines[2]), (2, lines[1]), (3, &lines[3].replace("\"step\":3", "\"step\":4"))] {
            let mut changed = lines.clone();
            changed[at] = bad;
            fs::write(&path, changed.join("\n") + "\n").unwrap();
            assert_eq!(read(&path).unwrap_err().kind(), ErrorKind::Corrupt, "line {at}");
        }
    }

    #[test]
    fn differences_come_in_the_order_of_the_step() {
        let other = Fingerprint {
            work: Some(Work { loss: Digest(1), gradients: Digest(1), ..work(1) }),
            state: Digest(1),
            ..line(1)
        };
        let (field, here, there) = line(1).first_difference(&other).unwrap();
        assert_eq!((field, here, there), (Field::Loss, work(1).loss, Digest(1)));
        assert_eq!(line(1).first_difference(&line(1)), None);
        let start = Fingerprint::first(1, Digest(9));
        assert_eq!(line(1).first_difference(&start).unwrap().0, Field::State);
    }
}
