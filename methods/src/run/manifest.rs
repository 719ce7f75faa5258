//! `manifest.json`: what a reader needs in order to run the same thing again.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use selfsame_engine::{Error, ErrorKind, Result};
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
}

impl Build {
    /// This program.
    pub fn this() -> Build {
        Build {
            version: env!("CARGO_PKG_VERSION").into(),
            source: env!("SELFSAME_SOURCE_HASH").into(),
            ptx: format!("{:016x}", xxh3_64(selfsame_kernels::ptx::SM_80.as_bytes())),
            compiler: env!("SELFSAME_COMPILER").into(),
        }
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
    /// This process: its command line, platform and the time now. `micro_batches` holds the images of each of them, for
    /// each rank.
    pub fn begin(from_step: u64, device: &str, isa: &str, threads: usize, micro_batches: Vec<Vec<usize>>) -> Session {
        Session {
            command: std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect(),
            from_step,
            build: Build::this(),
            device: device.into(),
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
            rows.extend([
                ("compiler", session.build.compiler.clone()),
                ("sources", session.build.source.clone()),
                ("kernels' PTX", session.build.ptx.clone()),
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
}
