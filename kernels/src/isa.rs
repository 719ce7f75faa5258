//! Which instruction set a loop runs on. Every choice gives the same bits; only the speed differs.

/// An instruction-set level that this machine has.
///
/// A value exists only for a level that was found on the running machine: it comes from [`Isa::detect`],
/// [`Isa::available`] or [`Isa::parse`], or is the always present [`Isa::PORTABLE`]. Code that needs the
/// instructions of [`Isa::level`] may therefore use them without a further check; [`crate::stamp!`] relies on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Isa(Level);

/// The levels there are, slowest first. To match on; a level by itself is no proof that the machine has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Level {
    /// Plain Rust; fused multiply-adds go through the platform's correctly rounded `fma`. Slow, everywhere.
    Portable,
    /// AArch64 with NEON.
    Neon,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL, beside AVX2 and FMA.
    Avx512,
}

impl Isa {
    /// The level that every machine has.
    pub const PORTABLE: Isa = Isa(Level::Portable);

    /// The fastest level of this machine.
    pub fn detect() -> Isa {
        Self::available().last().copied().unwrap_or(Isa::PORTABLE)
    }

    /// All levels that this machine can run, slowest first.
    pub fn available() -> Vec<Isa> {
        [Level::Portable, Level::Neon, Level::Avx2, Level::Avx512]
            .into_iter()
            .filter(|l| l.is_present())
            .map(Isa)
            .collect()
    }

    /// The level of that name (see [`Isa::name`]); `None` when the name is unknown or the machine has no such level.
    pub fn parse(name: &str) -> Option<Isa> {
        Self::available().into_iter().find(|isa| isa.name() == name)
    }

    /// The level, to match on.
    pub fn level(self) -> Level {
        self.0
    }

    /// Name as used on the command line and in manifests: `portable`, `neon`, `avx2`, `avx512`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            Level::Neon => "neon",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        }
    }
}

impl std::fmt::Display for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Level {
    #[cfg(target_arch = "x86_64")]
    fn is_present(self) -> bool {
        use std::arch::is_x86_feature_detected as has;
        match self {
            Level::Portable => true,
            Level::Neon => false,
            Level::Avx2 => has!("avx2") && has!("fma"),
            Level::Avx512 => {
                Level::Avx2.is_present() && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl")
            }
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn is_present(self) -> bool {
        self == Level::Portable || (self == Level::Neon && std::arch::is_aarch64_feature_detected!("neon"))
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn is_present(self) -> bool {
        self == Level::Portable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_present_levels_parse_to_themselves() {
        for isa in Isa::available() {
            assert_eq!(Isa::parse(isa.name()), Some(isa));
        }
        assert_eq!(Isa::available()[0], Isa::PORTABLE);
        assert_eq!(Isa::parse("mmx"), None);
    }

    #[test]
    fn detected_level_is_the_fastest_present() {
        assert_eq!(Some(Isa::detect()), Isa::available().into_iter().max());
    }
}
