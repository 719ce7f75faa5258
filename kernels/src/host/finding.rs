//! What the checker reports.

use crate::simt::Dim3;
use std::fmt;
use std::panic::Location;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingKind {
    /// An access past the end of an argument or tile.
    OutOfBounds,
    /// An access at an address that is no multiple of its width.
    Misaligned,
    /// A read of memory that nothing has written.
    Uninitialised,
    /// Two accesses of one element, one of them a write, that nothing orders.
    Race,
    /// Threads of a block at different barriers, or ended where others wait at one.
    BarrierDivergence,
    /// Lanes that a mask names and that do not come, or that it should name.
    Lanes,
    /// A shuffle that reads a lane outside its mask.
    ShuffleSource,
    /// An element of an `Out` argument that the launch did not write.
    NotWritten,
    /// An element of an `Out` argument that the launch wrote twice.
    WrittenTwice,
    /// A thread that does not end.
    Runaway,
    /// A panic in the kernel's code: arithmetic overflow and the like.
    Panic,
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FindingKind::OutOfBounds => "out of bounds",
            FindingKind::Misaligned => "misaligned",
            FindingKind::Uninitialised => "uninitialised read",
            FindingKind::Race => "data race",
            FindingKind::BarrierDivergence => "barrier divergence",
            FindingKind::Lanes => "lanes and mask disagree",
            FindingKind::ShuffleSource => "shuffle from outside the mask",
            FindingKind::NotWritten => "output not written",
            FindingKind::WrittenTwice => "output written twice",
            FindingKind::Runaway => "thread does not end",
            FindingKind::Panic => "panic",
        })
    }
}

/// A place in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The file, from its crate's root or the workspace's.
    pub file: &'static str,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
}

impl From<&'static Location<'static>> for Place {
    fn from(location: &'static Location<'static>) -> Place {
        Place { file: location.file(), line: location.line(), column: location.column() }
    }
}

impl fmt::Display for Place {
    /// The file from `src/` on, and the line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.rsplit_once("src/").map_or(self.file, |(_, file)| file);
        write!(f, "{file}:{}", self.line)
    }
}

/// Something wrong with a kernel, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub kind: FindingKind,
    /// The kernel.
    pub kernel: &'static str,
    /// The argument, or the shared tile, where there is one.
    pub memory: Option<String>,
    /// The place in the source; `None` for elements not written.
    pub at: Option<Place>,
    /// The place of the other access of a race, or of the first write of two.
    pub other: Option<Place>,
    /// The thread in its block.
    pub thread: Dim3,
    /// The block in the grid.
    pub block: Dim3,
    /// The particulars: the element, the other thread, the lanes.
    pub detail: String,
    /// How often it was seen; the first is described.
    pub count: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.detail)?;
        if let Some(at) = self.at {
            write!(f, ", {at}")?;
        }
        if let Some(other) = self.other {
            write!(f, ", after {other}")?;
        }
        let position = |at: Dim3| format!("({},{},{})", at.x, at.y, at.z);
        write!(f, ", thread {}, block {}", position(self.thread), position(self.block))?;
        if self.count > 1 {
            write!(f, ", {} times", self.count)?;
        }
        Ok(())
    }
}

/// The most findings that are kept of a launch.
const KEPT: usize = 48;

/// The findings of a launch: each kind at each place once.
#[derive(Debug, Default)]
pub(super) struct Findings {
    list: Vec<Finding>,
}

impl Findings {
    pub(super) fn add(&mut self, finding: Finding) {
        let same =
            |known: &Finding| known.kind == finding.kind && known.at == finding.at && known.memory == finding.memory;
        match self.list.iter().position(same) {
            Some(known) => self.list[known].count += finding.count,
            None if self.list.len() < KEPT => self.list.push(finding),
            None => {}
        }
    }

    pub(super) fn into_list(self) -> Vec<Finding> {
        self.list
    }
}
