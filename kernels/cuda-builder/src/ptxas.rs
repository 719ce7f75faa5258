//! What NVIDIA's assembler makes of the PTX on several GPUs: registers, shared memory, barriers, spills per kernel.
//! `ptxas` needs no GPU.

use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The GPUs that the PTX is assembled for: A100, H100, B200.
pub const ARCHITECTURES: &[&str] = &["sm_80", "sm_90", "sm_100"];

/// The table of [`table`], below the workspace's root.
pub const TABLE_FILE: &str = "docs/kernels-ptxas.md";

/// What to do where there is no `ptxas`.
const HINT: &str = "ptxas was not found on PATH, in CUDA_HOME or in a Python environment: `pip install \
                    nvidia-cuda-nvcc-cu12` brings it, or name it with --ptxas";

/// What a kernel needs on a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Static shared memory of a block in bytes.
    pub shared: u32,
    /// Named barriers of a block.
    pub barriers: u32,
    /// Stack of a thread in bytes, and what it spills there: any is refused.
    pub stack: u32,
}

/// Per kernel its resources, in the order of [`ARCHITECTURES`].
pub type Report = BTreeMap<String, Vec<Resources>>;

/// The assembler.
#[derive(Clone, Debug)]
pub struct Ptxas {
    program: PathBuf,
    /// `CUDA 12.9, V12.9.86`.
    pub version: String,
}

impl Ptxas {
    /// The assembler `named`; else the one on PATH, in `CUDA_HOME`, or in a Python environment.
    ///
    /// # Errors
    /// When there is none, with what to install.
    pub fn find(named: Option<&Path>) -> Result<Ptxas> {
        let candidates = named.map_or_else(candidates, |program| vec![program.to_owned()]);
        let version = |program: &Path| {
            let output = Command::new(program).arg("--version").output().ok()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let release =
                text.lines().find_map(|line| line.split_once("release ").map(|(_, release)| release.trim()))?;
            Some(format!("CUDA {release}"))
        };
        candidates
            .into_iter()
            .find_map(|program| Some(Ptxas { version: version(&program)?, program }))
            .ok_or_else(|| Error::new(HINT))
    }

    /// Assembles the PTX in the file `ptx` for every architecture.
    ///
    /// # Errors
    /// When `ptxas` fails, with its message.
    pub fn report(&self, ptx: &Path) -> Result<Report> {
        let mut report = Report::new();
        let outputs = std::thread::scope(|scope| {
            let runs: Vec<_> = ARCHITECTURES.iter().map(|arch| scope.spawn(move || self.run(ptx, arch))).collect();
            runs.into_iter()
                .map(|run| run.join().unwrap_or_else(|_| Err(Error::new("a thread that ran ptxas panicked"))))
                .collect::<Result<Vec<String>>>()
        })?;
        for (at, output) in outputs.iter().enumerate() {
            for (kernel, resources) in parse(output) {
                let list = report.entry(kernel).or_default();
                list.resize(at, Resources::default());
                list.push(resources);
            }
        }
        Ok(report)
    }

    fn run(&self, ptx: &Path, arch: &str) -> Result<String> {
        let output = Command::new(&self.program)
            .args(["-v", "-o", if cfg!(windows) { "NUL" } else { "/dev/null" }, "-arch", arch])
            .arg(ptx)
            .output()
            .map_err(|e| Error::io(&self.program, &e))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(text) } else { Err(Error::new(format!("ptxas for {arch}:\n{text}"))) }
    }
}

fn candidates() -> Vec<PathBuf> {
    let name = format!("ptxas{}", std::env::consts::EXE_SUFFIX);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all: Vec<PathBuf> = std::env::split_paths(&path).map(|folder| folder.join(&name)).collect();
    for home in ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(std::env::var_os) {
        all.push(Path::new(&home).join("bin").join(&name));
    }
    let script = "import sys; print('\\n'.join(sys.path))";
    if let Ok(python) = Command::new("python3").args(["-c", script]).output() {
        let folders = String::from_utf8_lossy(&python.stdout).into_owned();
        all.extend(folders.lines().map(|folder| Path::new(folder).join("nvidia/cuda_nvcc/bin").join(&name)));
    }
    all.retain(|program| program.is_file());
    all
}

