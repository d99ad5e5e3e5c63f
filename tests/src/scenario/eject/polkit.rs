//! Who may eject, by the word of a real polkit.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use dmashare::DeviceId;
use dmashare_proto::holders::Holders;

use super::{Program, comes_back};
use crate::bus::{Bus, NAME, ROOT};
use crate::scenario::figures::show;
use crate::scenario::polkit::{Rule, follow};
use crate::{BOUND, World};

const EJECT: &str = "org.dmashare.eject";
const ASKS: &str = "polkit would have to ask an administrator";
const DEVICE: &str = "org.dmashare.Device1";

pub(crate) fn run(world: &mut World) -> Result<()> {
    follow(world)?;
    let defaults = Command::new("pkaction").args(["--verbose", "--action-id", EJECT]).output()?;
    let defaults = String::from_utf8_lossy(&defaults.stdout).into_owned();
    let active = defaults.lines().find(|line| line.contains("implicit active"));
    let active = active.with_context(|| format!("polkit does not know {EJECT}: {defaults}"))?;
    ensure!(active.trim_end().ends_with("yes"), "who sits there may not eject: {defaults}");

    let program = Program::new(world)?;
    let device = program.device;
    let held = program.share()?;
    let dry = ["a{sv}", "1", "dry-run", "b", "true"];
    let plain = ["a{sv}", "0"];
    let forced = ["a{sv}", "1", "force", "u", "1"];

    // It takes somebody at the seat, or an administrator; a dry run too, which tells of others' processes.
    refused("bob", device, &dry)?;
    refused("bob", device, &plain)?;
    refused("bob", device, &forced)?;
    let root = call("root", &[ROOT, NAME, "Attach"])?;
    ensure!(root.status.success(), "{root:?}");
    let bob = call("bob", &[ROOT, NAME, "Attach"])?;
    ensure!(!bob.status.success() && says(&bob).contains(ASKS), "{bob:?}");

    // bob does not learn of root's processes, but that there are some.
    let seen = holders("bob", device)?;
    ensure!(seen.processes.is_empty(), "{:?}", seen.processes);
    let unseen = seen.others.iter().find(|other| other.kind == "unseen");
    ensure!(unseen.is_some_and(|it| it.text.starts_with("1 process")), "{:?}", seen.others);
    ensure!(holders("root", device)?.processes.len() == 1);

    let rule = Rule::begin(world, EJECT, "bob")?;
    // Force is an action of its own.
    refused("bob", device, &forced)?;
    allowed("bob", device, &dry)?;
    // It looks for as long as a look takes.
    world.bus().until("the dry run's end", BOUND, |bus| {
        let jobs: Vec<zbus::zvariant::OwnedObjectPath> = bus.broker_property("Jobs")?;
        let job = jobs.last().context("no job")?.to_string();
        let done = call(
            "root",
            &[&job, "org.freedesktop.DBus.Properties", "Get", "ss", "org.dmashare.Job1", "Outcome"],
        )?;
        Ok(says_outcome(&done)?.then_some(()))
    })?;
    refused("alice", device, &plain)?;
    allowed("bob", device, &["a{sv}", "1", "timeout-ms", "u", "60000"])?;
    // It is bob's: alice cannot cancel it, bob can.
    let jobs: Vec<zbus::zvariant::OwnedObjectPath> = world.bus().broker_property("Jobs")?;
    let job = jobs.last().context("no job")?.to_string();
    let cancel = |user| call(user, &[&job, "org.dmashare.Job1", "Cancel"]);
    let alice = cancel("alice")?;
    ensure!(!alice.status.success() && says(&alice).contains(ASKS), "{alice:?}");
    let bob = cancel("bob")?;
    ensure!(bob.status.success(), "{bob:?}");
    world.bus().until("the job's end", BOUND, |bus| {
        let device = bus.device(device)?.context("the device has gone")?;
        Ok((device.state == "present").then_some(()))
    })?;
    rule.end(world)?;
    drop(held);

    // Without any rule: who sits there may.
    refused("bob", device, &plain)?;
    let seat = Seat::take()?;
    let path = Bus::device_path(device);
    let done =
        seat.call("bob", &[&path, DEVICE, "Eject", "a{sv}", "1", "timeout-ms", "u", "60000"])?;
    ensure!(done.status.success(), "bob sits there, and may not: {}", says(&done));
    world.wait_gone(device)?;
    let done = seat.call("bob", &[ROOT, NAME, "Attach"])?;
    ensure!(done.status.success(), "bob sits there, and may not attach: {}", says(&done));
    comes_back(world, device).map(drop)
}

