//! What shows the service as of one moment, and what is asked of it in a word.

use std::process::Stdio;

use crate::common::{Policy, PrivateBus, Told, ctl, ran};
use serde_json::json;

fn with_service(told: Told) -> (PrivateBus, zbus::blocking::Connection) {
    let bus = PrivateBus::start(&Policy::Open);
    let service = bus.serve(told);
    (bus, service)
}

#[test]
fn status_shows_devices_and_clients() {
    let (bus, _service) = with_service(Told::default());
    let status = bus.ctl(&["status"]);
    let expected = "\
dmashared 0.1.0
guard fences by vgem
neutral buffers by udmabuf, 2 buffers, 12 KiB
3 devices, 2 clients

ID   NAME          DRIVER      STATE    BUFFERS  IMPORTS  FENCES  TIMELINES
d2   0000:01:00.0  virtio_gpu  lost           3        2       7          0
d3   0000:00:02.0  i915        present        3        2       7          0
d10  vkms          vkms        present        3        2       7          0

d3 hung (wedged); its driver names as recovery: rebind, which is yours to do
d2 is lost (unplugged), 1 implicit fence still pending: dmasharectl report d2

ID  PID   UID   NAME                     UNIT            ON LOSS             BUFFERS  IMPORTS  FENCES  TIMELINES
c5  4711  1000  evil\\u{1b}[31m\\u{a}name  app-evil.scope  wait                      3        0       1          2
c6  4711  1000  compositor               –               relaunch, survives        3        0       1          2

recorder (pid 4711) blocks an eject of d3: a recording
– (pid 4711) delays every eject: saving\\u{1b}
";
    assert_eq!((status.code, status.out.as_str()), (0, expected), "{}", status.err);
}

#[test]
fn quotas_show_what_is_used_of_what_may_be() {
    let (bus, _service) = with_service(Told::default());
    let quotas = bus.ctl(&["quotas"]);
    let expected = "\
WHOSE                           WHAT             USED         OF  LIMIT
user 1000                       objects        16,390     65,536  limits.objects_per_uid
                                neutral bytes  12 KiB  512.0 MiB  limits.neutral_mib_per_uid
                                tokens              0     65,536  limits.tokens_per_uid
  c6 evil\\u{1b}[31m (pid 4711)  objects        16,384     16,384  limits.objects_per_client
";
    assert_eq!((quotas.code, quotas.out.as_str()), (0, expected), "{}", quotas.err);
    let json = bus.ctl(&["quotas", "--json"]).json();
    assert_eq!(json["all"], json!([]));
    let user = &json["users"][0];
    assert_eq!(user["uid"], 1000);
    let row = json!({ "resource": "tokens", "used": 0, "most": 65536,
                      "limit": "limits.tokens_per_uid" });
    assert_eq!(user["rows"][2], row);
    let client = &user["clients"][0];
    assert_eq!((&client["id"], &client["pid"]), (&json!(6), &json!(4711)));
    let row = json!({ "resource": "queued bytes", "used": 5, "most": null, "limit": null });
    assert_eq!(client["rows"][1], row);
}

#[test]
fn devices_say_why_they_can_be_pulled() {
    let (bus, _service) = with_service(Told::default());
    let devices = bus.ctl(&["devices"]);
    assert_eq!(devices.code, 0, "{}", devices.err);
    assert!(devices.out.contains("yes: the slot is hot-pluggable"), "{}", devices.out);
    assert!(devices.out.contains("renderD128\n"), "{}", devices.out);
}

#[test]
fn json_keeps_its_shapes() {
    let (bus, _service) = with_service(Told::default());
    let status = bus.ctl(&["status", "--json"]).json();
    let service = json!({
        "version": "0.1.0", "backend": "vgem", "clients": 2,
        "heap": "udmabuf", "neutral_buffers": 2, "neutral_bytes": 12288,
        "inhibitors": [
            { "id": 8, "device": 3, "mode": "block", "why": "a recording", "who": "recorder",
              "pid": 4711, "uid": 1000 },
            { "id": 9, "device": null, "mode": "delay", "why": "saving\u{1b}", "who": "",
              "pid": 4711, "uid": 1000 },
        ],
    });
    assert_eq!(status["service"], service);
    let device = json!({
        "id": 2, "name": "0000:01:00.0", "pci": "0000:01:00.0", "driver": "virtio_gpu",
        "nodes": ["/dev/dri/card1"], "removable": true,
        "removable_reason": "the slot is hot-pluggable", "state": "lost", "slot": 0,
        "counts": { "buffers": 3, "imports": 2, "fences": 7, "timelines": 0, "implicit_fences": 1 },
        "cause": "unplugged", "wedged": null,
    });
    assert_eq!(status["devices"][0], device);
    assert_eq!(status["devices"][1]["cause"], json!(null));
    assert_eq!(status["devices"][1]["wedged"], "rebind");
    let client = json!({
        "id": 6, "pid": 4711, "uid": 1000, "name": "compositor", "unit": "",
        "on_loss": "relaunch", "survives_removal": true,
        "counts": { "buffers": 3, "imports": 0, "fences": 1, "timelines": 2 },
    });
    assert_eq!(status["clients"][1], client);
    assert_eq!(bus.ctl(&["--json", "devices"]).json()["devices"], status["devices"]);
    let doctor = bus.ctl(&["doctor", "--json"]).json();
    assert_eq!(doctor["backend"]["name"], "vgem");
    assert_eq!(doctor["backend"]["from"], "service");
    assert_eq!(doctor["backend"]["tried"][0]["backend"], "sw_sync");
    let service = doctor["findings"].as_array().unwrap().iter().find(|f| f["id"] == "service");
    assert_eq!(
        service,
        Some(
            &json!({ "id": "service", "level": "ok", "what": "dmashared 0.1.0 runs", "do": null })
        )
    );
}

#[test]
fn a_report_by_every_name() {
    let (bus, _service) = with_service(Told::default());
    for args in [
        &["report"][..],
        &["report", "--last"],
        &["report", "d2"],
        &["report", "0000:01:00.0"],
        &["report", "01:00.0"],
        &["report", "/dev/dri/card1"],
    ] {
        let report = bus.ctl(args);
        assert_eq!(report.code, 0, "{args:?}: {}", report.err);
        assert!(
            report.out.contains("device d2, unplugged, 2026-01-02 03:04:05 UTC"),
            "{}",
            report.out
        );
        assert!(report.out.contains("5 guard fences ended"), "{}", report.out);
    }
    assert!(bus.ctl(&["report", "d1"]).out.contains("3 guard fences ended"));
    let all = bus.ctl(&["report", "--all", "--json"]).json();
    let devices: Vec<_> = all["reports"].as_array().unwrap().iter().map(|r| &r["device"]).collect();
    assert_eq!(devices, [1, 2]);
    let none = bus.ctl(&["report", "vkms"]);
    assert_eq!((none.code, none.out.as_str()), (0, "this device has not been unplugged\n"));
    assert_eq!(bus.ctl(&["report", "vkms", "--json"]).json(), json!({ "reports": [] }));
}

#[test]
fn a_cause_is_asked_for() {
    let (bus, _service) = with_service(Told::default());
    let cause = bus.ctl(&["cause", "17"]);
    assert_eq!(cause.code, 0, "{}", cause.err);
    assert!(cause.out.starts_with("object 17: wedged (EIO, errno 5)"), "{}", cause.out);
    let expected = json!({
        "object": 17, "point": 4, "cause": "wedged", "errno": 5, "at_ns": 7_000_000_000_u64,
    });
    assert_eq!(bus.ctl(&["cause", "17", "4", "--json"]).json(), expected);
    let unknown = bus.ctl(&["cause", "18"]);
    assert_eq!((unknown.code, unknown.out.as_str()), (4, ""));
    assert!(unknown.err.starts_with("dmasharectl: no cause is kept for 18\n"), "{}", unknown.err);
}

#[test]
fn a_picture_in_a_file_and_on_standard_output() {
    let (bus, _service) = with_service(Told::default());
    let file = bus.file("unplug.svg");
    let path = file.to_str().unwrap();
    let report = bus.ctl(&["report", "--svg", path]);
    assert_eq!(report.code, 0, "{}", report.err);
    assert!(report.out.ends_with(&format!("the timeline picture is in {path}\n")));
    let svg = std::fs::read_to_string(file).unwrap();
    roxmltree::Document::parse(&svg).unwrap();
    assert_eq!(bus.ctl(&["report", "d2", "--svg", "-"]).out, svg);

    let missing = bus.file("no/such/folder.svg");
    let failed = bus.ctl(&["report", "--svg", missing.to_str().unwrap()]);
    assert_eq!(failed.code, 1);
    assert!(failed.err.contains("cannot write"), "{}", failed.err);
    let nothing = bus.ctl(&["report", "vkms", "--svg", "-"]);
    assert_eq!((nothing.code, nothing.out.as_str()), (1, ""));
}

#[test]
fn a_rehearsal_for_one_client_and_for_all() {
    let (bus, _service) = with_service(Told::default());
    let one = bus.ctl(&["rehearse", "card0", "--client", "c6", "--after", "1500ms"]);
    let expected = "\
the loss of d3 (0000:00:02.0) is rehearsed for client c6 alone, in 1.5 s
the hardware is untouched; afterwards: dmasharectl report d3
";
    assert_eq!((one.code, one.out.as_str()), (0, expected), "{}", one.err);
    let one = bus.ctl(&["rehearse", "d3", "--client", "6", "--after", "1.5s", "--json"]).json();
    let expected = json!({ "rehearsal": { "device": 3, "client": 6, "after_ms": 1500 } });
    assert_eq!(one, expected);
    let all = bus.ctl(&["rehearse", "vkms"]);
    assert!(all.out.starts_with("the loss of d10 (vkms) is rehearsed for all clients, now\n"));
    let all = bus.ctl(&["rehearse", "vkms", "--all", "--json"]).json();
    let expected = json!({ "rehearsal": { "device": 10, "client": null, "after_ms": 0 } });
    assert_eq!(all, expected);
}

#[test]
fn a_rehearsal_that_is_refused() {
    let (bus, _service) = with_service(Told::default());
    let foreign = bus.ctl(&["rehearse", "d3", "--client", "c5"]);
    assert_eq!((foreign.code, foreign.out.as_str()), (6, ""));
    let why = "dmasharectl: not authorised: client 5 is another user's\n";
    assert!(foreign.err.starts_with(why), "{}", foreign.err);
    let lost = bus.ctl(&["rehearse", "d2"]);
    assert_eq!(lost.code, 4);
    let why = "dmasharectl: dmashared refuses: device 2 is lost already\n";
    assert!(lost.err.starts_with(why), "{}", lost.err);
    let unknown = bus.ctl(&["rehearse", "d9"]);
    assert_eq!(unknown.code, 4);
    assert!(unknown.err.contains("there are: d2 (0000:01:00.0)"), "{}", unknown.err);
}

#[test]
fn unknown_devices_are_answered_with_the_known() {
    let (bus, _service) = with_service(Told::default());
    let report = bus.ctl(&["report", "0000:ff:00.0"]);
    assert_eq!(report.code, 4);
    let known = "there are: d1 (0000:01:00.0), d2 (0000:01:00.0), d3 (0000:00:02.0), d10 (vkms)";
    assert!(report.err.contains(known), "{}", report.err);
}

#[test]
fn an_empty_service_is_shown() {
    let (bus, _service) =
        with_service(Told { reports: "[]".to_owned(), devices: false, ..Told::default() });
    assert!(bus.ctl(&["status"]).out.contains("0 devices, 2 clients"));
    assert!(bus.ctl(&["devices"]).out.contains("no GPUs"));
    assert!(bus.ctl(&["report"]).out.contains("no device has been unplugged"));
    assert!(bus.ctl(&["report", "d1"]).err.contains("there are no devices"));
}

#[test]
fn no_bus_and_no_service_are_told_apart() {
    let bus = PrivateBus::start(&Policy::Open);
    let one: &[&str] = &["status"];
    for command in
        [one, &["devices"], &["report"], &["holders", "d3"], &["eject", "d3"], &["watch"]]
    {
        let stopped = bus.ctl(command);
        assert_eq!(stopped.code, 3, "{stopped:?}");
        assert!(stopped.err.contains("systemctl start dmashared.socket"), "{}", stopped.err);
        let none = ran(ctl().args(["--bus", "unix:path=/nowhere"]).args(command).output().unwrap());
        assert_eq!(none.code, 3, "{none:?}");
        assert!(
            none.err.contains("cannot connect to the bus at unix:path=/nowhere"),
            "{}",
            none.err
        );
    }
    let doctor = ran(ctl().args(["--bus", "unix:path=/nowhere", "doctor"]).output().unwrap());
    assert!(doctor.out.contains("dmashared is not installed"), "{}", doctor.out);
}

#[test]
fn a_refusal_of_the_bus_is_told_as_such() {
    let bus = PrivateBus::start(&Policy::NoCalls);
    let _service = bus.serve(Told::default());
    let status = bus.ctl(&["status"]);
    assert_eq!(status.code, 1, "{status:?}");
    assert!(status.err.starts_with("dmasharectl: permission denied"), "{}", status.err);
}

#[test]
fn an_answer_that_is_no_report_is_no_panic() {
    let (bus, _service) = with_service(Told { reports: "[{".to_owned(), ..Told::default() });
    let report = bus.ctl(&["report"]);
    assert_eq!(report.code, 1);
    assert!(report.err.contains("answered unexpectedly: GetReports"), "{}", report.err);
}

#[test]
fn wrong_usage() {
    for args in [
        &[][..],
        &["--bus", "sytem", "status"],
        &["report", "d1", "--last"],
        &["report", "--all", "--svg", "x"],
        &["devices", "x"],
        &["cause"],
        &["cause", "x"],
        &["rehearse"],
        &["rehearse", "d3", "--client", "c0"],
        &["rehearse", "d3", "--client", "c6", "--all"],
        &["rehearse", "d3", "--after", "2"],
        &["rehearse", "d3", "--after", "61min"],
        &["holders"],
        &["eject"],
        &["eject", "d3", "--timeout", "2"],
        &["watch", "d3"],
    ] {
        assert_eq!(ran(ctl().args(args).output().unwrap()).code, 2, "{args:?}");
    }
}

#[test]
fn a_reader_that_has_seen_enough() {
    let (bus, _service) = with_service(Told::default());
    for args in [&["report", "--all"][..], &["status", "--json"], &["doctor"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = ctl()
            .env("DMASHARE_BUS", &bus.address)
            .args(args)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code().is_some_and(|code| code < 2) && err.is_empty(), "{err}");
    }
}
