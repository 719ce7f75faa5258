//! The operations that `core` does not offer on stable: methods of `std` on the host, `core_float_math` on a device.

macro_rules! ieee {
    ($float:ident) => {
        pub(super) mod $float {
            #[cfg(target_arch = "nvptx64")]
            use core::$float::math as offered;
            #[cfg(not(target_arch = "nvptx64"))]
            type Offered = $float;

            /// a b + c, rounded once.
            #[inline(always)]
            pub(crate) fn mul_add(a: $float, b: $float, c: $float) -> $float {
                #[cfg(target_arch = "nvptx64")]
                return offered::mul_add(a, b, c);
                #[cfg(not(target_arch = "nvptx64"))]
                Offered::mul_add(a, b, c)
            }

            /// The correctly rounded square root.
            #[inline(always)]
            pub(crate) fn sqrt(x: $float) -> $float {
                #[cfg(target_arch = "nvptx64")]
                return offered::sqrt(x);
                #[cfg(not(target_arch = "nvptx64"))]
                Offered::sqrt(x)
            }

            /// The largest integer not above x.
            #[inline(always)]
            pub(crate) fn floor(x: $float) -> $float {
                #[cfg(target_arch = "nvptx64")]
                return offered::floor(x);
                #[cfg(not(target_arch = "nvptx64"))]
                Offered::floor(x)
            }
        }
    };
}

ieee!(f32);
ieee!(f64);
