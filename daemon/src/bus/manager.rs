//! `org.freedesktop.DBus.ObjectManager`, by the D-Bus specification. zbus's own gives everybody the same
//! values; these are for who asks (see `sight`). Its signals are still zbus's to send.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use zbus::fdo::{self, ManagedObjects};
use zbus::message::Header;
use zbus::names::InterfaceName;
use zbus::object_server::{Interface, SignalEmitter};
use zbus::zvariant::{ObjectPath, OwnedObjectPath, OwnedValue, Value};
use zbus::{Connection, ObjectServer, interface};

use super::client::Client;
use super::device::Device;
use super::job::Job;

/// The objects below the broker's, each of one interface.
#[derive(Clone, Default)]
pub(super) struct Listed(Arc<Mutex<BTreeSet<(Kind, ObjectPath<'static>)>>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Device,
    Client,
    Job,
}

impl Listed {
    pub(super) fn add(&self, kind: Kind, path: ObjectPath<'static>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((kind, path));
    }

    pub(super) fn remove(&self, kind: Kind, path: &ObjectPath<'static>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&(kind, path.clone()));
    }

    fn all(&self) -> Vec<(Kind, ObjectPath<'static>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// The interface.
pub(super) struct Manager(pub(super) Listed);

#[interface(name = "org.freedesktop.DBus.ObjectManager", introspection_docs = false)]
impl Manager {
    /// All objects, as the caller may see them.
    #[zbus(out_args("object_paths_interfaces_and_properties"))]
    async fn get_managed_objects(
        &self,
        #[zbus(object_server)] server: &ObjectServer,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> fdo::Result<ManagedObjects> {
        let mut objects = ManagedObjects::new();
        for (kind, path) in self.0.all() {
            let found = match kind {
                Kind::Device => seen::<Device>(server, bus, &header, &path).await,
                Kind::Client => seen::<Client>(server, bus, &header, &path).await,
                Kind::Job => seen::<Job>(server, bus, &header, &path).await,
            };
            // One that has gone meanwhile is not there.
            if let Ok((name, properties)) = found {
                let interfaces = HashMap::from([(name.into(), properties)]);
                objects.insert(OwnedObjectPath::from(path), interfaces);
            }
        }
        Ok(objects)
    }

    #[zbus(signal)]
    async fn interfaces_added(
        emitter: &SignalEmitter<'_>,
        object_path: ObjectPath<'_>,
        interfaces_and_properties: HashMap<InterfaceName<'_>, HashMap<&str, Value<'_>>>,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn interfaces_removed(
        emitter: &SignalEmitter<'_>,
        object_path: ObjectPath<'_>,
        interfaces: Vec<InterfaceName<'_>>,
    ) -> zbus::Result<()>;
}

async fn seen<I: Interface>(
    server: &ObjectServer,
    bus: &Connection,
    header: &Header<'_>,
    path: &ObjectPath<'static>,
) -> fdo::Result<(InterfaceName<'static>, HashMap<String, OwnedValue>)> {
    let object = server.interface::<_, I>(path.clone()).await?;
    let object_here = object.get().await;
    let emitter = object.signal_emitter();
    Ok((I::name(), object_here.get_all(server, bus, Some(header), emitter).await?))
}
