//! The stand-in: the interfaces of the service, with fixed answers.

use std::collections::HashMap;

use dmashare_proto::holders::Holders;
use dmashare_proto::message::Cause;
use dmashare_proto::report::{Mark, Step, UnplugReport};
use dmashare_proto::usage::{self, Usage};
use dmashare_proto::{DeviceId, ObjectId};
use zbus::blocking::Connection;
use zbus::blocking::connection::Builder;
use zbus::fdo::ObjectManager;
use zbus::zvariant::{OwnedObjectPath, OwnedValue};
use zbus::{DBusError, interface};

use super::jobs::{self, Plan};

pub const PATH: &str = "/org/dmashare/Broker1";

/// What the stand-in tells.
pub struct Told {
    pub reports: String,
    pub probe: String,
    pub devices: bool,
    /// How ejects go.
    pub plan: Plan,
}

impl Default for Told {
    fn default() -> Self {
        Self {
            reports: serde_json::to_string(&sample_reports()).unwrap(),
            probe: r#"{"backend":"vgem","tried":[
                {"backend":"sw_sync","ok":false,"why":"No such file or directory (os error 2)"},
                {"backend":"vgem","ok":true,"why":"card2"}]}"#
                .to_owned(),
            devices: true,
            plan: Plan::Refuses,
        }
    }
}

/// Two unplugs of the card in one slot.
fn sample_reports() -> Vec<UnplugReport> {
    let report = |device, guards| UnplugReport {
        device: DeviceId(device),
        name: "0000:01:00.0".to_owned(),
        driver: "virtio_gpu".to_owned(),
        cause: Cause::Unplugged,
        wall_clock_s: 1_767_323_045,
        marks: [(Step::Uevent, 0), (Step::GateClosed, 21_000), (Step::Gone, 2_110_000)]
            .map(|(step, after)| Mark { step, at_ns: 7_000_000_000 + after })
            .into(),
        guards,
        passed: 0,
        promises: 0,
        buffers: 1,
        imports: 1,
        told: 2,
        awaited: 1,
        implicit: vec![dmashare_proto::report::ImplicitFence {
            buffer: ObjectId(9),
            driver: "vgem".to_owned(),
            timeline: "unbound".to_owned(),
            seen_ns: 7_000_100_000,
            ended_ns: Some(7_000_300_000),
        }],
        overdue: Vec::new(),
        rehearsed_for: None,
    };
    vec![report(1, 3), report(2, 5)]
}

/// Of a user with one connection, which is at a limit.
fn usage() -> Usage {
    let row = |resource: &str, used, most, limit: &str| usage::Row {
        resource: resource.to_owned(),
        used,
        most: Some(most),
        limit: Some(format!("limits.{limit}")),
    };
    let queued =
        usage::Row { resource: "queued bytes".to_owned(), used: 5, most: None, limit: None };
    let clients = vec![usage::Client {
        id: 6,
        pid: 4711,
        name: "evil\x1b[31m".to_owned(),
        rows: vec![row("objects", 16384, 16384, "objects_per_client"), queued],
    }];
    let rows = vec![
        row("objects", 16390, 65536, "objects_per_uid"),
        row("neutral bytes", 12288, 512 << 20, "neutral_mib_per_uid"),
        row("tokens", 0, 65536, "tokens_per_uid"),
    ];
    Usage { all: Vec::new(), users: vec![usage::User { uid: 1000, rows, clients }] }
}

struct Broker(Told);

#[derive(Debug, DBusError)]
#[zbus(prefix = "org.dmashare.Error")]
enum Error {
    #[zbus(error)]
    ZBus(zbus::Error),
    UnknownObject(String),
}

