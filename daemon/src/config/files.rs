//! Which files there are, and in which order they are read.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::ConfigError;

/// Where the configuration is. Later files win, key by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Main files, read first.
    pub main: Vec<PathBuf>,
    /// Folders of `*.toml`, read after the main files in the order of their names. A file in a later
    /// folder hides one of the same name in an earlier folder.
    pub dropins: Vec<PathBuf>,
    /// Whether a main file that is missing is an error, since somebody has named it.
    pub must_exist: bool,
}

impl Paths {
    /// The vendor's files in `/usr/lib/dmashare`, and the administrator's in `/etc/dmashare`.
    #[must_use]
    pub fn system() -> Self {
        let folders = ["/usr/lib/dmashare", "/etc/dmashare"].map(Path::new);
        Self {
            main: folders.map(|folder| folder.join("dmashared.toml")).into(),
            dropins: folders.map(|folder| folder.join("dmashared.conf.d")).into(),
            must_exist: false,
        }
    }

    /// One main file, which is to be there, and the folder of drop-ins beside it: `FILE.toml` and
    /// `FILE.conf.d/`.
    #[must_use]
    pub fn file(main: impl Into<PathBuf>) -> Self {
        let main = main.into();
        let dropins = vec![main.with_extension("conf.d")];
        Self { main: vec![main], dropins, must_exist: true }
    }

    /// The files' texts, lowest rank first.
    pub(super) fn read(&self) -> Result<Vec<(PathBuf, String)>, ConfigError> {
        let mut texts = Vec::new();
        for path in self.main.iter().chain(self.dropin_files()?.values()) {
            match fs::read(path) {
                Ok(bytes) => texts.push((path.clone(), utf8(path, bytes)?)),
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && !(self.must_exist && self.main.contains(path)) => {}
                Err(error) => {
                    return Err(ConfigError::Unreadable { file: path.clone(), error });
                }
            }
        }
        Ok(texts)
    }

    fn dropin_files(&self) -> Result<BTreeMap<OsString, PathBuf>, ConfigError> {
        let mut files = BTreeMap::new();
        for folder in &self.dropins {
            let unreadable = |error| ConfigError::Unreadable { file: folder.clone(), error };
            let entries = match fs::read_dir(folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(unreadable(error)),
            };
            for entry in entries {
                let path = entry.map_err(unreadable)?.path();
                if path.extension().is_some_and(|extension| extension == "toml")
                    && let Some(name) = path.file_name()
                {
                    files.insert(name.to_owned(), path);
                }
            }
        }
        Ok(files)
    }
}

fn utf8(path: &Path, bytes: Vec<u8>) -> Result<String, ConfigError> {
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        ConfigError::Wrong {
            file: path.to_owned(),
            line: good.iter().filter(|&&byte| byte == b'\n').count() + 1,
            key: String::new(),
            what: "the file is not UTF-8".to_owned(),
        }
    })
}
