//! Who may rehearse for others, by the word of a real polkit.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use dmashare::Cause;

use super::pair::Pair;
use super::rehearse::{as_user, client_of, has_come_back, refused, unharmed};
use crate::actor::Task;
use crate::{BOUND, Bus, World};

const ACTION: &str = "org.dmashare.rehearse";
const PATH: &str = "/org/freedesktop/PolicyKit1/Authority";
const MATCH: &str =
    "type='signal',interface='org.freedesktop.PolicyKit1.Authority',member='Changed'";
const RULE: &str = "/etc/polkit-1/rules.d/00-dmashare-test.rules";
/// Begins with a dot, so that polkit does not look at it.
const UNFINISHED: &str = "/etc/polkit-1/rules.d/.dmashare-test";
const ASKS: &str = "polkit would have to ask an administrator";

pub(super) fn run(world: &mut World) -> Result<()> {
    let bus = "org.freedesktop.DBus";
    let connection = world.bus().connection();
    connection.call_method(Some(bus), "/org/freedesktop/DBus", Some(bus), "AddMatch", &MATCH)?;
    let pair = Pair::new(world)?;
    let alice = client_of(world, &pair.exporter)?;
    let others = [(alice, "another user's client"), (0, "all clients")];
    let place = world.bus().now();
    // No administrator, and nobody to ask one.
    for (client, what) in others {
        refused("bob", pair.device, client, what, ASKS)?;
    }
    unharmed(world, &pair, place)?;

    let rule = Rule::begin(world, "bob")?;
    allowed(&pair, alice)?;
    let loss = pair.exporter.call(Task::AwaitLoss { device: pair.device })?.loss()?;
    ensure!(loss.cause == Cause::Rehearsed, "alice was told {loss:?}");
    unharmed(world, &pair, place)?;
    // It is bob's alone.
    refused("alice", pair.device, 0, "all clients", ASKS)?;
    unharmed(world, &pair, place)?;
    let place = world.bus().now();
    allowed(&pair, 0)?;
    let loss = pair.importer.call(Task::AwaitLoss { device: pair.device })?.loss()?;
    ensure!(loss.cause == Cause::Rehearsed, "bob was told {loss:?}");
    let path = Bus::device_path(pair.device);
    world.bus().wait("Lost", place, BOUND, |signal| {
        (signal.member == "Lost" && signal.path == path).then_some(())
    })?;
    has_come_back(world, &pair.card, pair.device)?;
    world.wait_gone(pair.device)?;

    rule.end(world)?;
    let pair = Pair::new(world)?;
    let place = world.bus().now();
    refused("bob", pair.device, 0, "all clients", ASKS)?;
    unharmed(world, &pair, place)
}

fn allowed(pair: &Pair, client: u64) -> Result<()> {
    let done = as_user("bob", pair.device, client)?;
    let why = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    ensure!(done.status.success(), "bob may not rehearse for {client}, by the rule: {why}");
    Ok(())
}

/// A rule of polkit's that lets one user. What takes it away is a process outside of the scenario's
/// group, at the other end of a pipe: it does so whatever becomes of the scenario.
struct Rule {
    user: &'static str,
    remover: Child,
}

impl Rule {
    /// Returns when polkit goes by it.
    fn begin(world: &World, user: &'static str) -> Result<Self> {
        let remover = Command::new("sh")
            .args(["-c", "cat; rm -f \"$@\"", "sh", RULE, UNFINISHED])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("sh")?;
        let this = Self { user, remover };
        let text = format!(
            "polkit.addRule(function(action, subject) {{\n    \
                 if (action.id == \"{ACTION}\" && subject.user == \"{user}\") {{\n        \
                     return polkit.Result.YES;\n    }}\n}});\n"
        );
        fs::write(UNFINISHED, text).context(UNFINISHED)?;
        // At once, so that polkit never reads a part of it.
        fs::rename(UNFINISHED, RULE).context(RULE)?;
        lets(world, user, true)?;
        Ok(this)
    }

    /// Returns when polkit goes by it no longer.
    fn end(mut self, world: &World) -> Result<()> {
        self.remove()?;
        lets(world, self.user, false)
    }

    fn remove(&mut self) -> Result<()> {
        drop(self.remover.stdin.take());
        let status = self.remover.wait()?;
        ensure!(status.success(), "{RULE} is still there: {status}");
        Ok(())
    }
}

impl Drop for Rule {
    fn drop(&mut self) {
        // After the end it is a second time, which does nothing.
        if let Err(error) = self.remove() {
            println!("  {error:#}");
        }
    }
}

/// Waits until polkit lets a user, or does not: it notices by itself, and signals that there is
/// something new at [`PATH`].
fn lets(world: &World, user: &str, wanted: bool) -> Result<()> {
    world.bus().until(&format!("polkit's news at {PATH}"), BOUND, |_| {
        let ids =
            [format!("--reuid={user}"), format!("--regid={user}"), "--init-groups".to_owned()];
        let ask = format!("exec pkcheck --action-id {ACTION} --process $$");
        let answer = Command::new("setpriv").args(ids).args(["sh", "-c", &ask]).output()?;
        let lets = match answer.status.code() {
            Some(0) => true,
            Some(1..=3) => false,
            _ => bail!("pkcheck: {answer:?}"),
        };
        Ok((lets == wanted).then_some(()))
    })
}
