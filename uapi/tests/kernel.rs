//! The wrappers on the kernel's real objects. What a machine lacks is skipped, and said so.
//!
//! Run as root, where the nodes are. Every test also counts this process's descriptors, so they
//! run one at a time. Two are only run where asked for: `DMASHARE_EXPENDABLE_CARD=/dev/dri/cardN`
//! allows the removal of that PCI card, and `DMASHARE_UEVENT_FLOOD=1` a flood of uevents.

use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dmashare_uapi::dma_buf::{self, Access, DmaBufId};
use dmashare_uapi::drm_node::{self, Cap, DrmNode, DumbBuffer, NodeKind};
use dmashare_uapi::fdkind::{FdKind, classify};
use dmashare_uapi::gem::GemHandle;
use dmashare_uapi::mapping::{Mapping, Prot};
use dmashare_uapi::sw_sync::Timeline;
use dmashare_uapi::sync_file::{self, Status};
use dmashare_uapi::syncobj::{Syncobj, WaitFor, timeline_wait};
use dmashare_uapi::uevent::{KernelUevents, MESSAGE_MAX, RecvError};
use dmashare_uapi::vgem::{Ended, FENCE_LIFETIME, GuardPool, Vgem};
use dmashare_uapi::{dma_heap, udmabuf};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, getsockname, sendto,
    socket,
};

/// One test at a time, and none leaves a descriptor behind.
fn alone(test: impl FnOnce()) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    test();
    assert_eq!(open(), before, "descriptors left open");
}

/// The value, or a skip with the reason.
macro_rules! or_skip {
    ($what:expr, $result:expr) => {
        match $result {
            Ok(value) => value,
            Err(e) => {
                println!("skipped: {}: {e}", $what);
                return;
            }
        }
    };
}

fn nodes(prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/dev/dri").into_iter().flatten().flatten();
    let mut nodes: Vec<_> = entries
        .filter(|e| e.file_name().to_string_lossy().starts_with(prefix))
        .map(|e| e.path())
        .collect();
    nodes.sort();
    nodes
}

fn dma_buf_id(fd: impl AsFd) -> DmaBufId {
    match classify(fd.as_fd()).unwrap() {
        FdKind::DmaBuf(id) => id,
        other => panic!("not a dma-buf but {other}"),
    }
}

fn status(fd: impl AsFd) -> Status {
    sync_file::status(fd.as_fd()).unwrap()
}

/// Any dma-buf that belongs to no GPU.
fn neutral() -> std::io::Result<OwnedFd> {
    udmabuf::create(8192).or_else(|_| dma_heap::alloc(dma_heap::SYSTEM, 8192))
}

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn a_sw_sync_timeline() {
    alone(|| {
        let timeline = or_skip!("sw_sync", Timeline::open());
        let fence = timeline.create_fence(2, c"two").unwrap();
        assert_eq!(classify(fence.as_fd()).unwrap(), FdKind::SyncFile);
        assert_eq!(status(&fence), Status::Pending);
        assert!(!sync_file::wait(fence.as_fd(), Some(Duration::from_millis(1))).unwrap());
        timeline.inc(1).unwrap();
        assert_eq!(status(&fence), Status::Pending);
        timeline.inc(1).unwrap();
        assert_eq!(status(&fence), Status::Signalled);
        assert!(sync_file::wait(fence.as_fd(), None).unwrap());
        let info = sync_file::info(fence.as_fd()).unwrap();
        assert_eq!(info.fences.len(), 1);
        assert_eq!(info.fences[0].driver, "sw_sync");
        assert!(info.fences[0].timestamp_ns > 0);
        assert_eq!(status(timeline.create_fence(1, c"past").unwrap()), Status::Signalled);

        // Through its descriptor and back, nothing ends; then everything pending does.
        let pending = timeline.create_fence(10, c"ten").unwrap();
        let timeline = Timeline::from_fd(timeline.into_fd());
        assert_eq!(status(&pending), Status::Pending);
        drop(timeline);
        assert_eq!(status(&pending), Status::Error(nix::libc::ENOENT));
        assert_eq!(status(&fence), Status::Signalled);
    });
}

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn merged_fences() {
    alone(|| {
        let timelines: Vec<_> = (0..12).map(|_| Timeline::open()).collect();
        let mut timelines: Vec<_> = or_skip!("sw_sync", timelines.into_iter().collect());
        let merge =
            |a: &OwnedFd, b: &OwnedFd| sync_file::merge(c"merged", a.as_fd(), b.as_fd()).unwrap();
        // More than are asked for at once.
        let all = timelines
            .iter()
            .map(|t| t.create_fence(1, c"x").unwrap())
            .reduce(|a, b| merge(&a, &b))
            .unwrap();
        let info = sync_file::info(all.as_fd()).unwrap();
        assert_eq!((info.fences.len(), info.name.as_str()), (12, "merged"));
        assert_eq!(status(&all), Status::Pending);
        timelines.pop();
        assert_eq!(status(&all), Status::Pending, "eleven are pending");
        timelines.drain(1..).for_each(|t| t.inc(1).unwrap());
        assert!(!sync_file::wait(all.as_fd(), Some(Duration::ZERO)).unwrap());
        timelines[0].inc(1).unwrap();
        assert_eq!(status(&all), Status::Error(nix::libc::ENOENT));
        assert!(sync_file::wait(all.as_fd(), None).unwrap());
    });
}

