//! Ejects of the stand-in: each goes as was planned.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;
use zbus::fdo::Properties;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::{ObjectPath, OwnedObjectPath, OwnedValue, Value};
use zbus::{Connection, DBusError, interface};

use super::service::PATH;

/// What a look finds.
pub const HOLDERS: &str = include_str!("../../holders.json");

/// How an eject goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Somebody holds on; by force it goes.
    Refuses,
    /// Nobody does.
    Goes,
    /// It waits in looking until it is cancelled.
    Waits,
    /// It waits in looking, whatever it is told.
    Deaf,
    /// Its kernel never comes back, and its time is up.
    Stuck,
    /// As `Waits`, but it is too late to cancel; it ends once that was tried.
    TooLate,
    /// No job: somebody blocks it.
    Blocked,
    /// No job: there is one.
    IsBusy,
    /// No job: the caller may not.
    NotAuthorised,
}

#[derive(Debug, DBusError)]
#[zbus(prefix = "org.dmashare.Error")]
enum CancelError {
    #[zbus(error)]
    ZBus(zbus::Error),
    TooLate(String),
}

struct Job {
    id: u64,
    device: OwnedObjectPath,
    name: String,
    stage: &'static str,
    message: String,
    holders: String,
    deadline_ns: u64,
    outcome: &'static str,
    dry_run: bool,
    began_ns: u64,
    steps: Vec<serde_json::Value>,
    cancelled: Arc<Notify>,
    too_late: bool,
}

#[interface(name = "org.dmashare.Job1")]
impl Job {
    #[zbus(property)]
    fn id(&self) -> u64 {
        self.id
    }
    #[zbus(property)]
    fn device(&self) -> OwnedObjectPath {
        self.device.clone()
    }
    #[zbus(property)]
    fn device_name(&self) -> String {
        self.name.clone()
    }
    #[zbus(property)]
    fn uid(&self) -> u32 {
        1000
    }
    #[zbus(property)]
    fn stage(&self) -> String {
        self.stage.to_owned()
    }
    #[zbus(property)]
    fn message(&self) -> String {
        self.message.clone()
    }
    #[zbus(property)]
    fn holders(&self) -> String {
        self.holders.clone()
    }
    #[zbus(property)]
    fn deadline_ns(&self) -> u64 {
        self.deadline_ns
    }
    #[zbus(property)]
    fn outcome(&self) -> String {
        self.outcome.to_owned()
    }
    #[zbus(property)]
    fn dry_run(&self) -> bool {
        self.dry_run
    }
    #[zbus(property)]
    fn steps(&self) -> String {
        serde_json::to_string(&self.steps).unwrap()
    }
    fn cancel(&self) -> Result<(), CancelError> {
        self.cancelled.notify_one();
        if self.too_late {
            return Err(CancelError::TooLate("the kernel removes it already".to_owned()));
        }
        Ok(())
    }
    #[zbus(signal)]
    async fn ended(emitter: &SignalEmitter<'_>, outcome: &str, message: &str) -> zbus::Result<()>;
}

static IDS: AtomicU64 = AtomicU64::new(1);

/// What the options ask for, each of which must be known and of its type.
fn read(options: &HashMap<String, OwnedValue>) -> (u32, bool) {
    let (mut force, mut dry_run) = (0, false);
    for (name, value) in options {
        match (name.as_str(), &**value) {
            ("force", Value::U32(to)) => force = *to,
            ("dry-run", Value::Bool(to)) => dry_run = *to,
            ("timeout-ms", Value::U32(2500)) | ("deauthorize", Value::Bool(true)) => {}
            ("nudge", Value::Str(how)) if how == "never" => {}
            other => panic!("{other:?} is no option"),
        }
    }
    (force, dry_run)
}

pub async fn begin(
    bus: &Connection,
    device: u64,
    name: &str,
    plan: Plan,
    options: &HashMap<String, OwnedValue>,
) -> zbus::Result<OwnedObjectPath> {
    let (force, dry_run) = read(options);
    let began_ns = now_ns();
    let id = IDS.fetch_add(1, Ordering::Relaxed);
    let path = OwnedObjectPath::try_from(format!("{PATH}/job/j{id}"))?;
    let cancelled = Arc::new(Notify::new());
    let job = Job {
        id,
        device: ObjectPath::try_from(format!("{PATH}/device/d{device}"))?.into(),
        name: name.to_owned(),
        stage: "inhibited",
        message: "nobody delays it".to_owned(),
        holders: String::new(),
        deadline_ns: 0,
        outcome: "",
        dry_run,
        began_ns,
        steps: vec![step(began_ns, "inhibited", 0, "nobody delays it")],
        cancelled: Arc::clone(&cancelled),
        too_late: plan == Plan::TooLate,
    };
    bus.object_server().at(&path, job).await?;
    tokio::spawn(play(bus.clone(), path.clone(), plan, force, cancelled));
    Ok(path)
}

fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    u64::try_from(std::time::Duration::from(now).as_nanos()).unwrap()
}

