//! Functions of one element.

use crate::elementwise::Unary;
use crate::kernel;
use crate::simt::*;

const THREADS: u32 = 256;

macro_rules! unary_kernels {
    ($($(#[doc = $doc:literal])+ $name:ident $op:ident special $special:literal flop $flop:literal;)+) => {
        kernel! {$(
            $(#[doc = $doc])+
            $name(x: In<f32>[n], y: Out<f32>[n], n: u32)
            grid [n.div_ceil(THREADS as u64)] block [THREADS]
            cost { flop: $flop * n, special: $special * n }
            cases no_cases
            {
                let i = block_idx().x * THREADS + thread_idx().x;
                if within(i, n) {
                    y.set(i, Unary::$op.apply(x.get(i)));
                }
            }
        )+}

        #[cfg(not(target_arch = "nvptx64"))]
        pub(super) static KERNELS: &[&kernel::KernelSpec] = &[$(&$name::SPEC),+];
    };
}

unary_kernels! {
    /// y = e^x.
    unary_exp Exp special 1 flop 0;
    /// y = x where x > 0, else +0.
    unary_relu Relu special 0 flop 1;
    /// y = erf x.
    unary_erf Erf special 1 flop 0;
    /// y = sin x.
    unary_sin Sin special 1 flop 0;
}

#[cfg(not(target_arch = "nvptx64"))]
fn no_cases() -> Vec<crate::case::Case> {
    Vec::new()
}
