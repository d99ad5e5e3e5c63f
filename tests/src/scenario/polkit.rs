//! A real polkit, and rules that a scenario gives it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::{BOUND, World};

const PATH: &str = "/org/freedesktop/PolicyKit1/Authority";
const MATCH: &str =
    "type='signal',interface='org.freedesktop.PolicyKit1.Authority',member='Changed'";
const RULE: &str = "/etc/polkit-1/rules.d/00-dmashare-test.rules";
/// Begins with a dot, so that polkit does not look at it.
const UNFINISHED: &str = "/etc/polkit-1/rules.d/.dmashare-test";

/// Has the scenario's bus hear of polkit's news; before the first rule.
pub(super) fn follow(world: &World) -> Result<()> {
    let bus = "org.freedesktop.DBus";
    let connection = world.bus().connection();
    connection.call_method(Some(bus), "/org/freedesktop/DBus", Some(bus), "AddMatch", &MATCH)?;
    Ok(())
}

/// A rule of polkit's that lets one user. What takes it away is a process outside of the scenario's
/// group, at the other end of a pipe: it does so whatever becomes of the scenario.
pub(super) struct Rule {
    action: &'static str,
    user: &'static str,
    remover: Child,
}

impl Rule {
    /// Returns when polkit goes by it.
    pub fn begin(world: &World, action: &'static str, user: &'static str) -> Result<Self> {
        let remover = Command::new("sh")
            .args(["-c", "cat; rm -f \"$@\"", "sh", RULE, UNFINISHED])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("sh")?;
        let this = Self { action, user, remover };
        let text = format!(
            "polkit.addRule(function(action, subject) {{\n    \
                 if (action.id == \"{action}\" && subject.user == \"{user}\") {{\n        \
                     return polkit.Result.YES;\n    }}\n}});\n"
        );
        fs::write(UNFINISHED, text).context(UNFINISHED)?;
        // At once, so that polkit never reads a part of it.
        fs::rename(UNFINISHED, RULE).context(RULE)?;
        lets(world, action, user, true)?;
        Ok(this)
    }

    /// Returns when polkit goes by it no longer.
    pub fn end(mut self, world: &World) -> Result<()> {
        self.remove()?;
        lets(world, self.action, self.user, false)
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
fn lets(world: &World, action: &str, user: &str, wanted: bool) -> Result<()> {
    world.bus().until(&format!("polkit's news at {PATH}"), BOUND, |_| {
        let ids =
            [format!("--reuid={user}"), format!("--regid={user}"), "--init-groups".to_owned()];
        let ask = format!("exec pkcheck --action-id {action} --process $$");
        let answer = Command::new("setpriv").args(ids).args(["sh", "-c", &ask]).output()?;
        let lets = match answer.status.code() {
            Some(0) => true,
            Some(1..=3) => false,
            _ => bail!("pkcheck: {answer:?}"),
        };
        Ok((lets == wanted).then_some(()))
    })
}
