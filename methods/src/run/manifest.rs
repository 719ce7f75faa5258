//! `manifest.json`: what a reader needs in order to run the same thing again.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use selfsame_engine::{Device, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::config::{Config, Entry};

/// The facts of a run that are not in its configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this library.
    pub version: String,
    /// Name of the method, as the registry has it.
    pub method: String,
    /// The configuration that the run began with, every value with its source; empty in runs of earlier versions.
    #[serde(default)]
    pub configuration: Vec<Configured>,
    /// Seed of everything random.
    pub seed: u64,
    /// `strict` or `fast`.
    pub numerics: String,
    /// Data specification as given, for example `cifar10:DIR`.
    pub data: String,
    /// Checksum of the data, as its reader defines it.
    pub data_checksum: Option<String>,
    /// Hash of the final weights, once the run is finished.
    pub weights_hash: Option<String>,
    /// Every process that worked on this run, the first one first.
    pub sessions: Vec<Session>,
}

/// One value of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configured {
    /// The key.
    pub key: String,
    /// Its value, as TOML.
    pub value: String,
    /// Where the value came from: `defaults of trainer`, a file, `command line`.
    pub source: String,
}

impl Configured {
    /// Every value of `config`.
    pub fn all(config: &Config) -> Vec<Configured> {
        let one = |entry: &Entry| Configured {
            key: entry.key.clone(),
            value: entry.value.to_string(),
            source: entry.source.to_string(),
        };
        config.entries().iter().map(one).collect()
    }
}

/// What a program was built from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Build {
    /// Version of this library.
    pub version: String,
    /// [`source_hash`](super::source_hash) of its crates.
    pub source: String,
    /// XXH3 of the kernels' PTX, in hexadecimal.
    pub ptx: String,
    /// The compiler, for example `rustc 1.89.0 (29483883e 2025-08-04)`.
    pub compiler: String,
    /// XXH3 of the workspace's `Cargo.lock`, which names the versions of external crates; empty outside a workspace, as
    /// in a published crate.
    pub dependencies: String,
    /// Of sums: `canonical`, or `free` with `--cfg selfsame_free_order`, whose bits are nobody else's.
    pub order: String,
}

impl Build {
    /// This program.
    pub fn this() -> Build {
        Build {
            version: env!("CARGO_PKG_VERSION").into(),
            source: env!("SELFSAME_SOURCE_HASH").into(),
            ptx: format!("{:016x}", xxh3_64(selfsame_kernels::ptx::SM_80.as_bytes())),
            compiler: env!("SELFSAME_COMPILER").into(),
            dependencies: env!("SELFSAME_DEPENDENCIES").into(),
            // The compiler's flags are one for all crates: this is how the engine's loops are built.
            order: if cfg!(selfsame_free_order) { "free" } else { "canonical" }.into(),
        }
    }

    /// Each part with its name in sentences and tables; empty where it is not known, as in runs of earlier versions.
    pub fn facts(&self) -> [(&'static str, &str); 6] {
        let Build { version, source, ptx, compiler, dependencies, order } = self;
        [
            ("version", version),
            ("sources", source),
            ("kernels' PTX", ptx),
            ("compiler", compiler),
            ("external crates (Cargo.lock)", dependencies),
            ("order of sums", order),
        ]
    }
}

/// A GPU behind its driver. In strict numerics no bit depends on it, in fast numerics all may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpu {
    /// For example `NVIDIA H100 80GB HBM3`.
    pub model: String,
    /// The driver's release and interface, for example `570.86.15, CUDA 12.8`.
    pub driver: String,
    /// The library of matrix products that fast numerics use, for example `cuBLAS 12.8.4`; missing where there is none.
    pub library: Option<String>,
}

impl Gpu {
    /// That of `device`, if it is one: kernels on the host have none.
    pub fn of(device: &Device) -> Option<Gpu> {
        let gpu = device.gpu()?;
        let hardware = gpu.hardware()?;
        Some(Gpu {
            model: hardware.model.clone(),
            driver: hardware.driver.clone(),
            library: gpu.product_library().map(str::to_string),
        })
    }

    /// Each part with its name in sentences and tables.
    pub fn facts(&self) -> [(&'static str, &str); 3] {
        let library = self.library.as_deref().unwrap_or("none");
        [("GPU", &self.model), ("GPU driver", &self.driver), ("GPU library", library)]
    }
}

/// One process that worked on a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Training steps already done when it began.
    pub from_step: u64,
    /// What it was built from; empty in runs of earlier versions.
    #[serde(default)]
    pub build: Build,
    /// Device name, for example `cpu`.
    pub device: String,
    /// The GPU that this is; missing for others, and in runs of earlier versions.
    #[serde(default)]
    pub gpu: Option<Gpu>,
    /// Instruction set chosen at run time, for example `avx512`.
    pub isa: String,
    /// Threads of the device.
    pub threads: usize,
    /// Ranks, emulated or real.
    pub ranks: usize,
    /// Images of each micro-batch of each rank; missing in runs of earlier versions.
    #[serde(default)]
    pub micro_batches: Vec<Vec<usize>>,
    /// Operating system and processor family, for example `linux x86_64`.
    pub platform: String,
    /// When it began, UTC, RFC 3339.
    pub started: String,
    /// When it ended by itself, UTC, RFC 3339; missing after a crash.
    pub finished: Option<String>,
}

