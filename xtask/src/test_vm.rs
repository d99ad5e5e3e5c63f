//! The tier of the virtual machine.

use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};

use crate::counts::{Counts, Lines};
use crate::progress::Progress;
use crate::vm::{self, stage};

/// Scenarios that leave no card behind for another one to lose.
const OWN_BOOT: &[&str] = &["vanished/waiter"];

/// QEMU itself may end by a signal so often (seen: a segmentation fault of its own when a card was
/// removed, once in some thousand): what was not run is run on another machine.
const CRASHES: u32 = 2;

/// One boot for all scenarios, but for [`OWN_BOOT`].
pub fn run(what: stage::Fill, image: Option<JoinHandle<Result<()>>>) -> Result<Counts> {
    let progress = Progress::Shown;
    stage::fill(what, &progress)?;
    if let Some(image) = image {
        let built = progress.step("wait for the image", || {
            image.join().map_err(|_| anyhow!("the build of the image panicked"))?
        });
        built.context("the virtual machine's image could not be built")?;
    }
    if !stage::dir()?.join("bin/dmashare-scenarios").exists() {
        bail!("the build made no dmashare-scenarios");
    }
    let machine = vm::Vm::boot(None, &progress)?;
    // The wrappers on the kernel's own objects first: nothing else works where they do not. But for
    // what disturbs the whole machine: the scenarios remove the card, and flood nobody.
    let argv = [
        "uapi-kernel",
        "--include-ignored",
        "--test-threads=1",
        "--skip=a_card_is_removed",
        "--skip=an_overrun",
    ];
    let kernel = vm::command(&argv, 600);
    let (mut counts, end) = guest_tests(&machine, kernel, Counts::add_libtest);
    counts = counts.with_status(is_well(&end));
    counts += scenarios(machine, &progress)?;
    for name in OWN_BOOT {
        let machine = vm::Vm::boot(None, &progress)?;
        let exec = vm::scenarios(&[(*name).to_owned()]);
        let (own, end) = guest_tests(&machine, exec, Counts::add_own);
        let own = own.with_status(is_well(&end));
        if own.failed > 0 {
            println!("the guest's logs: {}", machine.save_logs()?);
        }
        counts += own;
    }
    Ok(counts)
}

/// All scenarios, on this machine and on those that take its place.
fn scenarios(mut machine: vm::Vm, progress: &Progress) -> Result<Counts> {
    let (mut counts, mut last, mut crashes) = (Counts::default(), None, 0);
    loop {
        let behind = last.iter().flat_map(|name| ["--after".to_owned(), String::clone(name)]);
        let exec = vm::scenarios(&behind.collect::<Vec<_>>());
        let (own, end) = guest_tests(&machine, exec, |counts, line| {
            counts.add_own(line);
            if let Some(name) = scenario(line) {
                last = Some(name.to_owned());
            }
        });
        if end.is_err()
            && crashes < CRASHES
            && let Some(signal) = machine.crashed()
        {
            crashes += 1;
            counts += own;
            let last = last.as_deref().unwrap_or("nothing");
            println!("QEMU itself has ended by signal {signal}; another one goes on behind {last}");
            drop(machine);
            machine = vm::Vm::boot(None, progress)?;
            continue;
        }
        let own = own.with_status(is_well(&end));
        if own.failed + counts.failed > 0 {
            println!("the guest's logs: {}", machine.save_logs()?);
        }
        counts += own;
        return Ok(counts);
    }
}

/// The scenario of which a line says how it ended.
fn scenario(line: &str) -> Option<&str> {
    let (how, rest) = line.split_once(' ')?;
    let name = rest.split(' ').next()?.trim_end_matches(':');
    ["ok", "FAILED", "skipped"].contains(&how).then_some(name)
}

fn is_well(end: &Result<vm_frames::End>) -> bool {
    match end {
        Ok(vm_frames::End::Code(0)) => return true,
        Ok(vm_frames::End::Code(_)) => {}
        Ok(end) => println!("FAILED the run as a whole: {end:?}"),
        Err(error) => println!("FAILED the run as a whole: {error:#}"),
    }
    false
}

/// Runs tests in the guest, and counts by their lines.
fn guest_tests(
    machine: &vm::Vm,
    exec: vm_frames::Exec,
    mut count: impl FnMut(&mut Counts, &str),
) -> (Counts, Result<vm_frames::End>) {
    let mut counts = Counts::default();
    let mut lines = Lines::default();
    let end = machine.run(exec, &mut |fd, data| {
        vm::print(fd, data);
        if fd == 1 {
            lines.push(data, |line| count(&mut counts, line));
        }
    });
    (counts, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_which_scenario_has_ended() {
        assert_eq!(scenario("ok idle/no-wake-up/vgem 19.74 s"), Some("idle/no-wake-up/vgem"));
        assert_eq!(scenario("FAILED restart/load/vgem: its work"), Some("restart/load/vgem"));
        assert_eq!(scenario("skipped units/none: no units"), Some("units/none"));
        assert_eq!(scenario("  0 system calls were the watchdog's"), None);
    }
}
