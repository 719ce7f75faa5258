//! Loads, stores, atomics and address spaces.

mod common;

use common::{fails, run, snippet_text};
use selfsame_ptx_interp::Module;

#[test]
fn accesses_outside_or_across_are_refused() {
    let message = fails("ld.global.u32 %r0, [%out+4];", 32, 0);
    assert!(message.contains("kernel snippet"), "{message}");
    assert!(message.contains("block [0, 0, 0], thread [31, 0, 0]"), "{message}");
    assert!(message.contains("`ld.global.u32 %r0, [%out+4];`"), "{message}");
    assert!(fails("st.global.u32 [%out+-4], %r0;", 32, 0).contains("thread [0, 0, 0]"));
    assert!(fails("ld.global.u32 %r0, [%out+2];", 32, 0).contains("not a multiple of 4"));
    assert!(fails("ld.global.v2.u32 {%r0, %r1}, [%out];", 32, 0).contains("thread [1, 0, 0]"));
    assert!(fails("mov.u64 %rd0, dynamic; ld.shared.u32 %r0, [%rd0+1024];", 32, 0).contains("Shared memory"));
    assert!(fails("mov.u64 %rd0, 0; ld.u32 %r0, [%rd0];", 32, 0).contains("which are not there"));
}

#[test]
fn elements_extend_by_their_sign() {
    let body = "mov.u64 %rd0, dynamic; mov.u32 %r0, 0x8081ff7f; st.shared.u32 [%rd0], %r0;
        ld.shared.s8 %r1, [%rd0+1]; ld.shared.u8 %r2, [%rd0+1]; ld.shared.s16 %r3, [%rd0+2]; add.s32 %r4, %r1, %r2;
        add.s32 %r4, %r4, %r3; st.global.u32 [%out], %r4;";
    assert_eq!(run(body, 1, 0).unwrap(), [(-1 + 255 + i32::from(0x8081u16 as i16)) as u32]);
}

#[test]
fn vectors_move_as_one() {
    let body = "mov.u64 %rd0, dynamic; mov.u32 %r0, 1; mov.u32 %r1, 2; mov.u32 %r2, 3; mov.u32 %r3, 4;
        st.shared.v4.u32 [%rd0], {%r0, %r1, %r2, %r3}; ld.shared.v2.u32 {_, %r5}, [%rd0+8];
        mov.b64 %rd1, {%r0, %r5}; shr.u64 %rd2, %rd1, 30; cvt.u32.u64 %r6, %rd2;
        mov.b64 {%r7, _}, %rd1; add.u32 %r6, %r6, %r7; st.global.u32 [%out], %r6;";
    assert_eq!(run(body, 1, 0).unwrap(), [4 * 4 + 1]);
}

#[test]
fn generic_addresses_find_their_space() {
    let body = ".shared .align 8 .b8 tile[64];
        mov.u64 %rd0, tile; cvta.shared.u64 %rd1, %rd0; isspacep.shared %p0, %rd1; selp.u32 %r0, 1, 0, %p0;
        st.u32 [%rd1+8], %r0; ld.shared.u32 %r1, [tile+8]; add.u32 %r1, %r1, 40; st.u32 [%out], %r1;";
    assert_eq!(run(body, 4, 0).unwrap(), [41; 4]);
}

#[test]
fn static_tiles_come_before_the_dynamic_one() {
    let body = ".shared .align 4 .b8 a[4]; .shared .align 16 .b8 b[20];
        mov.u64 %rd0, a; mov.u64 %rd1, b; mov.u64 %rd2, dynamic;
        sub.s64 %rd1, %rd1, %rd0; sub.s64 %rd2, %rd2, %rd0; mad.lo.s64 %rd3, %rd1, 100, %rd2;
        cvt.u32.u64 %r0, %rd3; st.global.u32 [%out], %r0;";
    assert_eq!(run(body, 1, 0).unwrap(), [16 * 100 + 48]);
}

