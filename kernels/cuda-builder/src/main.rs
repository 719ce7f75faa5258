//! The device code of selfsame: builds it, proves that the checked-in PTX is what the sources give, checks it.

use selfsame_cuda_builder::build::{Device, PTX_FILE};
use selfsame_cuda_builder::header::Header;
use selfsame_cuda_builder::ptxas::{Ptxas, TABLE_FILE};
use selfsame_cuda_builder::toolchain::Toolchain;
use selfsame_cuda_builder::{Error, Result, lint, ptxas, sites};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo run -p selfsame-cuda-builder -- COMMAND [OPTIONS]

Commands:
  build   Builds the kernels and writes the PTX (kernels/ptx/sm_80.ptx)
  verify  Builds the kernels and compares with the checked-in PTX, byte for byte. With another compiler than the
          recorded one the bytes may differ: then it says so and succeeds, and the tests compare what the PTX does:
          write the rebuilt text with --out and name it to them in SELFSAME_PTX
  lint    Proves from the PTX that threads that wait for each other all arrive, that there are no floating-point
          atomics, no approximate instructions, no local memory and no calls
  sites   Proves, by building the kernels with line information, that no barrier was lost; lists the shuffles and votes
          that were removed, and what was copied
  ptxas   Assembles the PTX for sm_80, sm_90 and sm_100, fails on a spill, and writes docs/kernels-ptxas.md

