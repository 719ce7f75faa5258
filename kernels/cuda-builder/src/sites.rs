//! Where each barrier, shuffle, vote and `mma` of the PTX comes from: no barrier of the source was lost.
//!
//! The kernels are compiled twice with line information: without any optimisation, where following the calls from a
//! kernel's entry to the intrinsics lists every convergent operation that its source contains, each as the chain of
//! source positions that leads there; and as they ship, where each intrinsic carries the same chain. Then
//! - every barrier of the source must be among those that ship, in each kernel and for each chain of calls;
//! - a shuffle, vote or `mma` may be missing: the compiler removes one whose result nothing needs, often because a
//!   condition is known at compile time. These are listed. One that was needed would change the kernel's results,
//!   which the interpreter's tests compare; a barrier has no result by which it would be missed;
//! - whatever ships must be in the source.
//!
//! The second build must have the very instructions of the PTX in question, so that what holds for it holds for what
//! ships.
//!
//! A chain that occurs more often than once was copied: by unrolling a loop, or by duplicating a branch. That is
//! harmless where all threads take the same copy, which [`crate::lint`] proves of every copy.

use crate::build::Device;
use crate::ptx::{Instruction, parse};
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The convergent operations of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelSites {
    /// The kernel.
    pub name: String,
    /// How many its source contains, counted once per chain of calls.
    pub sites: usize,
    /// How many its PTX contains.
    pub instructions: usize,
    /// Those that occur more often than once in the PTX, with how often.
    pub copied: Vec<(Site, usize)>,
    /// Those that the compiler has removed.
    pub removed: Vec<Site>,
}

/// A convergent operation in the source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// The intrinsic without the target's prefix: `shfl.sync.bfly.i32`.
    pub operation: String,
    /// Where it is called, and where that is called, outwards to the kernel.
    pub chain: Vec<String>,
}

impl Site {
    fn is_barrier(&self) -> bool {
        self.operation.starts_with("bar")
    }
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}", self.operation, self.chain.join(", called from "))
    }
}

/// Compares the convergent operations of the sources in the folder `kernels` with those of `ptx`.
///
/// # Errors
/// When one was lost, when the PTX has one that the source has not, or when `ptx` is not what the sources give.
pub fn compare(device: &Device, kernels: &Path, ptx: &str) -> Result<Vec<KernelSites>> {
    let lines = "-Cdebuginfo=line-tables-only";
    let plain = [lines, "-Cno-prepopulate-passes", "-Zmir-opt-level=0", "-Zinline-mir=no"];
    let (source, shipped) = std::thread::scope(|scope| {
        let source = scope.spawn(|| device.compile(kernels, ["llvm-ir"], &plain));
        let shipped = device.compile(kernels, ["asm", "llvm-ir"], &[lines]);
        (source.join().unwrap_or_else(|_| Err(Error::new("the thread of the first compilation panicked"))), shipped)
    });
    let (([source], _), ([assembly, shipped], _)) = (source?, shipped?);
    same_instructions(&assembly, ptx)?;
    let instructions: BTreeMap<String, usize> = parse(ptx)?
        .into_iter()
        .map(|entry| {
            let all = entry.blocks.iter().flat_map(|block| &block.instructions);
            let count = all.filter(|i| i.is_convergent()).count();
            (entry.name, count)
        })
        .collect();
    match_chains(&Module::parse(&source), &Module::parse(&shipped), &instructions)
}

