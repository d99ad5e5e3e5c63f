//! The book: chapters from `docs/`, documents that are elsewhere in the tree, and references that are generated from what
//! they describe.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::counts::Counts;
use crate::tool::Tool;
use crate::vm::stage;
use crate::{cargo, paths};

mod reference;

const TOOL: Tool = Tool {
    package: "mdbook",
    version: "0.5.4",
    program: "mdbook",
    // Unoptimised: it runs for a second.
    arguments: &["--debug", "--no-default-features", "--features", "search"],
    environment: &[],
    is_enough: |said| said.starts_with("mdbook v0.5."),
};
/// Where what is no chapter is to be seen.
const REPOSITORY: &str = "https://github.com/dmashare/dmashare/blob/main/";
/// Documents of the tree that are chapters, by their names in the book.
const CHAPTERS: &[(&str, &str)] = &[
    ("docs/kernel.md", "kernel.md"),
    ("docs/eject.md", "eject.md"),
    ("docs/compositors.md", "compositors.md"),
    ("docs/decisions.md", "decisions.md"),
    ("proto/PROTOCOL.md", "protocol.md"),
    ("bench/RESULTS.md", "results.md"),
    ("docs/book/SUMMARY.md", "SUMMARY.md"),
    ("docs/book/introduction.md", "introduction.md"),
    ("docs/book/concepts.md", "concepts.md"),
    ("docs/book/unplug.md", "unplug.md"),
    ("docs/book/vulkan.md", "vulkan.md"),
    ("docs/book/daemon.md", "daemon.md"),
    ("docs/book/operating.md", "operating.md"),
    ("docs/book/troubleshooting.md", "troubleshooting.md"),
];

/// What `book` can be told.
#[derive(Args)]
pub struct BookArgs {
    /// Build no tool for it; without one there, that is an error
    #[arg(long)]
    no_install: bool,
}

/// Builds it; the result is this program's exit status.
pub fn run(args: &BookArgs) -> Result<i32> {
    let Some(program) = TOOL.find(!args.no_install)? else {
        bail!("there is no mdbook; cargo install mdbook");
    };
    println!("{}", build(&program)?.join("index.html").display());
    Ok(0)
}

/// The tier of the tests. `None` where there is no mdbook.
pub fn check(build_tools: bool) -> Result<Option<Counts>> {
    let Some(program) = TOOL.find(build_tools)? else { return Ok(None) };
    build(&program)?;
    Ok(Some(Counts::one(true)))
}

/// Puts it together, and has mdbook make pages of it. Hands back their folder.
fn build(program: &Path) -> Result<PathBuf> {
    let book = paths::target()?.join("book");
    if book.exists() {
        fs::remove_dir_all(&book).context("cannot clear the last book")?;
    }
    let source = book.join("src");
    fs::create_dir_all(&source).context("cannot create the book's folder")?;
    cargo::copy_file(&paths::root().join("docs/book/book.toml"), &book.join("book.toml"))?;
    stage::copy_all(&paths::root().join("bench/results"), &source.join("results"))?;
    let picture = "unplug.svg";
    cargo::copy_file(&paths::root().join("docs/book").join(picture), &source.join(picture))?;
    for (from, to) in CHAPTERS {
        let text =
            fs::read_to_string(paths::root().join(from)).with_context(|| format!("no {from}"))?;
        fs::write(source.join(to), moved(&text, from))
            .with_context(|| format!("cannot write {to}"))?;
    }
    for (name, text) in reference::all()? {
        fs::write(source.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    let dangling = dangling(&source)?;
    if !dangling.is_empty() {
        bail!("links of the book that lead nowhere:\n  {}", dangling.join("\n  "));
    }
    let output = Command::new(program)
        .arg("build")
        .arg(&book)
        .stdin(Stdio::null())
        .output()
        .context("cannot start mdbook")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || said.contains("WARN") || said.contains("ERROR") {
        bail!("mdbook: {}\n{said}", output.status);
    }
    Ok(book.join("book"))
}

/// A document with its links as they are from the book: to chapters, else to the repository.
fn moved(text: &str, from: &str) -> String {
    let chapters: BTreeMap<&str, &str> = CHAPTERS.iter().copied().collect();
    let folder = Path::new(from).parent().unwrap_or(Path::new(""));
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        let Some((target, behind)) = after.split_once(')') else { break };
        out += before;
        out += "](";
        out += &link(target, folder, &chapters);
        out.push(')');
        rest = behind;
    }
    out + rest
}

fn link(target: &str, folder: &Path, chapters: &BTreeMap<&str, &str>) -> String {
    let (path, fragment) = target
        .split_once('#')
        .map_or((target, String::new()), |(path, to)| (path, format!("#{to}")));
    // Chapters among themselves, and what the book has as it is.
    if path.is_empty()
        || path.contains("://")
        || folder.ends_with("book")
        || path.starts_with("results/")
    {
        return target.to_owned();
    }
    let mut whole = PathBuf::new();
    for part in folder.join(path).components() {
        match part {
            std::path::Component::ParentDir => _ = whole.pop(),
            part => whole.push(part),
        }
    }
    let whole = whole.to_string_lossy();
    match chapters.get(&*whole) {
        Some(chapter) => format!("{chapter}{fragment}"),
        None => format!("{REPOSITORY}{whole}{fragment}"),
    }
}

/// Links to files that are not there. mdbook says nothing of them.
fn dangling(source: &Path) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for entry in fs::read_dir(source).context("the book's source")? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = fs::read_to_string(&path).context("a chapter")?;
        for rest in text.split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !source.join(file).exists() {
                wrong.push(format!("{}: {target}", path.display()));
            }
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_to_chapters_or_to_the_repository() {
        let text = "[a](../docs/eject.md#now) [b](codec.rs) [c](#here) [d](https://x.y/z)";
        assert_eq!(
            moved(text, "proto/PROTOCOL.md"),
            format!(
                "[a](eject.md#now) [b]({REPOSITORY}proto/codec.rs) [c](#here) [d](https://x.y/z)"
            )
        );
    }

    #[test]
    fn every_chapter_is_in_the_summary_and_every_entry_is_a_chapter() {
        let summary = fs::read_to_string(paths::root().join("docs/book/SUMMARY.md")).unwrap();
        let mut entries: Vec<_> = summary
            .split("](")
            .skip(1)
            .map(|rest| rest.split(')').next().unwrap().to_owned())
            .collect();
        let mut wanted: Vec<_> = CHAPTERS.iter().map(|(_, to)| (*to).to_owned()).collect();
        wanted.extend(reference::NAMES.iter().map(|name| (*name).to_owned()));
        wanted.retain(|name| name != "SUMMARY.md");
        entries.sort();
        wanted.sort();
        assert_eq!(entries, wanted);
    }
}
