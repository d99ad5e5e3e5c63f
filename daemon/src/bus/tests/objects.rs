//! Objects, properties and signals.

use std::collections::{HashMap, HashSet};

use dmashare_proto::message::Cause;
use zbus::fdo::{ManagedObjects, ObjectManagerProxy};
use zbus::zvariant::{OwnedObjectPath, OwnedValue};

use super::*;

type Added = (OwnedObjectPath, HashMap<String, HashMap<String, OwnedValue>>);
type Changed = (String, HashMap<String, OwnedValue>, Vec<String>);

async fn managed(stage: &Stage) -> ManagedObjects {
    let manager = ObjectManagerProxy::new(&stage.client, NAME, ROOT).await.unwrap();
    within(manager.get_managed_objects()).await.unwrap()
}

fn text(value: &OwnedValue) -> String {
    value.try_clone().unwrap().try_into().unwrap()
}

fn number(value: &OwnedValue) -> u32 {
    value.try_clone().unwrap().try_into().unwrap()
}

#[tokio::test]
async fn objects_come_and_go() {
    let Some(stage) = Stage::set().await else { return };
    let mut signals = stage.signals().await;
    stage.face.tell(BusUpdate::Device(device(7)));
    stage.face.tell(BusUpdate::Client(client(9)));

    let added = signals.next().await;
    assert_eq!(told(&added).1, "InterfacesAdded");
    assert_eq!(told(&signals.next().await), ("Broker1".to_owned(), "PropertiesChanged".to_owned()));
    let added = signals.next().await;
    assert_eq!(told(&added).1, "InterfacesAdded");
    // Everybody hears that it is there, and not what it is called; who may know asks.
    assert!(!format!("{:?}", added.body().deserialize::<Added>().unwrap()).contains("viewer"));
    let hidden = signals.next().await;
    let (interface, changed, invalidated): Changed = hidden.body().deserialize().unwrap();
    assert_eq!((interface.as_str(), changed.len()), ("org.dmashare.Client1", 0));
    assert!(invalidated.contains(&"Name".to_owned()) && invalidated.contains(&"Pid".to_owned()));
    assert_eq!(told(&signals.next().await).1, "PropertiesChanged");

    let objects = managed(&stage).await;
    let paths: HashSet<_> = objects.keys().map(|path| path.as_str()).collect();
    let (device_path, client_path) = (format!("{ROOT}/device/d7"), format!("{ROOT}/client/c9"));
    assert!(paths.is_superset(&HashSet::from([device_path.as_str(), client_path.as_str()])));
    let shown = &objects.iter().find(|(path, _)| path.as_str() == device_path).unwrap().1["org.dmashare.Device1"];
    assert_eq!(text(&shown["Driver"]), "simgpu");
    assert_eq!(text(&shown["State"]), "present");
    assert_eq!(text(&shown["Cause"]), "");
    assert_eq!(number(&shown["Slot"]), 3);
    let shown = &objects.iter().find(|(path, _)| path.as_str() == client_path).unwrap().1["org.dmashare.Client1"];
    assert_eq!(number(&shown["Pid"]), 42);
    assert_eq!(text(&shown["Unit"]), "viewer.service");

    stage.face.tell(BusUpdate::ClientGone(ClientId(9)));
    stage.face.tell(BusUpdate::DeviceGone(DeviceId(7)));
    for _ in 0..2 {
        assert_eq!(told(&signals.next().await).1, "InterfacesRemoved");
        let changed = signals.next().await;
        let (interface, _, _): Changed = changed.body().deserialize().unwrap();
        assert_eq!(interface, NAME);
    }
    let objects = managed(&stage).await;
    assert!(objects.keys().all(|path| !path.as_str().contains("/d7")), "{objects:?}");
}

