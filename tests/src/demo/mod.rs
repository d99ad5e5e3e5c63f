//! The demo: an eGPU is pulled in the middle of a frame. A producer and a consumer share frames
//! through the real broker, and a bystander has the same without it; every line that is printed was
//! measured, and what is claimed is checked.

mod bystander;
mod consumer;
mod director;
mod frame;
mod gpu;
mod lines;
mod measured;
mod options;
mod part;
mod picture;
mod producer;
mod screen;
mod served;
mod story;
mod watch;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;

use options::{Options, Part, RunOptions};

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let options = Options::parse();
    let (name, result) = match &options.part {
        Some(Part::Producer(part)) => ("producer: ", producer::run(part)),
        Some(Part::Consumer(part)) => ("consumer: ", consumer::run(part)),
        Some(Part::Bystander(part)) => ("bystander: ", bystander::run(part)),
        None => ("", demo(&options.run)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dmashare-demo: {name}{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(options: &RunOptions) -> Result<()> {
    let measured = director::run(options)?;
    story::told(&measured);
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_vec_pretty(&measured)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    fs::write(&options.svg, picture::svg(&measured))
        .with_context(|| format!("cannot write {}", options.svg.display()))?;
    // As one would type it.
    let here = std::env::current_dir().unwrap_or_default();
    let svg = options.svg.strip_prefix(here).unwrap_or(&options.svg);
    println!("{:<10}{}", "picture", svg.display());
    let failures = measured.failures();
    if !failures.is_empty() {
        bail!("not all of it came true: {}", failures.join("; "));
    }
    story::closing(&measured);
    Ok(())
}