#[test]
fn what_is_no_sync_file() {
    alone(|| {
        let eventfd = EventFd::new().unwrap();
        assert!(sync_file::status(eventfd.as_fd()).is_err());
        assert!(dma_buf::export_sync_file(eventfd.as_fd(), Access::Read).is_err());
        assert!(dma_buf::exporter_name(eventfd.as_fd()).is_err());
        assert!(drm_node::driver_name(eventfd.as_fd()).is_err());
        assert!(drm_node::is_unplugged(eventfd.as_fd()).is_err());
    });
}

fn a_neutral_buffer(fd: &OwnedFd, exporter: &str) {
    let id = dma_buf_id(fd);
    assert_eq!(id.size, 8192);
    assert_eq!(dma_buf_id(fd.try_clone().unwrap()), id);
    assert_eq!(dma_buf::exporter_name(fd.as_fd()).unwrap(), exporter);
    dma_buf::set_name(fd.as_fd(), c"thirty-one characters and no mo").unwrap();
    assert!(dma_buf::set_name(fd.as_fd(), c"thirty-two characters is one too").is_err());
    assert_eq!(dma_buf_id(fd), id, "with a name");

    let map = Mapping::map(fd.as_fd(), 0, 8192, Prot::ReadWrite).unwrap();
    assert!(Mapping::map(fd.as_fd(), 4096, 8192, Prot::Read).is_err(), "beyond the buffer");
    dma_buf::sync_start(fd.as_fd(), Access::ReadWrite).unwrap();
    map.copy_from(5000, b"kept").unwrap();
    dma_buf::sync_end(fd.as_fd(), Access::ReadWrite).unwrap();
    map.revoke().unwrap();
    let mut text = [1; 4];
    map.copy_to(5000, &mut text).unwrap();
    assert_eq!(text, [0; 4]);
    let again = Mapping::map(fd.as_fd(), 0, 8192, Prot::Read).unwrap();
    again.copy_to(5000, &mut text).unwrap();
    assert_eq!(&text, b"kept");
    let idle = dma_buf::export_sync_file(fd.as_fd(), Access::Write).unwrap();
    assert_eq!(status(idle), Status::Signalled);
}

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn a_udmabuf() {
    alone(|| {
        let device = or_skip!("udmabuf", udmabuf::Udmabuf::open());
        assert!(udmabuf::is_present());
        a_neutral_buffer(&device.create(8000).unwrap(), "udmabuf");
        assert!(device.create(0).is_err());
        assert_ne!(dma_buf_id(device.create(1).unwrap()), dma_buf_id(device.create(1).unwrap()));
        let large = device.create(60 << 20).unwrap();
        assert_eq!(dma_buf_id(&large).size, 60 << 20);
    });
}

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn a_dma_heap() {
    alone(|| {
        let heap = or_skip!("dma-heap", dma_heap::Heap::open(dma_heap::SYSTEM));
        a_neutral_buffer(&heap.alloc(8000).unwrap(), "system");
        assert!(heap.alloc(0).is_err());
        let none = dma_heap::alloc("no such heap", 4096).unwrap_err();
        assert_eq!(none.kind(), ErrorKind::NotFound);
        assert_eq!(dma_heap::alloc("../null", 4096).unwrap_err().kind(), ErrorKind::InvalidInput);
    });
}

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn vgem_guards() {
    alone(|| {
        let pool = or_skip!("vgem", GuardPool::open());
        let (a, fence_a) = pool.guard().unwrap();
        let (b, fence_b) = pool.guard().unwrap();
        assert_eq!(classify(fence_a.as_fd()).unwrap(), FdKind::SyncFile);
        assert_eq!((status(&fence_a), status(&fence_b)), (Status::Pending, Status::Pending));
        assert_eq!(sync_file::info(fence_a.as_fd()).unwrap().fences[0].driver, "vgem");
        assert_eq!(a.end().unwrap(), Ended::Now);
        assert_eq!((status(&fence_a), status(&fence_b)), (Status::Signalled, Status::Pending));
        assert!(sync_file::wait(fence_a.as_fd(), None).unwrap());
        drop(b);
        assert_eq!(status(&fence_b), Status::Signalled);
        assert_eq!(pool.idle(), 2);
        for _ in 0..100 {
            let (guard, fence) = pool.guard().unwrap();
            assert_eq!(status(&fence), Status::Pending);
            assert_eq!(guard.end().unwrap(), Ended::Now);
            assert_eq!(status(&fence), Status::Signalled);
        }
        assert_eq!(pool.idle(), 2, "buffers are used again");
        let (guard, fence) = pool.guard().unwrap();
        drop(pool);
        assert_eq!(status(&fence), Status::Pending, "a guard outlives its pool");

        // As a restarted service would, with the vgem file out of the fd store.
        let stored = guard.as_fd().try_clone_to_owned().unwrap();
        let restarted = Vgem::from_fd(stored);
        assert_eq!(restarted.signal_fence(guard.id()).unwrap(), Ended::Now);
        assert_eq!(status(&fence), Status::Signalled);
        assert_eq!(guard.end().unwrap_err().raw_os_error(), Some(nix::libc::ENOENT));
    });
}

