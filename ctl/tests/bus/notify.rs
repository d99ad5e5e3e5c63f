//! `notify` between a stand-in for the service and one for the desktop's notification service.

use crate::common::{
    Notification, Notifications, PATH, Plan, Policy, PrivateBus, Running, Told, ctl,
};
use zbus::blocking::Connection;

fn start(bus: &PrivateBus, session: &PrivateBus) -> Running {
    let mut command = ctl();
    command
        .env("DMASHARE_BUS", &bus.address)
        .env("DBUS_SESSION_BUS_ADDRESS", &session.address)
        .arg("notify");
    let mut running = Running::start(&mut command);
    assert_eq!(running.line(), "waits for news of GPUs");
    running
}

fn lose(service: &Connection, cause: &str) {
    let path = format!("{PATH}/device/d3");
    let body = (cause, 5_u64, 3_u32, 2_u32, 7_u32);
    service.emit_signal(None::<&str>, path, "org.dmashare.Device1", "Lost", &body).unwrap();
}

#[test]
fn lost_refused_and_ejected_in_one_place_a_device() {
    let (bus, session) = (PrivateBus::start(&Policy::Open), PrivateBus::start(&Policy::Open));
    let service = bus.serve(Told { plan: Plan::Refuses, ..Told::default() });
    let desktop = Notifications::serve(&session.address, 40);
    let _notify = start(&bus, &session);
    lose(&service, "unplugged");
    let body = "d3 (0000:00:02.0, i915) had 3 buffers, 2 imports and 7 fences pending.";
    let expected = Notification {
        replaces: 0,
        summary: "A GPU was unplugged".to_owned(),
        body: body.to_owned(),
        urgency: 2,
        id: 41,
    };
    assert_eq!(desktop.next(), expected);
    assert_eq!(bus.ctl(&["eject", "d3"]).code, 5);
    let refused = desktop.next();
    assert_eq!((refused.replaces, refused.urgency), (41, 1), "{refused:?}");
    let body = "d3 (0000:00:02.0): 4 processes hold on to it\n\
                In use by: sway (pid 812), glmark2 (pid 2210), wireplumber (pid 901), \
                evil\\u{1b}[31m (pid 3000)";
    assert_eq!(refused.body, body);
    assert_eq!(bus.ctl(&["eject", "d3", "--force"]).code, 0);
    let ejected = desktop.next();
    assert_eq!((ejected.replaces, ejected.summary.as_str()), (41, "A GPU can be unplugged"));
}

#[test]
fn a_desktop_that_comes_late_is_waited_for() {
    let (bus, session) = (PrivateBus::start(&Policy::Open), PrivateBus::start(&Policy::Open));
    let service = bus.serve(Told::default());
    let mut notify = start(&bus, &session);
    lose(&service, "vanished");
    let waits = notify.line();
    assert!(waits.starts_with("not shown yet ("), "{waits}");
    lose(&service, "unplugged");
    assert!(notify.line().starts_with("not shown yet ("));
    let desktop = Notifications::serve(&session.address, 6);
    assert_eq!(desktop.next().summary, "A GPU was unplugged", "only the newest of a device");
    assert!(notify.line().starts_with("shown: A GPU was unplugged: d3 "));
    drop(desktop);
    // Another service's numbers are its own: nothing of it is replaced.
    let desktop = Notifications::serve(&session.address, 6);
    lose(&service, "vanished");
    assert_eq!((desktop.next().replaces), 0);
}

#[test]
fn a_service_that_comes_late_is_waited_for() {
    let (bus, session) = (PrivateBus::start(&Policy::Open), PrivateBus::start(&Policy::Open));
    let desktop = Notifications::serve(&session.address, 0);
    let _notify = start(&bus, &session);
    let service = bus.serve(Told::default());
    lose(&service, "unplugged");
    assert_eq!(desktop.next().summary, "A GPU was unplugged");
}

#[test]
fn no_session_is_a_failure() {
    let bus = PrivateBus::start(&Policy::Open);
    let mut command = ctl();
    command.env("DMASHARE_BUS", &bus.address).arg("notify");
    command.env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere");
    let failed = Running::start(&mut command).end();
    assert_eq!(failed.code, 3, "{failed:?}");
    assert!(failed.err.contains("cannot connect to the session bus"), "{}", failed.err);
}
