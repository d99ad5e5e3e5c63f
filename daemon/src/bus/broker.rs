//! `org.dmashare.Broker1`: the broker itself.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use dmashare_proto::ObjectId;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use tokio::sync::oneshot;
use zbus::fdo::ConnectionCredentials;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::{self, ObjectPath, OwnedObjectPath};
use zbus::{Connection, DBusError, interface};

use super::changes::{Changes, changes};
use super::eject::{Caller, EjectError};
use super::inhibit::InhibitError;
use super::served::ask_bus;
use super::{Asks, BusFacts, CauseRequest, ConnectRequest, UsageRequest, eject, inhibit, sight};
use crate::view::InhibitorView;

/// The broker on the bus.
#[derive(Clone)]
pub(super) struct Broker {
    pub(super) facts: Arc<BusFacts>,
    pub(super) asks: Asks,
    pub(super) clients: u32,
    pub(super) devices: Vec<OwnedObjectPath>,
    pub(super) jobs: Vec<OwnedObjectPath>,
    pub(super) reports: String,
    /// Neutral buffers, and their bytes.
    pub(super) neutral: (u32, u64),
    pub(super) inhibitors: Vec<InhibitorView>,
}

/// What a call can fail with.
#[derive(Debug, DBusError)]
#[zbus(prefix = "org.dmashare.Error")]
pub(super) enum BusError {
    /// The bus itself.
    #[zbus(error)]
    ZBus(zbus::Error),
    /// The bus does not say who calls.
    CallerUnknown(String),
    /// The kernel refused.
    Failed(String),
    /// No cause is kept for that object, or not for the caller.
    UnknownObject(String),
    /// The broker takes no more clients because it stops.
    Stopping(String),
}

/// What changed from one state to the next.
pub(super) fn changed(old: &Broker, new: &Broker) -> Changes {
    changes!(old, new, {
        "Clients": clients,
        "Devices": devices,
        "Jobs": jobs,
        "NeutralBuffers": neutral_buffers,
        "NeutralBytes": neutral_bytes,
    }, hidden old, new, {
        "Inhibitors": inhibitors,
    })
}

