//! The tier `c`: the C library as it is installed, and programs in C and C++ that have nothing but that.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::counts::Counts;
use crate::test::stream;
use crate::{cargo, cargo_c, documented, paths};

/// Where the programs and the symbols' names are.
pub const FOLDER: &str = "client-lib/c";
/// Each is a program of several tests.
const PROGRAMS: &[&str] = &["connection", "buffers", "fences", "callers", "cplusplus"];
pub const WARNINGS: &[&str] = &["-Wall", "-Wextra", "-Wpedantic", "-Werror"];
/// One report is a failure, and so is a leak. No suppressions.
const VALGRIND: &[&str] = &[
    "valgrind",
    "--quiet",
    "--error-exitcode=9",
    "--leak-check=full",
    "--errors-for-leak-kinds=definite,indirect,possible",
    "--show-leak-kinds=definite,indirect,possible",
];

/// How the programs are built and run.
struct Variant {
    name: &'static str,
    compile: &'static [&'static str],
    run: &'static [&'static str],
    /// With libdmashare.a in place of libdmashare.so.
    linked_statically: bool,
    /// Finds memory that is misused, and memory that is lost.
    checks_memory: bool,
}

const VARIANTS: &[Variant] = &[
    Variant {
        name: "plain",
        compile: &[],
        run: &[],
        linked_statically: false,
        checks_memory: false,
    },
    Variant {
        name: "static",
        compile: &[],
        run: &[],
        linked_statically: true,
        checks_memory: false,
    },
    // The C side; the allocations of the library are seen too, its accesses are not.
    Variant {
        name: "asan",
        compile: &["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
        run: &[],
        linked_statically: false,
        checks_memory: true,
    },
    Variant {
        name: "valgrind",
        compile: &[],
        run: VALGRIND,
        linked_statically: false,
        checks_memory: true,
    },
];

/// Builds, installs, compiles and runs. `None` where there is no cargo-c.
pub fn run(build: bool) -> Result<Option<Counts>> {
    if !cargo_c::install(build)? {
        return Ok(None);
    }
    let daemon = cargo::build_simulated()?.join("dmashared");
    let mut counts = Counts::default();
    tell(&mut counts, "symbols", symbols());
    for compiler in compilers() {
        tell(&mut counts, &format!("header/{}", compiler.join(" ")), header(&compiler));
    }
    tell(&mut counts, "documented", documented::compiles());
    for variant in VARIANTS {
        for name in PROGRAMS {
            let program = match compile(name, variant) {
                Ok(program) => program,
                Err(error) => {
                    tell(&mut counts, &format!("{}/{name}", variant.name), Err(error));
                    continue;
                }
            };
            let mut own = Counts::default();
            let mut command = start(&program, variant)?;
            let success = stream(command.env("DMASHARED", &daemon), |line| own.add_own(line))?;
            counts += own.with_status(success);
        }
        if variant.checks_memory {
            tell(&mut counts, &format!("{}/canary", variant.name), canary(variant));
        }
    }
    Ok(Some(counts))
}

fn tell(counts: &mut Counts, name: &str, result: Result<()>) {
    let passed = result.is_ok();
    match result {
        Ok(()) => println!("ok c/{name}"),
        Err(error) => println!("FAILED c/{name}: {error:#}"),
    }
    *counts += Counts::one(passed);
}

/// What the library exports is what the version script names, each with its version.
fn symbols() -> Result<()> {
    let library = cargo_c::prefix()?.join("lib/libdmashare.so.1");
    let dynamic = readelf("--dynamic", &library)?;
    if !dynamic.contains("soname: [libdmashare.so.1]") {
        bail!("it is not called libdmashare.so.1:\n{dynamic}");
    }
    let table = readelf("--dyn-syms", &library)?;
    let defined = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // Number, value, size, type, binding, visibility, section, name. The version itself is ABS.
        match words[..] {
            [number, .., "GLOBAL" | "WEAK", "DEFAULT", section, name]
                if number.ends_with(':') && section != "UND" && section != "ABS" =>
            {
                Some(name.to_owned())
            }
            _ => None,
        }
    });
    let defined: BTreeSet<String> = defined.collect();
    let script = paths::root().join(FOLDER).join("libdmashare.map");
    let script = fs::read_to_string(&script).context("the version script")?;
    let mut version = "";
    let mut wanted = BTreeSet::new();
    for line in script.lines().map(str::trim) {
        if let Some(name) = line.strip_suffix('{') {
            version = name.trim();
        } else if let Some(name) = line.strip_suffix(';').filter(|name| name.starts_with("dma")) {
            wanted.insert(format!("{name}@@{version}"));
        }
    }
    if wanted.is_empty() || wanted != defined {
        let (missing, more) = (wanted.difference(&defined), defined.difference(&wanted));
        bail!("missing: {:?}; more: {:?}", missing.collect::<Vec<_>>(), more.collect::<Vec<_>>());
    }
    Ok(())
}

