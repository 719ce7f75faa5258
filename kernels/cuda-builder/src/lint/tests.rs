//! Kernels as the compiler writes them, and the same with one mistake each.

use super::{Rule, check};

/// A kernel with these statements.
fn kernel(body: &str) -> String {
    format!(".visible .entry k(\n\t.param .b32 k_param_0\n)\n{{\n\t.reg .b32 \t%r<99>;\n{body}\n}}\n")
}

fn refused(body: &str) -> Vec<Rule> {
    let (_, findings) = check(&kernel(body)).unwrap();
    findings.iter().map(|finding| finding.rule).collect()
}

#[track_caller]
fn accept(body: &str) {
    let (_, findings) = check(&kernel(body)).unwrap();
    assert!(findings.is_empty(), "{findings:?}");
}

/// Each lane sums elements a warp apart, then the warp adds its sums; `AFTER` follows the loop, `INSIDE` is in it.
const STRIDED: &str = "ld.param.b32 %r1, [k_param_0];
mov.u32 %r2, %tid.x;
and.b32 %r3, %r2, 31;
mov.b32 %r9, 0f00000000;
setp.ge.u32 %p1, %r3, %r1;
@%p1 bra $L__BB_3;
mov.b32 %r8, %r3;
$L__BB_2:
ld.global.b32 %r4, [%rd1];
add.rn.f32 %r9, %r9, %r4;
INSIDE
add.s32 %r8, %r8, 32;
setp.lt.u32 %p2, %r8, %r1;
@%p2 bra $L__BB_2;
$L__BB_3:
AFTER
st.global.b32 [%rd2], %r9;
ret;";

fn strided(inside: &str, after: &str) -> String {
    STRIDED.replace("INSIDE", inside).replace("AFTER", after)
}

const SHUFFLE: &str = "shfl.sync.bfly.b32 %r10, %r9, 16, 31, -1;";

#[test]
fn warp_operations_stand_where_all_lanes_arrive() {
    accept(&strided("", SHUFFLE));
    assert_eq!(refused(&strided(SHUFFLE, "")), [Rule::Convergence]);
    assert_eq!(refused(&strided("", "bar.warp.sync 65535;")), [Rule::Convergence]);
    assert_eq!(refused(&strided("", "shfl.sync.bfly.b32 %r10, %r9, 16, 31, %r3;")), [Rule::Convergence]);
    assert_eq!(refused(&strided("", "@%p1 shfl.sync.bfly.b32 %r10, %r9, 16, 31, -1;")), [Rule::Convergence]);
    assert_eq!(refused(&strided("", "activemask.b32 %r10;")), [Rule::Convergence]);
}

#[test]
fn a_loop_of_the_same_length_for_all_may_hold_barriers() {
    let tiles = |limit: &str| {
        format!(
            "ld.param.b32 %r1, [k_param_0];\nmov.u32 %r2, %tid.x;\nmov.b32 %r3, 0;\n$L__BB_1:\nbar.sync 0;\n\
             ld.shared.b32 %r4, [%r2];\nbar.sync 0;\nadd.s32 %r3, %r3, 1;\nsetp.lt.u32 %p1, %r3, {limit};\n\
             @%p1 bra $L__BB_1;\nret;"
        )
    };
    accept(&tiles("%r1"));
    assert_eq!(refused(&tiles("%r2")), [Rule::Convergence; 2]);
    // The limit was read from memory at an address that differs.
    assert_eq!(refused(&tiles("%r4")), [Rule::Convergence; 2]);
}

/// One side of a branch on `condition` holds `inside`.
fn branch(condition: &str, inside: &str) -> String {
    format!(
        "mov.u32 %r1, %tid.x;\nmov.u32 %r2, %ctaid.x;\nld.param.b32 %r3, [k_param_0];\n{condition}\n\
         @%p1 bra $L__BB_2;\n{inside}\n$L__BB_2:\nret;"
    )
}

