//! `selfsame kernels stats`: what each kernel needs, does and could reach.

use std::collections::BTreeMap;

use selfsame_engine::{Error, ErrorKind, Result};
use selfsame_kernels::case::Case;
use selfsame_kernels::host::{Counters, HostLauncher, Options};
use selfsame_kernels::kernel::KernelSpec;
use serde_json::json;

use super::super::output::{Output, table};
use super::super::{Outcome, Registry};
use super::in_units;
use super::roof::GPUS;

/// Arguments of `kernels stats`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A kernel or a family; all when left out. One kernel is shown case by case
    name: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// One launch: what the declaration says, and what the host counted.
struct Stats {
    kernel: &'static str,
    case: String,
    flop: f64,
    tensor_flop: f64,
    special: f64,
    read: f64,
    written: f64,
    dynamic_shared: u64,
    counters: Counters,
}

impl Stats {
    fn bytes(&self) -> f64 {
        self.read + self.written
    }

    /// FLOP per byte.
    fn intensity(&self) -> f64 {
        (self.flop + self.tensor_flop) / self.bytes().max(1.0)
    }
}

pub(crate) fn run(args: &Args, registry: &Registry, out: &mut Output) -> Result<Outcome> {
    let kernels = super::chosen(registry, args.name.as_deref())?;
    let resources = resources();
    let mut all = Vec::new();
    for kernel in &kernels {
        let cases = (kernel.cases)();
        // Of many kernels, each by its largest case: the one with the most bytes.
        let shown: Vec<Stats> = cases.iter().map(|case| measure(kernel, case)).collect::<Result<_>>()?;
        match kernels.len() {
            1 => all.extend(shown),
            _ => all.extend(shown.into_iter().max_by(|a, b| a.bytes().total_cmp(&b.bytes()))),
        }
    }
    if args.json {
        let list: Vec<_> = all.iter().map(|stats| as_json(stats, &resources)).collect();
        out.json(&json!({ "stats": list }))?;
        return Ok(Outcome::Done);
    }
    let headings = [
        "kernel",
        "case",
        "registers",
        "shared",
        "FLOP",
        "special",
        "read",
        "written",
        "FLOP/B",
        "sectors",
        "conflicts",
        "active",
        "bound",
        "roof H100",
    ];
    let numeric = [false, false, true, true, true, true, true, true, true, true, true, true, false, true];
    let rows: Vec<Vec<String>> = all.iter().map(|stats| row(stats, &resources)).collect();
    out.text(&table(&headings, &numeric, &rows))?;
    out.text(
        "registers per thread on sm_80, sm_90, sm_100; shared: bytes per block, static + dynamic; sectors: fetched / \
         needed; conflicts: extra shared-memory passes per access; active: share of lanes; roof: the least time for \
         that work. FLOP and bytes are the algorithm's, the rest was counted on the host.",
    )?;
    if let [only, ..] = &all[..]
        && kernels.len() == 1
    {
        let largest = all.iter().max_by(|a, b| a.bytes().total_cmp(&b.bytes())).unwrap_or(only);
        let lines = GPUS.iter().map(|gpu| {
            let bound = gpu.bound(largest.flop, largest.tensor_flop, largest.bytes());
            format!("{:<9} {:>9.2} us, bound by {}", gpu.name, 1e6 * bound.seconds, bound.by)
        });
        out.text(&format!("{} ({}):\n{}", largest.kernel, largest.case, lines.collect::<Vec<_>>().join("\n")))?;
    }
    Ok(Outcome::Done)
}

