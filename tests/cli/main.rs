//! The command line from outside: commands, training runs, bad input.

mod bad_input;
mod commands;
mod profile;
mod runs;
mod support;
