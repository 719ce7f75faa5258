//! `selfsame kernels`: what there is, whether it is right, what it costs, how fast it is.

mod bench;
mod check;
mod list;
mod roof;
mod stats;

use selfsame_engine::{Error, ErrorKind, Result, nearest};
use selfsame_kernels::kernel::KernelSpec;

use super::output::Output;
use super::{Outcome, Registry};

/// What to do with the kernels.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// List the kernels by family
    List(list::Args),
    /// Run every case on the host, every access checked, under several schedules
    Check(check::Args),
    /// Time kernels on a GPU
    Bench(bench::Args),
    /// Registers, traffic, conflicts, intensity, and the roof that it meets
    Stats(stats::Args),
}

pub(crate) fn run(action: &Action, registry: &Registry, out: &mut Output) -> Result<Outcome> {
    match action {
        Action::List(args) => list::run(args, registry, out),
        Action::Check(args) => check::run(args, registry, out),
        Action::Bench(args) => bench::run(args, registry, out),
        Action::Stats(args) => stats::run(args, registry, out),
    }
}

/// The kernels of that name or family; all without one.
fn chosen(registry: &Registry, name: Option<&str>) -> Result<Vec<&'static KernelSpec>> {
    let all =
        registry.kernels.iter().flat_map(|(family, kernels)| kernels.iter().map(move |kernel| (*family, *kernel)));
    let found: Vec<_> = all
        .clone()
        .filter(|(family, kernel)| name.is_none_or(|name| name == *family || name == kernel.name))
        .map(|(_, kernel)| kernel)
        .collect();
    match name {
        Some(name) if found.is_empty() => {
            let error = Error::new(ErrorKind::Config, "kernels", format!("no kernel or family '{name}'"));
            let known = all.flat_map(|(family, kernel)| [family, kernel.name]);
            Err(match nearest(name, known) {
                Some(known) => error.hint(format!("is '{known}' meant?")),
                None => error.hint("`selfsame kernels list` shows all"),
            })
        }
        _ => Ok(found),
    }
}

/// A count in the unit that leaves one to three digits before the point.
fn in_units(n: f64) -> String {
    let units = ["", "k", "M", "G", "T"];
    let step = units.iter().enumerate().rev().find(|(i, _)| n >= 1000f64.powi(*i as i32));
    let (i, unit) = step.unwrap_or((0, &""));
    let scaled = n / 1000f64.powi(i as i32);
    if scaled >= 100.0 || (i == 0 && n.fract() == 0.0) {
        format!("{scaled:.0}{unit}")
    } else {
        format!("{scaled:.1}{unit}")
    }
}
