//! `watch` against a stand-in for the service.

use crate::common::{Client, PATH, Plan, Policy, PrivateBus, Running, Told};
use serde_json::Value;
use zbus::blocking::Connection;

const DEVICE: &str = "org.dmashare.Device1";

fn emit<B>(service: &Connection, member: &str, body: &B)
where
    B: serde::Serialize + zbus::zvariant::DynamicType,
{
    let device = format!("{PATH}/device/d3");
    service.emit_signal(None::<&str>, device, DEVICE, member, body).unwrap();
}

fn what_happens(bus: &PrivateBus, service: &Connection) {
    let server = service.object_server();
    let path = format!("{PATH}/client/c12");
    server.at(&*path, Client { id: 12, name: "new\n", unit: "" }).unwrap();
    server.remove::<Client, _>(&*path).unwrap();
    emit(service, "RemovalRequested", &("a synthetic remove of card0",));
    emit(service, "Wedged", &("rebind", "glmark2", 2_u32));
    emit(service, "Lost", &("unplugged", 5_u64, 3_u32, 2_u32, 7_u32));
    assert_eq!(bus.ctl(&["attach"]).code, 0);
}

#[test]
fn a_line_for_everything_that_happens() {
    let bus = PrivateBus::start(&Policy::Open);
    let service = bus.serve(Told::default());
    let mut watch = bus.start_ctl(&["watch"]);
    let mut next = || {
        let line = watch.line();
        let (time, rest) = line.split_at(12);
        assert!(time.len() == 12 && time.as_bytes()[2] == b':', "{line}");
        rest.trim_start().to_owned()
    };
    assert_eq!(next(), "service            dmashared runs: 3 devices, 2 clients");
    what_happens(&bus, &service);
    for expected in [
        r"client-came        c12 new\u{a} (pid 4711, uid 1000)",
        r"client-went        c12 new\u{a} (pid 4711, uid 1000)",
        "removal-requested  d3 (0000:00:02.0, i915): a synthetic remove of card0",
        "wedged             d3 (0000:00:02.0, i915): recovery rebind, blames glmark2, 2 fences ended",
        "lost               d3 (0000:00:02.0, i915): unplugged, with 3 buffers, 2 imports, 7 fences",
        "arrived            d11 (0000:01:00.0, virtio_gpu): card1, can be pulled",
    ] {
        assert_eq!(next(), expected);
    }
    drop(service);
    assert_eq!(next(), "service            dmashared has stopped");
    let _service = bus.serve(Told { devices: false, ..Told::default() });
    assert_eq!(next(), "service            dmashared runs: 0 devices, 0 clients");
}

#[test]
fn an_object_a_line() {
    let bus = PrivateBus::start(&Policy::Open);
    let service = bus.serve(Told { plan: Plan::Refuses, ..Told::default() });
    let mut watch = bus.start_ctl(&["watch", "--json"]);
    let next = |watch: &mut Running| -> Value {
        let value: Value = serde_json::from_str(&watch.line()).unwrap();
        assert!(value["unix_time"].as_f64().unwrap() > 1.7e9, "{value}");
        value
    };
    let first = next(&mut watch);
    assert_eq!((&first["event"], &first["devices"]), (&"service".into(), &3.into()));
    what_happens(&bus, &service);
    let mut words = Vec::new();
    loop {
        let event = next(&mut watch);
        words.push(event["event"].as_str().unwrap().to_owned());
        match event["event"].as_str().unwrap() {
            "lost" => {
                assert_eq!((&event["device"]["id"], &event["fences"]), (&3.into(), &7.into()))
            }
            "arrived" => {
                assert_eq!(event["device"]["id"], 11);
                break;
            }
            _ => {}
        }
    }
    let came = ["client-came", "client-went", "removal-requested", "wedged", "lost", "arrived"];
    assert_eq!(words, came);
    assert_eq!(bus.ctl(&["eject", "d3"]).code, 5);
    loop {
        let event = next(&mut watch);
        if event["event"] == "eject-ended" {
            assert_eq!(event["job"]["outcome"], "refused");
            assert_eq!(event["job"]["holders"]["processes"][0]["command"], "sway");
            break;
        }
        assert_eq!(event["event"], "eject");
    }
}

/// On the system's bus everybody may send signals to everybody.
#[test]
fn what_others_send_is_not_the_services() {
    let bus = PrivateBus::start(&Policy::Open);
    let service = bus.serve(Told::default());
    let mut watch = bus.start_ctl(&["watch", "--json"]);
    assert!(watch.line().contains("service"));
    let liar = zbus::blocking::connection::Builder::address(bus.address.as_str())
        .unwrap()
        .build()
        .unwrap();
    let names = zbus::blocking::fdo::DBusProxy::new(&liar).unwrap().list_names().unwrap();
    for name in names.iter().filter(|name| name.starts_with(':')) {
        let (path, body) = (format!("{PATH}/device/d3"), ("unplugged", 5_u64, 9_u32, 9_u32, 9_u32));
        liar.emit_signal(Some(name.as_str()), path, DEVICE, "Lost", &body).unwrap();
    }
    // The bus has passed on what was sent before this answer.
    zbus::blocking::fdo::DBusProxy::new(&liar).unwrap().get_id().unwrap();
    emit(&service, "Lost", &("unplugged", 5_u64, 3_u32, 2_u32, 7_u32));
    let line = watch.line();
    assert!(line.contains("\"fences\":7"), "{line}");
}