/// A virtual terminal of seat0, which sessions are begun on.
struct Seat;

impl Seat {
    /// Brings it to the front: the session on it is the active one.
    fn take() -> Result<Self> {
        show_terminal(2)?;
        Ok(Self)
    }

    /// Calls from a session that logind knows.
    fn call(&self, user: &str, what: &[&str]) -> Result<Output> {
        let mut command = Command::new("systemd-run");
        command.args(["--wait", "--pipe", "--quiet", "--collect", "--property=PAMName=login"]);
        command.arg(format!("--property=User={user}"));
        command.args(["--property=TTYPath=/dev/tty2", "--property=UtmpIdentifier=tty2"]);
        command.args(["--setenv=XDG_SEAT=seat0", "--setenv=XDG_VTNR=2"]);
        command.args(["busctl", "--system", "--json=short", "call", NAME]).args(what);
        command.output().context("systemd-run")
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Err(error) = show_terminal(1) {
            println!("  {error:#}");
        }
    }
}

/// VT_ACTIVATE and VT_WAITACTIVE of linux/vt.h.
fn show_terminal(number: u32) -> Result<()> {
    let program = format!(
        "import fcntl, os\nfd = os.open('/dev/tty0', os.O_RDWR)\n\
         fcntl.ioctl(fd, 0x5606, {number})\nfcntl.ioctl(fd, 0x5607, {number})"
    );
    let status = Command::new("python3").args(["-c", &program]).status().context("python3")?;
    ensure!(status.success(), "terminal {number} does not come to the front: {status}");
    Ok(())
}

fn eject(user: &str, device: DeviceId, options: &[&str]) -> Result<Output> {
    let path = Bus::device_path(device);
    let mut call_of = vec![path.as_str(), DEVICE, "Eject"];
    call_of.extend(options);
    call(user, &call_of)
}

fn allowed(user: &str, device: DeviceId, options: &[&str]) -> Result<()> {
    let done = eject(user, device, options)?;
    ensure!(done.status.success(), "{user} may not: {options:?}: {}", says(&done));
    Ok(())
}

fn refused(user: &str, device: DeviceId, options: &[&str]) -> Result<()> {
    let done = eject(user, device, options)?;
    ensure!(!done.status.success(), "{user} may: {options:?}");
    ensure!(says(&done).contains(ASKS), "{user}'s refusal says: {}", says(&done));
    show(format_args!("{user}: {}", says(&done)));
    Ok(())
}

fn holders(user: &str, device: DeviceId) -> Result<Holders> {
    let path = Bus::device_path(device);
    let done = call(user, &[&path, DEVICE, "GetHolders"])?;
    ensure!(done.status.success(), "{user}: {}", says(&done));
    // {"type":"s","data":["…"]}
    let reply: serde_json::Value = serde_json::from_slice(&done.stdout)?;
    let text = reply["data"][0].as_str().context("no text")?;
    Ok(serde_json::from_str(text)?)
}

fn call(user: &str, what: &[&str]) -> Result<Output> {
    let ids = [format!("--reuid={user}"), format!("--regid={user}"), "--init-groups".to_owned()];
    Command::new("setpriv")
        .args(ids)
        .args(["busctl", "--system", "--json=short", "call", NAME])
        .args(what)
        .output()
        .context("setpriv and busctl")
}

/// Whether a job's outcome is there: {"type":"v","data":[{"type":"s","data":"refused"}]}
fn says_outcome(done: &Output) -> Result<bool> {
    let reply: serde_json::Value = serde_json::from_slice(&done.stdout)?;
    Ok(!reply["data"][0]["data"].as_str().context("no outcome")?.is_empty())
}

fn says(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).trim().to_owned()
}
