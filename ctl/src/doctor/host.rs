//! The machine, as the doctor looks at it: files below a root folder, and what is tried on device
//! nodes. Tests give a folder of their own and answers of their own.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use dmashare_uapi::drm_node::{self, Cap};
use dmashare_uapi::sw_sync;
use dmashare_uapi::vgem::GuardPool;

/// What a DRM node says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its driver.
    pub driver: String,
    /// Whether it has timeline syncobjs.
    pub timelines: bool,
}

/// Opens and asks device nodes.
pub trait Try {
    /// A DRM node's driver and abilities.
    ///
    /// # Errors
    /// The kernel's.
    fn node(&self, path: &Path) -> io::Result<NodeFacts>;
    /// Makes a sw_sync timeline, and lets go of it.
    ///
    /// # Errors
    /// The kernel's.
    fn sw_sync(&self, path: &Path) -> io::Result<()>;
    /// Makes a vgem guard, and lets go of it.
    ///
    /// # Errors
    /// The kernel's.
    fn vgem(&self, path: &Path) -> io::Result<()>;
    /// Opens a device file and closes it.
    ///
    /// # Errors
    /// The kernel's.
    fn open(&self, path: &Path) -> io::Result<()>;
}

/// The kernel of this machine.
struct Kernel;

impl Try for Kernel {
    fn node(&self, path: &Path) -> io::Result<NodeFacts> {
        let fd = drm_node::open(path)?;
        Ok(NodeFacts {
            driver: drm_node::driver_name(fd.as_fd())?,
            timelines: drm_node::cap(fd.as_fd(), Cap::SyncobjTimeline).is_ok_and(|cap| cap != 0),
        })
    }

    fn sw_sync(&self, path: &Path) -> io::Result<()> {
        sw_sync::Timeline::create_at(path)?.create_fence(1, c"dmasharectl-doctor").map(drop)
    }

    fn vgem(&self, path: &Path) -> io::Result<()> {
        GuardPool::open_at(path.to_owned())?.guard().map(drop)
    }

    fn open(&self, path: &Path) -> io::Result<()> {
        fs::OpenOptions::new().read(true).write(true).open(path).map(drop)
    }
}

/// Whether the kernel can have something that is not there now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Built in or loaded.
    Active,
    /// A module that can be loaded.
    Module,
    /// The kernel's configuration leaves it out.
    Absent,
    /// Nothing says so or otherwise.
    Unknown,
}

/// The machine.
pub struct Host<'a> {
    root: PathBuf,
    tries: &'a dyn Try,
    /// Whether this user is root.
    pub is_root: bool,
}

impl Host<'static> {
    /// This one.
    #[must_use]
    pub fn this() -> Self {
        Self { root: "/".into(), tries: &Kernel, is_root: nix::unistd::geteuid().is_root() }
    }
}

impl<'a> Host<'a> {
    /// One whose files are below `root`.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>, tries: &'a dyn Try, is_root: bool) -> Self {
        Self { root: root.into(), tries, is_root }
    }

    /// What can be tried.
    pub(super) fn tries(&self) -> &dyn Try {
        self.tries
    }

    /// Where `path` of the machine is.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Whether something is there; an error where this user may not know.
    pub(super) fn has(&self, path: &str) -> io::Result<bool> {
        match fs::symlink_metadata(self.path(path)) {
            Ok(_) => Ok(true),
            Err(e)
                if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// Whether something is there, as far as this user can see.
    pub(super) fn sees(&self, path: &str) -> bool {
        self.has(path).unwrap_or(false)
    }

    /// A file's text; empty where it cannot be read.
    pub(super) fn text(&self, path: &str) -> String {
        fs::read(self.path(path))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The names in a folder, sorted; none where it cannot be read.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path(path))
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// Whether a file system of `kind` is mounted at `at`.
    pub(super) fn mounts(&self, at: &str, kind: &str) -> bool {
        self.text("/proc/mounts").lines().any(|line| {
            let mut fields = line.split(' ').skip(1);
            fields.next() == Some(at) && fields.next() == Some(kind)
        })
    }

    /// The DRM cards, `card0` and so on, without connectors.
    pub(super) fn cards(&self) -> Vec<String> {
        let mut cards = self.names("/sys/class/drm");
        cards.retain(|name| name.strip_prefix("card").is_some_and(|n| n.parse::<u32>().is_ok()));
        cards
    }

    /// The card whose device is called `name`.
    pub(super) fn card_named(&self, name: &str) -> Option<String> {
        self.cards().into_iter().find(|card| {
            fs::read_link(self.path(&format!("/sys/class/drm/{card}/device")))
                .is_ok_and(|device| device.file_name().is_some_and(|last| last == name))
        })
    }

    /// The running kernel, `6.12.48+deb13-amd64`.
    pub(super) fn release(&self) -> String {
        self.text("/proc/sys/kernel/osrelease").trim().to_owned()
    }

    /// Whether the running kernel has a module or a configuration option.
    pub(super) fn offers(&self, module: &str, option: &str) -> Offer {
        if self.sees(&format!("/sys/module/{module}")) {
            return Offer::Active;
        }
        let release = self.release();
        let lists = |list: &str| {
            let file = format!("/{module}.ko");
            self.text(&format!("/lib/modules/{release}/{list}")).lines().any(|line| {
                line.split(':').next().is_some_and(|path| {
                    path.split_once(&file)
                        .is_some_and(|(_, tail)| matches!(tail.trim(), "" | ".xz" | ".zst" | ".gz"))
                })
            })
        };
        if lists("modules.builtin") {
            return Offer::Active;
        }
        if lists("modules.dep") {
            return Offer::Module;
        }
        let config = self.text(&format!("/boot/config-{release}"));
        let set = |value: &str| config.lines().any(|line| line == format!("{option}={value}"));
        if set("y") {
            Offer::Active
        } else if config.is_empty() || set("m") {
            // A module by the configuration that is not installed is as good as unknown.
            Offer::Unknown
        } else {
            Offer::Absent
        }
    }
}