fn readelf(what: &str, file: &Path) -> Result<String> {
    let output = Command::new("readelf")
        .args([what, "--wide"])
        .arg(file)
        .env("LC_ALL", "C")
        .output()
        .context("cannot start readelf")?;
    if !output.status.success() {
        bail!("readelf {what} {} failed", file.display());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Every compiler that is here, for C and for C++.
fn compilers() -> Vec<[&'static str; 3]> {
    let all = [
        ["gcc", "c", "-std=c11"],
        ["g++", "c++", "-std=c++17"],
        ["clang", "c", "-std=c11"],
        ["clang++", "c++", "-std=c++17"],
    ];
    let is_here = |program: &str| {
        Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    // The first two are required: that they are missing is a failure.
    all.into_iter()
        .enumerate()
        .filter(|(at, of)| *at < 2 || is_here(of[0]))
        .map(|(_, of)| of)
        .collect()
}

/// The header stands by itself.
fn header([compiler, language, standard]: &[&str; 3]) -> Result<()> {
    let header = cargo_c::prefix()?.join("include/dmashare.h");
    succeed(
        Command::new(compiler)
            .args([standard, "-x", language, "-fsyntax-only"])
            .args(WARNINGS)
            .arg(header),
    )
}

fn compile(name: &str, variant: &Variant) -> Result<PathBuf> {
    let folder = paths::root().join(FOLDER).join("tests/c");
    let out = paths::target()?.join("c").join(variant.name);
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let version = cargo_c::flags(&["--modversion"])?.concat();
    let cflags = cargo_c::flags(&["--cflags"])?;
    let object = |compiler: &str, standard: &str, source: &Path| -> Result<PathBuf> {
        let stem = source.file_stem().context("a source without a name")?;
        let object = out.join(stem).with_extension("o");
        succeed(
            Command::new(compiler)
                .args([standard, "-g", "-O1", "-fno-omit-frame-pointer", "-c"])
                .args(WARNINGS)
                .args(variant.compile)
                .arg(format!("-DPKG_VERSION=\"{version}\""))
                .args(&cflags)
                .arg(source)
                .arg("-o")
                .arg(&object),
        )?;
        Ok(object)
    };
    let machine = object("gcc", "-std=c11", &folder.join("machine.c"))?;
    let in_cpp = folder.join(name).with_extension("cpp");
    let (linker, own) = if in_cpp.exists() {
        ("g++", object("g++", "-std=c++17", &in_cpp)?)
    } else {
        ("gcc", object("gcc", "-std=c11", &folder.join(name).with_extension("c"))?)
    };
    let program = out.join(name);
    let mut link = Command::new(linker);
    link.args(variant.compile).args([&own, &machine]).arg("-o").arg(&program).arg("-pthread");
    if variant.linked_statically {
        // What the static library needs besides is in the same file.
        let flags = cargo_c::flags(&["--static", "--libs"])?;
        link.args(flags.iter().map(|flag| match flag.as_str() {
            "-ldmashare" => "-l:libdmashare.a",
            other => other,
        }));
    } else {
        link.args(cargo_c::flags(&["--libs"])?);
    }
    succeed(&mut link)?;
    Ok(program)
}

fn start(program: &Path, variant: &Variant) -> Result<Command> {
    let mut command = match variant.run.split_first() {
        Some((checker, arguments)) => {
            let mut command = Command::new(checker);
            command.args(arguments).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.env("VARIANT", variant.name).env("RUST_BACKTRACE", "0");
    if !variant.linked_statically {
        command.env("LD_LIBRARY_PATH", cargo_c::prefix()?.join("lib"));
    }
    Ok(command)
}

/// Whether the checker checks: what is wrong on purpose is found.
fn canary(variant: &Variant) -> Result<()> {
    let program = compile("canary", variant)?;
    for wrong in ["leak", "use"] {
        let mut command = start(&program, variant)?;
        let output = command.arg(wrong).output().context("cannot start it")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let names_it = said.contains("77 byte(s)") // what LeakSanitizer calls it
            || said.contains("77 bytes in 1 blocks")
            || said.contains("77-byte")
            || said.contains("of size 77");
        if output.status.success() || !names_it {
            bail!("{wrong}: {} and no report of it:\n{said}", output.status);
        }
    }
    Ok(())
}

/// Runs it; what it says only where it fails.
pub fn succeed(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