#[tokio::test]
async fn only_what_changed_is_told() {
    let Some(stage) = Stage::set().await else { return };
    stage.face.tell(BusUpdate::Device(device(1)));
    stage.face.tell(BusUpdate::Client(client(2)));
    let mut signals = stage.signals().await;
    // The arrivals may be heard or not: they were before.
    let mut next = async || loop {
        let message = signals.next().await;
        let (path, member) = told(&message);
        if member == "PropertiesChanged" && path != "Broker1" {
            let told = message.body().deserialize::<Changed>().unwrap();
            // That not all has come with it, as it is said of each that comes.
            if !told.2.contains(&"Pid".to_owned()) {
                return told;
            }
        }
    };

    let mut view = device(1);
    view.counts.buffers = 5;
    stage.face.tell(BusUpdate::Device(view.clone()));
    stage.face.tell(BusUpdate::Device(view.clone())); // nothing new
    view.counts.imports = 6;
    view.report = "{}".to_owned();
    stage.face.tell(BusUpdate::Device(view));
    let mut viewer = client(2);
    viewer.name = "shower".to_owned();
    stage.face.tell(BusUpdate::Client(viewer));

    let (interface, changed, invalidated) = next().await;
    assert_eq!(interface, "org.dmashare.Device1");
    assert_eq!((changed.len(), number(&changed["Buffers"])), (1, 5));
    assert!(invalidated.is_empty());
    let (_, changed, invalidated) = next().await;
    assert_eq!((changed.len(), number(&changed["Imports"])), (1, 6));
    assert_eq!(invalidated, ["Report"]);
    let (interface, changed, invalidated) = next().await;
    assert_eq!(interface, "org.dmashare.Client1");
    assert_eq!((changed.len(), invalidated), (0, vec!["Name".to_owned()]));
    let path = format!("{ROOT}/client/c2");
    let seen = zbus::Proxy::new(&stage.client, NAME, path, "org.dmashare.Client1").await.unwrap();
    let name: String = within(seen.get_property("Name")).await.unwrap();
    assert_eq!(name, "shower");
}

#[tokio::test]
async fn a_loss_is_told_after_the_properties_that_it_changed() {
    let Some(stage) = Stage::set().await else { return };
    let mut present = device(1);
    present.counts = Counts { buffers: 2, imports: 3, fences: 4, timelines: 0 };
    stage.face.tell(BusUpdate::Device(present.clone()));
    let mut signals = stage.signals().await;
    let mut lost = present.clone();
    lost.state = DeviceState::Lost;
    lost.cause = Some(Cause::Unplugged);
    lost.counts = Counts { imports: 3, ..Counts::default() };
    stage.face.tell(BusUpdate::Device(lost));
    let had = present.counts;
    let (device, cause) = (DeviceId(1), Cause::Unplugged);
    stage.face.tell(BusUpdate::Lost { device, cause, at_ns: 99, had });
    stage.face.tell(BusUpdate::Lost { device: DeviceId(8), cause, at_ns: 99, had }); // unknown
    stage.face.tell(BusUpdate::RemovalRequested { device, why: "udev".to_owned() });

    let changed = loop {
        let message = signals.next().await;
        if told(&message) == ("d1".to_owned(), "PropertiesChanged".to_owned()) {
            break message.body().deserialize::<Changed>().unwrap().1;
        }
        assert_ne!(told(&message).1, "Lost");
    };
    let names: HashSet<_> = changed.keys().map(String::as_str).collect();
    assert_eq!(names, HashSet::from(["State", "Cause", "Buffers", "Fences"]));
    assert_eq!(
        (text(&changed["State"]), text(&changed["Cause"])),
        ("lost".into(), "unplugged".into())
    );
    let message = signals.next().await;
    assert_eq!(told(&message), ("d1".to_owned(), "Lost".to_owned()));
    let body: (String, u64, u32, u32, u32) = message.body().deserialize().unwrap();
    assert_eq!(body, ("unplugged".to_owned(), 99, 2, 3, 4));
    let message = signals.next().await;
    assert_eq!(told(&message), ("d1".to_owned(), "RemovalRequested".to_owned()));
    assert_eq!(message.body().deserialize::<String>().unwrap(), "udev");
}

#[tokio::test]
async fn reports_and_the_probe_are_asked_for() {
    let Some(stage) = Stage::set().await else { return };
    let broker = zbus::Proxy::new(&stage.client, NAME, ROOT, NAME).await.unwrap();
    let ask = async |what: &str| within(broker.call::<_, _, String>(what, &())).await.unwrap();
    assert_eq!(ask("GetReports").await, "[]");
    assert_eq!(ask("Probe").await, "{}");
    let mut signals = stage.signals().await;
    let report = r#"[{"device":1,"name":"d","driver":"v","cause":"unplugged","wall_clock_s":1,"marks":[],"guards":0,"passed":0,"promises":0,"buffers":1,"imports":1,"told":1,"awaited":1,"implicit":[],"overdue":[],"rehearsed_for":null}]"#;
    stage.face.tell(BusUpdate::Reports(report.to_owned()));
    stage.face.tell(BusUpdate::Device(device(1)));
    signals.next().await; // updates are taken one after another
    assert_eq!(ask("GetReports").await, report);
    let version: String = within(broker.get_property("Version")).await.unwrap();
    assert_eq!(version, "1.2.3");
}