#[test]
fn a_barrier_under_a_divergent_branch_is_refused() {
    accept(&branch("setp.ge.u32 %p1, %r2, %r3;", "bar.sync 0;"));
    assert_eq!(refused(&branch("setp.ge.u32 %p1, %r1, %r3;", "bar.sync 0;")), [Rule::Convergence]);
    // An early return of some threads is a branch around everything that follows.
    assert_eq!(
        refused(
            "mov.u32 %r1, %tid.x;\nsetp.lt.u32 %p1, %r1, 7;\n@%p1 bra $L__BB_2;\nbra.uni $L__BB_1;\n\
                 $L__BB_2:\nret;\n$L__BB_1:\nbar.sync 0;\nret;"
        ),
        [Rule::Convergence]
    );
    // A barrier copied to both sides of it is one that each thread meets, but not the same one.
    assert_eq!(
        refused(
            "mov.u32 %r1, %tid.x;\nsetp.lt.u32 %p1, %r1, 7;\n@%p1 bra $L__BB_2;\nbar.sync 0;\nbra.uni $L__BB_3;\n\
                 $L__BB_2:\nbar.sync 0;\n$L__BB_3:\nret;"
        ),
        [Rule::Convergence; 2]
    );
    assert_eq!(refused(&branch("setp.ge.u32 %p1, %r2, %r3;", "bar.sync 1, 64;")), [Rule::Convergence]);
}

#[test]
fn a_trap_leaves_nobody_behind() {
    accept(
        "mov.u32 %r1, %tid.x;\nsetp.gt.u32 %p1, %r1, 255;\n@%p1 bra $L__BB_2;\nbar.sync 0;\nret;\n$L__BB_2:\ntrap; exit;",
    );
}

#[test]
fn values_that_meet_after_a_divergent_branch_differ() {
    let meet = |condition: &str| {
        format!(
            "mov.u32 %r1, %tid.x;\nmov.u32 %r2, %ctaid.x;\nmov.b32 %r5, 1;\nsetp.lt.u32 %p1, {condition}, 9;\n\
             @%p1 bra $L__BB_1;\nmov.b32 %r5, 2;\n$L__BB_1:\nsetp.eq.s32 %p2, %r5, 2;\n@%p2 bra $L__BB_2;\n\
             bar.sync 0;\n$L__BB_2:\nret;"
        )
    };
    accept(&meet("%r2"));
    assert_eq!(refused(&meet("%r1")), [Rule::Convergence]);
}

#[test]
fn what_a_whole_warp_shares() {
    let cases = |condition: &str| branch(condition, "shfl.sync.bfly.b32 %r10, %r3, 16, 31, -1;");
    accept(&cases("shr.u32 %r4, %r1, 5;\nsetp.ne.b32 %p1, %r4, 0;"));
    accept(&cases("setp.gt.u32 %p1, %r1, 31;"));
    accept(&cases("and.b32 %r4, %r1, 992;\nsetp.ne.b32 %p1, %r4, 64;"));
    accept(&cases("shl.b32 %r4, %r2, 8;\nadd.s32 %r5, %r4, %r1;\nshr.u32 %r6, %r5, 5;\nsetp.ge.u32 %p1, %r6, %r3;"));
    accept(&cases("vote.sync.any.pred %p2, %p1, -1;\nsetp.ne.b32 %p1, %r2, 0;"));
    accept(&cases("shfl.sync.idx.b32 %r4, %r1, 0, 31, -1;\nsetp.ne.b32 %p1, %r4, 0;"));
    accept(&cases(
        "mov.u32 %r4, %tid.y;\nmov.u32 %r5, %tid.z;\nmov.u32 %r6, %ntid.y;\nmad.lo.s32 %r7, %r6, %r5, %r4;\n\
         mov.u32 %r8, %ntid.x;\nmad.lo.s32 %r9, %r7, %r8, %r1;\nshr.u32 %r11, %r9, 5;\nsetp.ne.b32 %p1, %r11, 0;",
    ));
    for divergent in [
        "shr.u32 %r4, %r1, 4;\nsetp.ne.b32 %p1, %r4, 0;",
        "setp.gt.u32 %p1, %r1, 30;",
        "and.b32 %r4, %r1, 1008;\nsetp.ne.b32 %p1, %r4, 64;",
        "shl.b32 %r4, %r2, 4;\nadd.s32 %r5, %r4, %r1;\nshr.u32 %r6, %r5, 5;\nsetp.ge.u32 %p1, %r6, %r3;",
        "shfl.sync.idx.b32 %r4, %r1, %r1, 31, -1;\nsetp.ne.b32 %p1, %r4, 0;",
        "mov.u32 %r4, %tid.y;\nsetp.ne.b32 %p1, %r4, 0;",
        "atom.global.add.u32 %r4, [%rd1], 1;\nsetp.ne.b32 %p1, %r4, 0;",
        "mov.u32 %r4, %laneid;\nsetp.ne.b32 %p1, %r4, 0;",
    ] {
        assert_eq!(refused(&cases(divergent)), [Rule::Convergence], "{divergent}");
    }
    // What a warp shares, a block need not.
    assert_eq!(refused(&branch("setp.gt.u32 %p1, %r1, 31;", "bar.sync 0;")), [Rule::Convergence]);
}

