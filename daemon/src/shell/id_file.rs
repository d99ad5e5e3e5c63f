//! The file that makes ids unique across restarts: the first id that was never reserved.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// `next-id` in the state folder.
pub(super) struct IdFile(PathBuf);

impl IdFile {
    pub fn new(state_dir: &Path) -> Self {
        Self(state_dir.join("next-id"))
    }

    /// The first id to give out. Without the file this is the first start since boot: 1.
    ///
    /// # Errors
    /// The file is there and cannot be read or makes no sense: to start at 1 then could give out an
    /// id again.
    pub fn read(&self) -> io::Result<u64> {
        match fs::read_to_string(&self.0) {
            Ok(text) => text.trim().parse().map_err(|_| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} holds no number; remove it if no client runs", self.0.display()),
                )
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(1),
            Err(error) => Err(error),
        }
    }

    /// Reserves ids up to `up_to` (exclusive).
    ///
    /// # Errors
    /// The file system's.
    pub fn reserve(&self, up_to: u64) -> io::Result<()> {
        let new = self.0.with_extension("new");
        fs::write(&new, format!("{up_to}\n"))?;
        fs::rename(&new, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_begins_after_what_was_reserved() {
        let dir = tempfile::tempdir().unwrap();
        let file = IdFile::new(dir.path());
        assert_eq!(file.read().unwrap(), 1);
        file.reserve(77).unwrap();
        assert_eq!(IdFile::new(dir.path()).read().unwrap(), 77);
        fs::write(dir.path().join("next-id"), "seven").unwrap();
        assert_eq!(file.read().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
