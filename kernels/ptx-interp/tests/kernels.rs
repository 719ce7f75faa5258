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

/// A module with one entry of the shipped PTX, and the rest that it may need.
fn alone(text: &str, entry: &str) -> String {
    let start = text.find(&format!(".visible .entry {entry}(")).unwrap_or_else(|| panic!("no entry {entry}"));
    let end = start + text[start..].find("\n}").expect("an entry ends with a brace") + 2;
    let head = text.find(".visible").expect("there is an entry");
    format!("{}{}", &text[..head], &text[start..end])
}

/// What the cases of the kernel say about PTX that was changed.
fn verdict(kernel: &'static KernelSpec, changed: &str) -> Vec<String> {
    failures(kernel, &Interpreter::new(module(changed)).limited_to(1 << 24))
}

fn kernel(name: &str) -> &'static KernelSpec {
    kernels().find(|kernel| kernel.name == name).unwrap_or_else(|| panic!("no kernel {name}"))
}

#[test]
fn wrong_ptx_is_noticed() {
    // Each is a mistake that a compiler could make in `softmax`: a wrong operation, comparison, constant, address or
    // lane.
    let text = alone(&common::shipped(), "softmax");
    assert_eq!(verdict(kernel("softmax"), &text), [""; 0]);
    let mut unnoticed = Vec::new();
    for (from, to) in [
        ("sub.rn.f32", "add.rn.f32"),
        ("shfl.sync.bfly.b32", "shfl.sync.idx.b32"),
        ("setp.ge.u32", "setp.gt.u32"),
        ("0f3F800000", "0f3F800001"),
        (", 8, 31, -1", ", 4, 31, -1"),
        ("st.global.b32", "st.global.b8"),
        ("shl.b32", "shr.u32"),
        (", 4;", ", 8;"),
    ] {
        assert!(text.contains(from), "no {from} in softmax");
        let changed = text.replacen(from, to, 1);
        if verdict(kernel("softmax"), &changed).is_empty() {
            unnoticed.push(format!("{to} for {from}"));
        }
    }
    assert_eq!(unnoticed, [""; 0]);
}

/// `fma d, a, b, c` as `mul t, a, b; add d, t, c`, everywhere.
fn unfused(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        if let Some((before, operands)) = line.split_once("fma.rn.f32") {
            let operands: Vec<&str> = operands.trim_end_matches(';').split(',').map(str::trim).collect();
            let [d, a, b, c] = operands[..] else { panic!("fma has four operands: {line}") };
            out += &format!("{before}mul.rn.f32 %unfused, {a}, {b}; add.rn.f32 {d}, %unfused, {c};\n");
        } else {
            out += line;
            out.push('\n');
        }
    }
    out.replace(".reg .pred", ".reg .b32 %unfused; .reg .pred")
}

#[test]
fn a_multiplication_and_an_addition_are_not_a_fused_one() {
    let text = common::shipped();
    for name in ["matmul", "conv2d", "unary_exp"] {
        let text = alone(&text, name);
        assert!(text.contains("fma.rn.f32"), "{name}");
        assert!(!verdict(kernel(name), &unfused(&text)).is_empty(), "{name} without fma passes its cases");
    }
}

/// The interpreter looks for wrong values, not for races (the host's checker does): here and there the order in which it
/// runs warps is one that works without barriers.
#[test]
fn missing_barriers_are_noticed() {
    let text = common::shipped();
    let (mut tried, mut unnoticed) = (0, Vec::new());
    for kernel in kernels() {
        let text = alone(&text, kernel.name);
        if text.contains("bar.sync") {
            let changed = text.replace("bar.sync \t0", "membar.cta");
            assert_ne!(changed, text, "{}", kernel.name);
            if verdict(kernel, &changed).is_empty() {
                unnoticed.push(kernel.name);
            }
            tried += 1;
        }
    }
    assert!(10 * unnoticed.len() <= tried, "of {tried} without their barriers pass their cases: {unnoticed:?}");
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
