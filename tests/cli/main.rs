//! The command line from outside: commands, training runs, bad input.

mod bad_input;
mod commands;
mod crash;
mod formats;
mod profile;
mod replay;
mod runs;
mod study;
mod support;