/// Line information must not have changed the code.
fn same_instructions(with_lines: &str, shipped: &str) -> Result<()> {
    let flat = |text: &str| -> Result<BTreeMap<String, Vec<Instruction>>> {
        let flatten = |entry: crate::ptx::Entry| {
            (entry.name, entry.blocks.into_iter().flat_map(|block| block.instructions).collect())
        };
        Ok(parse(text)?.into_iter().map(flatten).collect())
    };
    let with_lines = flat(&crate::canonical::canonicalise(&without_line_information(with_lines))?)?;
    for (kernel, instructions) in flat(shipped)? {
        let other = with_lines.get(&kernel).map_or(&[][..], Vec::as_slice);
        let same = |(a, b): (&Instruction, &Instruction)| {
            (&a.guard, &a.opcode, &a.operands) == (&b.guard, &b.opcode, &b.operands)
        };
        if instructions.len() != other.len() || !instructions.iter().zip(other).all(same) {
            return Err(Error::new(format!(
                "kernel {kernel}: the PTX is not what these sources give with this compiler"
            )));
        }
    }
    Ok(())
}

/// The text without the directives, labels and sections that line information adds.
fn without_line_information(assembly: &str) -> String {
    let code = assembly.split("\n\t.section").next().unwrap_or_default();
    let is_line_information = |line: &&str| {
        let line = line.trim_start();
        [".loc", ".file", "$L__tmp", "$L__func_begin", "$L__func_end"].iter().any(|prefix| line.starts_with(prefix))
    };
    code.lines().filter(|line| !is_line_information(line)).map(|line| format!("{line}\n")).collect()
}

fn match_chains(source: &Module, shipped: &Module, instructions: &BTreeMap<String, usize>) -> Result<Vec<KernelSites>> {
    let mut kernels = Vec::new();
    for (name, &count) in instructions {
        let [written, found] = [source, shipped].map(|module| module.sites(name));
        let (written, found) = (written?, found?);
        let wanted: BTreeSet<&Site> = written.iter().collect();
        let mut copies: BTreeMap<&Site, usize> = BTreeMap::new();
        for site in &found {
            *copies.entry(site).or_default() += 1;
        }
        let removed: Vec<Site> = wanted.iter().filter(|site| !copies.contains_key(**site)).copied().cloned().collect();
        if let Some(lost) = removed.iter().find(|site| site.is_barrier()) {
            return Err(Error::new(format!("kernel {name}: the compiler lost {lost}")));
        }
        if let Some(new) = copies.keys().find(|site| !wanted.contains(*site)) {
            return Err(Error::new(format!("kernel {name}: not in the source: {new}")));
        }
        if found.len() != count {
            return Err(Error::new(format!(
                "kernel {name}: {} convergent calls before the back end, {count} instructions after it",
                found.len()
            )));
        }
        if !wanted.is_empty() {
            let copied =
                copies.into_iter().filter(|(_, copies)| *copies > 1).map(|(site, copies)| (site.clone(), copies));
            kernels.push(KernelSites {
                name: name.clone(),
                sites: wanted.len(),
                instructions: count,
                copied: copied.collect(),
                removed,
            });
        }
    }
    Ok(kernels)
}

/// LLVM IR as far as it matters here: who calls whom, from where.
struct Module {
    /// Per function the calls in it: callee, and the number of the position.
    functions: BTreeMap<String, Vec<(String, u64)>>,
    /// Positions by number.
    locations: BTreeMap<u64, Location>,
    /// Files of scopes by number.
    files: BTreeMap<u64, String>,
}

struct Location {
    line_and_column: String,
    scope: u64,
    inlined_at: Option<u64>,
}