/// More fences than a vgem file is used for: the pool goes over to another.
#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn a_vgem_file_is_not_used_for_ever() {
    alone(|| {
        let pool = or_skip!("vgem", GuardPool::open());
        let (kept, kept_fence) = pool.guard().unwrap();
        let start = Instant::now();
        let mut last_id = kept.id();
        for n in 0..(1 << 16) + 2 {
            let (guard, fence) = pool.guard().unwrap();
            if guard.id() < last_id {
                println!("another file after {n} guards, {:?} each", start.elapsed() / n);
                assert_eq!(guard.end().unwrap(), Ended::Now);
                assert_eq!(status(&fence), Status::Signalled);
                assert!(kept.end().is_ok());
                assert_eq!(status(&kept_fence), Status::Signalled);
                return;
            }
            last_id = guard.id();
        }
        panic!("always the same file");
    });
}

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn the_kernel_ends_what_nobody_does() {
    alone(|| {
        let pool = or_skip!("vgem", GuardPool::open());
        let start = Instant::now();
        let (guard, fence) = pool.guard().unwrap();
        assert!(sync_file::wait(fence.as_fd(), Some(FENCE_LIFETIME * 3)).unwrap());
        assert!(start.elapsed() > FENCE_LIFETIME / 2);
        assert_eq!(status(&fence), Status::Signalled);
        assert_eq!(guard.end().unwrap(), Ended::TimedOut);
        let (guard, fence) = pool.guard().unwrap();
        assert_eq!(status(&fence), Status::Pending, "the buffer serves again");
        assert_eq!(guard.end().unwrap(), Ended::Now);
    });
}

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn implicit_fences() {
    alone(|| {
        let buffer = or_skip!("udmabuf or dma-heap", neutral());
        let vgem = Arc::new(or_skip!("vgem", Vgem::open()));
        let pending = |access| dma_buf::export_sync_file(buffer.as_fd(), access).unwrap();
        let reader = vgem.attach_to_dma_buf(buffer.as_fd(), false).unwrap();
        assert_eq!(status(pending(Access::Read)), Status::Signalled, "readers do not mind readers");
        let for_writers = pending(Access::Write);
        assert_eq!(status(&for_writers), Status::Pending);
        assert!(vgem.attach_to_dma_buf(buffer.as_fd(), true).is_err(), "a writer conflicts");
        assert_eq!(reader.signal().unwrap(), Ended::Now);
        assert_eq!(status(&for_writers), Status::Signalled);

        let writer = vgem.attach_to_dma_buf(buffer.as_fd(), true).unwrap();
        let for_readers = pending(Access::Read);
        assert_eq!(status(&for_readers), Status::Pending);
        drop(vgem);
        assert_eq!(status(&for_readers), Status::Pending);
        drop(writer);
        assert_eq!(status(&for_readers), Status::Signalled, "closing the last vgem file ends it");
    });
}

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn a_fence_put_on_a_buffer() {
    alone(|| {
        let buffer = or_skip!("udmabuf or dma-heap", neutral());
        let timeline = or_skip!("sw_sync", Timeline::open());
        let fence = timeline.create_fence(1, c"write").unwrap();
        dma_buf::import_sync_file(buffer.as_fd(), Access::Write, fence.as_fd()).unwrap();
        let seen = dma_buf::export_sync_file(buffer.as_fd(), Access::Read).unwrap();
        let info = sync_file::info(seen.as_fd()).unwrap();
        assert_eq!((info.status, info.fences[0].driver.as_str()), (Status::Pending, "sw_sync"));
        drop(timeline);
        assert_eq!(status(&seen), Status::Error(nix::libc::ENOENT));
    });
}

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn drm_nodes() {
    alone(|| {
        let nodes: Vec<_> = [nodes("card"), nodes("renderD")].concat();
        if nodes.is_empty() {
            return println!("skipped: no node in /dev/dri");
        }
        for path in nodes {
            let fd = drm_node::open(&path).unwrap();
            let node = DrmNode::of(fd.as_fd()).unwrap().expect("a DRM node");
            let name = path.file_name().unwrap().to_str().unwrap();
            let primary = name.starts_with("card");
            assert_eq!(node.kind, if primary { NodeKind::Primary } else { NodeKind::Render });
            assert_eq!(node.sysfs_path().unwrap().file_name().unwrap(), name);
            assert!(!drm_node::is_unplugged(fd.as_fd()).unwrap());
            let driver = drm_node::driver_name(fd.as_fd()).unwrap();
            assert!(!driver.is_empty() && !driver.contains('\0'));
            println!("{}: {driver}", path.display());
        }
        let null = drm_node::open(Path::new("/dev/null")).unwrap_err();
        assert_eq!(null.raw_os_error(), Some(nix::libc::ENOTTY));
    });
}

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn dumb_buffers_and_prime() {
    alone(|| {
        let cards = nodes("card");
        if cards.is_empty() {
            return println!("skipped: no card in /dev/dri");
        }
        for from in &cards {
            let card = drm_node::open(from).unwrap();
            // Not by its capability: vgem has dumb buffers, but no modesetting to ask it of.
            let buffer = match DumbBuffer::create(card.as_fd(), 64, 16, 32) {
                Ok(buffer) => buffer,
                Err(e) => {
                    println!("skipped: {} has no dumb buffers: {e}", from.display());
                    continue;
                }
            };
            assert!(buffer.pitch() >= 256 && buffer.size() >= 4096);
            let dma_buf = match buffer.export() {
                Ok(dma_buf) => dma_buf,
                Err(e) => {
                    println!("skipped: {} exports nothing: {e}", from.display());
                    continue;
                }
            };
            let id = dma_buf_id(&dma_buf);
            assert_eq!(id.size, buffer.size());
            assert_eq!(dma_buf_id(buffer.export().unwrap()), id);
            drop(buffer);
            assert_eq!(dma_buf_id(&dma_buf), id, "what was exported lives on");
            let map = Mapping::map(dma_buf.as_fd(), 0, 4096, Prot::ReadWrite).unwrap();
            map.copy_from(0, b"x").unwrap();
            for to in &cards {
                let other = drm_node::open(to).unwrap();
                match GemHandle::import(other.as_fd(), dma_buf.as_fd()) {
                    Ok(handle) => {
                        let back = handle.export().unwrap();
                        assert_eq!(dma_buf_id(back), id, "the same buffer");
                        println!("{} imports from {}", to.display(), from.display());
                    }
                    Err(e) => println!("{} from {}: {e}", to.display(), from.display()),
                }
            }
        }
    });
}

