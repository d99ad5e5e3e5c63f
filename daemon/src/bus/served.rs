//! Everything as it is on one connection to the bus.

use std::collections::BTreeMap;
use std::sync::Arc;

use dmashare_proto::{ClientId, DeviceId};
use zbus::Connection;
use zbus::fdo::RequestNameReply;
use zbus::object_server::{Interface, InterfaceRef};
use zbus::zvariant::{ObjectPath, OwnedObjectPath};

use super::broker::{self, Broker};
use super::changes::{Changes, replace, tell};
use super::client::{self, Client};
use super::device::{self, Device};
use super::job::{self, Job, job_path};
use super::manager::{Kind, Listed, Manager};
use super::state::State;
use super::stats::Stats;
use super::{Asks, NAME, ROOT};
use crate::view::{BusUpdate, ClientView, DeviceView, JobView};

/// The objects on a connection.
pub(super) struct Served {
    connection: Connection,
    asks: Asks,
    broker: InterfaceRef<Broker>,
    devices: BTreeMap<DeviceId, InterfaceRef<Device>>,
    clients: BTreeMap<ClientId, InterfaceRef<Client>>,
    jobs: BTreeMap<u64, InterfaceRef<Job>>,
    listed: Listed,
}

impl Served {
    /// Publishes everything on a connection that has the broker's own object, and only then asks for
    /// the name: who sees the name sees it all.
    pub(super) async fn publish(
        connection: Connection,
        state: &State,
        asks: &Asks,
    ) -> zbus::Result<Self> {
        let root = ObjectPath::try_from(ROOT)?;
        let broker = connection.object_server().interface::<_, Broker>(root.clone()).await?;
        {
            let mut broker = broker.get_mut().await;
            broker.reports = state.reports.clone();
            broker.neutral = state.neutral;
            broker.inhibitors = state.inhibitors.clone();
        }
        let (devices, clients, jobs) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (asks, listed) = (asks.clone(), Listed::default());
        let mut served = Self { connection, asks, broker, devices, clients, jobs, listed };
        for view in state.devices.values() {
            served.add_device(view.clone()).await?;
        }
        for view in state.clients.values() {
            served.add_client(view.clone()).await?;
        }
        for view in state.jobs.values() {
            served.add_job(view.clone()).await?;
        }
        served.tell_lists().await?;
        let manager = Manager(served.listed.clone());
        let server = served.connection.object_server();
        server.at(root.clone(), manager).await?;
        let stats = Stats(Arc::clone(&served.broker.get().await.facts.counters));
        server.at(root, stats).await?;
        // No flags: zbus's default lets anyone who may own the name take it over.
        let reply = ask_bus(&served.connection, "RequestName", &(NAME, 0_u32)).await?;
        if reply.body().deserialize::<RequestNameReply>()? == RequestNameReply::InQueue {
            tracing::warn!(name = NAME, "another process has the name; waiting for it to leave");
        }
        Ok(served)
    }

    /// Returns when the bus has closed the connection.
    pub(super) async fn closed(&self) {
        self.connection.closed().await;
    }

    /// Shows an update.
    pub(super) async fn update(&mut self, update: BusUpdate) -> zbus::Result<()> {
        match update {
            BusUpdate::Device(view) => match self.devices.get(&view.id) {
                Some(object) => device::replace(object, view).await,
                None => {
                    self.add_device(view).await?;
                    self.tell_lists().await
                }
            },
            BusUpdate::DeviceGone(id) => {
                if self.devices.remove(&id).is_some() {
                    self.remove::<Device>(Kind::Device, device_path(id)).await?;
                }
                self.tell_lists().await
            }
            BusUpdate::Lost { device, cause, at_ns, had } => {
                let Some(emitter) = self.emitter(device) else {
                    return Ok(());
                };
                let counts = (had.buffers, had.imports, had.fences);
                Device::lost(emitter, cause.name(), at_ns, counts.0, counts.1, counts.2).await
            }
            BusUpdate::Wedged { device, recovery, task, fences } => match self.emitter(device) {
                Some(emitter) => Device::is_wedged(emitter, &recovery, &task, fences).await,
                None => Ok(()),
            },
            BusUpdate::RemovalRequested { device, why } => match self.emitter(device) {
                Some(emitter) => Device::removal_requested(emitter, &why).await,
                None => Ok(()),
            },
            BusUpdate::Client(view) => match self.clients.get(&view.id) {
                Some(object) => {
                    let client = Client { view, asks: self.asks.clone() };
                    replace(object, client, client::changed).await
                }
                None => {
                    self.add_client(view).await?;
                    self.tell_lists().await
                }
            },
            BusUpdate::ClientGone(id) => {
                if self.clients.remove(&id).is_some() {
                    self.remove::<Client>(Kind::Client, client_path(id)).await?;
                }
                self.tell_lists().await
            }
            BusUpdate::Job(view) => match self.jobs.get(&view.id) {
                Some(object) => job::replace(object, *view).await,
                None => {
                    self.add_job(*view).await?;
                    self.tell_lists().await
                }
            },
            BusUpdate::JobGone(id) => {
                if self.jobs.remove(&id).is_some() {
                    self.remove::<Job>(Kind::Job, job_path(id)).await?;
                }
                self.tell_lists().await
            }
            BusUpdate::Reports(reports) => {
                self.broker.get_mut().await.reports = reports;
                Broker::reports_changed(self.broker.signal_emitter()).await
            }
            BusUpdate::Neutral { buffers, bytes } => {
                let old = self.broker.get().await.clone();
                let new = Broker { neutral: (buffers, bytes), ..old };
                replace(&self.broker, new, broker::changed).await
            }
            BusUpdate::Inhibitors(inhibitors) => {
                let old = self.broker.get().await.clone();
                let new = Broker { inhibitors, ..old };
                replace(&self.broker, new, broker::changed).await
            }
        }
    }

