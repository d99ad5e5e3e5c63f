//! /proc/self/fd and /proc/self/fdinfo: what the kernel prints about an open file.
//!
//! Neither touches the file's server: the link is printed from the dentry, and the info by the
//! file's own `show_fdinfo`, which FUSE does not have.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The target of /proc/self/fd/N.
pub(crate) fn link(fd: BorrowedFd<'_>) -> io::Result<OsString> {
    Ok(std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?.into_os_string())
}

/// The text of /proc/self/fdinfo/N. Bytes that are not UTF-8 (a name that somebody gave to a
/// dma-buf may have some) are replaced.
pub(crate) fn info(fd: BorrowedFd<'_>) -> io::Result<String> {
    let text = std::fs::read(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The value of the first line `key:\tvalue`. Only the first counts: what comes later may be a
/// name that somebody chose, with a line break in it.
pub(crate) fn field<'a>(info: &'a str, key: &str) -> Option<&'a str> {
    info.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim()))
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn the_first_line_of_a_key_counts() {
        let info = "pos:\t0\nexp_name:\tudmabuf\nname:\tx\nexp_name:\tforged\n";
        assert_eq!(field(info, "exp_name"), Some("udmabuf"));
        assert_eq!(field(info, "name"), Some("x"));
        assert_eq!(field(info, "exp"), None);
    }
}