#[test]
fn single_instructions() {
    for (instruction, rule) in [
        ("atom.global.add.f32 %r2, [%rd1], %r1;", Rule::Order),
        ("red.shared.add.noftz.f16x2 [%rd1], %r1;", Rule::Order),
        ("atom.global.add.f64 %rd2, [%rd1], %rd3;", Rule::Order),
        ("atom.global.cas.b32 %r2, [%rd1], %r1, %r3;", Rule::Order),
        ("atom.global.exch.b32 %r2, [%rd1], %r1;", Rule::Order),
        ("ex2.approx.f32 %r1, %r2;", Rule::Exactness),
        ("div.approx.f32 %r1, %r2, %r3;", Rule::Exactness),
        ("div.full.f32 %r1, %r2, %r3;", Rule::Exactness),
        ("sqrt.approx.ftz.f32 %r1, %r2;", Rule::Exactness),
        ("add.rn.ftz.f32 %r1, %r2, %r3;", Rule::Exactness),
        ("mul.f32 %r1, %r2, %r3;", Rule::Exactness),
        ("ld.local.b32 %r1, [%rd1];", Rule::Local),
        (".local .align 16 .b8 __local_depot0[16];", Rule::Local),
        ("call.uni (retval0), f, (param0);", Rule::Call),
    ] {
        assert_eq!(refused(&format!("{instruction}\nret;")), [rule], "{instruction}");
    }
    for instruction in [
        "atom.global.add.u32 %r2, [%rd1], %r1;",
        "red.shared.max.u32 [%rd1], %r1;",
        "div.rn.f32 %r1, %r2, %r3;",
        "fma.rn.f32 %r1, %r2, %r3, %r4;",
        "mul.lo.s32 %r1, %r2, %r3;",
        "min.f32 %r1, %r2, %r3;",
    ] {
        accept(&format!("{instruction}\nret;"));
    }
    let mma = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%r1}, {%r2}, {%r3}, {%r4};";
    accept(&format!("{mma}\nex2.approx.ftz.f32 %r1, %r2;\nret;"));
    assert_eq!(refused(&format!("{mma}\nex2.approx.f32 %r1, %r2;\nret;")), [Rule::Exactness]);
}

#[test]
fn the_census_counts() {
    let (census, _) =
        check(&kernel("ld.b32 %r1, [%rd1];\nld.global.b32 %r2, [%rd1];\nbar.sync 0;\nret;\n$L__BB_1:\ntrap; exit;"))
            .unwrap();
    let [k] = census.as_slice() else { panic!("one kernel") };
    assert_eq!((k.generic, k.barriers, k.traps, k.instructions), (1, 1, 1, 6));
}

/// The shipped kernels pass, and each of their barriers and shuffles is missed when it moves under a branch on the lane.
#[test]
fn the_shipped_text_passes_and_its_mutants_do_not() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(crate::build::PTX_FILE);
    let ptx = std::fs::read_to_string(path).unwrap();
    let (_, findings) = check(&ptx).unwrap();
    assert!(findings.is_empty(), "{findings:#?}");

    let lines: Vec<&str> = ptx.lines().collect();
    let convergent =
        |line: &str| ["bar.sync", "shfl.sync", "vote.sync", "mma.sync"].iter().any(|i| line.trim().starts_with(i));
    let sites: Vec<usize> = (0..lines.len()).filter(|&at| convergent(lines[at])).collect();
    assert!(!sites.is_empty());
    // A sample of the sites, evenly spread: each mutant is the analysis of one kernel.
    for at in sites.iter().copied().step_by(sites.len().div_ceil(40)) {
        let start = (0..at).rev().find(|&i| lines[i].contains(".entry ")).unwrap();
        // An mma stands on several lines; the label belongs behind the last.
        let last = (at..lines.len()).find(|&i| lines[i].trim_end().ends_with(';')).unwrap();
        let end = (last..lines.len()).find(|&i| lines[i] == "}").unwrap();
        let mut mutant: Vec<String> = lines[start..=end].iter().map(|line| line.to_string()).collect();
        mutant.insert(last - start + 1, "$L__MUTANT:".into());
        mutant.insert(
            at - start,
            "mov.u32 %r900001, %laneid;\nsetp.eq.s32 %p900001, %r900001, 3;\n@%p900001 bra $L__MUTANT;".into(),
        );
        let (_, findings) = check(&mutant.join("\n")).unwrap();
        assert!(findings.iter().any(|f| f.rule == Rule::Convergence), "line {}: {}", at + 1, lines[at]);
    }
}