#[interface(name = "org.dmashare.Broker1")]
impl Broker {
    #[zbus(property)]
    fn version(&self) -> String {
        "0.1.0".to_owned()
    }
    #[zbus(property)]
    fn backend(&self) -> String {
        "vgem".to_owned()
    }
    #[zbus(property)]
    fn heap(&self) -> String {
        "udmabuf".to_owned()
    }
    #[zbus(property)]
    fn neutral_buffers(&self) -> u32 {
        2
    }
    #[zbus(property)]
    fn neutral_bytes(&self) -> u64 {
        12_288
    }
    #[zbus(property)]
    fn inhibitors(&self) -> Vec<(u64, OwnedObjectPath, String, String, String, u32, u32)> {
        let row = |id, path: String, mode: &str, why: &str, who: &str| {
            let path = OwnedObjectPath::try_from(path).unwrap();
            (id, path, mode.to_owned(), why.to_owned(), who.to_owned(), 4711, 1000)
        };
        vec![
            row(8, format!("{PATH}/device/d3"), "block", "a recording", "recorder"),
            row(9, "/".to_owned(), "delay", "saving\x1b", ""),
        ]
    }
    #[zbus(property)]
    fn clients(&self) -> u32 {
        2
    }
    #[zbus(property)]
    fn devices(&self) -> Vec<OwnedObjectPath> {
        Vec::new()
    }
    fn get_reports(&self) -> String {
        self.0.reports.clone()
    }
    fn get_usage(&self) -> String {
        serde_json::to_string(&usage()).unwrap()
    }
    fn probe(&self) -> String {
        self.0.probe.clone()
    }
    async fn attach(
        &self,
        #[zbus(header)] header: zbus::message::Header<'_>,
        #[zbus(object_server)] server: &zbus::ObjectServer,
    ) -> Result<(), Error> {
        asks_people(&header);
        if self.0.devices {
            let came = Device { id: 11, name: "0000:01:00.0", ..card() };
            server.at(format!("{PATH}/device/d11"), came).await?;
        }
        Ok(())
    }
    fn get_cause(&self, object: u64, point: u64) -> Result<(String, i32, u64), Error> {
        match (object, point) {
            (17, 0 | 4) => Ok(("wedged".to_owned(), 5, 7_000_000_000)),
            _ => Err(Error::UnknownObject(format!("no cause is kept for {object}"))),
        }
    }
}

fn asks_people(header: &zbus::message::Header<'_>) {
    let flags = header.primary().flags();
    assert!(flags.contains(zbus::message::Flags::AllowInteractiveAuth));
}

/// A device of the stand-in.
pub struct Device {
    id: u64,
    name: &'static str,
    driver: &'static str,
    nodes: Vec<String>,
    removable: Option<&'static str>,
    lost: bool,
    plan: Plan,
}

/// One that can be pulled, and is there.
fn card() -> Device {
    Device {
        id: 2,
        name: "0000:01:00.0",
        driver: "virtio_gpu",
        nodes: vec!["/dev/dri/card1".to_owned()],
        removable: Some("the slot is hot-pluggable"),
        lost: false,
        plan: Plan::Refuses,
    }
}

macro_rules! constants {
    ($type:ident, $interface:literal, [$($methods:tt)*], $($name:ident: $of:ty = |$me:ident| $value:expr;)*) => {
        #[interface(name = $interface)]
        impl $type {
            $(#[zbus(property)]
            fn $name(&self) -> $of { let $me = self; $value })*
            $($methods)*
        }
    };
}

/// What `Rehearse` can fail with.
#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.dmashare.Error")]
enum CallError {
    #[zbus(error)]
    ZBus(zbus::Error),
    DeviceLost(String),
    NotAuthorized(String),
    Refused(String),
    Busy(String),
    Unsupported(String),
}

