//! The shipped PTX of every kernel gives the expected values of every case, which are the host's bits.

mod common;

use selfsame_kernels::case::CaseError;
use selfsame_kernels::device::kernels;
use selfsame_kernels::kernel::KernelSpec;
use selfsame_kernels::launch::LaunchError;
use selfsame_ptx_interp::{Interpreter, Module};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

fn module(text: &str) -> Arc<Module> {
    Arc::new(Module::parse(text).unwrap_or_else(|e| panic!("{e}")))
}

/// Runs the cases of a kernel; one line per failure.
fn failures(kernel: &'static KernelSpec, interpreter: &Interpreter) -> Vec<String> {
    (kernel.cases)()
        .iter()
        .filter_map(|case| case.run(kernel, interpreter).err().map(|e| format!("{} ({}): {e}", kernel.name, case.name)))
        .collect()
}

#[test]
fn every_kernel_gives_the_bits_of_the_host() {
    let module = module(&common::shipped());
    let kernels: Vec<_> = kernels().collect();
    let (next, start) = (AtomicUsize::new(0), Instant::now());
    let (mut failed, mut executed) = (BTreeSet::new(), 0);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..std::thread::available_parallelism().map_or(1, usize::from))
            .map(|_| {
                scope.spawn(|| {
                    let (mut failed, mut executed) = (Vec::new(), 0);
                    while let Some(kernel) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let (interpreter, start) = (Interpreter::new(Arc::clone(&module)), Instant::now());
                        failed.extend(failures(kernel, &interpreter));
                        let count = interpreter.counts(kernel.name).map_or(0, |counts| counts.total());
                        executed += count;
                        println!("{:6.2} s {:>12} instructions: {}", start.elapsed().as_secs_f64(), count, kernel.name);
                    }
                    (failed, executed)
                })
            })
            .collect();
        for worker in workers {
            let (more, count) = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            failed.extend(more);
            executed += count;
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    println!("{} kernels, {executed} instructions, {seconds:.1} s", kernels.len());
    assert!(failed.is_empty(), "{}", Vec::from_iter(failed).join("\n"));
}

#[test]
fn every_opcode_of_the_shipped_ptx_is_exact() {
    let module = module(&common::shipped());
    let opcodes: Vec<&str> = module.opcodes().collect();
    assert!(!opcodes.is_empty());
    println!("{}", opcodes.join("\n"));
    let inexact = |opcode: &&&str| opcode.split('.').any(|part| part == "approx" || part == "ftz" || part == "full");
    assert_eq!(opcodes.iter().find(inexact), None);
}

#[test]
fn kernels_and_entries_are_the_same() {
    let module = module(&common::shipped());
    let entries: BTreeSet<&str> = module.entries().collect();
    let kernels: BTreeSet<&str> = kernels().map(|kernel| kernel.name).collect();
    assert_eq!(entries, kernels);
}

/// The text of an entry in the shipped PTX and the rest around it.
fn split<'a>(text: &'a str, entry: &str) -> (&'a str, &'a str, &'a str) {
    let start = text.find(&format!(".entry {entry}(")).unwrap_or_else(|| panic!("no entry {entry}"));
    let end = start + text[start..].find("\n}").expect("an entry ends with a brace");
    (&text[..start], &text[start..end], &text[end..])
}

/// Whether some case of the kernel notices an edit of its PTX at the `nth` place where `from` stands.
fn notices(kernel: &'static KernelSpec, from: &str, to: &str, nth: usize) -> Option<Vec<String>> {
    let text = common::shipped();
    let (before, body, after) = split(&text, kernel.name);
    let (at, _) = body.match_indices(from).nth(nth)?;
    let changed = format!("{before}{}{to}{}{after}", &body[..at], &body[at + from.len()..]);
    let interpreter = Interpreter::new(module(&changed)).limited_to(1 << 24);
    Some(failures(kernel, &interpreter))
}

fn kernel(name: &str) -> &'static KernelSpec {
    kernels().find(|kernel| kernel.name == name).unwrap_or_else(|| panic!("no kernel {name}"))
}

#[test]
fn wrong_ptx_is_noticed() {
    // Each is a mistake that a compiler could make in `softmax`: contraction, another rounding, a wrong comparison, a
    // wrong operand, a wrong address, a wrong lane.
    for (from, to) in [
        ("sub.rn.f32", "add.rn.f32"),
        ("shfl.sync.bfly.b32", "shfl.sync.idx.b32"),
        ("setp.lt.u32", "setp.le.u32"),
        ("setp.ge.u32", "setp.gt.u32"),
        ("0f3F800000", "0f3F800001"),
        (", 8, 31, -1", ", 4, 31, -1"),
        ("st.global.b32", "st.global.b8"),
        ("shl.b32", "shr.u32"),
        ("mul.wide.u32", "mul.wide.s16"),
    ] {
        let found = notices(kernel("softmax"), from, to, 0).unwrap_or_else(|| panic!("no {from} in softmax"));
        assert!(!found.is_empty(), "softmax with {to} for {from} passes its cases");
    }
}

#[test]
fn a_multiplication_and_an_addition_are_not_a_fused_one() {
    // `fma d, a, b, c` as `mul t, a, b; add d, t, c`, at every place of softmax's exponentials.
    let text = common::shipped();
    let (before, body, after) = split(&text, "softmax");
    let mut noticed = 0;
    let places: Vec<usize> = body.match_indices("fma.rn.f32").map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    for at in &places {
        let end = at + body[*at..].find(';').expect("a statement ends");
        let operands: Vec<&str> = body[at + "fma.rn.f32".len()..end].split(',').map(str::trim).collect();
        let [d, a, b, c] = operands[..] else { panic!("fma has four operands") };
        let apart = format!("mul.rn.f32 %unfused, {a}, {b}; add.rn.f32 {d}, %unfused, {c}");
        let body = format!("{}{apart}{}", &body[..*at], &body[end..]).replacen('{', "{ .reg .b32 %unfused;", 1);
        let changed = module(&format!("{before}{body}{after}"));
        noticed += usize::from(!failures(kernel("softmax"), &Interpreter::new(changed)).is_empty());
    }
    // The outer steps of the polynomial hardly feel the rounding of the inner ones; the reduction does.
    assert!(noticed >= 2, "{noticed} of {}", places.len());
}

#[test]
fn a_missing_barrier_is_noticed() {
    let text = common::shipped();
    let mut tried = 0;
    for kernel in kernels() {
        let (_, body, _) = split(&text, kernel.name);
        for barrier in ["bar.sync \t0", "barrier.sync \t0"] {
            if body.contains(barrier) {
                // The first barrier stands between the first writes to shared memory and the first reads.
                let found = notices(kernel, barrier, "membar.cta", 0).unwrap_or_default();
                println!("{}: {found:?}", kernel.name);
                assert!(!found.is_empty(), "{} without its first barrier passes its cases", kernel.name);
                tried += 1;
            }
        }
    }
    println!("{tried} kernels with barriers");
}

#[test]
fn missing_entries_and_other_parameters_are_refused() {
    let softmax = kernel("softmax");
    let case = &(softmax.cases)()[0];
    let refused = |text: &str| match case.run(softmax, &Interpreter::new(module(text))) {
        Err(CaseError::Launch(error)) => error,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refused(".version 7.8"), LaunchError::Device { got, .. } if got.contains("softmax")));
    let text = ".entry softmax(.param .u64 x, .param .u64 y, .param .u32 rows, .param .u64 cols) { ret; }";
    assert!(matches!(refused(text), LaunchError::Arguments { got, .. } if got.contains("[8, 8, 4, 8]")));
}
