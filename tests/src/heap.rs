//! The service's allocations, as the library that stands in front of its malloc counts them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use tempfile::NamedTempFile;

use crate::World;

/// Counters of one life of the service.
pub struct Heap {
    /// Keeps the file.
    _path: NamedTempFile,
    file: File,
}

impl Heap {
    /// Has another life of a simulated machine's service counted, which goes on with what the former had.
    ///
    /// # Errors
    /// The library is not built; the service does not start.
    pub fn count(world: &mut World) -> Result<Self> {
        let library = library()?;
        let path = NamedTempFile::new()?;
        path.as_file().set_len(16)?;
        let words = [
            "env".to_owned(),
            format!("LD_PRELOAD={}", library.display()),
            format!("DMASHARE_COUNT_ALLOCATIONS={}", path.path().display()),
        ];
        world.kill_quietly()?;
        world.begin_broker(&words)?;
        world.wait_ready()?;
        let this = Self { file: path.reopen()?, _path: path };
        ensure!(this.allocations()? > 0, "the service's allocations are not counted");
        Ok(this)
    }

    /// Calls that have given memory since the service began.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn allocations(&self) -> Result<u64> {
        self.at(0)
    }

    /// Bytes that are allocated at this moment.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn bytes(&self) -> Result<u64> {
        self.at(1)
    }

    fn at(&self, place: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, place * 8)?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

/// From the same build as this program.
fn library() -> Result<PathBuf> {
    let name = "libdmashare_counting_malloc.so";
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(path.exists(), "{}: `cargo build -p dmashare-counting-malloc`", path.display());
    path.canonicalize().context("its path")
}