#[interface(name = "org.dmashare.Broker1", introspection_docs = false)]
impl Broker {
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> String {
        self.facts.version.clone()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn backend(&self) -> String {
        self.facts.backend.clone()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn heap(&self) -> String {
        self.facts.heap.clone()
    }

    #[zbus(property)]
    fn neutral_buffers(&self) -> u32 {
        self.neutral.0
    }

    #[zbus(property)]
    fn neutral_bytes(&self) -> u64 {
        self.neutral.1
    }

    #[zbus(property(emits_changed_signal = "invalidates"))]
    async fn inhibitors(
        &self,
        #[zbus(header)] header: Option<Header<'_>>,
        #[zbus(connection)] bus: &Connection,
    ) -> Vec<inhibit::Row> {
        let eyes = self.asks.viewers.eyes(bus, header.as_ref()).await;
        inhibit::rows(&self.inhibitors, eyes)
    }

    #[zbus(property)]
    fn clients(&self) -> u32 {
        self.clients
    }

    #[zbus(property)]
    fn devices(&self) -> Vec<OwnedObjectPath> {
        self.devices.clone()
    }

    #[zbus(property)]
    fn jobs(&self) -> Vec<OwnedObjectPath> {
        self.jobs.clone()
    }

    /// Has the kernel look for PCI devices.
    async fn attach(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<(), EjectError> {
        eject::attach(Caller { asks: &self.asks, bus, header: &header }).await
    }

    /// What goes on with each device, as JSON.
    #[zbus(out_args("activity"))]
    async fn get_activity(&self) -> Result<String, BusError> {
        let (answer, answered) = oneshot::channel();
        self.asks.activity.send(answer).map_err(|_| stopping())?;
        let activity = answered.await.map_err(|_| stopping())?;
        serde_json::to_string(&activity).map_err(|error| BusError::Failed(error.to_string()))
    }

    /// What the caller's user has in use, and how much they may, as JSON; for root, everybody's.
    #[zbus(out_args("usage"))]
    async fn get_usage(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<String, BusError> {
        let caller = credentials(bus, &header).await?;
        let uid = caller.unix_user_id().ok_or_else(|| unknown("user"))?;
        let (answer, answered) = oneshot::channel();
        self.asks.usage.send(UsageRequest { uid, answer }).map_err(|_| stopping())?;
        let usage = answered.await.map_err(|_| stopping())?;
        serde_json::to_string(&usage).map_err(|error| BusError::Failed(error.to_string()))
    }

    /// A connected data-plane socket for the caller.
    #[zbus(out_args("socket"))]
    async fn connect(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<zvariant::OwnedFd, BusError> {
        let caller = credentials(bus, &header).await?;
        let uid = caller.unix_user_id().ok_or_else(|| unknown("user"))?;
        let pid = caller
            .process_id()
            .and_then(|pid| i32::try_from(pid).ok())
            .ok_or_else(|| unknown("process"))?;
        // The bus lists the groups in numerical order: which one is the first is only known of one.
        let gid = match caller.unix_group_ids().map(Vec::as_slice) {
            Some(&[gid]) => Some(gid),
            _ => None,
        };
        let failed = |error: std::io::Error| BusError::Failed(format!("no socket: {error}"));
        let pidfd: Option<OwnedFd> = caller
            .process_fd()
            .map(|fd| fd.as_fd().try_clone_to_owned())
            .transpose()
            .map_err(failed)?;
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(|errno| failed(errno.into()))?;
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|errno| failed(errno.into()))?;
        let request = ConnectRequest { socket: ours, pid, uid, gid, pidfd };
        self.asks.connects.send(request).map_err(|_| stopping())?;
        Ok(theirs.into())
    }

    /// Holds ejects up for as long as the caller keeps what it is given.
    #[zbus(out_args("inhibitor"))]
    async fn inhibit(
        &self,
        device: ObjectPath<'_>,
        mode: &str,
        who: &str,
        why: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<zvariant::OwnedFd, InhibitError> {
        let wanted = inhibit::read(&device, mode, who, why)?;
        let caller = credentials(bus, &header).await?;
        inhibit::inhibit(&self.asks, wanted, &caller).await
    }

    /// Why a fence, an import or a timeline's point of the caller's ended.
    #[zbus(out_args("cause", "errno", "at_ns"))]
    async fn get_cause(
        &self,
        object: u64,
        point: u64,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<(String, i32, u64), BusError> {
        let caller = credentials(bus, &header).await?;
        let uid = caller.unix_user_id().ok_or_else(|| unknown("user"))?;
        let (answer, answered) = oneshot::channel();
        let request = CauseRequest { object: ObjectId(object), point, uid, answer };
        self.asks.causes.send(request).map_err(|_| stopping())?;
        match answered.await.map_err(|_| stopping())? {
            Some(ended) => Ok((ended.cause.name().to_owned(), ended.cause.errno(), ended.at_ns)),
            None => Err(BusError::UnknownObject(format!(
                "no cause is kept for {object} (point {point}) of user {uid}: it has not failed, \
                 failed too long ago, or is another user's"
            ))),
        }
    }

    /// All kept unplug reports as a JSON array, newest last.
    #[zbus(out_args("reports"))]
    async fn get_reports(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> String {
        let eyes = self.asks.viewers.eyes(bus, Some(&header)).await;
        sight::reports(&self.reports, eyes)
    }

    /// A step of an unplug was done, or something else about one became known. It may come after
    /// the device's object has gone.
    #[zbus(signal)]
    pub(super) async fn reports_changed(emitter: &SignalEmitter<'_>) -> zbus::Result<()>;

    /// What this kernel offers, as JSON.
    #[zbus(out_args("result"))]
    fn probe(&self) -> String {
        self.facts.probe_json.clone()
    }
}

fn unknown(what: &str) -> BusError {
    BusError::CallerUnknown(format!("the bus does not tell your {what}"))
}

fn stopping() -> BusError {
    BusError::Stopping("the broker is stopping".to_owned())
}

/// Who sent a message, as the bus's daemon learnt from the kernel when they connected to it.
pub(super) async fn credentials(
    bus: &Connection,
    header: &Header<'_>,
) -> Result<ConnectionCredentials, BusError> {
    let sender = header
        .sender()
        .ok_or_else(|| BusError::CallerUnknown("the call has no sender".to_owned()))?;
    let reply = ask_bus(bus, "GetConnectionCredentials", &(sender,)).await?;
    Ok(reply.body().deserialize()?)
}
