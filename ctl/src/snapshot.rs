//! Texts that are kept in `tests/snapshots`, so that a change of them is seen. With
//! DMASHARE_KEEP_SNAPSHOTS set they are written instead.

use std::fs;
use std::path::Path;

/// Fails where `text` is not what is kept under `name`.
#[track_caller]
pub(crate) fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(name);
    if std::env::var_os("DMASHARE_KEEP_SNAPSHOTS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "{} is\n{kept}\nand now\n{text}", path.display());
}