fn timeline_node() -> std::io::Result<OwnedFd> {
    for path in nodes("renderD") {
        let fd = drm_node::open(&path)?;
        if drm_node::cap(fd.as_fd(), Cap::SyncobjTimeline).unwrap_or(0) == 1 {
            return Ok(fd);
        }
    }
    Err(std::io::Error::other("no node with timeline syncobjs"))
}

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn binary_syncobjs() {
    alone(|| {
        let drm = Arc::new(or_skip!("syncobj", timeline_node()));
        let syncobj = Syncobj::create(Arc::clone(&drm), false).unwrap();
        assert!(syncobj.export_sync_file().is_err(), "no fence yet");
        syncobj.signal().unwrap();
        assert_eq!(status(syncobj.export_sync_file().unwrap()), Status::Signalled);
        syncobj.reset().unwrap();
        assert!(syncobj.export_sync_file().is_err(), "no fence any more");
        let done = Syncobj::create(drm.as_fd(), true).unwrap();
        assert_eq!(status(done.export_sync_file().unwrap()), Status::Signalled);

        let fd = syncobj.to_fd().unwrap();
        assert_eq!(classify(fd.as_fd()).unwrap(), FdKind::Syncobj);
        let other = Syncobj::from_fd(drm.as_fd(), fd.as_fd()).unwrap();
        assert_ne!(other.handle(), syncobj.handle());
        other.signal().unwrap();
        assert_eq!(status(syncobj.export_sync_file().unwrap()), Status::Signalled);
        assert!(Syncobj::from_fd(drm.as_fd(), drm.as_fd()).is_err());
    });
}

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn timeline_syncobjs() {
    alone(|| {
        let drm = or_skip!("syncobj", timeline_node());
        let drm = drm.as_fd();
        let timeline = Syncobj::create(drm, false).unwrap();
        let moment = Some(Duration::from_millis(5));
        assert_eq!(timeline.query().unwrap(), 0);
        assert!(!timeline.wait(1, WaitFor::Available, moment).unwrap());
        assert!(!timeline.wait(1, WaitFor::Signalled, moment).unwrap());
        timeline.timeline_signal(3).unwrap();
        assert_eq!(timeline.query().unwrap(), 3);
        assert!(timeline.wait(2, WaitFor::Signalled, None).unwrap());

        let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).unwrap();
        timeline.eventfd(5, WaitFor::Signalled, eventfd.as_fd()).unwrap();
        assert!(eventfd.read().is_err());

        let second = Syncobj::create(drm, false).unwrap();
        let points = [(second.handle(), 1), (timeline.handle(), 3)];
        let first = timeline_wait(drm, &points, WaitFor::Signalled, moment).unwrap();
        assert_eq!(first, Some(1));

        guarded_point(drm, &timeline, &eventfd);
    });
}

