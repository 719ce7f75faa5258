//! Divergence, reconvergence, barriers and operations of several lanes.

mod common;

use common::{fails, run, run_on, snippet_text};
use selfsame_ptx_interp::{Class, Interpreter, Module};
use std::sync::Arc;

fn each(threads: u32, word: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..threads).map(word).collect()
}

/// A statement that fails unless all 32 lanes are together.
const TOGETHER: &str = "bar.warp.sync -1;";

#[test]
fn nested_ifs_meet_again() {
    let body = format!(
        "and.b32 %r0, %t, 1; setp.eq.u32 %p0, %r0, 0;
        and.b32 %r1, %t, 2; setp.eq.u32 %p1, %r1, 0;
        mov.u32 %r2, 0;
        @%p0 bra EVEN;
        add.u32 %r2, %r2, 1;
        @%p1 bra ODD_END;
        add.u32 %r2, %r2, 10;
        ODD_END: add.u32 %r2, %r2, 100;
        bra.uni END;
        EVEN: add.u32 %r2, %r2, 1000;
        END: {TOGETHER}
        st.global.u32 [%out], %r2;"
    );
    let expected = each(32, |t| match t % 4 {
        1 => 101,
        3 => 111,
        _ => 1000,
    });
    assert_eq!(run(&body, 32, 0).unwrap(), expected);
}

#[test]
fn loops_of_different_lengths_meet_after_the_longest() {
    let body = format!(
        "mov.u32 %r0, 0; mov.u32 %r1, 0;
        LOOP: add.u32 %r1, %r1, %r0; add.u32 %r0, %r0, 1;
        setp.le.u32 %p0, %r0, %t;
        @%p0 bra LOOP;
        {TOGETHER}
        st.global.u32 [%out], %r1;"
    );
    assert_eq!(run(&body, 32, 0).unwrap(), each(32, |t| t * (t + 1) / 2));
}

#[test]
fn breaks_and_continues_meet_after_the_loop() {
    // for i in 0..10 { if i == t { break }; if i odd { continue }; sum += i }
    let body = format!(
        "mov.u32 %r0, 0; mov.u32 %r1, 0;
        HEAD: setp.ge.u32 %p0, %r0, 10; @%p0 bra END;
        setp.eq.u32 %p1, %r0, %t; @%p1 bra END;
        and.b32 %r2, %r0, 1; setp.ne.u32 %p2, %r2, 0; @%p2 bra NEXT;
        add.u32 %r1, %r1, %r0;
        NEXT: add.u32 %r0, %r0, 1; bra HEAD;
        END: {TOGETHER}
        st.global.u32 [%out], %r1;"
    );
    assert_eq!(run(&body, 32, 0).unwrap(), each(32, |t| (0..t.min(10)).filter(|i| i % 2 == 0).sum()));
}

#[test]
fn a_jump_table_sends_lanes_their_ways() {
    let body = format!(
        "rem.u32 %r0, %t, 3;
        ways: .branchtargets A, B, C;
        brx.idx %r0, ways;
        A: mov.u32 %r1, 5; bra END;
        B: mov.u32 %r1, 7; bra END;
        C: mov.u32 %r1, 9;
        END: {TOGETHER} st.global.u32 [%out], %r1;"
    );
    assert_eq!(run(&body, 32, 0).unwrap(), each(32, |t| 5 + 2 * (t % 3)));
    let beyond = body.replace("rem.u32 %r0, %t, 3;", "mov.u32 %r0, %t;");
    assert!(fails(&beyond, 32, 0).contains("thread [3, 0, 0]: entry 3 of a jump table of 3"));
}

#[test]
fn predicates_mask_single_instructions() {
    let body = "setp.lt.u32 %p0, %t, 5; mov.u32 %r0, 1; @%p0 mov.u32 %r0, 2; @!%p0 add.u32 %r0, %r0, 7;
        st.global.u32 [%out], %r0;";
    assert_eq!(run(body, 32, 0).unwrap(), each(32, |t| if t < 5 { 2 } else { 8 }));
}