/// Runs a case on the host, counting.
fn measure(kernel: &'static KernelSpec, case: &Case) -> Result<Stats> {
    let launcher = HostLauncher::with(Options { count: true, ..Options::checked() });
    case.run(kernel, &launcher).map_err(|e| {
        Error::new(ErrorKind::Device, format!("kernel {} ({})", kernel.name, case.name), e.to_string())
            .hint("`selfsame kernels check` tells more")
    })?;
    let args = case.arguments();
    let (cost, (read, written)) = ((kernel.cost)(&args), kernel.traffic(&args));
    Ok(Stats {
        kernel: kernel.name,
        case: case.name.clone(),
        flop: cost.flop as f64,
        tensor_flop: cost.tensor_flop as f64,
        special: cost.special as f64,
        read: read as f64,
        written: written as f64,
        dynamic_shared: (kernel.geometry)(&args).shared,
        counters: launcher.take_counters().remove(kernel.name).unwrap_or_default(),
    })
}

fn row(stats: &Stats, resources: &BTreeMap<&str, Resources>) -> Vec<String> {
    let resources = resources.get(stats.kernel);
    let h100 = &GPUS[1];
    let bound = h100.bound(stats.flop, stats.tensor_flop, stats.bytes());
    let per_access = stats.counters.bank_conflicts as f64 / stats.counters.shared_requests.max(1) as f64;
    vec![
        stats.kernel.to_string(),
        stats.case.clone(),
        resources.map_or("-".into(), |r| r.registers.to_string()),
        format!("{}+{}", resources.map_or("-", |r| r.shared), stats.dynamic_shared),
        in_units(stats.flop + stats.tensor_flop),
        in_units(stats.special),
        in_units(stats.read),
        in_units(stats.written),
        format!("{:.2}", stats.intensity()),
        format!("{:.2}", stats.counters.sector_excess()),
        format!("{per_access:.2}"),
        format!("{:.0} %", 100.0 * stats.counters.active_share()),
        bound.by.to_string(),
        format!("{:.2} us", 1e6 * bound.seconds),
    ]
}

fn as_json(stats: &Stats, resources: &BTreeMap<&str, Resources>) -> serde_json::Value {
    let resources = resources.get(stats.kernel);
    let roofs: serde_json::Map<String, serde_json::Value> = GPUS
        .iter()
        .map(|gpu| {
            let bound = gpu.bound(stats.flop, stats.tensor_flop, stats.bytes());
            (gpu.name.to_string(), json!({ "seconds": bound.seconds, "bound_by": bound.by }))
        })
        .collect();
    json!({
        "kernel": stats.kernel,
        "case": stats.case,
        "registers": resources.map(|r| r.registers),
        "static_shared": resources.map(|r| r.shared),
        "dynamic_shared": stats.dynamic_shared,
        "flop": stats.flop,
        "tensor_flop": stats.tensor_flop,
        "special": stats.special,
        "bytes_read": stats.read,
        "bytes_written": stats.written,
        "intensity": stats.intensity(),
        "sectors": stats.counters.sectors,
        "ideal_sectors": stats.counters.ideal_sectors,
        "bank_conflicts": stats.counters.bank_conflicts,
        "active_share": stats.counters.active_share(),
        "roofs": roofs,
    })
}

/// What `ptxas` said of a kernel, in the words of the committed table.
struct Resources {
    registers: &'static str,
    shared: &'static str,
}

/// The rows of `docs/kernels-ptxas.md`: | `kernel` | registers | shared memory | barriers |.
fn resources() -> BTreeMap<&'static str, Resources> {
    const TABLE: &str = include_str!("../../../docs/kernels-ptxas.md");
    let cells = |line: &'static str| -> Vec<&'static str> { line.split('|').map(str::trim).collect() };
    TABLE
        .lines()
        .filter_map(|line| match cells(line)[..] {
            ["", kernel, registers, shared, _, ""] if kernel.starts_with('`') => {
                Some((kernel.trim_matches('`'), Resources { registers, shared }))
            }
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_resources_names_every_kernel() {
        let resources = resources();
        for kernel in selfsame_kernels::device::kernels() {
            assert!(resources.contains_key(kernel.name), "{} is missing", kernel.name);
        }
    }
}
