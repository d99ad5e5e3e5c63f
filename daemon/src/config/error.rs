//! What is wrong with the configuration, and where.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// The configuration cannot be used. Its text is `FILE:LINE: KEY: what is wrong`.
#[derive(Debug)]
pub enum ConfigError {
    /// A file is there and cannot be read.
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Something in a file is wrong.
    Wrong {
        /// The file.
        file: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// The key as `section.key`; empty where the file is no TOML.
        key: String,
        /// What is wrong with it.
        what: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { file, error } => write!(f, "{}: {error}", file.display()),
            Self::Wrong { file, line, key, what } if key.is_empty() => {
                write!(f, "{}:{line}: {what}", file.display())
            }
            Self::Wrong { file, line, key, what } => {
                write!(f, "{}:{line}: {key}: {what}", file.display())
            }
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { error, .. } => Some(error),
            Self::Wrong { .. } => None,
        }
    }
}
