//! The demonstration: two GPUs share, and one is pulled.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use vm_frames::Exec;

use crate::vm::{self, commands::in_guest, stage::Fill};
use crate::{cargo, paths, setup};

/// What the demonstration can be told.
#[derive(Args)]
pub struct DemoArgs {
    /// On a real kernel, in the virtual machine, instead of on simulated devices
    #[arg(long)]
    vm: bool,
    /// Also put what it prints and draws into the documents (README.md, docs/book/unplug.svg)
    #[arg(long, requires = "vm")]
    record: bool,
    /// Only say what is missing on this machine, and install nothing
    #[arg(long)]
    no_install: bool,
}

/// Runs it; the result is this program's exit status.
pub fn run(args: &DemoArgs) -> Result<i32> {
    let mut needs = setup::DEMO.to_vec();
    if args.vm {
        needs.extend(setup::VM);
    }
    setup::ensure(&needs, setup::Missing::from_flag(args.no_install))?;
    let svg = paths::target()?.join("demo.svg");
    let status = if args.vm {
        let share = paths::vm()?.join("demo");
        fs::create_dir_all(&share).context("cannot create the shared directory")?;
        let argv = ["dmashare-demo", "--machine", "vm", "--svg", "/mnt/share/demo.svg"];
        let exec =
            Exec { argv: argv.map(Into::into).into(), timeout_s: Some(600), ..Exec::default() };
        let mut printed = Vec::new();
        let status = in_guest(Some(&share), Fill::Build, exec, &mut |fd, data| {
            if fd == 1 {
                printed.extend_from_slice(data);
            }
            vm::print(fd, data);
        })?;
        let drawn = share.join("demo.svg");
        if drawn.exists() {
            fs::rename(&drawn, &svg).context("cannot put the picture in its place")?;
        }
        if args.record && status == 0 {
            record(&String::from_utf8_lossy(&printed), &svg)?;
        }
        status
    } else {
        let program = cargo::build_simulated()?.join("dmashare-demo");
        if !program.exists() {
            bail!("the build made no dmashare-demo");
        }
        let status = Command::new(program)
            .args(["--machine", "simulated", "--svg"])
            .arg(&svg)
            .current_dir(paths::root())
            .stdin(Stdio::null())
            .status()
            .context("cannot start dmashare-demo")?;
        status.code().unwrap_or(1)
    };
    if status == 0 {
        println!("timeline: {}", svg.display());
    }
    Ok(status)
}

/// How the demo's output begins, in a block of its own in README.md.
const BLOCK: &str = "```text\ndmashare: an eGPU is pulled";

/// The documents show this run.
fn record(printed: &str, svg: &Path) -> Result<()> {
    let readme = paths::root().join("README.md");
    let text = fs::read_to_string(&readme).context("no README.md")?;
    let shown = shown(&text, printed).context("README.md has no block of the demo's output")?;
    fs::write(&readme, shown).context("cannot write README.md")?;
    fs::copy(svg, paths::root().join("docs/book/unplug.svg")).context("cannot keep the picture")?;
    println!("recorded: README.md, docs/book/unplug.svg");
    Ok(())
}

/// A document with another run of the demo in it.
fn shown(document: &str, printed: &str) -> Option<String> {
    let from = document.find(BLOCK)? + "```text\n".len();
    let to = from + document[from..].find("\n```")?;
    // Where the machine's folder is means nothing to a reader.
    let lines = printed.trim().lines().filter(|line| !line.starts_with("picture"));
    let lines: Vec<&str> = lines.collect();
    Some(format!("{}{}{}", &document[..from], lines.join("\n"), &document[to..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_takes_the_place_of_the_last() {
        let before = "# A\n\n```sh\nb\n```\n\n```text\ndmashare: an eGPU is pulled\nc\n```\n\nd\n";
        let run = "dmashare: an eGPU is pulled in\n\nx\npicture   /a/b.svg\ny\n";
        let after =
            "# A\n\n```sh\nb\n```\n\n```text\ndmashare: an eGPU is pulled in\n\nx\ny\n```\n\nd\n";
        assert_eq!(shown(before, run).as_deref(), Some(after));
        assert_eq!(shown("# A\n", run), None);
    }

    #[test]
    fn the_readme_has_a_place_for_it() {
        let readme = fs::read_to_string(paths::root().join("README.md")).unwrap();
        assert!(shown(&readme, "x").is_some());
    }
}
