//! The kernel's uevents, and what pretends to be one.

use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use dmashare_uapi::sync_file;
use dmashare_uapi::uevent::{KernelUevents, MESSAGE_MAX, RecvError, Uevent};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, getsockname, sendto,
    socket,
};

use crate::common::{alone, or_skip};

/// The next event that `wanted` takes, within a while.
pub fn next_event(uevents: &KernelUevents, wanted: impl Fn(&Uevent<'_>) -> bool) -> Option<String> {
    let mut buf = [0; MESSAGE_MAX];
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        let left = deadline.saturating_duration_since(Instant::now());
        if !sync_file::wait(uevents.as_fd(), Some(left)).unwrap() {
            break;
        }
        while let Some(event) = uevents.recv(&mut buf).unwrap() {
            if wanted(&event) {
                return Some(format!("{event:?}"));
            }
        }
    }
    None
}

#[test]
fn a_synthetic_uevent() {
    alone(|| {
        let uevents = or_skip!("netlink", KernelUevents::open());
        let mut buf = [0; MESSAGE_MAX];
        while uevents.recv(&mut buf).unwrap().is_some() {}
        let uuid = "5d5c4f0e-24a3-4dcc-8a9c-2d1c2a4a8a01";
        let text = format!("change {uuid} TEST=1");
        or_skip!("/sys", std::fs::write("/sys/devices/virtual/mem/null/uevent", text));
        let event = next_event(&uevents, |e| e.synth_uuid == Some(uuid)).expect("no event");
        assert!(event.contains("/devices/virtual/mem/null"), "{event}");
        assert!(event.contains("major: Some(1), minor: Some(3)"), "{event}");
    });
}

/// What is not from the kernel does not get through, even from root.
#[test]
fn a_forged_uevent() {
    alone(|| {
        let uevents = or_skip!("netlink", KernelUevents::open());
        let ours: NetlinkAddr = getsockname(uevents.as_fd().as_raw_fd()).unwrap();
        let (kind, proto) = (SockType::Datagram, SockProtocol::NetlinkKObjectUEvent);
        let forger = socket(AddressFamily::Netlink, kind, SockFlag::SOCK_CLOEXEC, proto).unwrap();
        let message = b"remove@/x\0ACTION=remove\0DEVPATH=/x\0SUBSYSTEM=drm\0SEQNUM=1\0";
        for group in [0, 1] {
            let to = NetlinkAddr::new(ours.pid(), group);
            or_skip!("forging", sendto(forger.as_raw_fd(), message, &to, MsgFlags::empty()));
        }
        let arrived = sync_file::wait(uevents.as_fd(), Some(Duration::ZERO)).unwrap();
        assert!(arrived, "there is something to throw away");
        let mut buf = [0; MESSAGE_MAX];
        while let Some(event) = uevents.recv(&mut buf).unwrap() {
            assert_ne!(event.devpath, "/x");
        }
    });
}

/// A reader that is too slow is told. Many events, for everybody who listens: only where asked for.
#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn an_overrun() {
    alone(|| {
        if std::env::var_os("DMASHARE_UEVENT_FLOOD").is_none() {
            return println!("skipped: DMASHARE_UEVENT_FLOOD is not set");
        }
        let uevents = KernelUevents::open().unwrap();
        for _ in 0..30_000 {
            std::fs::write("/sys/devices/virtual/mem/null/uevent", "change").unwrap();
        }
        let mut buf = [0; MESSAGE_MAX];
        assert!(matches!(uevents.recv(&mut buf), Err(RecvError::Overrun)));
        let mut kept = 0;
        while uevents.recv(&mut buf).unwrap().is_some() {
            kept += 1;
        }
        println!("{kept} events were kept");
        std::fs::write("/sys/devices/virtual/mem/null/uevent", "change").unwrap();
        assert!(next_event(&uevents, |e| e.minor == Some(3)).is_some(), "it goes on afterwards");
    });
}
