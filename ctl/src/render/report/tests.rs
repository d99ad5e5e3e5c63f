use dmashare_proto::report::Step;

use super::*;
use crate::render::sample::{ZERO, report};

fn plain(report: &UnplugReport) -> String {
    let text = rendered(report, Style::default(), Some(ZERO + 1_500_290_000));
    // The time of day depends on the reader's time zone.
    text.lines().filter(|line| !line.starts_with("device d")).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_unplug_with_something_of_everything() {
    let expected = "\
Unplug of 0000:01:00.0 (virtio_gpu)

STEP                µs FROM THE UEVENT  SINCE THE STEP BEFORE
uevent                               0
gate closed                         21                    +21
fences signalled                    84                    +62
clients told                       140                    +56
own fds dropped                    301                   +160
acknowledged                     2,104                 +1,803
gone                             2,110                     +6
PCI device removed              61,204                +59,094

7 guard fences ended by the broker, 1 fence passed through
3 buffers lost, 2 imports taken back
2 clients told, 2 to acknowledge, 1 overdue

Implicit fences that were pending (only their own driver can end them)
BUFFER  DRIVER  TIMELINE  AGE      STATE
11      vgem    unbound   ≥ 1.5 s  pending

Clients that did not acknowledge in time
PID   NAME      UNIT            ACTION      STILL HELD
4711  slowpoke  app-slow.scope  disconnect  dma-buf 8 MiB (fd 12)
                                            mapping of it";
    assert_eq!(plain(&report()), expected);
}

#[test]
fn an_unplug_in_its_middle_says_what_is_missing() {
    let mut report = report();
    report.marks.retain(|mark| mark.step < Step::Acknowledged);
    assert!(plain(&report).contains("\nnot yet: acknowledged, gone\n"));
}

#[test]
fn a_rehearsal_for_one_client_says_for_whom() {
    use dmashare_proto::message::Cause;
    use dmashare_proto::report::RehearsedFor;
    use dmashare_proto::{ClientId, DeviceId};

    let only = RehearsedFor { client: ClientId(6), epoch: DeviceId(40) };
    let report = UnplugReport { cause: Cause::Rehearsed, rehearsed_for: Some(only), ..report() };
    let text = report_table(&report);
    assert!(text.contains("device d2, rehearsed for client c6 alone, "), "{text}");
}

#[test]
fn a_report_without_marks_or_names_is_shown() {
    let mut report = report();
    report.marks.clear();
    report.overdue[0].holds.clear();
    report.overdue[0].unit.clear();
    let text = plain(&report);
    assert!(text.contains("nothing that is seen"));
}

#[test]
fn names_cannot_steer_the_terminal() {
    let mut report = report();
    let evil = "x\x1b]0;owned\x07\n\u{202e}y".to_owned();
    for text in [
        &mut report.name,
        &mut report.driver,
        &mut report.implicit[0].timeline,
        &mut report.overdue[0].name,
    ] {
        *text = evil.clone();
    }
    report.overdue[0].holds[0] = evil;
    let text = plain(&report);
    assert!(text.chars().all(|ch| ch == '\n' || !ch.is_control()), "{text}");
    assert_eq!(text.lines().count(), plain(&crate::render::sample::report()).lines().count());
}

#[test]
fn it_fits_a_narrow_terminal() {
    let mut report = report();
    report.overdue[0].unit = "app-com.example.ALongName-12345678.scope".to_owned();
    let text = rendered(&report, Style { colour: false, width: Some(80) }, None);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}
