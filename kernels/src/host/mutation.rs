//! Mutations: a word of a kernel weakened on purpose, at run time. The share of mutations that the checker or a wrong
//! value gives away says how much a clean check is worth.

use super::check::shared_out;
use super::checker::Checker;
use super::equivalent::Equivalent;
use super::exec::Position;
use super::finding::{FindingKind, Place};
use super::launcher::{HostLauncher, Options};
use super::site::{NO_MEMORY, Operation, Site, SiteNumber};
use crate::case::{Case, CaseError};
use crate::kernel::KernelSpec;
use crate::launch::LaunchError;
use std::fmt;
use std::panic::Location;
use std::time::{Duration, Instant};

/// How a site is weakened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// A barrier, fence or warp synchronisation does nothing.
    Removed,
    /// A mask loses its highest lane.
    LaneRemoved,
    /// A mask moves up by one lane.
    MaskShifted,
    /// A limit is one higher.
    EndPlus,
    /// A limit is one lower.
    EndMinus,
    /// A limit is none; for a loop, it is far off.
    EndRemoved,
    /// An index is one access higher.
    IndexPlus,
    /// An index is one access lower.
    IndexMinus,
    /// An index has its lowest bit flipped.
    IndexFlipped,
}

/// How far off the end of a loop without a limit is: it must end.
const FAR: u32 = 1 << 14;

impl Mutant {
    /// The mutants of a word.
    pub fn of(operation: Operation) -> &'static [Mutant] {
        use Mutant::*;
        match operation {
            Operation::Barrier | Operation::Fence => &[Removed],
            Operation::SyncWarp => &[Removed, LaneRemoved, MaskShifted],
            Operation::Shuffle | Operation::ShuffleXor | Operation::ShuffleDown | Operation::Vote => {
                &[LaneRemoved, MaskShifted]
            }
            Operation::Within | Operation::Strided => &[EndPlus, EndMinus, EndRemoved],
            Operation::MmaBf16 | Operation::MmaTf32 => &[],
            _ => &[IndexPlus, IndexMinus, IndexFlipped],
        }
    }

    /// Whether the checker itself must see it; a wrong value will do for others.
    pub fn is_for_checker(self) -> bool {
        matches!(self, Mutant::Removed | Mutant::LaneRemoved | Mutant::MaskShifted)
    }
}

/// A site and how it is weakened.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mutation {
    /// Where.
    pub site: Site,
    /// How.
    pub mutant: Mutant,
}

/// A mutation of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutated {
    /// The kernel.
    pub kernel: &'static str,
    /// What is weakened, and how.
    pub mutation: Mutation,
}

impl fmt::Display for Mutated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mutation { site, mutant } = &self.mutation;
        write!(f, "{}: {:?} {mutant:?}, {}", self.kernel, site.operation, site.place)?;
        site.memory.iter().try_for_each(|memory| write!(f, ", {memory}"))
    }
}

/// How many mutations were given away.
#[derive(Clone, Debug, Default)]
pub struct Score {
    /// By a finding.
    pub killed_by_checker: usize,
    /// By a wrong value.
    pub killed_by_value: usize,
    /// Mutations that change nothing, with the reason.
    pub equivalent: Vec<(Mutated, &'static str)>,
    /// Mutations that stayed hidden; those that are for the checker also where a value was wrong.
    pub survived: Vec<Mutated>,
    /// Entries of the table of equivalents that are wrong: no source reads as they say, or the kernels reach the site
    /// and none of its mutations survives.
    pub stale: Vec<String>,
    /// Entries whose site the kernels do not reach: wrong too where the kernels are all there are.
    pub unreached: Vec<String>,
    /// The time that it took.
    pub elapsed: Duration,
}

impl Score {
    /// The share of the mutations that are not equivalent which were given away.
    pub fn share(&self) -> f64 {
        let killed = self.killed_by_checker + self.killed_by_value;
        killed as f64 / (killed + self.survived.len()).max(1) as f64
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} % of mutations killed: {} by the checker, {} by a wrong value; {} equivalent, {} survived; {:.1} s",
            100.0 * self.share(),
            self.killed_by_checker,
            self.killed_by_value,
            self.equivalent.len(),
            self.survived.len(),
            self.elapsed.as_secs_f64()
        )?;
        self.survived.iter().try_for_each(|mutated| write!(f, "\n  survived: {mutated}"))?;
        self.stale.iter().try_for_each(|entry| write!(f, "\n  stale entry: {entry}"))?;
        self.unreached.iter().try_for_each(|entry| write!(f, "\n  entry not reached: {entry}"))
    }
}