Options:
  --kernels DIR  The crate whose kernels are meant (this workspace's)
  --cache DIR    Where the compiled core library is kept (target/device)
  --ptx FILE     lint, ptxas: the PTX to look at (the checked-in one)
  --out FILE     build, verify: where the built PTX goes
  --ptxas FILE   ptxas: the assembler (PATH, CUDA_HOME, Python's nvidia-cuda-nvcc-cu12)
  --check        ptxas: compare the table with the one there is, and write nothing";

/// What the command line says.
struct Options {
    kernels: PathBuf,
    cache: PathBuf,
    ptx: Option<PathBuf>,
    out: Option<PathBuf>,
    ptxas: Option<PathBuf>,
    check: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options> {
        let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| kernels.join("../target"), PathBuf::from);
        let mut options =
            Options { kernels, cache: target.join("device"), ptx: None, out: None, ptxas: None, check: false };
        let mut arguments = arguments.iter();
        while let Some(name) = arguments.next() {
            if name == "--check" {
                options.check = true;
                continue;
            }
            let mut value = || {
                arguments
                    .next()
                    .map(PathBuf::from)
                    .ok_or_else(|| Error::new(format!("{name} needs a value\n\n{USAGE}")))
            };
            match name.as_str() {
                "--kernels" => options.kernels = value()?,
                "--cache" => options.cache = value()?,
                "--ptx" => options.ptx = Some(value()?),
                "--out" => options.out = Some(value()?),
                "--ptxas" => options.ptxas = Some(value()?),
                _ => return Err(Error::new(format!("unknown option {name}\n\n{USAGE}"))),
            }
        }
        Ok(options)
    }

    fn checked_in(&self) -> PathBuf {
        self.kernels.join(PTX_FILE)
    }

    /// The PTX that is looked at, and where it lies.
    fn ptx(&self) -> Result<(PathBuf, String)> {
        let path = self.ptx.clone().unwrap_or_else(|| self.checked_in());
        Ok((path.clone(), read(&path)?))
    }

    fn device(&self, recorded: Option<&str>) -> Result<Device> {
        Device::new(Toolchain::find(recorded)?, &self.cache)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first().map(|(command, rest)| (command.as_str(), rest)) {
        None | Some(("help" | "--help" | "-h", _)) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Some((command, rest)) => Options::parse(rest).and_then(|options| match command {
            "build" => build(&options),
            "verify" => verify(&options),
            "lint" => run_lint(&options),
            "sites" => run_sites(&options),
            "ptxas" => run_ptxas(&options),
            _ => Err(Error::new(format!("unknown command {command}\n\n{USAGE}"))),
        }),
    };
    outcome.map_or_else(
        |error| {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn build(options: &Options) -> Result<()> {
    let device = options.device(None)?;
    let ptx = device.build(&options.kernels)?;
    let path = options.out.clone().unwrap_or_else(|| options.checked_in());
    write(&path, &ptx)?;
    println!("{}: {} kernels, {}", path.display(), ptx.matches(".entry ").count(), device.toolchain().version);
    Ok(())
}

fn verify(options: &Options) -> Result<()> {
    let checked_in = read(&options.checked_in())?;
    let header = Header::parse(&checked_in)
        .ok_or_else(|| Error::new(format!("{} has no header", options.checked_in().display())))?;
    let changed = header.changed_sources(&options.kernels);
    if !changed.is_empty() {
        return Err(Error::new(format!(
            "{PTX_FILE} is older than {}: run `cargo run -p selfsame-cuda-builder -- build`",
            changed.join(", ")
        )));
    }
    let device = options.device(Some(&header.compiler))?;
    let rebuilt = device.build(&options.kernels)?;
    if let Some(out) = &options.out {
        write(out, &rebuilt)?;
    }
    let found = &device.toolchain().version;
    if rebuilt == checked_in {
        println!("{PTX_FILE} is what {found} makes of the sources, byte for byte");
    } else if *found == header.compiler {
        return Err(Error::new(format!(
            "{PTX_FILE} is not what {found} makes of the sources, which have not changed: it was edited, or the build \
             depends on something that it should not; {}",
            first_difference(&checked_in, &rebuilt)
        )));
    } else {
        println!(
            "{PTX_FILE} was built by {}, here is {found}: the bytes may differ, so the tests compare what the rebuilt \
             PTX computes",
            header.compiler
        );
    }
    Ok(())
}

fn run_lint(options: &Options) -> Result<()> {
    let (path, ptx) = options.ptx()?;
    let (censuses, findings) = lint::check(&ptx)?;
    for census in censuses.iter().filter(|census| census.generic + census.traps > 0) {
        println!("note: {}: {} accesses without a state space, {} traps", census.kernel, census.generic, census.traps);
    }
    for finding in &findings {
        println!("{finding}");
    }
    let sum = |pick: fn(&lint::Census) -> usize| censuses.iter().map(pick).sum::<usize>();
    println!(
        "{}: {} kernels, {} instructions, {} barriers, {} shuffles and votes, {} mma, {} integer atomics: {}",
        path.display(),
        censuses.len(),
        sum(|c| c.instructions),
        sum(|c| c.barriers),
        sum(|c| c.warp_operations),
        sum(|c| c.mma),
        sum(|c| c.atomics),
        if findings.is_empty() { "every check holds".to_owned() } else { format!("{} findings", findings.len()) }
    );
    if findings.is_empty() { Ok(()) } else { Err(Error::new("the PTX does not pass")) }
}

fn run_ptxas(options: &Options) -> Result<()> {
    let (path, _) = options.ptx()?;
    let assembler = Ptxas::find(options.ptxas.as_deref())?;
    let report = assembler.report(&path)?;
    let spills = ptxas::spills(&report);
    if !spills.is_empty() {
        return Err(Error::new(format!("kernels that do not fit their registers:\n{}", spills.join("\n"))));
    }
    println!("{}: {} kernels, no stack, no spills", assembler.version, report.len());
    let file = options.kernels.join("..").join(TABLE_FILE);
    let table = ptxas::table(&report, &assembler.version);
    if !options.check {
        return write(&file, &table);
    }
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    if there == table {
        println!("{TABLE_FILE} is up to date");
    } else if there.contains(&assembler.version) {
        return Err(Error::new(format!(
            "{TABLE_FILE} is out of date, {}: run `cargo run -p selfsame-cuda-builder -- ptxas`",
            first_difference(&there, &table)
        )));
    } else {
        println!("{TABLE_FILE} was made by another ptxas than {}: not compared", assembler.version);
    }
    Ok(())
}

fn run_sites(options: &Options) -> Result<()> {
    let (path, ptx) = options.ptx()?;
    let recorded = Header::parse(&ptx).map(|header| header.compiler);
    let device = options.device(recorded.as_deref())?;
    let kernels = sites::compare(&device, &options.kernels, &ptx)?;
    let (mut written, mut found, mut removed) = (0, 0, 0);
    for kernel in &kernels {
        written += kernel.sites;
        found += kernel.instructions;
        removed += kernel.removed.len();
        if let Some(most) = kernel.copied.iter().map(|(_, copies)| copies).max() {
            println!("note: {}: {} operations were copied, at most {most} times", kernel.name, kernel.copied.len());
        }
        for site in &kernel.removed {
            println!("note: {}: nothing needs the result of {site}", kernel.name);
        }
    }
    println!(
        "{}: {} kernels have {written} convergent operations in their sources; {removed} were not needed, the others \
         became {found} instructions; no barrier was lost",
        path.display(),
        kernels.len()
    );
    Ok(())
}

fn first_difference(old: &str, new: &str) -> String {
    let (mut old, mut new) = (old.lines(), new.lines());
    for number in 1.. {
        match (old.next(), new.next()) {
            (None, None) => break,
            (a, b) if a != b => {
                let [a, b] = [a, b].map(|line| line.unwrap_or("the end").trim());
                return format!("first in line {number}: `{a}`, now `{b}`");
            }
            _ => {}
        }
    }
    "in the line ends alone".into()
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::io(path, &e))
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, &e))?;
    }
    std::fs::write(path, text).map_err(|e| Error::io(path, &e))
}
