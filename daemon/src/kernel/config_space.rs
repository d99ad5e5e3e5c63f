//! Whether a PCI device still answers: one that has gone reads as all ones, whatever was there.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Whether the configuration space in a device's sysfs folder reads as all ones; `None` where there is
/// none. Opening and reading may wait for the device to be resumed.
///
/// The kernel lets nobody read it while it resets the device, so that is not mistaken for its end.
pub(super) fn is_all_ones(sysfs: &Path) -> io::Result<Option<bool>> {
    let mut file = match File::open(sysfs.join("config")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // Vendor and device: no device has all ones for both.
    let mut id = [0; 4];
    match file.read_exact(&mut id) {
        Ok(()) => Ok(Some(id == [0xff; 4])),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ones_and_nothing_else_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(is_all_ones(folder.path()).unwrap(), None, "no such file");
        let config = folder.path().join("config");
        for (bytes, verdict) in [
            (&[][..], None),
            (&[0xff, 0xff], None),
            (&[0xf4, 0x1a, 0x50, 0x10], Some(false)),
            (&[0xff, 0xff, 0xff, 0xfe, 0xff], Some(false)),
            (&[0xff; 4], Some(true)),
            (&[0xff; 256], Some(true)),
        ] {
            std::fs::write(&config, bytes).unwrap();
            assert_eq!(is_all_ones(folder.path()).unwrap(), verdict, "{bytes:?}");
        }
    }
}
