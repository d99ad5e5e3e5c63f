//! `org.dmashare.Job1`: an eject.

use std::sync::{Mutex, MutexGuard, PoisonError};

use zbus::message::Header;
use zbus::object_server::{InterfaceRef, SignalEmitter};
use zbus::zvariant::{ObjectPath, OwnedObjectPath};
use zbus::{Connection, interface};

use super::changes::{Changes, changes, tell};
use super::eject::{Caller, EjectError, cancel};
use super::served::device_path;
use super::sight::steps_alone;
use super::{Asks, ROOT};
use crate::view::JobView;

/// An eject on the bus. As a device, it is changed inside of it.
pub(super) struct Job {
    view: Mutex<JobView>,
    asks: Asks,
}

impl Job {
    pub(super) fn new(view: JobView, asks: Asks) -> Self {
        Self { view: Mutex::new(view), asks }
    }

    fn view(&self) -> MutexGuard<'_, JobView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts a new state in the place of a job's, and tells what changed, and once that it has ended.
pub(super) async fn replace(object: &InterfaceRef<Job>, view: JobView) -> zbus::Result<()> {
    let ended = view.outcome;
    let (changes, had_ended) = {
        let job = object.get().await;
        let old = std::mem::replace(&mut *job.view(), view);
        let had_ended = old.outcome.is_some();
        (changed(&Job::new(old, job.asks.clone()), &job), had_ended)
    };
    tell(object, changes).await?;
    match ended {
        // Everybody hears it: who may know more asks for the message.
        Some(outcome) if !had_ended => {
            Job::ended(object.signal_emitter(), outcome.name(), "").await
        }
        _ => Ok(()),
    }
}

fn changed(old: &Job, new: &Job) -> Changes {
    changes!(old, new, {
        "Stage": stage,
        "DeadlineNs": deadline_ns,
        "Outcome": outcome,
    }, hidden old.view(), new.view(), {
        "Message": message,
        "Holders": holders,
        "Steps": steps,
    })
}

/// What only its owner sees.
pub(super) const HIDDEN: &[&str] = &["Message", "Holders", "Steps"];

impl Job {
    /// Whether the caller sees whom it is about.
    async fn is_seen(&self, bus: &Connection, header: Option<&Header<'_>>) -> bool {
        let owner = self.view().uid;
        self.asks.viewers.eyes(bus, header).await.see(owner)
    }
}

/// Where a job is.
pub(super) fn job_path(id: u64) -> ObjectPath<'static> {
    ObjectPath::from_string_unchecked(format!("{ROOT}/job/j{id}"))
}

#[interface(name = "org.dmashare.Job1", introspection_docs = false)]
impl Job {
    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> u64 {
        self.view().id
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn device(&self) -> OwnedObjectPath {
        device_path(self.view().device).into()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn device_name(&self) -> String {
        self.view().device_name.clone()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn uid(&self) -> u32 {
        self.view().uid
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn dry_run(&self) -> bool {
        self.view().dry_run
    }

    #[zbus(property)]
    fn stage(&self) -> String {
        self.view().stage.name().to_owned()
    }

    #[zbus(property(emits_changed_signal = "invalidates"))]
    async fn message(
        &self,
        #[zbus(header)] header: Option<Header<'_>>,
        #[zbus(connection)] bus: &Connection,
    ) -> String {
        if self.is_seen(bus, header.as_ref()).await {
            self.view().message.clone()
        } else {
            String::new()
        }
    }

    #[zbus(property(emits_changed_signal = "invalidates"))]
    async fn holders(
        &self,
        #[zbus(header)] header: Option<Header<'_>>,
        #[zbus(connection)] bus: &Connection,
    ) -> String {
        if self.is_seen(bus, header.as_ref()).await {
            self.view().holders.clone()
        } else {
            String::new()
        }
    }

    #[zbus(property)]
    fn deadline_ns(&self) -> u64 {
        self.view().deadline_ns
    }

    #[zbus(property)]
    fn outcome(&self) -> String {
        self.view().outcome.map_or("", |outcome| outcome.name()).to_owned()
    }

    #[zbus(property(emits_changed_signal = "invalidates"))]
    async fn steps(
        &self,
        #[zbus(header)] header: Option<Header<'_>>,
        #[zbus(connection)] bus: &Connection,
    ) -> String {
        if self.is_seen(bus, header.as_ref()).await {
            self.view().steps.clone()
        } else {
            steps_alone(&self.view().steps)
        }
    }

    /// Ends it before the kernel is asked to remove anything.
    async fn cancel(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<(), EjectError> {
        let (id, owner) = {
            let view = self.view();
            (view.id, view.uid)
        };
        cancel(Caller { asks: &self.asks, bus, header: &header }, id, owner).await
    }

    /// It has ended. The property changes have come before.
    #[zbus(signal)]
    pub(super) async fn ended(
        emitter: &SignalEmitter<'_>,
        outcome: &str,
        message: &str,
    ) -> zbus::Result<()>;
}
