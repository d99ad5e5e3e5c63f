//! Which unit and which session a process is of, by its control group.

/// The path of a process's group in systemd's hierarchy, from /proc/PID/cgroup.
pub(super) fn path_of(text: &str) -> &str {
    let of = |prefix: &str| {
        text.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            rest.strip_prefix(prefix)?.strip_prefix(':')
        })
    };
    // Where both are there, the old hierarchy is systemd's.
    of("name=systemd").or_else(|| of("")).unwrap_or_default()
}

/// The unit: the innermost one, of the user's own manager where there is one. Empty if it is in none.
pub(super) fn unit_of(path: &str) -> &str {
    let is_unit = |part: &&str| part.ends_with(".service") || part.ends_with(".scope");
    let mut units = path.rsplit('/').filter(is_unit);
    match units.next() {
        // A user's manager itself has its group below its own unit's.
        Some("init.scope") => units.next().unwrap_or("init.scope"),
        unit => unit.unwrap_or_default(),
    }
}

/// The logind session, of `session-3.scope`. What a user's manager has started is in none.
pub(super) fn session_of(path: &str) -> Option<&str> {
    path.split('/').find_map(|part| part.strip_prefix("session-")?.strip_suffix(".scope"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (path, unit, session) in [
            ("/init.scope", "init.scope", None),
            ("/system.slice/sshd.service", "sshd.service", None),
            ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service", None),
            ("/system.slice/docker-12ab.scope/inner", "docker-12ab.scope", None),
            ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope", Some("3")),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service",
                "foo.service",
                None,
            ),
            ("/user.slice/user-1000.slice/user@1000.service/init.scope", "user@1000.service", None),
            (
                "/user.slice/user-1000.slice/user@1000.service/session.slice/org.gnome.Shell@wayland.service",
                "org.gnome.Shell@wayland.service",
                None,
            ),
            ("/", "", None),
            ("", "", None),
        ] {
            assert_eq!((unit_of(path), session_of(path)), (unit, session), "{path}");
        }
    }

    #[test]
    fn hierarchies() {
        assert_eq!(path_of("0::/user.slice/a\n"), "/user.slice/a");
        let mixed = "12:cpu,cpuacct:/\n1:name=systemd:/user.slice/b\n0::/c:d\n";
        assert_eq!(path_of(mixed), "/user.slice/b");
        assert_eq!(path_of("0::/c:d\n"), "/c:d");
        assert_eq!(path_of("4:memory:/x\n"), "");
    }
}
