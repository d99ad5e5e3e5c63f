//! `holders` and `attach` against a stand-in for the service.

use crate::common::{Policy, PrivateBus, Told};
use serde_json::json;

#[test]
fn holders_as_a_table_a_tree_and_an_object() {
    let bus = PrivateBus::start(&Policy::Open);
    let _service = bus.serve(Told::default());
    let table = bus.ctl(&["holders", "card0"]);
    assert_eq!(table.code, 0, "{}", table.err);
    let head = "d3 (0000:00:02.0, i915) is held by 4 processes, and idly by 1 more\n";
    assert!(table.out.starts_with(head), "{}", table.out);
    assert!(table.out.contains("it is the card's DRM master"), "{}", table.out);
    assert!(!table.out.contains('\x1b'), "neither colours nor what a process is named");
    let tree = bus.ctl(&["holders", "d3", "--tree"]);
    assert!(
        tree.out.contains("├─ session 2, session-2.scope\n│  └─ 812 sway (compositor) of ann\n")
    );
    let object = bus.ctl(&["holders", "d3", "--json"]).json();
    assert_eq!((&object["device"], &object["driver"]), (&json!(3), &json!("i915")));
    let processes = object["holders"]["processes"].as_array().unwrap();
    let active = |at: usize| (&processes[at]["command"], &processes[at]["active"]);
    assert_eq!(active(0), (&json!("sway"), &json!(true)));
    assert_eq!(active(2), (&json!("firefox"), &json!(false)));
    assert_eq!(object["holders"]["looked"]["fds"], 50_123);
    let nobody = bus.ctl(&["holders", "vkms"]);
    assert!(nobody.out.starts_with("no process that can be seen holds d10"), "{}", nobody.out);
}

#[test]
fn holders_of_what_is_not_there() {
    let bus = PrivateBus::start(&Policy::Open);
    let _service = bus.serve(Told::default());
    let lost = bus.ctl(&["holders", "d2"]);
    assert_eq!((lost.code, lost.out.as_str()), (4, ""), "{}", lost.err);
    assert!(lost.err.starts_with("dmasharectl: dmashared refuses: device 2 is lost\n"));
    let unknown = bus.ctl(&["holders", "d9"]);
    assert_eq!(unknown.code, 4);
    assert!(unknown.err.contains("there are: d2 (0000:01:00.0)"), "{}", unknown.err);
}

#[test]
fn attach_says_which_device_came() {
    let bus = PrivateBus::start(&Policy::Open);
    let service = bus.serve(Told::default());
    let came = bus.ctl(&["attach"]);
    let expected = "d11 (0000:01:00.0, virtio_gpu) is there: /dev/dri/card1\n";
    assert_eq!((came.code, came.out.as_str()), (0, expected), "{}", came.err);
    drop(service);
    let _service = bus.serve(Told::default());
    let came = bus.ctl(&["attach", "--json"]).json();
    assert_eq!(came["attached"][0]["id"], 11);
    assert_eq!(came["attached"][0]["state"], "present");
}

#[test]
fn attach_does_not_wait_for_ever() {
    let bus = PrivateBus::start(&Policy::Open);
    let _service = bus.serve(Told { devices: false, ..Told::default() });
    let none = bus.ctl(&["attach", "--timeout", "100ms"]);
    assert_eq!((none.code, none.out.as_str()), (1, ""), "{}", none.err);
    assert!(none.err.starts_with("dmasharectl: no new device came within 100.0 ms\n"));
}