/// Reads what `ptxas -v` prints.
fn parse(output: &str) -> Vec<(String, Resources)> {
    let number_before = |line: &str, unit: &str| -> u32 {
        let number = line.split(',').find(|part| part.trim_end().ends_with(unit));
        number.and_then(|part| part.split_whitespace().find_map(|word| word.parse().ok())).unwrap_or(0)
    };
    let mut kernels = Vec::new();
    let mut stack = 0;
    for line in output.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let name = rest.split('\'').next().unwrap_or_default();
            kernels.push((name.to_owned(), Resources::default()));
        } else if line.contains("bytes stack frame") {
            let [frame, stores, loads] =
                ["bytes stack frame", "bytes spill stores", "bytes spill loads"].map(|unit| number_before(line, unit));
            stack = frame.max(stores).max(loads);
        } else if let (Some((_, used)), Some((_, kernel))) = (line.split_once(": Used "), kernels.last_mut()) {
            *kernel = Resources {
                registers: number_before(used, "registers"),
                shared: number_before(used, "bytes smem"),
                barriers: number_before(used, "barriers"),
                stack,
            };
        }
    }
    kernels
}

/// The kernels that need a stack or spill registers, a line each.
pub fn spills(report: &Report) -> Vec<String> {
    let on = |(kernel, resources): (&String, &Vec<Resources>)| -> Vec<String> {
        let pairs = ARCHITECTURES.iter().zip(resources).filter(|(_, r)| r.stack > 0);
        pairs.map(|(arch, r)| format!("{kernel} on {arch}: {} bytes of stack or spills", r.stack)).collect()
    };
    report.iter().flat_map(on).collect()
}

/// The report as a page of the documentation.
pub fn table(report: &Report, version: &str) -> String {
    let mut text = format!(
        "# Resources of the kernels\n\n\
         What `ptxas` ({version}) makes of `kernels/{}`: per GPU the registers of a thread, and the static shared\n\
         memory and barriers of a block. No kernel has a stack frame or spills registers; the checks fail where one\n\
         does. Made by `cargo run -p selfsame-cuda-builder -- ptxas`: do not edit.\n\n",
        crate::build::PTX_FILE
    );
    text += &format!("| kernel | registers: {} | shared memory | barriers |\n", ARCHITECTURES.join(", "));
    text += "|---|---|---|---|\n";
    for (kernel, resources) in report {
        let column = |pick: &dyn Fn(&Resources) -> u32| {
            let values: Vec<String> = resources.iter().map(|r| pick(r).to_string()).collect();
            if values.iter().all(|value| *value == values[0]) && !values.is_empty() {
                values[0].clone()
            } else {
                values.join(", ")
            }
        };
        let registers: Vec<String> = resources.iter().map(|r| r.registers.to_string()).collect();
        text += &format!(
            "| `{kernel}` | {} | {} | {} |\n",
            registers.join(", "),
            column(&|r| r.shared),
            column(&|r| r.barriers)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "ptxas info    : 168 bytes gmem
ptxas info    : Compiling entry function 'reduce' for 'sm_80'
ptxas info    : Function properties for reduce
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 26 registers, used 1 barriers, 4096 bytes smem, 376 bytes cmem[0]
ptxas info    : Compile time = 1.2 ms
ptxas info    : Compiling entry function 'heavy' for 'sm_80'
ptxas info    : Function properties for heavy
    16 bytes stack frame, 24 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers, 16 bytes cumulative stack size, 376 bytes cmem[0]
";

    #[test]
    fn the_assemblers_words_become_a_table_and_spills_are_named() {
        let report: Report = parse(OUTPUT).into_iter().map(|(kernel, r)| (kernel, vec![r; 3])).collect();
        assert_eq!(report["reduce"][0], Resources { registers: 26, shared: 4096, barriers: 1, stack: 0 });
        let spills = spills(&report);
        assert!(spills.len() == 3 && spills[0].contains("heavy on sm_80: 24 bytes"), "{spills:?}");
        assert!(table(&report, "CUDA 12.9").contains("| `reduce` | 26, 26, 26 | 4096 | 1 |"));
    }
}
