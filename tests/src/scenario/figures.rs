//! What a scenario measured.

use serde_json::Value;

const MARK: &str = "figure: ";

/// Prints a line for people, below those of the results.
pub fn show(line: impl std::fmt::Display) {
    println!("  {line}");
}

/// Notes a figure for the file of figures.
pub fn note(name: &str, value: impl Into<Value>) {
    println!("{MARK}{}", serde_json::json!([name, value.into()]));
}

/// Takes a note apart.
pub(crate) fn parse(line: &str) -> Option<(String, Value)> {
    serde_json::from_str(line.strip_prefix(MARK)?).ok()
}