/// A pending fence is put at point 5: point 6 waits for it, and its error arrives.
fn guarded_point(drm: BorrowedFd<'_>, timeline: &Syncobj<BorrowedFd<'_>>, eventfd: &EventFd) {
    let guard = or_skip!("sw_sync", Timeline::open());
    let fence = guard.create_fence(1, c"guard").unwrap();
    let binary = Syncobj::create(drm, false).unwrap();
    binary.import_sync_file(fence.as_fd()).unwrap();
    timeline.transfer_from(5, &binary, 0).unwrap();
    assert!(timeline.wait(5, WaitFor::Available, None).unwrap());
    assert_eq!(timeline.query().unwrap(), 3);
    assert_eq!(timeline.query_last_submitted().unwrap(), 5);
    timeline.timeline_signal(6).unwrap();
    assert_eq!(timeline.query().unwrap(), 3, "point 6 is held back");
    assert!(eventfd.read().is_err());
    let point = Syncobj::create(drm, false).unwrap();
    point.transfer_from(0, timeline, 5).unwrap();
    let exported = point.export_sync_file().unwrap();
    assert_eq!(status(&exported), Status::Pending);

    std::thread::scope(|scope| {
        let waiter =
            scope.spawn(|| timeline.wait(6, WaitFor::Signalled, Some(Duration::from_secs(20))));
        drop(guard);
        assert!(waiter.join().unwrap().unwrap(), "not woken");
    });
    assert_eq!(timeline.query().unwrap(), 6);
    assert_eq!(eventfd.read().unwrap(), 1);
    assert_eq!(status(&exported), Status::Error(nix::libc::ENOENT));
}