impl Module {
    fn parse(ir: &str) -> Module {
        let mut functions: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
        let mut locations = BTreeMap::new();
        let mut file_names = BTreeMap::new();
        let mut file_of_scope = BTreeMap::new();
        let mut current = None;
        for line in ir.lines() {
            if line.starts_with("define ") {
                current = symbol_after(line, "@");
                functions.entry(current.clone().unwrap_or_default()).or_default();
            } else if line.starts_with('}') {
                current = None;
            } else if let Some(function) = &current {
                let called = line.contains("call ").then(|| line.split_once("call ")).flatten();
                let callee = called.and_then(|(_, call)| symbol_after(call, "@"));
                if let (Some(callee), Some(calls)) = (callee, functions.get_mut(function)) {
                    calls.push((callee, number_after(line, "!dbg !").unwrap_or_default()));
                }
            } else if let Some((number, value)) = line.strip_prefix('!').and_then(|line| line.split_once(" = ")) {
                let Ok(number) = number.parse::<u64>() else { continue };
                if value.contains("!DILocation(") {
                    let field = |name| number_after(value, name).unwrap_or_default();
                    let location = Location {
                        line_and_column: format!("{}:{}", field("line: "), field("column: ")),
                        scope: field("scope: !"),
                        inlined_at: number_after(value, "inlinedAt: !"),
                    };
                    locations.insert(number, location);
                } else if value.contains("!DIFile(") {
                    let name = value.split_once("filename: \"").and_then(|(_, rest)| rest.split('"').next());
                    file_names.insert(number, name.unwrap_or_default().to_owned());
                } else if let Some(file) = number_after(value, "file: !") {
                    file_of_scope.insert(number, file);
                }
            }
        }
        let name = |(scope, file): (u64, u64)| Some((scope, file_names.get(&file)?.clone()));
        let files = file_of_scope.into_iter().filter_map(name).collect();
        Module { functions, locations, files }
    }

    /// Every convergent operation that the kernel reaches.
    fn sites(&self, kernel: &str) -> Result<Vec<Site>> {
        let mut sites = Vec::new();
        self.follow(kernel, &mut Vec::new(), &mut Vec::new(), &mut sites)?;
        Ok(sites)
    }

    /// Follows the calls of `function`, which was reached through the functions of `path`, called at `outer`.
    fn follow<'a>(
        &'a self,
        function: &'a str,
        path: &mut Vec<&'a str>,
        outer: &mut Vec<Vec<String>>,
        sites: &mut Vec<Site>,
    ) -> Result<()> {
        if path.contains(&function) {
            return Err(Error::new(format!("{function} calls itself: device code cannot recurse")));
        }
        path.push(function);
        for (callee, at) in self.functions.get(function).into_iter().flatten() {
            if let Some(operation) = convergent(callee) {
                let chain = std::iter::once(self.positions(*at)).chain(outer.iter().rev().cloned()).flatten().collect();
                sites.push(Site { operation: operation.to_owned(), chain });
            } else if self.functions.contains_key(callee) {
                outer.push(self.positions(*at));
                self.follow(callee, path, outer, sites)?;
                outer.pop();
            }
        }
        path.pop();
        Ok(())
    }

    /// A position and those it was inlined at.
    fn positions(&self, at: u64) -> Vec<String> {
        let mut chain = Vec::new();
        let mut next = Some(at);
        while let Some(location) = next.and_then(|number| self.locations.get(&number)) {
            let file = self.files.get(&location.scope).map_or("", String::as_str);
            chain.push(format!("{file}:{}", location.line_and_column));
            next = location.inlined_at;
        }
        chain
    }
}

/// The name of a convergent intrinsic without the target's prefix.
fn convergent(callee: &str) -> Option<&str> {
    const FAMILIES: &[&str] = &["bar", "shfl.", "vote.", "mma.", "ldmatrix.", "match.", "redux.", "activemask"];
    callee.strip_prefix("llvm.nvvm.").filter(|name| FAMILIES.iter().any(|family| name.starts_with(family)))
}

/// The symbol, quoted or not, behind the first `mark`.
fn symbol_after(text: &str, mark: &str) -> Option<String> {
    let (_, rest) = text.split_once(mark)?;
    let symbol = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => rest.split(|c: char| !(c.is_ascii_alphanumeric() || "_.$".contains(c))).next(),
    };
    symbol.filter(|symbol| !symbol.is_empty()).map(str::to_owned)
}

