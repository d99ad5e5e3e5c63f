//! What a process still holds of given dma-bufs, as /proc shows it: not as the process says.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use dmashare_proto::holders::Kept;

/// Open files of a process that are looked at; a process with more holds too much to be listed.
const MOST: usize = 65_536;

/// Descriptors and mappings of the dma-bufs `inodes` in a process, in words. What cannot be seen is
/// said too. It reads procfs only, never the files themselves.
#[must_use]
pub fn keeps(pid: i32, inodes: &[u64]) -> Kept {
    let wanted: HashSet<u64> = inodes.iter().copied().collect();
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let mut found = Vec::new();
    match fs::read_dir(proc.join("fdinfo")) {
        Ok(entries) => {
            for entry in entries.flatten().take(MOST) {
                let Ok(info) = fs::read_to_string(entry.path()) else { continue };
                let Some(inode) = inode_of(&info).filter(|inode| wanted.contains(inode)) else {
                    continue;
                };
                let fd = entry.file_name();
                if is_dma_buf(&info) || is_memfd(&proc.join("fd").join(&fd)) {
                    found.push(format!("fd {} (dma-buf inode {inode})", fd.to_string_lossy()));
                }
            }
        }
        Err(error) => found.push(format!("its file descriptors cannot be seen: {error}")),
    }
    match fs::read_to_string(proc.join("maps")) {
        Ok(maps) => {
            let mut mapped = BTreeMap::<u64, usize>::new();
            for inode in maps.lines().filter_map(mapped_inode) {
                if wanted.contains(&inode) {
                    *mapped.entry(inode).or_default() += 1;
                }
            }
            found.extend(
                mapped.iter().map(|(inode, n)| format!("{n} mappings (dma-buf inode {inode})")),
            );
        }
        Err(error) => found.push(format!("its mappings cannot be seen: {error}")),
    }
    Kept { holds: found }
}

/// The `ino:` line of an fdinfo file (kernel 5.14 and later).
fn inode_of(fdinfo: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix("ino:"))?.trim().parse().ok()
}

/// Only a dma-buf's own fdinfo has this line.
fn is_dma_buf(fdinfo: &str) -> bool {
    fdinfo.lines().any(|line| line.starts_with("exp_name:"))
}

/// What stands for a dma-buf on a simulated machine.
fn is_memfd(fd: &Path) -> bool {
    fs::read_link(fd).is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:"))
}

/// The inode of a line of /proc/PID/maps, if it maps a dma-buf (or a simulated one).
fn mapped_inode(line: &str) -> Option<u64> {
    let mut words = line.split_ascii_whitespace().skip(4);
    let inode = words.next()?.parse().ok()?;
    let path = words.next()?;
    (path.starts_with("/dmabuf:") || path.starts_with("/memfd:")).then_some(inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_procfs() {
        assert_eq!(inode_of("pos:\t0\nflags:\t02\nmnt_id:\t9\nino:\t77\nsize:\t4096\n"), Some(77));
        assert_eq!(
            mapped_inode("7f00-7f01 rw-s 00000000 00:0e 77                    /dmabuf:x"),
            Some(77)
        );
        assert_eq!(mapped_inode("7f00-7f01 r-xp 00000000 08:01 77     /usr/bin/x"), None);
        assert_eq!(mapped_inode("7f00-7f01 rw-p 00000000 00:00 0"), None);
    }

    #[test]
    fn what_this_process_holds_is_seen() {
        use std::os::unix::fs::MetadataExt;

        let memfd =
            nix::sys::memfd::memfd_create(c"dmashare-test", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
                .unwrap();
        let file = fs::File::from(memfd);
        let inode = file.metadata().unwrap().ino();
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(keeps(pid, &[inode]).holds.len(), 1);
        drop(file);
        assert!(keeps(pid, &[inode]).holds.is_empty());
    }
}
