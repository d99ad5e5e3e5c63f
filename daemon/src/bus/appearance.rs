//! Waits for a file to appear, without looking again and again.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

struct Watch(Inotify);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// A watch on the nearest folder above a path that is there.
pub(super) struct Appearance {
    watch: AsyncFd<Watch>,
    /// The next part of the path below the watched folder.
    awaited: OsString,
}

impl Appearance {
    /// Watches for a path, or for the next folder on the way to it. Look for the path after this and
    /// before [`Self::wait`]: what appeared before the watch is not told.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let mut below = path;
        while let (Some(folder), Some(name)) = (below.parent(), below.file_name()) {
            match watch.add_watch(folder, flags) {
                Ok(_) => {
                    let watch = Watch(watch);
                    // SAFETY: the descriptor is the watch's own, and lives as long as it does.
                    let watch =
                        unsafe { AsyncFd::register_with_interest(watch, Interest::READABLE) }?;
                    return Ok(Self { watch, awaited: name.to_owned() });
                }
                Err(Errno::ENOENT | Errno::ENOTDIR) => below = folder,
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::InvalidInput.into())
    }

    /// Returns when the path, or the next folder on the way to it, has appeared or has changed its
    /// rights, or when the watched folder has gone.
    pub(super) async fn wait(&self) -> io::Result<()> {
        loop {
            let mut ready = self.watch.readable().await?;
            match ready.get_inner().0.read_events() {
                Ok(events) => {
                    let own = AddWatchFlags::IN_DELETE_SELF
                        | AddWatchFlags::IN_MOVE_SELF
                        | AddWatchFlags::IN_Q_OVERFLOW;
                    if events.iter().any(|event| {
                        event.mask.intersects(own) || event.name.as_ref() == Some(&self.awaited)
                    }) {
                        return Ok(());
                    }
                }
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn a_path_appears_folder_by_folder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dbus/bus");
        let watch = Appearance::of(&path).unwrap();
        fs::write(dir.path().join("other"), "").unwrap();
        fs::create_dir(dir.path().join("dbus")).unwrap();
        watch.wait().await.unwrap();
        let watch = Appearance::of(&path).unwrap();
        fs::write(&path, "").unwrap();
        watch.wait().await.unwrap();
    }

    #[tokio::test]
    async fn a_watched_folder_that_goes_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("dbus");
        fs::create_dir(&folder).unwrap();
        let watch = Appearance::of(&folder.join("bus")).unwrap();
        fs::remove_dir(&folder).unwrap();
        watch.wait().await.unwrap();
    }
}