/// Weakens every site that the kernels' cases reach, one at a time and in every way, and runs the cases until one gives
/// the mutation away. `workers` threads of the host share the kernels. `progress` is called after each kernel, with the
/// score of that kernel alone.
///
/// # Errors
/// When a case fails without a mutation, or the host has no memory.
pub fn score(
    kernels: &[&'static KernelSpec],
    equivalents: &[Equivalent],
    workers: usize,
    progress: &(dyn Fn(&'static KernelSpec, &Score) + Sync),
) -> Result<Score, CaseError> {
    let start = Instant::now();
    let scores = shared_out(kernels, workers, |kernel| -> Result<KernelScore, CaseError> {
        let scored = score_kernel(kernel, equivalents)?;
        progress(kernel, &scored.score);
        Ok(scored)
    });
    let mut sum = Score::default();
    let mut uses = vec![Use::Unreached; equivalents.len()];
    for scored in scores {
        let KernelScore { score, uses: of_kernel } = scored?;
        sum.killed_by_checker += score.killed_by_checker;
        sum.killed_by_value += score.killed_by_value;
        sum.equivalent.extend(score.equivalent);
        sum.survived.extend(score.survived);
        uses.iter_mut().zip(of_kernel).for_each(|(all, one)| *all = one.max(*all));
    }
    for (entry, used) in equivalents.iter().zip(uses) {
        match used {
            Use::Unreached if entry.is_in_source() => sum.unreached.push(entry.to_string()),
            Use::Unreached | Use::Killed => sum.stale.push(entry.to_string()),
            Use::Survived => {}
        }
    }
    Ok(Score { elapsed: start.elapsed(), ..sum })
}

/// What became of the mutations that an entry of the table of equivalents means.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    Unreached,
    Killed,
    Survived,
}

struct KernelScore {
    score: Score,
    /// By entry.
    uses: Vec<Use>,
}

fn score_kernel(kernel: &'static KernelSpec, equivalents: &[Equivalent]) -> Result<KernelScore, CaseError> {
    let start = Instant::now();
    let mut score = Score::default();
    let mut uses = vec![Use::Unreached; equivalents.len()];
    let mut cases = (kernel.cases)();
    // Most mutations show on the first case: let it be a small one.
    cases.sort_by_key(Case::elements);
    for mutated in mutations(kernel, &cases)? {
        let known = equivalents.iter().position(|entry| entry.matches(&mutated));
        let outcome = outcome(kernel, &cases, &mutated.mutation)?;
        let hidden = match outcome {
            Outcome::Checker => false,
            Outcome::Value => mutated.mutation.mutant.is_for_checker(),
            Outcome::Nothing => true,
        };
        if let Some(entry) = known {
            uses[entry] = uses[entry].max(if hidden { Use::Survived } else { Use::Killed });
        }
        match (outcome, known) {
            (_, Some(entry)) if hidden => score.equivalent.push((mutated, equivalents[entry].reason)),
            _ if hidden => score.survived.push(mutated),
            (Outcome::Checker, _) => score.killed_by_checker += 1,
            _ => score.killed_by_value += 1,
        }
    }
    score.elapsed = start.elapsed();
    Ok(KernelScore { score, uses })
}

/// The mutations of the sites that the cases reach.
fn mutations(kernel: &'static KernelSpec, cases: &[Case]) -> Result<Vec<Mutated>, CaseError> {
    let launcher = HostLauncher::with(Options { count: false, ..Options::checked() });
    cases.iter().try_for_each(|case| case.run(kernel, &launcher))?;
    let sites = launcher.take_sites().remove(kernel.name).unwrap_or_default();
    let of_site = |site: Site| {
        let mutants = Mutant::of(site.operation).iter();
        mutants.map(move |mutant| Mutated {
            kernel: kernel.name,
            mutation: Mutation { site: site.clone(), mutant: *mutant },
        })
    };
    Ok(sites.into_iter().flat_map(of_site).collect())
}

enum Outcome {
    Checker,
    Value,
    Nothing,
}

/// What gives the mutation away; for one that is for the checker, a wrong value is not enough.
fn outcome(kernel: &'static KernelSpec, cases: &[Case], mutation: &Mutation) -> Result<Outcome, CaseError> {
    let options = Options { count: false, stop_at_first: true, ..Options::checked() };
    let launcher = HostLauncher::mutated(options, mutation.clone());
    let mut outcome = Outcome::Nothing;
    for case in cases {
        match case.run(kernel, &launcher) {
            Ok(()) => {}
            Err(CaseError::Launch(LaunchError::Findings { .. })) => return Ok(Outcome::Checker),
            Err(CaseError::Value { .. }) if mutation.mutant.is_for_checker() => outcome = Outcome::Value,
            Err(CaseError::Value { .. }) => return Ok(Outcome::Value),
            Err(error) => return Err(error),
        }
    }
    Ok(outcome)
}

impl Checker {
    /// The mutant of this site, if it is the one that is weakened.
    fn mutant(&self, site: SiteNumber) -> Option<Mutant> {
        let Mutation { site: mutated, mutant } = self.mutation.as_ref()?;
        let (place, operation, memory) = self.sites.all()[site as usize];
        let same = operation == mutated.operation
            && place == mutated.place
            && (memory == NO_MEMORY || Some(&self.names[memory as usize].name) == mutated.memory.as_ref());
        same.then_some(*mutant)
    }

    /// Notes a site that accesses no memory; how it is weakened.
    pub(super) fn visit(&mut self, at: &'static Location<'static>, operation: Operation) -> Option<Mutant> {
        let site = self.sites.number(at, operation, NO_MEMORY);
        self.mutant(site)
    }

    /// A fence of `thread`.
    pub(super) fn fence(&mut self, at: &'static Location<'static>, thread: u32) {
        if self.visit(at, Operation::Fence) != Some(Mutant::Removed) {
            self.counters.fences += 1;
            self.clocks.fence(thread);
        }
    }

    /// The mask of a warp operation; `None` where it is removed.
    pub(super) fn mutated_mask(
        &mut self,
        at: &'static Location<'static>,
        operation: Operation,
        mask: u32,
    ) -> Option<u32> {
        match self.visit(at, operation) {
            Some(Mutant::Removed) => None,
            Some(Mutant::LaneRemoved) => Some(mask & !(1u32 << 31).unbounded_shr(mask.leading_zeros())),
            Some(Mutant::MaskShifted) => Some(mask << 1),
            _ => Some(mask),
        }
    }

    /// The end of a limit.
    pub(super) fn mutated_end(&mut self, at: &'static Location<'static>, operation: Operation, end: u32) -> u32 {
        match self.visit(at, operation) {
            Some(Mutant::EndPlus) => end.saturating_add(1),
            Some(Mutant::EndMinus) => end.saturating_sub(1),
            Some(Mutant::EndRemoved) if operation == Operation::Within => u32::MAX,
            Some(Mutant::EndRemoved) => end.saturating_add(FAR),
            _ => end,
        }
    }

    /// The index of an access.
    pub(super) fn mutated_index(&self, site: SiteNumber, operation: Operation, index: u32) -> u32 {
        match self.mutant(site) {
            Some(Mutant::IndexPlus) => index.wrapping_add(operation.width()),
            Some(Mutant::IndexMinus) => index.wrapping_sub(operation.width()),
            Some(Mutant::IndexFlipped) => index ^ operation.width(),
            _ => index,
        }
    }

    /// A thread is about to access memory: whether it pauses first. A thread that takes too many steps ends the launch.
    pub(super) fn step(&mut self, at: &'static Location<'static>, me: &Position) -> bool {
        let steps = &mut self.steps[me.number as usize];
        *steps += 1;
        if *steps > self.options.steps {
            let detail = format!("{} accesses by one thread", self.options.steps);
            self.report(FindingKind::Runaway, None, Some(Place::from(at)), None, me, detail);
        }
        self.options.preempt.is_some_and(|one_in| self.random.range(u64::from(one_in.get())) == 0)
    }
}