impl Session {
    /// This process: its command line, platform and the time now, on a device that is no GPU. `micro_batches` holds the
    /// images of each of them, for each rank.
    pub fn begin(from_step: u64, device: &str, isa: &str, threads: usize, micro_batches: Vec<Vec<usize>>) -> Session {
        Session {
            command: std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect(),
            from_step,
            build: Build::this(),
            device: device.into(),
            gpu: None,
            isa: isa.into(),
            threads,
            ranks: micro_batches.len(),
            micro_batches,
            platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            started: utc_now(),
            finished: None,
        }
    }
}

/// What bits may depend on beside the configuration: the facts of a build and of a GPU, without those that are not known.
pub(crate) fn facts<'a>(build: &'a Build, gpu: Option<&'a Gpu>) -> impl Iterator<Item = (&'static str, &'a str)> {
    let gpu = gpu.into_iter().flat_map(Gpu::facts);
    build.facts().into_iter().chain(gpu).filter(|(_, value)| !value.is_empty())
}

impl Manifest {
    /// Keys and values for a table, the latest session's facts included.
    pub fn rows(&self) -> Vec<(String, String)> {
        let mut rows: Vec<(&str, String)> = vec![
            ("selfsame", self.version.clone()),
            ("method", self.method.clone()),
            ("seed", self.seed.to_string()),
            ("numerics", self.numerics.clone()),
            ("data", self.data.clone()),
        ];
        rows.extend(self.data_checksum.clone().map(|sum| ("data checksum", sum)));
        rows.extend(self.weights_hash.clone().map(|hash| ("weights hash", hash)));
        if let Some(session) = self.sessions.last() {
            // The version is in the first row.
            let facts = facts(&session.build, session.gpu.as_ref()).filter(|(name, _)| *name != "version");
            rows.extend(facts.map(|(name, value)| (name, value.to_string())));
            rows.extend([
                ("device", session.device.clone()),
                ("instruction set", session.isa.clone()),
                ("threads", session.threads.to_string()),
                ("ranks", session.ranks.to_string()),
                ("platform", session.platform.clone()),
                ("started", session.started.clone()),
            ]);
            if session.micro_batches.iter().any(|rank| rank.len() > 1) {
                rows.push(("micro-batches", format!("{:?}", session.micro_batches)));
            }
            rows.extend(session.finished.clone().map(|time| ("finished", time)));
            rows.push(("command", session.command.join(" ")));
        }
        if self.sessions.len() > 1 {
            let steps: Vec<String> = self.sessions[1..].iter().map(|session| session.from_step.to_string()).collect();
            rows.push(("resumed at step", steps.join(", ")));
        }
        rows.into_iter().map(|(key, value)| (key.into(), value)).collect()
    }

    pub(super) fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self)
            .map(|text| text + "\n")
            .map_err(|error| Error::new(ErrorKind::Config, "manifest", error.to_string()))
    }

    pub(super) fn from_json(path: &Path, text: &str) -> Result<Manifest> {
        serde_json::from_str(text)
            .map_err(|error| Error::new(ErrorKind::Corrupt, path.display().to_string(), error.to_string()))
    }
}

/// The time now, UTC, as RFC 3339 (`2026-01-31T09:05:00Z`).
pub fn utc_now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    rfc3339(seconds)
}

/// Seconds since 1970 as date and time, by the proleptic Gregorian calendar.
fn rfc3339(seconds: u64) -> String {
    let (days, in_day) = (seconds / 86_400, seconds % 86_400);
    // Years are counted from 1 March 0000, so that the leap day is the last one of its year (H. Hinnant,
    // "chrono-compatible low-level date algorithms", civil_from_days).
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (in_day / 3600, in_day / 60 % 60, in_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_knows_the_calendar() {
        // Values of `date -u -d @N`.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }

    #[test]
    fn a_build_knows_the_versions_of_external_crates_and_the_order() {
        let Build { dependencies, order, .. } = Build::this();
        let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
        assert_eq!(dependencies, format!("{:016x}", xxh3_64(&std::fs::read(lock).unwrap())));
        assert_eq!(order, "canonical");
    }

    #[test]
    fn sessions_of_earlier_versions_are_read_and_their_unknown_facts_left_out() {
        let mut session = Session::begin(0, "cuda:0", "avx2", 1, vec![vec![16]]);
        let gpu = Gpu { model: "NVIDIA H100".into(), driver: "570.86.15, CUDA 12.8".into(), library: None };
        session.gpu = Some(gpu);
        let mut object = serde_json::to_value(&session).unwrap();
        assert_eq!(serde_json::from_value::<Session>(object.clone()).unwrap(), session);
        let names = |session: &Session| -> Vec<&str> {
            facts(&session.build, session.gpu.as_ref()).map(|(name, _)| name).collect()
        };
        let [crates, order] = ["external crates (Cargo.lock)", "order of sums"];
        let known = ["version", "sources", "kernels' PTX", "compiler"];
        assert_eq!(names(&session), [&known[..], &[crates, order, "GPU", "GPU driver", "GPU library"]].concat());

        object.as_object_mut().unwrap().remove("gpu").unwrap();
        for key in ["dependencies", "order"] {
            object["build"].as_object_mut().unwrap().remove(key).unwrap();
        }
        let old: Session = serde_json::from_value(object).unwrap();
        assert_eq!(names(&old), known);
        assert_eq!(old.gpu, None);
    }
}