constants! { Device, "org.dmashare.Device1",
    [
        /// Client 6 is the caller's.
        fn rehearse(
            &self,
            client: u64,
            after_ms: u32,
            #[zbus(header)] header: zbus::message::Header<'_>,
        ) -> Result<(), CallError> {
            asks_people(&header);
            if self.lost {
                return Err(CallError::DeviceLost(format!("device {} is lost already", self.id)));
            }
            match (client, after_ms) {
                (6, 1500) => Ok(()),
                (0, 0) => Ok(()),
                _ => Err(CallError::NotAuthorized("client 5 is another user's".to_owned())),
            }
        }

        fn get_holders(&self) -> Result<String, CallError> {
            match self.id {
                2 => Err(CallError::DeviceLost("device 2 is lost".to_owned())),
                3 => Ok(jobs::HOLDERS.to_owned()),
                _ => Ok(serde_json::to_string(&Holders::default()).unwrap()),
            }
        }

        async fn eject(
            &self,
            options: HashMap<String, OwnedValue>,
            #[zbus(header)] header: zbus::message::Header<'_>,
            #[zbus(connection)] bus: &zbus::Connection,
        ) -> Result<OwnedObjectPath, CallError> {
            asks_people(&header);
            match (self.lost, self.name, &self.plan) {
                (true, ..) => Err(CallError::DeviceLost(format!("device {} is lost", self.id))),
                (_, "vkms", _) => Err(CallError::Unsupported("vkms is not on a PCI bus".to_owned())),
                (.., Plan::Blocked) => {
                    Err(CallError::Refused("recorder (pid 4711) blocks it: a recording".to_owned()))
                }
                (.., Plan::IsBusy) => Err(CallError::Busy("j7 is at it".to_owned())),
                (.., Plan::NotAuthorised) => Err(CallError::NotAuthorized("polkit said no".to_owned())),
                (.., plan) => Ok(jobs::begin(bus, self.id, self.name, *plan, &options).await?),
            }
        }
    ],
    id: u64 = |me| me.id;
    name: String = |me| me.name.to_owned();
    pci: String = |me| if me.name.contains(':') { me.name.to_owned() } else { String::new() };
    driver: String = |me| me.driver.to_owned();
    nodes: Vec<String> = |me| me.nodes.clone();
    removable: bool = |me| me.removable.is_some();
    removable_reason: String = |me| me.removable.unwrap_or("").to_owned();
    state: String = |me| if me.lost { "lost" } else { "present" }.to_owned();
    slot: u32 = |_me| 0;
    buffers: u32 = |_me| 3;
    imports: u32 = |_me| 2;
    fences: u32 = |_me| 7;
    timelines: u32 = |_me| 0;
    implicit_fences: u32 = |me| u32::from(me.lost);
    cause: String = |me| if me.lost { "unplugged" } else { "" }.to_owned();
    wedged: String = |me| if me.driver == "i915" { "rebind" } else { "" }.to_owned();
    report: String = |_me| String::new();
}

/// A client of the stand-in.
pub struct Client {
    pub id: u64,
    pub name: &'static str,
    pub unit: &'static str,
}

constants! { Client, "org.dmashare.Client1", [],
    id: u64 = |me| me.id;
    pid: u32 = |_me| 4711;
    uid: u32 = |_me| 1000;
    name: String = |me| me.name.to_owned();
    unit: String = |me| me.unit.to_owned();
    on_loss: String = |me| if me.unit.is_empty() { "relaunch" } else { "wait" }.to_owned();
    survives_removal: bool = |me| me.unit.is_empty();
    buffers: u32 = |_me| 3;
    imports: u32 = |_me| 0;
    fences: u32 = |_me| 1;
    timelines: u32 = |_me| 2;
}

pub fn serve(address: &str, told: Told) -> Connection {
    let plan = told.plan;
    let nodes = |numbers: &[u32]| numbers.iter().map(|n| format!("/dev/dri/card{n}")).collect();
    let devices = [
        Device { lost: true, ..card() },
        Device {
            id: 3,
            name: "0000:00:02.0",
            driver: "i915",
            nodes: vec!["/dev/dri/card0".to_owned(), "/dev/dri/renderD128".to_owned()],
            removable: None,
            lost: false,
            plan,
        },
        Device {
            id: 10,
            name: "vkms",
            driver: "vkms",
            nodes: nodes(&[3]),
            removable: None,
            lost: false,
            plan,
        },
    ];
    let clients = [
        Client { id: 5, name: "evil\x1b[31m\nname", unit: "app-evil.scope" },
        Client { id: 6, name: "compositor", unit: "" },
    ];
    let shown = told.devices;
    let mut builder = Builder::address(address)
        .unwrap()
        .serve_at(PATH, ObjectManager)
        .unwrap()
        .serve_at(PATH, Broker(told))
        .unwrap();
    if shown {
        for device in devices {
            builder = builder.serve_at(format!("{PATH}/device/d{}", device.id), device).unwrap();
        }
        for client in clients {
            builder = builder.serve_at(format!("{PATH}/client/c{}", client.id), client).unwrap();
        }
    }
    builder.name("org.dmashare.Broker1").unwrap().build().unwrap()
}
