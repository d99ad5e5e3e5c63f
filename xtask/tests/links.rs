//! Every link from one of the tree's documents to another leads to a file, and to a heading where it names one.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every document of the tree.
fn documents(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // The book's chapters have links within the book, which `cargo xtask book` looks at.
        let is_other = ["target", ".git", "book"].contains(&name.as_str());
        if path.is_dir() && !is_other {
            documents(&path, all);
        } else if name.ends_with(".md") {
            all.push(path);
        }
    }
}

/// The text's lines outside code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
}

/// What the text's links lead to, but for other hosts.
fn targets(text: &str) -> Vec<&str> {
    prose(text)
        .flat_map(|line| line.split("](").skip(1))
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .collect()
}

/// Says what is wrong with a link in `document`, if anything is.
fn broken(document: &Path, target: &str) -> Option<String> {
    let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
    let file = match path {
        "" => document.to_owned(),
        path => document.with_file_name("").join(path),
    };
    if !file.exists() {
        return Some(format!("{}: no file {target}", document.display()));
    }
    if fragment.is_empty() {
        return None;
    }
    let text = fs::read_to_string(&file).unwrap_or_default();
    let found = prose(&text)
        .filter(|line| line.starts_with('#'))
        .any(|line| anchor(line.trim_start_matches('#')) == fragment);
    (!found).then(|| format!("{}: no heading {target}", document.display()))
}

#[test]
fn links_lead_somewhere() {
    let (mut all, mut wrong, mut seen) = (Vec::new(), Vec::new(), 0);
    documents(&root(), &mut all);
    for document in all {
        let text = fs::read_to_string(&document).unwrap();
        let targets = targets(&text);
        seen += targets.len();
        wrong.extend(targets.iter().filter_map(|target| broken(&document, target)));
    }
    assert!(seen > 0, "no link was found at all");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_broken_link_is_found() {
    let readme = root().join("README.md");
    assert!(broken(&readme, "docs/nothing.md").is_some());
    assert!(broken(&readme, "ARCHITECTURE.md#nothing").is_some());
    assert!(broken(&readme, "ARCHITECTURE.md#invariants").is_none());
}
