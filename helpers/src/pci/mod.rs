//! Writes to sysfs, for one request. What may be written where is decided here and nowhere else: a
//! request names devices, never paths of its own choosing.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use dmashare_proto::sysfs::{Answer, Nudge, Request};

#[cfg(feature = "simulate")]
pub mod simulated;
mod stuck;

/// Where a request is carried out.
#[derive(Clone, Debug)]
pub enum Place {
    /// In sysfs, mounted here.
    Sysfs(PathBuf),
    /// In a folder of simulated devices.
    #[cfg(feature = "simulate")]
    Simulated(PathBuf),
}

/// Carries a request out and writes the answers, a line each. Nobody may be there to read them any more,
/// which is no reason to leave what was begun.
pub fn serve(place: &Place, request: Request, out: &mut impl Write) {
    let place = place.clone();
    let mut say = |answer: &Answer| {
        let line = serde_json::to_string(answer).unwrap_or_default();
        // Whoever asked may have gone.
        _ = writeln!(out, "{line}").and_then(|()| out.flush());
    };
    let answer = match stuck::watched(move || carry_out(&place, &request), &mut say) {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Failed { why: error.to_string() },
    };
    say(&answer);
}

fn carry_out(place: &Place, request: &Request) -> io::Result<()> {
    match place {
        Place::Sysfs(sysfs) => in_sysfs(sysfs, request),
        #[cfg(feature = "simulate")]
        Place::Simulated(folder) => simulated::carry_out(folder, request),
    }
}

fn in_sysfs(sysfs: &Path, request: &Request) -> io::Result<()> {
    match request {
        Request::Nudge { nodes, action } => {
            nodes.iter().try_for_each(|node| nudge(sysfs, node, *action))
        }
        Request::Remove { pci } => write(&function(sysfs, pci)?.join("remove"), "1"),
        Request::Rescan => write(&sysfs.join("bus/pci/rescan"), "1"),
        Request::Deauthorize { router } => {
            write(&thunderbolt(sysfs, router)?.join("authorized"), "0")
        }
    }
}

/// A DRM node by its DEVPATH: nothing else is told to udev from here.
fn nudge(sysfs: &Path, devpath: &str, action: Nudge) -> io::Result<()> {
    let refused = |why: &str| bad(format!("{devpath:?} is no DRM node: {why}"));
    if !devpath.starts_with("/devices/") || devpath.split('/').any(|part| part == "..") {
        return Err(refused("not a path below /devices"));
    }
    let folder = sysfs.join(devpath.trim_start_matches('/'));
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let number = name.strip_prefix("card").or_else(|| name.strip_prefix("renderD"));
    if number.is_none_or(|number| number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()))
    {
        return Err(refused("neither card nor renderD"));
    }
    let subsystem =
        fs::read_link(folder.join("subsystem")).map_err(|error| told(&folder, &error))?;
    if subsystem.file_name().is_none_or(|name| name != "drm") {
        return Err(refused("of another subsystem"));
    }
    write(&folder.join("uevent"), action.name())
}

fn function(sysfs: &Path, address: &str) -> io::Result<PathBuf> {
    if !is_pci_address(address) {
        return Err(bad(format!("{address:?} is no address of a PCI function")));
    }
    there(sysfs.join("bus/pci/devices").join(address))
}

