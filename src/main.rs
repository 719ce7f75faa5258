//! The command `selfsame`.

use std::process::ExitCode;

fn main() -> ExitCode {
    selfsame::cli::main_with(&selfsame::cli::Registry::built_in())
}
