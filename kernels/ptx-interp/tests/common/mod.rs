//! What the tests share: the shipped PTX, and snippets as kernels.
#![allow(dead_code, reason = "each test file uses its part")]

use selfsame_kernels::kernel::{Cost, KernelSpec, ParamKind, ParamSpec};
use selfsame_kernels::launch::{ArgValue, Geometry, LaunchError, Launcher, extents};
use selfsame_kernels::simt::ElementType;
use selfsame_ptx_interp::{Interpreter, Module};
use std::sync::Arc;

/// The PTX that the crate carries, or the file that the environment variable `SELFSAME_PTX` names.
pub(crate) fn shipped() -> String {
    match std::env::var("SELFSAME_PTX") {
        Ok(path) => std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}")),
        Err(_) => selfsame_kernels::ptx::SM_80.into(),
    }
}

/// The kernel that snippets are: it writes one word per thread, and has one number.
pub(crate) static SNIPPET: KernelSpec = KernelSpec {
    name: "snippet",
    module: "tests",
    doc: "A snippet of PTX.",
    params: &[
        ParamSpec { name: "out", kind: ParamKind::InOut(ElementType::U32) },
        ParamSpec { name: "n", kind: ParamKind::Scalar(ElementType::U32) },
    ],
    geometry: |_| Geometry { grid: extents(&[1]), block: extents(&[32]), shared: 0 },
    lengths: |_| vec![0, 0],
    cost: |_| Cost::default(),
    cases: Vec::new,
    thread: |_| {},
};

/// A module whose entry `snippet` has `body`. In it, `%out` is the address of the thread's own word, `%t` its number,
/// `%n` the launch's number; `%r0` to `%r19`, `%rd0` to `%rd9`, `%f0` to `%f9` and `%p0` to `%p9` are free.
pub(crate) fn snippet_text(body: &str) -> String {
    format!(
        ".version 7.8\n.target sm_80\n.address_size 64\n.extern .shared .align 16 .b8 dynamic[];
        .visible .entry snippet(.param .u64 out, .param .u32 n)
        {{
            .reg .pred %p<10>; .reg .b32 %r<20>; .reg .b64 %rd<10>; .reg .b32 %f<10>;
            .reg .b64 %out, %first; .reg .b32 %t, %n;
            ld.param.u64 %first, [out];
            ld.param.u32 %n, [n];
            mov.u32 %t, %tid.x;
            mul.wide.u32 %out, %t, 4;
            add.s64 %out, %out, %first;
            {body}
            ret;
        }}"
    )
}

/// Runs a snippet with `threads` threads and 1 KiB of dynamic shared memory; gives the word of each thread.
pub(crate) fn run(body: &str, threads: u32, n: u32) -> Result<Vec<u32>, LaunchError> {
    let module = Module::parse(&snippet_text(body)).unwrap_or_else(|e| panic!("{e}"));
    run_on(&Interpreter::new(Arc::new(module)), threads, n)
}

/// As [`run`], on an interpreter.
pub(crate) fn run_on(interpreter: &Interpreter, threads: u32, n: u32) -> Result<Vec<u32>, LaunchError> {
    let buffer = interpreter.allocate(4 * threads as usize)?;
    let geometry = Geometry { grid: extents(&[1]), block: extents(&[threads.into()]), shared: 1024 };
    let args = [
        ArgValue::Memory { address: buffer.address, len: threads.into() },
        ArgValue::Scalar { bits: n.into(), element: ElementType::U32 },
    ];
    interpreter.run(&SNIPPET, geometry, &args)?;
    let mut bytes = vec![0; buffer.bytes];
    interpreter.download(buffer.address, &mut bytes)?;
    interpreter.free(buffer);
    Ok(bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect())
}

/// The message with which a snippet fails.
pub(crate) fn fails(body: &str, threads: u32, n: u32) -> String {
    match run(body, threads, n) {
        Ok(words) => panic!("the snippet ran and gave {words:?}"),
        Err(error) => error.to_string(),
    }
}
