//! A PTX interpreter for tests: runs the PTX that ships, where there is no GPU.
//!
//! [`Module::parse`] reads PTX text and resolves every instruction of every entry; one that is not known is an error
//! that names it. [`Interpreter`] runs the entries as a [`Launcher`](selfsame_kernels::launch::Launcher), so that a
//! kernel's cases run on it as on any device, and what the compiler made of a kernel is held to the bits that the
//! kernel gives on the host.
//!
//! **Scope.** The instructions are those that rustc's NVPTX target emits for the kernels ([`Module::opcodes`] lists
//! them; the crate's tests read the shipped PTX, so an opcode that is missing here fails them by name), completed to
//! whole families where that costs nothing. All of them are exact: what is approximate (`ex2.approx`), flushes
//! subnormals (`.ftz`), may be fused by `ptxas` (`add.f32` without a rounding mode) or has no order (floating-point
//! atomics) is not known, by design.
//!
//! **Execution.** The 32 lanes of a warp run in lockstep. Lanes that part at a branch meet again at its immediate
//! post-dominator. The warps of a block run one after the other from barrier to barrier, blocks in order. `mma.sync`
//! follows the host's model, [`selfsame_kernels::host::mma`].
//!
//! Inside, from text to execution: `lexer`, `parse` (to `syntax`), `resolve` with `opcode` and `op` (to
//! `instruction`), `flow` (blocks, post-dominators); `interpreter`, `block`, `warp` with `access` and `convergent`.

mod access;
mod block;
mod convergent;
mod counts;
mod error;
mod flow;
mod instruction;
mod interpreter;
mod lexer;
mod memory;
mod module;
mod op;
mod opcode;
mod parse;
mod resolve;
mod syntax;
mod warp;

pub use counts::{Class, Counts};
pub use error::PtxError;
pub use interpreter::Interpreter;
pub use module::Module;
