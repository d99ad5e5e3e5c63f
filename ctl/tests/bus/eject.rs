//! `eject` against a stand-in for the service.

use crate::common::{Plan, Policy, PrivateBus, Ran, Told};
use nix::sys::signal::Signal;
use zbus::blocking::Connection;

fn with(plan: Plan) -> (PrivateBus, Connection) {
    let bus = PrivateBus::start(&Policy::Open);
    let service = bus.serve(Told { plan, ..Told::default() });
    (bus, service)
}

fn eject(plan: Plan, args: &[&str]) -> Ran {
    let (bus, _service) = with(plan);
    bus.ctl(&[&["eject", "card0"], args].concat())
}

const STEPS: &str = "  0.0 s  inhibited  nobody delays it
  0.1 s  draining   2 clients are asked to let go
  1.2 s  nudging    asked by a synthetic remove: card1
  1.3 s  looking    4 processes hold on
";

#[test]
fn an_eject_that_goes() {
    let went = eject(Plan::Goes, &["--timeout", "2.5s", "--no-nudge", "--deauthorize"]);
    let expected = format!(
        "{STEPS}  2.1 s  removing   removing 0000:01:00.1\n  2.5 s  ended      it is gone\n\
         d3 (0000:00:02.0) is ejected: it is safe to unplug\n"
    );
    assert_eq!((went.code, went.out.as_str()), (0, expected.as_str()), "{}", went.err);
}

#[test]
fn a_refusal_names_who_holds_on_with_what_and_says_what_to_do() {
    let refused = eject(Plan::Refuses, &[]);
    assert_eq!(refused.code, 5, "{refused:?}");
    let table = refused.out.strip_prefix(STEPS).unwrap();
    let table = table.strip_prefix("  2.3 s  ended      4 processes hold on to it\n").unwrap();
    for whom in ["sway (compositor)", "glmark2", "/dev/snd/controlC1, of 0000:01:00.1", "fbcon: "] {
        assert!(table.contains(whom), "{whom} is not in\n{table}");
    }
    assert!(!table.contains("firefox") && !table.contains('\x1b'), "{table}");
    let expected = "\
dmasharectl: d3 (0000:00:02.0) is not ejected: 4 processes hold on to it
  close them and try again, or end them: dmasharectl eject d3 --force
  all who hold it: dmasharectl holders d3
";
    assert_eq!(refused.err, expected);
    let forced = eject(Plan::Refuses, &["--force"]);
    assert_eq!(forced.code, 0, "{}", forced.err);
    assert!(forced.out.contains("forcing    4 processes are ended\n"), "{}", forced.out);
}

#[test]
fn a_dry_run_says_that_nobody_is_in_the_way() {
    let dry = eject(Plan::Goes, &["--dry-run"]);
    assert_eq!(dry.code, 0, "{}", dry.err);
    assert!(dry.out.ends_with("nothing is in the way of an eject of d3 (0000:00:02.0)\n"));
    let refused = eject(Plan::Refuses, &["--dry-run"]);
    assert_eq!(refused.code, 5);
    assert!(refused.err.contains("d3 (0000:00:02.0) would not be ejected: "), "{}", refused.err);
}

#[test]
fn an_object_for_programs() {
    let refused = eject(Plan::Refuses, &["--json"]);
    assert_eq!(refused.code, 5);
    let job = &refused.json()["eject"];
    assert_eq!((&job["outcome"], &job["device"]), (&"refused".into(), &3.into()));
    assert_eq!(job["holders"]["processes"][0]["active"], true);
    assert_eq!(job["steps"][1]["stage"], "draining");
    assert_eq!(job["message"], "4 processes hold on to it");
}

#[test]
fn what_is_refused_at_once_has_its_code() {
    for (plan, device, code, why) in [
        (Plan::Blocked, "d3", 5, "dmashared refuses: recorder (pid 4711) blocks it: a recording\n"),
        (Plan::IsBusy, "d3", 5, "dmashared refuses: j7 is at it\n"),
        (Plan::NotAuthorised, "d3", 6, "not authorised: polkit said no\n"),
        (Plan::Goes, "d2", 4, "dmashared refuses: device 2 is lost\n"),
        (Plan::Goes, "vkms", 1, "dmashared refuses: vkms is not on a PCI bus\n"),
        (Plan::Goes, "d9", 4, "no device \"d9\"\n"),
    ] {
        let (bus, _service) = with(plan);
        let refused = bus.ctl(&["eject", device]);
        assert_eq!((refused.code, refused.out.as_str()), (code, ""), "{plan:?}");
        assert!(refused.err.starts_with(&format!("dmasharectl: {why}")), "{}", refused.err);
    }
}

#[test]
fn a_kernel_that_is_stuck_is_told_and_not_waited_for() {
    let stuck = eject(Plan::Stuck, &[]);
    assert_eq!(stuck.code, 8, "{stuck:?}");
    let why = "is not removed yet, and its time is up: the kernel is in dma_fence_default_wait\n";
    assert!(stuck.err.contains(why), "{}", stuck.err);
    assert!(stuck.out.contains("the kernel is in dma_fence_default_wait\n"), "{}", stuck.out);
}

/// Runs an eject up to a line of its output.
fn up_to(bus: &PrivateBus, stage: &str) -> crate::common::Running {
    let mut running = bus.start_ctl(&["eject", "d3"]);
    loop {
        let line = running.line();
        assert_ne!(line, "", "it ended before {stage}");
        if line.contains(stage) {
            return running;
        }
    }
}

#[test]
fn an_interrupt_cancels_and_waits_for_the_end() {
    let (bus, _service) = with(Plan::Waits);
    let running = up_to(&bus, "looking");
    running.signal(Signal::SIGINT);
    let ended = running.end();
    assert_eq!(ended.code, 7, "{ended:?}");
    assert!(ended.out.contains("cancelling"), "{}", ended.out);
    let expected = "dmasharectl: cancelled; d3 (0000:00:02.0) is there as before\n";
    assert_eq!(ended.err, expected);
}

#[test]
fn it_can_be_too_late_to_cancel() {
    let (bus, _service) = with(Plan::TooLate);
    let running = up_to(&bus, "removing");
    running.signal(Signal::SIGINT);
    let ended = running.end();
    assert_eq!(ended.code, 8, "{ended:?}");
    assert!(ended.out.contains("the kernel removes it already"), "{}", ended.out);
    assert!(ended.err.contains("is not ejected: 0000:01:00.0 is still there\n"), "{}", ended.err);
}

#[test]
fn a_second_interrupt_leaves() {
    let (bus, _service) = with(Plan::Deaf);
    let mut running = up_to(&bus, "looking");
    running.signal(Signal::SIGINT);
    assert!(running.line().contains("cancelling"));
    running.signal(Signal::SIGINT);
    let ended = running.end();
    assert_eq!(ended.code, 7, "{ended:?}");
    assert!(ended.err.starts_with("dmasharectl: left; the job goes on"), "{}", ended.err);
}

#[test]
fn a_service_that_stops_is_not_waited_for() {
    let (bus, service) = with(Plan::Waits);
    let running = up_to(&bus, "looking");
    service.release_name("org.dmashare.Broker1").unwrap();
    let ended = running.end();
    assert_eq!(ended.code, 3, "{ended:?}");
    assert!(ended.err.contains("it stopped during the eject"), "{}", ended.err);
}