    /// Gives the name back and closes the connection.
    pub(super) async fn withdraw(self) -> zbus::Result<()> {
        ask_bus(&self.connection, "ReleaseName", &NAME).await?;
        self.connection.close().await
    }

    async fn add_device(&mut self, view: DeviceView) -> zbus::Result<()> {
        let (id, has_report) = (view.id, !view.report.is_empty());
        let device = Device::new(view, self.asks.clone());
        let object = serve(&self.connection, device_path(id), device).await?;
        self.listed.add(Kind::Device, device_path(id));
        if has_report {
            hidden(&object, &["Report"]).await?;
        }
        self.devices.insert(id, object);
        Ok(())
    }

    async fn add_client(&mut self, view: ClientView) -> zbus::Result<()> {
        let id = view.id;
        let client = Client { view, asks: self.asks.clone() };
        let object = serve(&self.connection, client_path(id), client).await?;
        self.listed.add(Kind::Client, client_path(id));
        hidden(&object, client::HIDDEN).await?;
        self.clients.insert(id, object);
        Ok(())
    }

    async fn add_job(&mut self, view: JobView) -> zbus::Result<()> {
        let id = view.id;
        let job = Job::new(view, self.asks.clone());
        let object = serve(&self.connection, job_path(id), job).await?;
        self.listed.add(Kind::Job, job_path(id));
        hidden(&object, job::HIDDEN).await?;
        self.jobs.insert(id, object);
        Ok(())
    }

    async fn remove<I: Interface>(
        &self,
        kind: Kind,
        path: ObjectPath<'static>,
    ) -> zbus::Result<()> {
        self.listed.remove(kind, &path);
        self.connection.object_server().remove::<I, _>(path).await.map(drop)
    }

    fn emitter(&self, device: DeviceId) -> Option<&zbus::object_server::SignalEmitter<'static>> {
        let object = self.devices.get(&device);
        if object.is_none() {
            tracing::debug!(%device, "a signal for a device that is not on the bus");
        }
        object.map(InterfaceRef::signal_emitter)
    }

    /// Brings the broker's own properties up to the objects that there are.
    async fn tell_lists(&self) -> zbus::Result<()> {
        let mut broker = self.broker.get().await.clone();
        broker.clients = u32::try_from(self.clients.len()).unwrap_or(u32::MAX);
        broker.devices =
            self.devices.keys().map(|&id| OwnedObjectPath::from(device_path(id))).collect();
        broker.jobs = self.jobs.keys().map(|&id| OwnedObjectPath::from(job_path(id))).collect();
        replace(&self.broker, broker, broker::changed).await
    }
}

/// Calls the bus itself.
pub(super) async fn ask_bus<B>(
    connection: &Connection,
    method: &str,
    body: &B,
) -> zbus::Result<zbus::Message>
where
    B: serde::Serialize + zbus::zvariant::DynamicType,
{
    let bus = "org.freedesktop.DBus";
    connection.call_method(Some(bus), "/org/freedesktop/DBus", Some(bus), method, body).await
}

/// Says that what came with an object was not all: who keeps properties asks for these, and is given what they
/// may see.
async fn hidden<I: Interface>(
    object: &InterfaceRef<I>,
    properties: &[&'static str],
) -> zbus::Result<()> {
    tell(object, Changes { hidden: properties.to_vec(), ..Changes::default() }).await
}

/// Puts an object onto the bus.
async fn serve<I: Interface>(
    connection: &Connection,
    path: ObjectPath<'static>,
    object: I,
) -> zbus::Result<InterfaceRef<I>> {
    connection.object_server().at(path.clone(), object).await?;
    connection.object_server().interface(path).await
}

pub(super) fn device_path(id: DeviceId) -> ObjectPath<'static> {
    ObjectPath::from_string_unchecked(format!("{ROOT}/device/d{id}"))
}

fn client_path(id: ClientId) -> ObjectPath<'static> {
    ObjectPath::from_string_unchecked(format!("{ROOT}/client/c{id}"))
}
