//! The C in the documents.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::test_c::{FOLDER, WARNINGS, succeed};
use crate::{cargo_c, paths};

/// Documents with C in them.
const DOCUMENTS: &[&str] = &["README.md", "docs/compositors.md"];

/// The C of the documents compiles: what is a part of a function as one, beside the rest of its document.
pub fn compiles() -> Result<()> {
    let folder = paths::target()?.join("c/documented");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let prelude = paths::root().join(FOLDER).join("tests/c/documented.h");
    for document in DOCUMENTS {
        let path = paths::root().join(document);
        let text = fs::read_to_string(&path).with_context(|| format!("no {document}"))?;
        let blocks = c_blocks(&text);
        if blocks.is_empty() {
            bail!("{document} has no C any more");
        }
        let source = folder.join(document.replace('/', "-")).with_extension("c");
        fs::write(&source, as_unit(&prelude, document, &blocks)).context("cannot write C")?;
        succeed(
            Command::new("gcc")
                .args(["-std=c11", "-fsyntax-only"])
                .args(WARNINGS)
                .args(cargo_c::flags(&["--cflags"])?)
                // What a block is given, and has no use for.
                .arg("-Wno-unused-parameter")
                .arg(&source),
        )?;
    }
    Ok(())
}

/// Each with the number of its first line.
fn c_blocks(text: &str) -> Vec<(usize, String)> {
    let mut blocks: Vec<(usize, String)> = Vec::new();
    let mut is_inside = false;
    for (at, line) in text.lines().enumerate() {
        if line == "```c" {
            blocks.push((at + 2, String::new()));
            is_inside = true;
        } else if line.starts_with("```") {
            is_inside = false;
        } else if is_inside && let Some((_, block)) = blocks.last_mut() {
            *block += line;
            block.push('\n');
        }
    }
    blocks
}

fn as_unit(prelude: &Path, document: &str, blocks: &[(usize, String)]) -> String {
    let mut unit = format!("#include \"{}\"\n", prelude.display());
    for (line, block) in blocks {
        let place = format!("#line {line} \"{document}\"\n");
        if block.starts_with("static ") || block.starts_with('#') {
            unit += &format!("{place}{block}");
        } else {
            let name = format!("int at_{line}(OF_THE_READER)");
            unit += &format!("{name};\n{name}\n{{\n{place}{block}return 0;\n}}\n");
        }
    }
    unit
}