#[test]
fn lanes_that_end_early_are_not_waited_for() {
    let body = "mov.u32 %r0, 3; st.global.u32 [%out], %r0;
        setp.ge.u32 %p0, %t, 20; @%p0 bra END;
        activemask.b32 %r1; st.global.u32 [%out], %r1;
        END: ret;";
    assert_eq!(run(body, 32, 0).unwrap(), each(32, |t| if t < 20 { 0xf_ffff } else { 3 }));
}

/// Writes the thread's number to shared memory and reads that of the thread `%n` further on.
const EXCHANGE: &str = "mov.u64 %rd0, dynamic; mul.wide.u32 %rd1, %t, 4; add.s64 %rd1, %rd0, %rd1;
    st.shared.u32 [%rd1], %t;
    bar.sync 0;
    mov.u32 %r0, %ntid.x; add.u32 %r1, %t, %n; rem.u32 %r1, %r1, %r0;
    mul.wide.u32 %rd1, %r1, 4; add.s64 %rd1, %rd0, %rd1;
    ld.shared.u32 %r2, [%rd1]; st.global.u32 [%out], %r2;";

#[test]
fn a_barrier_orders_shared_memory_between_warps() {
    for n in [1, 32, 95] {
        assert_eq!(run(EXCHANGE, 128, n).unwrap(), each(128, |t| (t + n) % 128));
    }
    let without = EXCHANGE.replace("bar.sync 0;", "");
    assert_ne!(run(&without, 128, 32).unwrap(), each(128, |t| (t + 32) % 128));
}

#[test]
fn barriers_under_divergence_are_refused() {
    let divergent = "setp.lt.u32 %p0, %t, 7; @%p0 bra END; bar.sync 0; END:";
    let message = fails(divergent, 32, 0);
    assert!(message.contains("`setp.lt.u32 %p0, %t, 7;"), "{message}");
    assert!(message.contains("barrier under divergence: only lanes 0xffffff80"), "{message}");
    let predicated = fails("setp.lt.u32 %p0, %t, 7; @%p0 bar.sync 0;", 32, 0);
    assert!(predicated.contains("thread [7, 0, 0]: a barrier under divergence"), "{predicated}");
    let ended = fails("setp.lt.u32 %p0, %t, 32; @%p0 bra END; bar.sync 0; END:", 64, 0);
    assert!(ended.contains("they have ended"), "{ended}");
}

#[test]
fn shuffles_read_other_lanes() {
    let shuffle = |form: &str| format!("mul.lo.u32 %r0, %t, 3; {form} st.global.u32 [%out], %r1;");
    let bfly = run(&shuffle("shfl.sync.bfly.b32 %r1, %r0, 5, 31, -1;"), 32, 0).unwrap();
    assert_eq!(bfly, each(32, |t| 3 * (t ^ 5)));
    let index = run(&shuffle("shfl.sync.idx.b32 %r1, %r0, %n, 31, -1;"), 32, 9).unwrap();
    assert_eq!(index, each(32, |_| 27));
    let down = run(&shuffle("shfl.sync.down.b32 %r1|%p1, %r0, 4, 31, -1; @!%p1 mov.u32 %r1, 1;"), 32, 0).unwrap();
    assert_eq!(down, each(32, |t| if t < 28 { 3 * (t + 4) } else { 1 }));
    let up = run(&shuffle("shfl.sync.up.b32 %r1, %r0, 4, 0, -1;"), 32, 0).unwrap();
    assert_eq!(up, each(32, |t| if t < 4 { 3 * t } else { 3 * (t - 4) }));
}

#[test]
fn lanes_missing_from_their_mask_are_refused() {
    let body = "setp.lt.u32 %p0, %t, 7; @%p0 bra END; shfl.sync.idx.b32 %r1, %t, 9, 31, -1; END:";
    assert!(fails(body, 32, 0).contains("lanes 0xffffff80 at an operation of lanes 0xffffffff"));
    let named = body.replace("-1;", "0xffffff80;");
    assert!(run(&named, 32, 0).is_ok());
    let partial = "shfl.sync.idx.b32 %r1, %t, 9, 31, -1;";
    assert!(fails(partial, 20, 0).contains("lanes 0x000fffff"));
    let from_outside = "shfl.sync.idx.b32 %r1, %t, 25, 31, 0xfffff;";
    assert!(fails(from_outside, 20, 0).contains("from lane 25, which takes no part"));
}

