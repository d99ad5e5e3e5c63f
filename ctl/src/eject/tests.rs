use dmashare_proto::holders::{Held, Holder, Holders, What};

use super::progress::line;
use super::*;
use crate::job::Step;
use crate::render::Style;

const SECOND: u64 = 1_000_000_000;

fn step(stage: &str, seconds: u64, message: &str) -> Step {
    Step { stage: stage.to_owned(), at_ns: seconds * SECOND, message: message.to_owned() }
}

fn job(stage: &str, message: &str) -> Job {
    Job {
        id: 1,
        device: Some(3),
        device_name: "0000:01:00.0".to_owned(),
        stage: stage.to_owned(),
        message: message.to_owned(),
        deadline_ns: 20 * SECOND,
        ..Job::default()
    }
}

#[test]
fn a_line_fits_and_keeps_the_seconds() {
    let job = job("looking", "1 process holds on: 東京 (pid 812), a very long name it has");
    let wide = Style { colour: false, width: Some(120) };
    assert_eq!(
        line(&job, 12 * SECOND + 1, wide),
        "ejecting d3 (0000:01:00.0)  looking  1 process holds on: 東京 (pid 812), a very long name it \
         has  8 s left"
    );
    let narrow = Style { colour: false, width: Some(50) };
    assert_eq!(
        line(&job, 30 * SECOND, narrow),
        "looking  1 process holds on: 東京 (pid…  0 s left"
    );
    let steering = Job { message: "\x1b[2J".to_owned(), deadline_ns: 0, ..job };
    assert!(line(&steering, 0, wide).ends_with(r"looking  \u{1b}[2J"));
}

#[test]
fn each_step_is_written_once_and_a_removal_says_more() {
    let mut show = Progress::on_stdout(Style::default(), false);
    let mut job = job("looking", "nobody holds on");
    job.steps = vec![step("draining", 2, "2 clients asked"), step("looking", 4, "nobody holds on")];
    let first = "  0.0 s  draining   2 clients asked\n  2.0 s  looking    nobody holds on\n";
    assert_eq!(show.lines(&job), first);
    job.message = "looked again".to_owned();
    assert_eq!(show.lines(&job), "");
    job.stage = "removing".to_owned();
    job.message = "removing 0000:01:00.1".to_owned();
    job.steps.push(step("removing", 5, "removing 0000:01:00.1"));
    assert_eq!(show.lines(&job), "  3.0 s  removing   removing 0000:01:00.1\n");
    job.message = "stuck in dma_fence_default_wait".to_owned();
    assert_eq!(show.lines(&job), "         removing   stuck in dma_fence_default_wait\n");
    assert_eq!(show.lines(&job), "");
}

#[test]
fn a_removal_is_not_waited_for_for_ever() {
    let looking = job("looking", "");
    assert_eq!(patience(&looking, 60 * SECOND), None);
    let mut removing = job("removing", "");
    assert_eq!(patience(&removing, 29 * SECOND), Some(Duration::from_secs(1)));
    assert_eq!(patience(&removing, 31 * SECOND), Some(Duration::ZERO));
    removing.deadline_ns = 0;
    assert_eq!(patience(&removing, 31 * SECOND), None);
    removing.steps = vec![step("removing", 5, "")];
    assert_eq!(patience(&removing, 31 * SECOND), Some(Duration::from_secs(4)));
}

#[test]
fn every_outcome_has_its_code_and_says_what_to_do() {
    let code = |outcome: &str, steps: Vec<Step>| {
        let job = Job { outcome: Some(outcome.to_owned()), steps, ..job("ended", "so it is") };
        let (shown, result) = verdict(&job, &EjectOptions::default(), Style::default());
        match result {
            Ok(()) => (0, shown),
            Err(failure) => (failure.code(), failure.to_string()),
        }
    };
    let (zero, text) = code("ejected", vec![]);
    assert_eq!((zero, text.as_str()), (0, "d3 (0000:01:00.0) is ejected: it is safe to unplug\n"));
    assert_eq!(code("would-eject", vec![]).0, 0);
    assert_eq!(code("refused", vec![]).0, exit::REFUSED);
    assert_eq!(code("cancelled", vec![]).0, exit::CANCELLED);
    assert_eq!(code("lost", vec![]).0, exit::FAILURE);
    assert_eq!(code("failed", vec![step("looking", 1, ""), step("ended", 2, "")]).0, exit::FAILURE);
    assert_eq!(code("failed", vec![step("removing", 1, ""), step("ended", 2, "")]).0, exit::KERNEL);
    assert_eq!(code("levitated", vec![]).0, exit::FAILURE);
    for outcome in ["refused", "lost", "failed"] {
        let (_, text) = code(outcome, vec![]);
        assert!(text.contains("so it is\n") && text.contains("dmasharectl "), "{text}");
    }
}

#[test]
fn who_holds_on_decides_what_is_advised() {
    let holder = |role| Holder {
        pid: 812,
        command: "sway".to_owned(),
        role,
        holds: vec![Held {
            what: What::Character { path: "/dev/nvidia0".to_owned() },
            fds: 1,
            active: "the driver cannot be removed while it is open".to_owned(),
            ..Held::default()
        }],
        ..Holder::default()
    };
    let advice = |role, force| {
        let holders = Holders { processes: vec![holder(role)], ..Holders::default() };
        let job = Job {
            outcome: Some("refused".to_owned()),
            holders: Some(holders),
            ..job("ended", "sway holds on")
        };
        let options = EjectOptions { force, ..EjectOptions::default() };
        let (shown, result) = verdict(&job, &options, Style::default());
        assert!(shown.contains("/dev/nvidia0"), "{shown}");
        result.unwrap_err().to_string()
    };
    use dmashare_proto::holders::Role::{Compositor, Program};
    assert!(advice(Program, 0).contains("eject d3 --force\n"));
    assert!(advice(Compositor, 1).contains("eject d3 --force --force\n"));
    assert!(advice(Program, 1).contains("--timeout"));
    assert!(advice(Compositor, 2).contains("--timeout"));
}