fn step(began_ns: u64, stage: &str, tenths: u64, message: &str) -> serde_json::Value {
    let at_ns = began_ns + tenths * 100_000_000;
    serde_json::json!({ "stage": stage, "at_ns": at_ns, "message": message })
}

/// Where a job is on the bus.
struct Played(zbus::object_server::InterfaceRef<Job>);

impl Played {
    async fn stage(&self, stage: &'static str, tenths: u64, message: &str) {
        let emitter = self.0.signal_emitter();
        let mut job = self.0.get_mut().await;
        job.stage = stage;
        job.message = message.to_owned();
        let step = step(job.began_ns, stage, tenths, message);
        job.steps.push(step);
        drop(job);
        // All at once, as the service does it; what names processes is asked for.
        tell(emitter, [("Stage", stage.into())].into(), &["Message", "Steps"]).await;
    }

    async fn found(&self) {
        self.0.get_mut().await.holders = HOLDERS.to_owned();
        tell(self.0.signal_emitter(), HashMap::new(), &["Holders"]).await;
    }

    /// The signal comes first, as it may.
    async fn end(&self, outcome: &'static str, tenths: u64, message: &str) {
        let emitter = self.0.signal_emitter();
        Job::ended(emitter, outcome, "").await.unwrap();
        self.stage("ended", tenths, message).await;
        let mut job = self.0.get_mut().await;
        job.outcome = outcome;
        job.outcome_changed(emitter).await.unwrap();
    }
}

async fn tell(
    emitter: &SignalEmitter<'_>,
    changed: HashMap<&str, Value<'_>>,
    invalidated: &[&str],
) {
    let name = zbus::names::InterfaceName::try_from("org.dmashare.Job1").unwrap();
    let told = Properties::properties_changed(emitter, name, changed, invalidated.into());
    told.await.unwrap();
}

async fn play(
    bus: Connection,
    path: OwnedObjectPath,
    plan: Plan,
    force: u32,
    cancelled: Arc<Notify>,
) {
    let job = Played(bus.object_server().interface(&path).await.unwrap());
    let dry_run = job.0.get().await.dry_run;
    job.stage("draining", 1, "2 clients are asked to let go").await;
    job.stage("nudging", 12, "asked by a synthetic remove: card1").await;
    job.stage("looking", 13, "4 processes hold on").await;
    match plan {
        Plan::Waits => {
            cancelled.notified().await;
            job.end("cancelled", 20, "cancelled").await;
            return;
        }
        Plan::Deaf => std::future::pending().await,
        Plan::Refuses if force == 0 => {
            job.found().await;
            job.end("refused", 23, "4 processes hold on to it").await;
            return;
        }
        Plan::Refuses => job.stage("forcing", 14, "4 processes are ended").await,
        _ => {}
    }
    if dry_run {
        job.end("would-eject", 15, "nobody is in the way").await;
        return;
    }
    job.stage("removing", 21, "removing 0000:01:00.1").await;
    match plan {
        Plan::Stuck => {
            let mut job_of = job.0.get_mut().await;
            job_of.message = "the kernel is in dma_fence_default_wait".to_owned();
            job_of.message_changed(job.0.signal_emitter()).await.unwrap();
            job_of.deadline_ns = 1;
            job_of.deadline_ns_changed(job.0.signal_emitter()).await.unwrap();
        }
        Plan::TooLate => {
            cancelled.notified().await;
            job.end("failed", 30, "0000:01:00.0 is still there").await;
        }
        _ => job.end("ejected", 25, "it is gone").await,
    }
}
