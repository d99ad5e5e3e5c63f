//! Who a process is: for people, and for what an eject may do to it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use dmashare_proto::holders::{Holder, Role};
use nix::unistd::{Uid, User};
use procfs::FromRead;
use procfs::process::Stat;

use super::cgroup;
use super::seen::Seen;

/// Programs that let people log in, or give compositors their cards.
const DISPLAY_MANAGERS: &[&str] = &[
    "gdm",
    "gdm3",
    "gdm-session-wor",
    "sddm",
    "sddm-helper",
    "lightdm",
    "lxdm",
    "xdm",
    "greetd",
    "ly",
    "ly-dm",
    "plasmalogin",
    "cosmic-greeter",
    "seatd",
    "systemd-logind",
];
/// Those that keep a descriptor of each card that they have given to a compositor.
const SEAT_MANAGERS: &[&str] = &["seatd", "systemd-logind"];
/// Wherever it points to is the machine's display manager.
const DISPLAY_MANAGER: &str = "/etc/systemd/system/display-manager.service";

/// Who people are, and what their programs are to a session.
pub(super) struct Names {
    users: HashMap<u32, String>,
    display_manager: Option<String>,
}

impl Names {
    pub fn new() -> Self {
        let target = fs::read_link(DISPLAY_MANAGER).ok();
        let unit = target.as_deref().and_then(Path::file_name);
        Self {
            users: HashMap::new(),
            display_manager: unit.map(|unit| unit.to_string_lossy().into_owned()),
        }
    }

    /// The process, with nothing that it holds.
    ///
    /// # Errors
    /// It is gone.
    pub fn holder(&mut self, seen: &Seen, is_master: bool) -> io::Result<Holder> {
        let stat = Stat::from_read(seen.open("stat")?).map_err(io::Error::other)?;
        let uid = uid_of(&seen.read("status")?)
            .ok_or_else(|| io::Error::other("/proc/PID/status has no Uid"))?;
        let cgroups = seen.read("cgroup").unwrap_or_default();
        let group = cgroup::path_of(&cgroups);
        let unit = cgroup::unit_of(group).to_owned();
        let session = cgroup::session_of(group).map(str::to_owned);
        Ok(Holder {
            pid: seen.pid,
            start: stat.starttime,
            role: self.role(seen.pid, &stat.comm, &unit, is_master),
            command: stat.comm,
            uid,
            user: self.user(uid),
            session: session.or_else(|| session_beside(seen, uid, group)).unwrap_or_default(),
            unit,
            ..Holder::default()
        })
    }

    fn user(&mut self, uid: u32) -> String {
        let look_up = || {
            let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
            user.map_or_else(|| uid.to_string(), |user| user.name)
        };
        self.users.entry(uid).or_insert_with(look_up).clone()
    }

    fn role(&self, pid: i32, command: &str, unit: &str, is_master: bool) -> Role {
        if pid == 1 {
            Role::Init
        } else if DISPLAY_MANAGERS.contains(&command)
            || self.display_manager.as_deref().is_some_and(|of| of == unit)
        {
            Role::DisplayManager
        } else if is_master {
            Role::Compositor
        } else {
            Role::Program
        }
    }
}

/// Whether it keeps cards for others.
pub(super) fn is_seat_manager(holder: &Holder) -> bool {
    holder.uid == 0 && SEAT_MANAGERS.contains(&holder.command.as_str())
}

/// The effective one, which is whose rights it has.
fn uid_of(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The session of a process that is in none by its group: by the number that logind and the kernel's
/// audit share; else, of what a user's manager has started, the one that the user sits at.
fn session_beside(seen: &Seen, uid: u32, group: &str) -> Option<String> {
    let audit = seen.read("sessionid").unwrap_or_default();
    let audit = audit.trim();
    if !audit.is_empty() && Path::new("/run/systemd/sessions").join(audit).exists() {
        return Some(audit.to_owned());
    }
    if !group.contains(&format!("/user@{uid}.service")) {
        return None;
    }
    display_of(&fs::read_to_string(format!("/run/systemd/users/{uid}")).ok()?).map(str::to_owned)
}

/// The session that a user sits at, in logind's note of them.
fn display_of(user: &str) -> Option<&str> {
    user.lines()
        .find_map(|line| line.strip_prefix("DISPLAY="))
        .filter(|session| !session.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_and_logind() {
        assert_eq!(uid_of("Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t1\t1\t1\t1\n"), Some(0));
        assert_eq!(uid_of("Name:\tx\n"), None);
        assert_eq!(display_of("NAME=alice\nSTATE=active\nDISPLAY=c2\n"), Some("c2"));
        assert_eq!(display_of("NAME=alice\nDISPLAY=\n"), None);
    }

    #[test]
    fn roles() {
        let display_manager = Some("gdm.service".to_owned());
        let names = Names { users: HashMap::new(), display_manager };
        assert_eq!(names.role(1, "systemd", "init.scope", false), Role::Init);
        assert_eq!(names.role(9, "gnome-shell", "gdm.service", true), Role::DisplayManager);
        assert_eq!(
            names.role(9, "systemd-logind", "systemd-logind.service", true),
            Role::DisplayManager
        );
        assert_eq!(names.role(9, "sway", "session-3.scope", true), Role::Compositor);
        assert_eq!(names.role(9, "vkcube", "session-3.scope", false), Role::Program);
    }
}