#[test]
fn uninitialised_memory_is_nan() {
    let body = "mov.u64 %rd0, dynamic; ld.shared.f32 %f0, [%rd0]; st.global.f32 [%out], %f0;";
    assert!(f32::from_bits(run(body, 1, 0).unwrap()[0]).is_nan());
}

#[test]
fn module_arrays_hold_their_contents() {
    let text = snippet_text(
        "mov.u64 %rd0, table; mul.wide.u32 %rd1, %t, 2; add.s64 %rd0, %rd0, %rd1; ld.global.nc.u16 %r0, [%rd0];
        st.global.u32 [%out], %r0;",
    );
    let text = text.replace(".extern", ".global .align 8 .b8 table[6] = {1, 2, 3, 4, 255};\n.extern");
    let interpreter = selfsame_ptx_interp::Interpreter::new(std::sync::Arc::new(Module::parse(&text).unwrap()));
    assert_eq!(common::run_on(&interpreter, 3, 0).unwrap(), [0x0201, 0x0403, 0x00ff]);
}

#[test]
fn atomics_are_one_step() {
    let with = |operation: &str| {
        format!(
            "mov.u64 %rd0, dynamic; mov.u32 %r0, 5; st.shared.u32 [%rd0], %r0; bar.sync 0; {operation} bar.sync 0;
            ld.shared.u32 %r1, [%rd0]; st.global.u32 [%out], %r1;"
        )
    };
    assert_eq!(run(&with("red.shared.add.u32 [%rd0], %t;"), 64, 0).unwrap(), [5 + 63 * 32; 64]);
    assert_eq!(run(&with("atom.relaxed.cta.shared.max.u32 %r2, [%rd0], %t;"), 64, 0).unwrap(), [63; 64]);
    assert_eq!(run(&with("atom.shared.cas.b32 %r2, [%rd0], 5, 77;"), 64, 0).unwrap(), [77; 64]);
    assert_eq!(run(&with("atom.shared.inc.u32 %r2, [%rd0], 5;"), 64, 0).unwrap(), [(64 - 1) % 6; 64]);
    let old = "atom.global.exch.b32 %r0, [%out], %t; st.global.u32 [%out], %r0;";
    assert_eq!(run(old, 2, 0).unwrap(), [u32::MAX; 2]);
}

#[test]
fn carry_chains_run_through_the_flag() {
    let body = "mov.u32 %r0, 0xffffffff; add.cc.u32 %r1, %r0, %t; addc.u32 %r2, 0, 0;
        sub.cc.u32 %r3, 0, %t; subc.u32 %r4, 10, 0; mad.lo.u32 %r5, %r2, 100, %r4; st.global.u32 [%out], %r5;";
    assert_eq!(run(body, 3, 0).unwrap(), [10, 109, 109]);
}

#[test]
fn unknown_instructions_are_named_with_their_line() {
    for opcode in ["ex2.approx.f32 %f0, %f1", "atom.global.add.f32 %f0, [%out], %f1", "add.f32 %f0, %f1, %f2"] {
        let error = Module::parse(&snippet_text(&format!("{opcode};"))).unwrap_err();
        assert!(error.got.contains(opcode.split(' ').next().unwrap()), "{error}");
        assert_eq!(error.line, 14, "{error}");
    }
    for (body, what) in [
        ("add.s32 %r0, %r1;", "with 2 operands"),
        ("add.s32 %r0, %r1, %missing;", "%missing"),
        ("mov.u64 %rd0, missing;", "missing"),
        ("bra MISSING;", "MISSING"),
        ("ld.global.v2.u32 {%r0}, [%out];", "with 1 elements"),
        ("ld.shared.u32 %r0, [n];", "Param memory"),
        ("bar.sync 1;", "barrier"),
        ("mov.u32 %tid.x, 1;", "%tid.x"),
    ] {
        let error = Module::parse(&snippet_text(body)).unwrap_err();
        assert!(error.to_string().contains(what), "{body}: {error}");
    }
}
