//! From the kernel's uevent to the device's gate being closed, beside udevd's event of the same removal: what
//! everybody who listens to udev waits for.
//!
//! When the kernel sends its event is told by probes in the kernel itself (kprobe events), by the same clock:
//! it is the first one that is sent to the kernel's group after a DRM minor began to be unregistered.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use dmashare_proto::report::Step;
use dmashare_tests::{BOUND, Card, Unplug, World, clock::now_ns};
use nix::mount::{MsFlags, mount};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::report::{Finding, Goal, Section};
use crate::turns::Times;

const TRACING: &str = "/sys/kernel/tracing";
/// What udevd sends goes to this group of the uevents' netlink (libudev's `UDEV_MONITOR_UDEV`).
const UDEVD: u32 = 2;
/// Their names, and where they are.
const PROBES: [(&str, &str); 2] =
    [("minor", "drm_minor_unregister"), ("sent", "netlink_broadcast group=%cx:u32")];

/// Measures it, with the kernel's own devices.
pub fn measure(world: &World, rounds: usize) -> Result<Section> {
    ensure!(!world.is_simulated(), "there is no udevd for simulated devices: --real");
    let probe = Probe::set()?;
    let (mut gate, mut seen, mut udevd) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let card = world.egpu()?;
        let Removal { sent, closed, seen_closed, told } = once(world, &card, &probe)?;
        for (all, at) in [(&mut gate, closed), (&mut seen, seen_closed), (&mut udevd, told)] {
            all.push(at.saturating_sub(sent) as f64);
        }
        world.replug()?;
    }
    let times = Times::new(
        "A removal, from the kernel's uevent on",
        vec![
            ("the gate is closed", gate),
            ("a client that slept until then is awake", seen),
            ("udevd's event has come", udevd),
        ],
    );
    let findings = vec![Finding::times(
        "uevent to the gate closed (as fast)",
        "udevd's event of it",
        times.ratio(2, 0),
        Goal::AtLeast(10.0),
    )];
    let plots = vec![times.plot("detection.svg")];
    Ok(Section { tables: vec![times.table()], findings, plots, notes: Vec::new() })
}

/// The instants of one removal.
struct Removal {
    /// The kernel sent its event.
    sent: u64,
    /// The gate was closed, by the service's report.
    closed: u64,
    /// A client that slept on the state page saw it.
    seen_closed: u64,
    /// Udevd's event came to who listens.
    told: u64,
}

fn once(world: &World, card: &Card, probe: &Probe) -> Result<Removal> {
    let client = world.connect("client")?;
    let id = world.arrived(&client, card)?;
    let device = client.devices()?.into_iter().find(|it| it.device.id() == id);
    let device = device.context("the card")?.device;
    let monitor = monitor()?;
    probe.clear()?;
    std::thread::scope(|scope| {
        let gate = scope.spawn(|| -> Result<u64> {
            ensure!(device.wait_lost(Some(BOUND))?, "the gate was not closed");
            Ok(now_ns())
        });
        let udevd = scope.spawn(|| told(&monitor));
        world.unplug(Unplug::Remove)?;
        let seen_closed = gate.join().expect("the watching thread")?;
        let told = udevd.join().expect("the watching thread")?;
        let report = world.report_with(id, Step::GateClosed)?;
        let closed = report.at(Step::GateClosed).context("the gate was not closed")?;
        Ok(Removal { sent: probe.first_removal()?, closed, seen_closed, told })
    })
}

/// Listens to what udevd passes on.
fn monitor() -> Result<OwnedFd> {
    let (kind, protocol) = (SockType::Raw, SockProtocol::NetlinkKObjectUEvent);
    let fd = socket(AddressFamily::Netlink, kind, SockFlag::SOCK_CLOEXEC, protocol)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, UDEVD))?;
    let bound = TimeVal::seconds(i64::try_from(BOUND.as_secs())?);
    nix::sys::socket::setsockopt(&fd, nix::sys::socket::sockopt::ReceiveTimeout, &bound)?;
    Ok(fd)
}

/// Waits for its event that a DRM device is removed.
fn told(monitor: &OwnedFd) -> Result<u64> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let len = recv(monitor.as_raw_fd(), &mut bytes, MsgFlags::empty())
            .context("no event of udevd's came")?;
        let at = now_ns();
        let has = |word: &[u8]| bytes[..len].split(|byte| *byte == 0).any(|it| it.ends_with(word));
        if has(b"ACTION=remove") && has(b"SUBSYSTEM=drm") {
            return Ok(at);
        }
    }
}

/// Writes down when the kernel sends a uevent. Dropped, it no longer does.
struct Probe;

impl Probe {
    fn set() -> Result<Self> {
        if !cfg!(target_arch = "x86_64") {
            bail!("where a function's arguments are is known for x86-64 only");
        }
        if !Path::new(TRACING).join("trace_clock").exists() {
            let (none, flags) = (None::<&str>, MsFlags::empty());
            mount(Some("tracefs"), TRACING, Some("tracefs"), flags, none).context(TRACING)?;
        }
        let this = Self;
        put("trace_clock", "mono")?;
        // void drm_minor_unregister(struct drm_device *, enum drm_minor_type)
        // int netlink_broadcast(struct sock *, struct sk_buff *, u32 portid, u32 group, gfp_t)
        put(
            "kprobe_events",
            &PROBES.map(|(name, what)| format!("p:dmashare/{name} {what}")).join("\n"),
        )?;
        put("events/dmashare/enable", "1")?;
        Ok(this)
    }

    fn clear(&self) -> Result<()> {
        put("trace", "")
    }

    /// The first event of a minor's removal, by CLOCK_MONOTONIC.
    fn first_removal(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("{TRACING}/trace"))?;
        let lines = text.lines().skip_while(|line| !line.contains(": minor: "));
        let sent = |line: &&str| line.contains(": sent: ") && line.ends_with("group=1");
        let line = lines
            .into_iter()
            .find(sent)
            .with_context(|| format!("the kernel's event is not among these:\n{text}"))?;
        // TASK-PID [CPU] FLAGS SECONDS.MICROSECONDS: sent: …
        let at = line.split(": sent:").next().and_then(|it| it.split_whitespace().last());
        let (s, us) = at.and_then(|at| at.split_once('.')).context("a line of another form")?;
        Ok((s.parse::<u64>()? * 1_000_000 + us.parse::<u64>()?) * 1000)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        for (file, text) in
            [("events/dmashare/enable", "0"), ("kprobe_events", ""), ("trace_clock", "local")]
        {
            if let Err(error) = put(file, text) {
                eprintln!("the kernel's trace is not as it was: {error:#}");
            }
        }
    }
}

fn put(file: &str, text: &str) -> Result<()> {
    let path = format!("{TRACING}/{file}");
    match fs::write(&path, text) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("{path}: this kernel has no kprobe events here")
        }
        other => other.with_context(|| path),
    }
}
