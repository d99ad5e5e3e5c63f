//! The fuzz targets (`fuzz/`), by libFuzzer as cargo-fuzz has it, but without cargo-fuzz and its nightly
//! compiler: what they need is in the stable one, for who says so.
//!
//! Without AddressSanitizer: nearly all of the code is safe Rust, what is not is under ThreadSanitizer and
//! the C tier's sanitizers, and a build with it takes some three times as long. `cargo fuzz run TARGET`
//! has it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::counts::Counts;
use crate::{cargo, paths};

/// All of them, those first that take longest to find something.
const TARGETS: [&str; 6] = ["stream", "snapshot", "codec", "config", "helper", "uevent"];

/// Seconds of each, where `DMASHARE_FUZZ_SECONDS` does not say.
const SECONDS: u32 = 60;

/// What the tier's random numbers begin with, where `DMASHARE_FUZZ_SEED` does not say: whether a change
/// can land is not to be left to chance. New ground is looked at by `cargo xtask fuzz`, which begins
/// with another one each time.
const SEED: u32 = 1;

/// How many run at a time.
const ABREAST: usize = 2;

/// What cargo-fuzz gives rustc, but for the sanitizer.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
    --cfg fuzzing -Ccodegen-units=1";

/// Megabytes of memory beyond which an input is taken for one that makes the program allocate without
/// bound; one allocation alone is not to have so much.
const MOST_MEMORY: u32 = 1024;

/// Seconds after which an input is taken for one that hangs. Whoever waits in a target gives up before,
/// and says for what.
const LONGEST: u32 = 120;

/// What the command for people can be told.
#[derive(Args)]
pub struct FuzzArgs {
    /// What is fuzzed
    #[arg(value_parser = TARGETS)]
    target: String,
    /// For how long; until it is interrupted if this is not said
    seconds: Option<u32>,
    /// Run these inputs alone: what was found before
    #[arg(long, value_name = "FILE", conflicts_with = "seconds")]
    input: Vec<PathBuf>,
}

/// Fuzzes one target in the foreground; the result is this program's exit status.
pub fn one(args: &FuzzArgs) -> Result<i32> {
    let Some(programs) = build(&[args.target.as_str()])? else { return Ok(1) };
    let mut command = Fuzzer::new(&programs, &args.target)?.command();
    if args.input.is_empty() {
        command.args(folders(&args.target)?);
        command.args(args.seconds.map(|seconds| format!("-max_total_time={seconds}")));
    } else {
        let here = std::env::current_dir().context("where am I?")?;
        command.args(args.input.iter().map(|file| here.join(file)));
    }
    let status = command.stdin(Stdio::null()).status().context("cannot start the fuzzer")?;
    Ok(status.code().unwrap_or(1))
}

/// The tier: the corpus, then each target for a while. `None` if this toolchain cannot, with the reason
/// printed.
pub fn run() -> Result<Option<Counts>> {
    let seconds = number("DMASHARE_FUZZ_SECONDS")?.unwrap_or(SECONDS);
    let seed = number("DMASHARE_FUZZ_SEED")?.unwrap_or(SEED);
    let Some(programs) = build(&TARGETS)? else { return Ok(None) };
    let (next, counts) = (Mutex::new(TARGETS.iter()), Mutex::new(Counts::default()));
    let work = || {
        while let Some(target) = lock(&next).next() {
            let line = match fuzz(&programs, target, seconds, seed) {
                Ok(figures) => format!("ok fuzz/{target} {figures}"),
                Err(error) => format!("FAILED fuzz/{target}: {error:#}"),
            };
            lock(&counts).add_own(&line);
            println!("{line}");
        }
    };
    thread::scope(|scope| {
        for _ in 0..ABREAST {
            scope.spawn(work);
        }
    });
    let counts = *lock(&counts);
    Ok(Some(counts))
}

fn number(variable: &str) -> Result<Option<u32>> {
    let Some(text) = std::env::var_os(variable) else { return Ok(None) };
    let text = text.to_string_lossy();
    text.parse().map(Some).with_context(|| format!("{variable} is to be a number, not {text:?}"))
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Builds targets; where their programs are.
fn build(targets: &[&str]) -> Result<Option<PathBuf>> {
    let Some(host) = host()? else { return Ok(None) };
    let folder = paths::root().join("target/fuzz");
    let mut command = cargo::cargo(&["build", "--release", "--locked"]);
    command
        .args(["--manifest-path", "fuzz/Cargo.toml", "--target", &host, "--target-dir"])
        .arg(&folder)
        .args(targets.iter().flat_map(|target| ["--bin", target]))
        // With a target, the flags are not for build scripts and macros.
        .env("RUSTFLAGS", FLAGS)
        .env("RUSTC_BOOTSTRAP", "1");
    let status = command.status().context("cannot start cargo")?;
    ensure!(status.success(), "the fuzz targets cannot be built");
    Ok(Some(folder.join(host).join("release")))
}

/// The host's target, if its rustc instruments and there is a C++ compiler for libFuzzer.
fn host() -> Result<Option<String>> {
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let mut cxx = Command::new(&compiler);
    let cxx = cxx.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).status();
    if !cxx.is_ok_and(|status| status.success()) {
        println!("there is no {}, which libFuzzer is compiled by", compiler.display());
        return Ok(None);
    }
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.current_dir(paths::root()).stdin(Stdio::null()).env("RUSTC_BOOTSTRAP", "1");
    let probe = paths::target()?.join("fuzz-probe.o");
    let output = rustc
        .args(FLAGS.split_ascii_whitespace())
        .args(["--crate-type=lib", "--emit=obj", "-o"])
        .arg(&probe)
        .args(["--print", "host-tuple", "-"])
        .output()
        .context("cannot start rustc")?;
    _ = fs::remove_file(probe);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        println!("rustc does not instrument for libFuzzer: {}", said.trim());
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(Some(text.lines().next().context("rustc printed too little")?.to_owned()))
}

