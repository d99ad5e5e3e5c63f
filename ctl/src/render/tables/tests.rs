use super::*;
use crate::model::{ClientCounts, DeviceCounts};

fn device() -> Device {
    Device {
        id: 3,
        name: "0000:3c:00.0".to_owned(),
        pci: "0000:3c:00.0".to_owned(),
        driver: "virtio_gpu".to_owned(),
        nodes: vec!["/dev/dri/card1".to_owned(), "/dev/dri/renderD129".to_owned()],
        removable: true,
        removable_reason: "behind Thunderbolt (0-1)".to_owned(),
        state: "present".to_owned(),
        slot: 1,
        counts: DeviceCounts { buffers: 12, imports: 3, fences: 1, ..DeviceCounts::default() },
        cause: None,
        wedged: None,
    }
}

#[test]
fn a_device_that_hung_is_told_of() {
    let wedged = |recovery: &str| Device { wedged: Some(recovery.to_owned()), ..device() };
    let shown = devices(&[wedged("rebind,bus-reset")], Style::default());
    let note = "\nd3 hung (wedged); its driver names as recovery: rebind,bus-reset, which is yours \
                to do\n";
    assert!(shown.ends_with(note), "{shown}");
    assert!(shown.contains("present"), "{shown}");
    let shown = devices(&[wedged("none")], Style::default());
    assert!(shown.ends_with("\nd3 hung, and its driver has recovered it\n"), "{shown}");
    let lost = Device { cause: Some("unplugged".to_owned()), ..wedged("rebind") };
    assert!(!devices(&[lost], Style::default()).contains("hung"), "it is gone anyway");
}

#[test]
fn a_cause_in_a_line() {
    let ended = Ended {
        object: 17,
        point: 0,
        cause: "vanished".to_owned(),
        errno: 19,
        at_ns: 1_000_000_000,
    };
    let line = cause(&ended, Some(4_200_000_000));
    assert_eq!(line, "object 17: vanished (ENODEV, errno 19), 3.2 s ago\n");
    let ended = Ended { point: 4, ..ended };
    let line = cause(&ended, None);
    assert_eq!(line, "object 17, point 4: vanished (ENODEV, errno 19)\n");
}

#[test]
fn a_device_in_a_file_and_in_a_narrow_terminal() {
    let wide = devices(&[device()], Style::default());
    let expected = "\
ID  NAME          DRIVER      NODES       STATE    BUF/IMP/FEN/TL  REMOVABLE
d3  0000:3c:00.0  virtio_gpu  card1       present  12/3/1/0        yes: behind Thunderbolt (0-1)
                              renderD129
";
    assert_eq!(wide, expected);
    let narrow = devices(&[device()], Style { colour: false, width: Some(80) });
    assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
    for whole in ["0000:3c:00.0", "virtio_gpu", "card1", "present"] {
        assert!(narrow.contains(whole), "{whole} is broken in\n{narrow}");
    }
}

#[test]
fn colour_is_only_colour() {
    let snapshot = Snapshot {
        devices: vec![Device { state: "lost".to_owned(), ..device() }],
        clients: vec![Client {
            id: 1,
            pid: 7,
            uid: 0,
            name: "x\x1b[2J".to_owned(),
            unit: String::new(),
            on_loss: "wait".to_owned(),
            survives_removal: false,
            counts: ClientCounts::default(),
        }],
    };
    let service = Service { backend: "none".to_owned(), ..Service::default() };
    let plain = status(&service, &snapshot, Style::default());
    let coloured = status(&service, &snapshot, Style { colour: true, width: None });
    let mut stripped = coloured.clone();
    for code in ["\x1b[31;1m", "\x1b[1m", "\x1b[0m"] {
        assert!(stripped.contains(code));
        stripped = stripped.replace(code, "");
    }
    assert_eq!(stripped, plain);
}
