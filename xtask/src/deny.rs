//! cargo-deny: which licences, versions and sources a dependency may have (`deny.toml`).

use crate::tool::Tool;

/// Any version of the machine's own will do.
pub const TOOL: Tool = Tool {
    package: "cargo-deny",
    version: "0.20.2",
    program: "cargo-deny",
    arguments: &[],
    environment: &[],
    is_enough: |_| true,
};

/// What is shipped, and what it is fuzzed by, which has a lock file of its own.
pub const MANIFESTS: [&str; 2] = ["Cargo.toml", "fuzz/Cargo.toml"];

/// Advisories are not among them: they need a database of the day, and would fail an old commit.
pub const CHECK: &[&str] = &["--all-features", "check", "bans", "licenses", "sources"];
