//! Every `dmasharectl …` in the documents is a command that there is, with options that it has.

use std::path::{Path, PathBuf};

use clap::Parser as _;
use clap::error::ErrorKind;
use dmasharectl::doctor::{Finding, Host, ServiceState, diagnose};

use crate::args::Args;

/// The tree's documents, and what else tells people to call it.
fn documents(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && name != ".git" {
                documents(&path, all);
            }
        } else if [".md", ".xml", ".catalog", ".service"].iter().any(|end| name.ends_with(end)) {
            all.push(path);
        }
    }
}

/// What stands behind the name, up to where a call ends in prose, in code and in a shell.
fn calls(line: &str) -> Vec<&str> {
    let ends =
        |c: char| matches!(c, '`' | '#' | '|' | '>' | '(' | ')' | ';' | '\'' | '"' | ',' | '…');
    line.split("dmasharectl ").skip(1).map(|rest| rest.split(ends).next().unwrap().trim()).collect()
}

#[test]
fn every_call_in_the_documents_is_one_that_there_is() {
    let mut all = Vec::new();
    documents(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), &mut all);
    let mut seen = 0;
    for path in all {
        let text = std::fs::read_to_string(&path).unwrap();
        let mut is_code = false;
        for (at, line) in text.lines().enumerate() {
            is_code ^= line.trim_start().starts_with("```");
            let marked = line.contains("`dmasharectl ") || line.contains("    dmasharectl ");
            let starts = is_code && line.starts_with("dmasharectl ");
            if !marked && !starts {
                continue;
            }
            for call in calls(line) {
                let words = std::iter::once("dmasharectl").chain(call.split_whitespace());
                seen += 1;
                let Err(error) = Args::try_parse_from(words) else { continue };
                // It may be named without what it is called with, or with a word for it.
                let is_named = matches!(
                    error.kind(),
                    ErrorKind::MissingRequiredArgument
                        | ErrorKind::MissingSubcommand
                        | ErrorKind::ValueValidation
                        | ErrorKind::DisplayHelp
                        | ErrorKind::DisplayVersion
                );
                assert!(is_named, "{}:{}: `dmasharectl {call}`: {error}", path.display(), at + 1);
            }
        }
    }
    assert!(seen > 30, "{seen} calls were found; is this still how they are written?");
}

#[test]
fn a_call_ends_where_it_does() {
    assert_eq!(calls("see `dmasharectl quotas`), and `dmasharectl top`"), ["quotas", "top"]);
    assert_eq!(calls("dmasharectl eject card1     # …and it is"), ["eject card1"]);
    assert!(Args::try_parse_from(["dmasharectl", "ejekt"]).is_err());
}

/// What `doctor` looks at has a line in the book, with what to do, and its name is in JSON.md.
#[test]
fn every_finding_is_in_the_documents() {
    let diagnosis = diagnose(&Host::this(), &ServiceState::Stopped);
    let shape = include_str!("../JSON.md");
    let (_, shape) = shape.split_once("## `doctor`").unwrap();
    let book = include_str!("../../docs/book/troubleshooting.md");
    for Finding { id, .. } in &diagnosis.findings {
        assert!(shape.contains(&format!("`{id}`")), "{id} is not in JSON.md");
        let line = |line: &&str| line.starts_with("| ") && line.contains(&format!("`{id}`"));
        assert!(book.lines().any(|it| line(&it)), "{id} is not in the book");
    }
    assert!(diagnosis.findings.len() > 8, "{:?}", diagnosis.findings);
}