/// `0000:03:00.1`
fn is_pci_address(text: &str) -> bool {
    let is_hex = |text: &str, len: usize| {
        text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let Some((slot, function)) = text.rsplit_once('.') else { return false };
    let [domain, bus, device] = slot.split(':').collect::<Vec<_>>()[..] else { return false };
    // A domain behind a VMD controller has more digits.
    (4..=8).any(|len| is_hex(domain, len))
        && is_hex(bus, 2)
        && is_hex(device, 2)
        && matches!(function.as_bytes(), [b'0'..=b'7'])
}

/// A device that hangs on a host: `0-1`, `1-301`. The host itself is `0-0`, and stays.
fn thunderbolt(sysfs: &Path, router: &str) -> io::Result<PathBuf> {
    let route = router.split_once('-').filter(|(domain, _)| {
        !domain.is_empty() && domain.bytes().all(|byte| byte.is_ascii_digit())
    });
    let is_device = route.is_some_and(|(_, route)| {
        u64::from_str_radix(route, 16).is_ok_and(|route| route != 0) && !route.starts_with('+')
    });
    if !is_device {
        return Err(bad(format!("{router:?} is no Thunderbolt device")));
    }
    there(sysfs.join("bus/thunderbolt/devices").join(router))
}

fn there(path: PathBuf) -> io::Result<PathBuf> {
    if path.exists() { Ok(path) } else { Err(told(&path, &io::ErrorKind::NotFound.into())) }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    // Not `fs::write`: nothing is to be created or cut off here.
    let file = fs::OpenOptions::new().write(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| told(path, &error))
}

fn told(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn bad(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Sysfs(tempfile::TempDir);

    impl Sysfs {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let sysfs = Self(dir);
            sysfs.file("devices/pci0/0000:03:00.0/drm/card1/uevent");
            symlink(
                "../../../../../class/drm",
                sysfs.path("devices/pci0/0000:03:00.0/drm/card1/subsystem"),
            )
            .unwrap();
            sysfs.file("devices/pci0/input/card7/uevent");
            symlink("../../../class/input", sysfs.path("devices/pci0/input/card7/subsystem"))
                .unwrap();
            sysfs.file("bus/pci/devices/0000:03:00.0/remove");
            sysfs.file("bus/pci/rescan");
            sysfs.file("bus/thunderbolt/devices/0-1/authorized");
            sysfs.file("bus/thunderbolt/devices/0-0/authorized");
            sysfs
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn file(&self, path: &str) {
            let path = self.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }

        fn written(&self, path: &str) -> String {
            fs::read_to_string(self.path(path)).unwrap()
        }

        fn ask(&self, request: Request) -> Answer {
            let mut out = Vec::new();
            serve(&Place::Sysfs(self.0.path().to_owned()), request, &mut out);
            serde_json::from_slice(&out).unwrap()
        }
    }

    fn nudge_of(node: &str) -> Request {
        Request::Nudge { nodes: vec![node.to_owned()], action: Nudge::Remove }
    }

    #[test]
    fn what_is_asked_is_written() {
        let sysfs = Sysfs::new();
        let card = "/devices/pci0/0000:03:00.0/drm/card1";
        assert_eq!(sysfs.ask(nudge_of(card)), Answer::Done);
        assert_eq!(sysfs.written(&format!("{}/uevent", &card[1..])), "remove");
        assert_eq!(sysfs.ask(Request::Remove { pci: "0000:03:00.0".to_owned() }), Answer::Done);
        assert_eq!(sysfs.written("bus/pci/devices/0000:03:00.0/remove"), "1");
        assert_eq!(sysfs.ask(Request::Rescan), Answer::Done);
        assert_eq!(sysfs.written("bus/pci/rescan"), "1");
        assert_eq!(sysfs.ask(Request::Deauthorize { router: "0-1".to_owned() }), Answer::Done);
        assert_eq!(sysfs.written("bus/thunderbolt/devices/0-1/authorized"), "0");
    }

    #[test]
    fn nothing_else_is() {
        let sysfs = Sysfs::new();
        sysfs.file("devices/other/card2/uevent");
        for node in [
            "/devices/pci0/input/card7",
            "/devices/pci0/0000:03:00.0/drm/card1/../../../../other/card2",
            "/devices/pci0/0000:03:00.0/drm",
            "devices/pci0/0000:03:00.0/drm/card1",
            "/devices/gone/card1",
            "",
        ] {
            assert!(matches!(sysfs.ask(nudge_of(node)), Answer::Failed { .. }), "{node:?}");
        }
        for pci in
            ["", "..", "0000:03:00", "0000:03:00.8", "0000:03:00.0/..", "../../x", "0000:04:00.0"]
        {
            let answer = sysfs.ask(Request::Remove { pci: pci.to_owned() });
            assert!(matches!(answer, Answer::Failed { .. }), "{pci:?}");
        }
        for router in ["0-0", "domain0", "", "0-", "-1", "0-+1", "../0-1", "0-2"] {
            let answer = sysfs.ask(Request::Deauthorize { router: router.to_owned() });
            assert!(matches!(answer, Answer::Failed { .. }), "{router:?}");
        }
        assert_eq!(sysfs.written("bus/thunderbolt/devices/0-0/authorized"), "");
        assert_eq!(sysfs.written("devices/other/card2/uevent"), "");
    }

    #[test]
    fn addresses() {
        assert!(is_pci_address("0000:03:00.0") && is_pci_address("10000:e1:1f.7"));
        assert!(!is_pci_address("0000:03:00.0 ") && !is_pci_address("000:03:00.0"));
        assert!(!is_pci_address("0000:03:00.a") && !is_pci_address("0000:3:00.0"));
    }
}