fn number_after(text: &str, mark: &str) -> Option<u64> {
    let (_, rest) = text.split_once(mark)?;
    rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that calls a helper twice; the helper has a barrier and a vote.
    const SOURCE: &str = "define ptx_kernel void @k() {\n  call void @helper(), !dbg !1\n  call void @helper(), !dbg !2\n}\n\
        define internal void @helper() {\n  call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0), !dbg !3\n  \
        %1 = call i1 @llvm.nvvm.vote.all.sync(i32 -1, i1 true), !dbg !4\n}\n\
        !1 = !DILocation(line: 10, column: 5, scope: !7)\n!2 = !DILocation(line: 11, column: 5, scope: !7)\n\
        !3 = !DILocation(line: 3, column: 9, scope: !7)\n!4 = !DILocation(line: 4, column: 9, scope: !7)\n\
        !7 = distinct !DISubprogram(name: \"k\", file: !8)\n!8 = !DIFile(filename: \"src/k.rs\", directory: \"\")\n";

    /// The same after inlining, with these calls left in the kernel: operation, line, line of the helper's call.
    fn compared(calls: &[(&str, u32, u32)]) -> Result<Vec<KernelSites>> {
        let (mut body, mut positions) = (String::new(), String::new());
        for (i, (operation, line, outer)) in calls.iter().enumerate() {
            let (at, inlined_at) = (100 + 2 * i, 101 + 2 * i);
            body += &format!("  tail call void @llvm.nvvm.{operation}(i32 0), !dbg !{at}\n");
            positions += &format!(
                "!{at} = !DILocation(line: {line}, column: 9, scope: !7, inlinedAt: !{inlined_at})\n\
                 !{inlined_at} = distinct !DILocation(line: {outer}, column: 5, scope: !7)\n"
            );
        }
        let text = format!(
            "define ptx_kernel void @k() {{\n{body}}}\n{positions}!7 = distinct !DISubprogram(file: !8)\n\
             !8 = !DIFile(filename: \"src/k.rs\")\n"
        );
        let instructions = BTreeMap::from([("k".to_owned(), calls.len())]);
        match_chains(&Module::parse(SOURCE), &Module::parse(&text), &instructions)
    }

    const BARRIER: &str = "barrier.cta.sync.aligned.all";
    const VOTE: &str = "vote.all.sync";

    #[test]
    fn each_call_of_a_helper_is_a_site_of_its_own() {
        let kernels = compared(&[(BARRIER, 3, 10), (VOTE, 4, 10), (BARRIER, 3, 11), (VOTE, 4, 11)]).unwrap();
        let [kernel] = kernels.as_slice() else { panic!("one kernel") };
        assert_eq!((kernel.sites, kernel.instructions, kernel.copied.len(), kernel.removed.len()), (4, 4, 0, 0));
    }

    #[test]
    fn a_lost_barrier_is_named_by_where_it_was_called() {
        let error = compared(&[(BARRIER, 3, 10), (VOTE, 4, 10), (VOTE, 4, 11)]).unwrap_err().to_string();
        assert!(
            error.contains("lost barrier.cta.sync.aligned.all at src/k.rs:3:9, called from src/k.rs:11:5"),
            "{error}"
        );
    }

    #[test]
    fn a_vote_that_nobody_needs_may_go() {
        let kernels = compared(&[(BARRIER, 3, 10), (VOTE, 4, 10), (BARRIER, 3, 11)]).unwrap();
        assert_eq!(kernels[0].removed[0].to_string(), "vote.all.sync at src/k.rs:4:9, called from src/k.rs:11:5");
    }

    #[test]
    fn copies_are_counted_and_strangers_refused() {
        let whole = [(BARRIER, 3, 10), (VOTE, 4, 10), (BARRIER, 3, 11), (VOTE, 4, 11)];
        let copied = compared(&[&whole[..], &[(BARRIER, 3, 11)]].concat()).unwrap();
        assert_eq!(copied[0].copied.len(), 1);
        assert_eq!(copied[0].copied[0].1, 2);
        let error = compared(&[&whole[..], &[(BARRIER, 99, 11)]].concat()).unwrap_err().to_string();
        assert!(error.contains("not in the source"), "{error}");
    }
}
