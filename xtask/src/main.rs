//! `cargo xtask`: set-up, tests, the demonstration, and the virtual machine.

use clap::{CommandFactory, Parser, Subcommand};

mod bench;
mod book;
mod cargo;
mod cargo_c;
mod counts;
mod demo;
mod deny;
mod dist;
mod documented;
mod examples;
mod fuzz;
mod packages;
mod paths;
mod progress;
mod setup;
mod test;
mod test_c;
mod test_vm;
mod tool;
mod tsan;
mod vm;

/// Set-up, tests, demonstration and virtual machine of dmashare
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the tests, the demonstration and the virtual machine need (Debian, Ubuntu)
    Setup {
        /// Only say what is missing
        #[arg(long)]
        no_install: bool,
    },
    /// Share a buffer between two GPUs, pull one, and print what happened and when
    Demo(demo::DemoArgs),
    /// Run all tests, those in the virtual machine included
    Test(test::TestArgs),
    /// Fuzz one target, with the corpus of the repository and what was found on this machine before
    Fuzz(fuzz::FuzzArgs),
    /// Measure what is claimed of speed, beside its limit
    Bench(bench::BenchArgs),
    /// Make the book, with references generated from what they describe
    Book(book::BookArgs),
    /// Make the source tarball, Debian packages, and what other distributions build from
    Dist(dist::DistArgs),
    /// A real kernel with GPUs that can be pulled: build, list, run, shell, exec, start, stop
    Vm {
        #[command(subcommand)]
        command: vm::commands::VmCommand,
    },
}

fn main() {
    let result = match Cli::parse().task {
        None => Cli::command().print_help().map(|()| 0).map_err(Into::into),
        Some(Task::Setup { no_install }) => {
            let needs = [setup::TEST, setup::DEMO, setup::VM].concat();
            setup::ensure(&needs, setup::Missing::from_flag(no_install)).map(|()| 0)
        }
        Some(Task::Demo(args)) => demo::run(&args),
        Some(Task::Test(args)) => test::run(&args),
        Some(Task::Fuzz(args)) => fuzz::one(&args),
        Some(Task::Bench(args)) => bench::run(&args),
        Some(Task::Book(args)) => book::run(&args),
        Some(Task::Dist(args)) => dist::run(&args),
        Some(Task::Vm { command }) => command.run(),
    };
    let status = result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        1
    });
    std::process::exit(status);
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn every_call_in_the_documents_is_one_that_there_is() {
        let mut seen = 0;
        for file in [
            "README.md",
            "ARCHITECTURE.md",
            "CONTRIBUTING.md",
            "RELEASING.md",
            "docs/book/operating.md",
            "bench/RESULTS.md",
        ] {
            let text = std::fs::read_to_string(paths::root().join(file)).unwrap();
            // A call in the text may go on in the next line.
            let text = text.replace('\n', " ").replace("cargo  xtask", "cargo xtask");
            for rest in text.split("`cargo xtask ").chain(text.split(" cargo xtask ")).skip(1) {
                let call = rest.split(['`', '#', ';', '|', '(']).next().unwrap();
                // In a block the next line is a call of its own, or the block's end.
                let call = call.split(" cargo ").next().unwrap().trim();
                let words = std::iter::once("xtask").chain(call.split_whitespace());
                let Err(error) = Cli::try_parse_from(words) else {
                    seen += 1;
                    continue;
                };
                let unknown = matches!(
                    error.kind(),
                    ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument
                );
                // Prose goes on behind what is not marked as code.
                assert!(
                    !unknown || !text.contains(&format!("`cargo xtask {call}`")),
                    "{file}: {call}: {error}"
                );
            }
        }
        assert!(seen > 5, "{seen} calls were found");
    }
}