#[test]
fn votes() {
    let vote = |form: &str| {
        format!("setp.lt.u32 %p0, %t, %n; mov.u32 %r0, 0; {form} @%p1 mov.u32 %r0, 1; st.global.u32 [%out], %r0;")
    };
    for (form, expected) in [("all", [0, 0, 1]), ("any", [0, 1, 1]), ("uni", [1, 0, 1])] {
        let body = vote(&format!("vote.sync.{form}.pred %p1, %p0, -1;"));
        let got = [0, 5, 32].map(|n| run(&body, 32, n).unwrap()[0]);
        assert_eq!(got, expected, "{form}");
    }
    let ballot = "setp.lt.u32 %p0, %t, %n; vote.sync.ballot.b32 %r0, %p0, -1; st.global.u32 [%out], %r0;";
    assert_eq!(run(ballot, 32, 5).unwrap(), vec![31; 32]);
}

#[test]
fn special_registers() {
    let body = "mov.u32 %r0, %laneid; mov.u32 %r1, %ntid.x; mad.lo.u32 %r0, %r1, 1000, %r0;
        mov.u32 %r2, %lanemask_lt; popc.b32 %r2, %r2; mad.lo.u32 %r0, %r2, 1000000, %r0; st.global.u32 [%out], %r0;";
    assert_eq!(run(body, 64, 0).unwrap(), each(64, |t| t % 32 * 1_000_000 + 64_000 + t % 32));
}

#[test]
fn endless_loops_are_stopped() {
    let module = Module::parse(&snippet_text("LOOP: add.u32 %r0, %r0, 1; bra LOOP;")).unwrap();
    let error = run_on(&Interpreter::new(Arc::new(module)).limited_to(10_000), 32, 0).unwrap_err();
    assert!(error.to_string().contains("does a loop not end"), "{error}");
}

#[test]
fn traps_name_their_thread() {
    let message = fails("setp.eq.u32 %p0, %t, 37; @%p0 trap;", 64, 0);
    assert!(message.contains("thread [37, 0, 0]: the kernel stopped itself"), "{message}");
}

#[test]
fn checks_that_trap_do_not_part_lanes() {
    let body = format!(
        "setp.ge.u32 %p0, %t, 20; @%p0 bra END;
        setp.ne.u32 %p1, %n, 0; @%p1 bra GOOD; bra.uni BAD;
        GOOD: rem.u32 %r0, %t, %n; bra.uni END;
        BAD: trap; exit;
        END: {TOGETHER}"
    );
    assert!(run(&body, 32, 3).is_ok());
    assert!(fails(&body, 32, 0).contains("stopped itself"));
}

#[test]
fn counts_are_by_thread() {
    let body = "mov.b32 %f0, 0f3F800000; setp.lt.u32 %p0, %t, 10;
        @%p0 fma.rn.f32 %f1, %f0, %f0, %f0; add.rn.f32 %f2, %f0, %f0; mul.rn.f32 %f3, %f0, %f0;
        div.rn.f32 %f4, %f0, %f0; st.global.b32 [%out], %f2;";
    let interpreter = Interpreter::new(Arc::new(Module::parse(&snippet_text(body)).unwrap()));
    run_on(&interpreter, 40, 0).unwrap();
    let counts = interpreter.counts("snippet").unwrap();
    assert_eq!(counts.flop(), 40 + 40 + 2 * 10);
    assert_eq!(counts.of(Class::Special), 40);
    assert_eq!(counts.of(Class::Global), 40);
    assert_eq!(counts.of(Class::Local), 80);
    assert_eq!(counts.of(Class::Control), 40);
    assert_eq!(counts.total(), 40 * (5 + 2 + 4 + 1) + 10);
    assert_eq!(interpreter.counts("nothing"), None);
}