/// What is found goes into the first; the second is the repository's.
fn folders(target: &str) -> Result<[PathBuf; 2]> {
    let own = paths::root().join("target/fuzz/corpus").join(target);
    fs::create_dir_all(&own).with_context(|| format!("cannot create {}", own.display()))?;
    Ok([own, paths::root().join("fuzz/corpus").join(target)])
}

struct Fuzzer {
    program: PathBuf,
    /// What makes it fail is saved there.
    found: PathBuf,
}

impl Fuzzer {
    fn new(programs: &Path, target: &str) -> Result<Self> {
        let found = paths::root().join("fuzz/artifacts").join(target);
        fs::create_dir_all(&found).with_context(|| format!("cannot create {}", found.display()))?;
        Ok(Self { program: programs.join(target), found })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .current_dir(paths::root().join("fuzz"))
            .arg(format!("-rss_limit_mb={MOST_MEMORY}"))
            .arg(format!("-timeout={LONGEST}"))
            .arg(format!("-artifact_prefix={}/", self.found.display()));
        command
    }
}

/// Runs the corpus of a target, then fuzzes it; how much was done.
fn fuzz(programs: &Path, target: &str, seconds: u32, seed: u32) -> Result<String> {
    let fuzzer = Fuzzer::new(programs, target)?;
    let [own, seeds] = folders(target)?;
    let log = |what: &str| paths::root().join(format!("target/fuzz/{target}.{what}.log"));
    let mut corpus = fuzzer.command();
    corpus.arg("-runs=0").arg(&seeds);
    logged(&mut corpus, target, &log("corpus"))?;
    let mut command = fuzzer.command();
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-seed={seed}"))
        .args([own, seeds]);
    let said = logged(&mut command, target, &log("fuzz"))?;
    figures(&said).with_context(|| format!("no figures in {}", log("fuzz").display()))
}

/// Runs a fuzzer with its output in a file; what is in it.
fn logged(command: &mut Command, target: &str, log: &Path) -> Result<String> {
    let file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
    let copy = file.try_clone().context("a descriptor")?;
    let status = command.stdin(Stdio::null()).stdout(copy).stderr(file).status();
    let status = status.with_context(|| format!("cannot start {target}"))?;
    let said = String::from_utf8_lossy(&fs::read(log)?).into_owned();
    if status.success() {
        return Ok(said);
    }
    let after = |what: &str| said.lines().filter_map(|line| line.split_once(what)).next_back();
    let Some((_, input)) = after("Test unit written to ") else {
        bail!("{status}, see {}", log.display());
    };
    let why = said.lines().skip_while(|line| !line.contains("panicked at")).take(3);
    let why = why.collect::<Vec<_>>().join("; ");
    bail!("{why}\n  cargo xtask fuzz {target} --input {input}\n  ({status}, see {})", log.display())
}

/// `60 s, 4,711 executions, coverage 1,234 of 5,678 edges`
fn figures(said: &str) -> Option<String> {
    let (_, done) = said.rsplit_once("Done ")?;
    let mut words = done.split_ascii_whitespace();
    let (runs, _, _, seconds) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let covered = said.rsplit_once(" cov: ")?.1.split_ascii_whitespace().next()?;
    let edges = said.split_once("PC tables (")?.1.split_ascii_whitespace().next()?;
    Some(format!("{seconds} s, {runs} executions, coverage {covered} of {edges} edges"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_figures_are_read() {
        let said = "INFO: Loaded 1 PC tables (9038 PCs): 9038 [0x1,0x2),\n\
            #2\tINITED cov: 35 ft: 36 corp: 1/1b exec/s: 0 rss: 30Mb\n\
            #524288\tDONE   cov: 211 ft: 800 corp: 90/9Kb lim: 4096 exec/s: 17189 rss: 60Mb\n\
            Done 524288 runs in 61 second(s)\n";
        let figures = figures(said).unwrap();
        assert_eq!(figures, "61 s, 524288 executions, coverage 211 of 9038 edges");
    }

    #[test]
    fn every_target_is_run() {
        let manifest = fs::read_to_string(paths::root().join("fuzz/Cargo.toml")).unwrap();
        let names: Vec<_> =
            manifest.lines().filter_map(|line| line.strip_prefix("path = ")).collect();
        for target in TARGETS {
            assert!(names.contains(&format!("\"fuzz_targets/{target}.rs\"").as_str()), "{target}");
        }
        assert_eq!(names.len(), TARGETS.len(), "{names:?}");
    }
}
