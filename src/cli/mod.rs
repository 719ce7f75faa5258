//! The command line: `selfsame <command>`. Each command is one file: its arguments, and what it does with them.
//!
//! Results go to standard output (`--json`: one object), progress and errors to standard error. Exit status: 0 done,
//! 1 a failure or a difference found, 2 wrong usage, 130 interrupted.
//!
//! A program with its own methods, losses or operations gets the same command line:
//! ```no_run
//! # use selfsame::cli::{main_with, Registry};
//! # const MINE: &[&selfsame::methods::MethodSpec] = &[];
//! fn main() -> std::process::ExitCode {
//!     main_with(&Registry { methods: MINE, ..Registry::built_in() })
//! }
//! ```

mod bench;
mod bits;
mod compare;
mod compute;
mod data;
mod demo;
mod doctor;
mod eval;
mod gradcheck;
mod interrupt;
mod kernels;
mod loss;
mod methods;
mod output;
mod pretrain;
mod primitives;
mod profile;
mod progress;
mod replay;
mod show;
mod study;
mod survey;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use selfsame_autograd::OpSpec;
use selfsame_engine::{Error, ErrorKind, Result};
use selfsame_kernels::kernel::KernelSpec;
use selfsame_losses::LossSpec;
use selfsame_methods::MethodSpec;

use output::Output;

/// What the command line knows: lists that a user's own crate may replace or extend.
#[derive(Clone, Copy)]
pub struct Registry {
    /// For `methods`, `show`, `pretrain`, `profile`.
    pub methods: &'static [&'static MethodSpec],
    /// For `loss`, `profile` and `gradcheck`.
    pub losses: &'static [&'static LossSpec],
    /// For `gradcheck`.
    pub ops: &'static [&'static OpSpec],
    /// For `kernels`: families, each with its kernels.
    pub kernels: &'static [(&'static str, &'static [&'static KernelSpec])],
}

impl Registry {
    /// What this library brings.
    pub fn built_in() -> Registry {
        Registry {
            methods: selfsame_methods::METHODS,
            losses: selfsame_losses::LOSSES,
            ops: selfsame_autograd::ops::OPS,
            kernels: selfsame_kernels::device::FAMILIES,
        }
    }
}

/// Self-supervised vision with reproducible bits.
#[derive(Parser)]
#[command(name = "selfsame", version, arg_required_else_help = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train and evaluate on the built-in data: the whole path in a minute or two
    Demo(demo::Args),
    /// List the methods
    Methods(methods::Args),
    /// Train a method on a data set without labels
    Pretrain(pretrain::Args),
    /// Measure an encoder on labelled data
    #[command(subcommand)]
    Eval(eval::Protocol),
    /// Value and gradients of a loss on tensors from a file
    Loss(loss::Args),
    /// The resolved configuration of a method and where each value comes from
    Show(show::Args),
    /// Check backward passes against finite differences
    Gradcheck(gradcheck::Args),
    /// Run a recorded run again and compare every step; names the first difference
    Replay(replay::Args),
    /// Two runs side by side
    Compare(compare::Args),
    /// Where the time and memory of a method's steps, or of a loss, go
    Profile(profile::Args),
    /// A recorded experiment over many runs: can be stopped and gone on with
    Study(study::Args),
    /// Timings on this machine
    Bench(bench::Args),
    /// The GPU kernels: list, check, time, cost
    #[command(subcommand)]
    Kernels(kernels::Action),
    /// What works on this machine
    Doctor(doctor::Args),
    /// Look at or pack a data set
    #[command(subcommand)]
    Data(data::Action),
}

/// How a command ended, when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As asked.
    Done,
    /// It compared or checked something and found a difference.
    Difference,
}

/// Runs the command line of this process on `registry`.
pub fn main_with(registry: &Registry) -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no errors; a closed pipe is nobody's concern here.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let mut out = Output::stdout();
    match run(cli.command, registry, &mut out) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Difference) => ExitCode::FAILURE,
        Err(_) if out.is_closed() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("selfsame: {}", error.sentence());
            ExitCode::from(exit_status(&error))
        }
    }
}

fn run(command: Command, registry: &Registry, out: &mut Output) -> Result<Outcome> {
    match command {
        Command::Demo(args) => demo::run(&args, registry, out),
        Command::Methods(args) => methods::run(&args, registry, out),
        Command::Pretrain(args) => pretrain::run(&args, registry, out),
        Command::Eval(protocol) => eval::run(&protocol, registry, out),
        Command::Loss(args) => loss::run(&args, registry, out),
        Command::Show(args) => show::run(&args, registry, out),
        Command::Gradcheck(args) => gradcheck::run(&args, registry, out),
        Command::Replay(args) => replay::run(&args, registry, out),
        Command::Compare(args) => compare::run(&args, registry, out),
        Command::Profile(args) => profile::run(&args, registry, out),
        Command::Study(args) => study::run(&args, registry, out),
        Command::Bench(args) => bench::run(&args, registry, out),
        Command::Kernels(action) => kernels::run(&action, registry, out),
        Command::Doctor(args) => doctor::run(&args, registry, out),
        Command::Data(action) => data::run(&action, out),
    }
}

fn exit_status(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::Config => 2,
        ErrorKind::Interrupted => 130,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use proptest::prelude::*;
    use proptest::sample::select;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    /// The names of all commands and options below `command`.
    fn names(command: &clap::Command) -> Vec<String> {
        let options = command.get_arguments().filter_map(|argument| Some(format!("--{}", argument.get_long()?)));
        let below = command.get_subcommands().flat_map(names);
        [command.get_name().to_string()].into_iter().chain(options).chain(below).collect()
    }

    proptest! {
        #[test]
        fn any_command_line_is_taken_or_refused(
            words in prop::collection::vec(prop_oneof![
                3 => select(names(&Cli::command())),
                1 => "[0-9a-f:.=-]{0,24}",
                1 => ".{0,12}",
            ], 0..9)
        ) {
            drop(Cli::try_parse_from(["selfsame".to_string()].into_iter().chain(words)));
        }
    }
}
