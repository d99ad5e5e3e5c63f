//! Completions and the manual's pages, made of the command line's own description.

use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_complete::{Shell, generate};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use dmasharectl::failure::{Failure, exit};

use crate::args::Args;

/// For a shell.
pub fn completions(shell: Shell) -> String {
    let mut out = Vec::new();
    let mut command = Args::command();
    let name = command.get_name().to_owned();
    generate(shell, &mut command, name, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// `dmasharectl.1`, and a page of each command.
pub fn write(dir: &Path) -> Result<(), Failure> {
    let mut command = Args::command().disable_help_subcommand(true);
    command.build();
    page(dir, &command, "dmasharectl")?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        page(dir, sub, &format!("dmasharectl-{}", sub.get_name()))?;
    }
    Ok(())
}

fn page(dir: &Path, command: &Command, name: &str) -> Result<(), Failure> {
    let path = dir.join(format!("{name}.1"));
    rendered(command, name)
        .and_then(|text| fs::write(&path, text))
        .map_err(|error| Failure::Write { path: path.display().to_string(), error })
}

fn rendered(command: &Command, name: &str) -> std::io::Result<Vec<u8>> {
    let version = env!("CARGO_PKG_VERSION");
    let whole = name == "dmasharectl";
    // clap puts what stands after the help into a section without a heading of its own.
    let after = command.get_after_help().map(ToString::to_string).filter(|_| !whole);
    let man = Man::new(command.clone().after_help(""))
        .title(name.to_uppercase())
        .source(format!("dmashare {version}"))
        .manual("dmashare".to_owned());
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if whole {
        man.render_subcommands_section(&mut out)?;
    }
    let mut rest = Roff::new();
    if let Some(after) = after {
        rest.control("SH", ["NOTES"]);
        for paragraph in after.split("\n\n") {
            rest.control("PP", []);
            rest.text([roman(paragraph)]);
        }
    }
    rest.control("SH", ["EXIT STATUS"]);
    for (code, says) in exit::ALL {
        rest.control("TP", ["4"]);
        rest.text([bold(code.to_string())]);
        rest.text([roman(says)]);
    }
    rest.control("SH", ["SEE ALSO"]);
    let see = if whole { "busctl(1), polkit(8)" } else { "dmasharectl(1)" };
    rest.text([roman(see)]);
    rest.to_writer(&mut out)?;
    Ok(out)
}