/// The next event that `wanted` takes, within a while.
fn next_event(
    uevents: &KernelUevents,
    wanted: impl Fn(&dmashare_uapi::uevent::Uevent<'_>) -> bool,
) -> Option<String> {
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

/// The card goes while everything of it is held.
#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn a_card_is_removed() {
    alone(|| {
        let Some(path) = std::env::var_os("DMASHARE_EXPENDABLE_CARD") else {
            return println!("skipped: DMASHARE_EXPENDABLE_CARD names no card to remove");
        };
        let card = drm_node::open(Path::new(&path)).unwrap();
        let node = DrmNode::of(card.as_fd()).unwrap().unwrap();
        let device = node.sysfs_path().unwrap();
        let pci = device.ancestors().find(|p| p.join("remove").exists()).expect("a PCI device");
        let buffer = DumbBuffer::create(card.as_fd(), 64, 64, 32).unwrap();
        let dma_buf = buffer.export().unwrap();
        let id = dma_buf_id(&dma_buf);
        let map = Mapping::map(dma_buf.as_fd(), 0, 4096, Prot::ReadWrite).unwrap();
        map.copy_from(0, b"old").unwrap();

        let uevents = KernelUevents::open().unwrap();
        assert!(!drm_node::is_unplugged(card.as_fd()).unwrap());
        std::thread::scope(|scope| {
            let remove = scope.spawn(|| std::fs::write(pci.join("remove"), "1"));
            let minor = next_event(&uevents, |e| {
                e.action == "remove" && e.major == Some(226) && e.minor == Some(node.minor)
            });
            let minor = minor.expect("no event of the card");
            assert!(minor.contains("synth_uuid: None") && minor.contains("drm_minor"), "{minor}");
            assert!(drm_node::is_unplugged(card.as_fd()).unwrap(), "at the first event");
            remove.join().unwrap().unwrap();
        });
        assert!(node.sysfs_path().is_err());
        assert_eq!(DrmNode::of(card.as_fd()).unwrap(), Some(node), "the descriptor is what it was");
        let gone = drm_node::driver_name(card.as_fd()).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(nix::libc::ENODEV));
        assert_eq!(dma_buf_id(&dma_buf), id);
        let mut text = [0; 3];
        map.copy_to(0, &mut text).unwrap();
        assert_eq!(&text, b"old", "mappings go on");
        map.revoke().unwrap();
        map.copy_to(0, &mut text).unwrap();
        assert_eq!(text, [0; 3]);
    });
}
