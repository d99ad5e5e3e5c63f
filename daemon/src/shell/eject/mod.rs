//! Ejects: a task each, which hands its job what happens and carries out what it wants; and looks at
//! holders, for who asks.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::rc::{Rc, Weak};
use std::time::Duration;

use dmashare_proto::DeviceId;
use dmashare_proto::holders::{ClientOf, Holders, Look, Other};
use dmashare_proto::job::Stage;
use dmashare_proto::kill::{self, How};
use dmashare_proto::stats::Counter;
use dmashare_proto::sysfs::{Nudge, Request};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{Shared, Shell};
use crate::bus::{EjectRequest, NotDone};
use crate::clock::monotonic_ns;
use crate::config::{DriverOverride, WhileOpen};
use crate::core::Standing;
use crate::eject::drivers::while_open;
use crate::eject::{Action, Event, Job, Options};
use crate::helpers::Helpers;
use crate::reactor::Command;
use crate::view::{BusUpdate, Counts, InhibitorView, JobView};

mod note;
mod target;

pub(super) use note::take_back;

/// What a restart has to take back, in a state folder.
pub(super) fn note(state_dir: &Path) -> note::Note {
    note::Note::new(state_dir)
}

/// Ended jobs that stay on the bus.
const KEPT: usize = 16;

/// All ejects.
pub(super) struct Ejects {
    pub(super) helpers: Helpers,
    /// How long a delay lock holds one up.
    pub(super) delay: Duration,
    /// What the configuration says of drivers.
    pub(super) drivers: Vec<DriverOverride>,
    pub(super) note: note::Note,
    next: u64,
    running: BTreeMap<u64, Running>,
    ended: VecDeque<u64>,
}

struct Running {
    view: JobView,
    job: Job,
    events: UnboundedSender<Event>,
    /// As it was told last.
    inhibitors: Vec<InhibitorView>,
    is_empty: bool,
    is_lost: bool,
}

impl Ejects {
    pub(super) fn new(
        helpers: Helpers,
        delay: Duration,
        drivers: Vec<DriverOverride>,
        note: note::Note,
    ) -> Self {
        let (running, ended) = (BTreeMap::new(), VecDeque::new());
        Self { helpers, delay, drivers, note, next: 1, running, ended }
    }

    /// Whether a driver cannot be removed while anybody has it open. A simulated one can.
    fn blocks_while_open(&self, driver: &str) -> bool {
        self.helpers.simulate.is_none()
            && while_open(driver, &self.drivers).open == WhileOpen::Blocks
    }
}

/// Takes requests in, for ever.
pub(super) async fn take(shell: Shared, mut requests: UnboundedReceiver<EjectRequest>) {
    while let Some(request) = requests.recv().await {
        match request {
            EjectRequest::Eject { device, options, uid, answer } => {
                let begun = shell.borrow_mut().begin_eject(device, options, uid);
                let (result, task) = match begun {
                    Ok((id, events)) => (Ok(id), Some((id, events))),
                    Err(why) => (Err(why), None),
                };
                if answer.send(result).is_err() {
                    tracing::debug!("who asked for an eject is gone");
                }
                if let Some((id, events)) = task {
                    tokio::task::spawn_local(run(Rc::downgrade(&shell), id, events));
                }
            }
            EjectRequest::Cancel { job, answer } => {
                if answer.send(shell.borrow_mut().cancel_eject(job)).is_err() {
                    tracing::debug!("who cancelled an eject is gone");
                }
            }
            EjectRequest::Holders { device, only_of, answer } => {
                let look = shell.borrow().look_for(device);
                let helpers = shell.borrow().ejects.helpers.clone();
                let shell = Rc::downgrade(&shell);
                tokio::task::spawn_local(async move {
                    let result = match look {
                        Err(why) => Err(why),
                        Ok(look) => helpers.look(&look).await.map_err(NotDone::Failed),
                    };
                    let result = result.map(|mut holders| {
                        if let Some(shell) = shell.upgrade() {
                            shell.borrow().add_clients(&mut holders);
                        }
                        keep_only_of(only_of, holders)
                    });
                    if answer.send(result).is_err() {
                        tracing::debug!("who asked for holders is gone");
                    }
                });
            }
            EjectRequest::Attach { answer } => {
                let helpers = shell.borrow().ejects.helpers.clone();
                tokio::task::spawn_local(async move {
                    let result = helpers.write(&Request::Rescan, |_| {}).await;
                    if answer.send(result.map_err(NotDone::Failed)).is_err() {
                        tracing::debug!("who asked for a rescan is gone");
                    }
                });
            }
        }
    }
}

/// A job, until it has ended. Weakly held, so that the service stops in the middle of one: what the kernel
/// was asked for goes on in the helper, and what is to be taken back is noted.
async fn run(shell: Weak<RefCell<Shell>>, id: u64, mut events: UnboundedReceiver<Event>) {
    let handle = |event| match shell.upgrade() {
        Some(shell) => shell.borrow_mut().eject_event(id, event),
        None => true,
    };
    let mut event = Event::Time;
    if let Some(shell) = shell.upgrade() {
        let shell = shell.borrow();
        event = Event::Begin(shell.inhibitors_of(id));
    }
    loop {
        if handle(event) {
            return;
        }
        let wake = shell.upgrade().and_then(|shell| shell.borrow().eject_wake_ns(id));
        let comes = async {
            match wake {
                Some(at) => {
                    let wait = Duration::from_nanos(at.saturating_sub(monotonic_ns()));
                    tokio::time::sleep(wait).await;
                }
                None => std::future::pending().await,
            }
        };
        event = tokio::select! {
            event = events.recv() => match event {
                Some(event) => event,
                None => return,
            },
            () = comes => Event::Time,
        };
    }
}

impl Shell {
    fn begin_eject(
        &mut self,
        device: DeviceId,
        mut options: Options,
        uid: u32,
    ) -> Result<(u64, UnboundedReceiver<Event>), NotDone> {
        let desc = self.broker.device_desc(device).ok_or(NotDone::DeviceLost)?;
        let mut running = self.ejects.running.iter();
        let same =
            |running: &&Running| running.view.device == device && running.job.outcome().is_none();
        if let Some((id, _)) = running.find(|(_, it)| same(it)) {
            return Err(NotDone::Busy(*id));
        }
        let blocks = self.ejects.blocks_while_open(&desc.driver);
        let sysfs = self.ejects.helpers.simulate.is_none().then_some(Path::new("/sys"));
        let target = target::of(desc, &options, blocks, sysfs)?;
        options.delay_ns = u64::try_from(self.ejects.delay.as_nanos()).unwrap_or(u64::MAX);
        let id = self.ejects.next;
        self.ejects.next += 1;
        let (events, receiver) = unbounded_channel();
        let view = JobView {
            id,
            device,
            device_name: target.name.clone(),
            uid,
            dry_run: options.dry_run,
            ..JobView::default()
        };
        tracing::info!(name: "eject-began",
            job = id,
            device = device.0,
            name = target.name,
            by_uid = uid,
            force = options.force,
            dry_run = options.dry_run,
            "an eject begins"
        );
        let job = Job::new(options, target);
        let running = Running {
            view,
            job,
            events,
            inhibitors: self.broker.inhibitors_of(device),
            is_empty: false,
            is_lost: false,
        };
        self.ejects.running.insert(id, running);
        self.counters.count(Counter::EjectsBegun);
        // Who is answered with its path finds it there.
        self.show_job(id);
        Ok((id, receiver))
    }

    fn cancel_eject(&mut self, id: u64) -> Result<(), NotDone> {
        let running = self.ejects.running.get(&id).ok_or(NotDone::NoJob)?;
        if running.job.outcome().is_some() {
            return Err(NotDone::NoJob);
        }
        if !running.job.can_be_cancelled() {
            return Err(NotDone::TooLate(running.job.message().to_owned()));
        }
        // Its task has ended only with the service.
        _ = running.events.send(Event::Cancel);
        Ok(())
    }

    /// Hands a job an event, and does what it wants. `true` once it has ended.
    fn eject_event(&mut self, id: u64, mut event: Event) -> bool {
        if let Event::Looked(Ok(holders)) = &mut event {
            self.add_clients(holders);
        }
        let Some(running) = self.ejects.running.get_mut(&id) else { return true };
        let (device, events) = (running.view.device, running.events.clone());
        let stage = running.job.stage();
        let actions = running.job.handle(monotonic_ns(), event);
        let by = format!("an eject (job {id}, by user {})", running.view.uid);
        if running.job.stage() != stage {
            let (stage, message) = (running.job.stage().name(), running.job.message());
            tracing::info!(name: "eject-stage", job = id, device = device.0, stage, "eject: {message}");
        }
        for action in actions {
            self.carry_out_eject(device, &by, action, &events);
        }
        let is_over = self.ejects.running.get(&id).is_none_or(|it| it.job.outcome().is_some());
        if is_over {
            // Who sees the end sees the device as it is then.
            self.flush_to_bus();
        }
        self.show_job(id);
        if is_over {
            self.ejects.note.forget(device);
            self.ejects.ended.push_back(id);
            if self.ejects.ended.len() > KEPT
                && let Some(oldest) = self.ejects.ended.pop_front()
            {
                self.ejects.running.remove(&oldest);
                self.tell_bus(BusUpdate::JobGone(oldest));
            }
        }
        self.settle_ejects();
        is_over
    }

    fn carry_out_eject(
        &mut self,
        device: DeviceId,
        by: &str,
        action: Action,
        events: &UnboundedSender<Event>,
    ) {
        match action {
            Action::Drain => {
                self.event(|broker, out| broker.drain(device, by.to_owned(), out));
                self.lanes.hurry();
            }
            Action::Undrain => self.event(|broker, out| broker.undrain(device, out)),
            Action::Expect => self.reactor.send(Command::Stand(device, Standing::Ejecting)),
            Action::Unexpect => self.reactor.send(Command::Stand(device, Standing::Draining)),
            Action::Signal { pid, start, kill } => {
                let helpers = self.ejects.helpers.clone();
                let how = if kill { How::Kill } else { How::Term };
                tokio::task::spawn_local(async move {
                    match helpers.kill(kill::Request { pid, start, how }).await {
                        Ok(()) => tracing::warn!(name: "holder-ended",
                            device = device.0,
                            pid,
                            kill,
                            "a holder is ended by force"
                        ),
                        Err(error) => {
                            tracing::error!(
                                device = device.0,
                                pid,
                                error,
                                "a holder cannot be ended"
                            );
                        }
                    }
                });
            }
            Action::Look => {
                let (helpers, events) = (self.ejects.helpers.clone(), events.clone());
                let look = self.look_for(device).map_err(|_| "the device is lost".to_owned());
                tokio::task::spawn_local(async move {
                    let found = match look {
                        Ok(look) => helpers.look(&look).await,
                        Err(why) => Err(why),
                    };
                    // The job may have ended, and its task with it.
                    _ = events.send(Event::Looked(found));
                });
            }
            Action::Write(request) => {
                // A client that asked for something meanwhile, and was refused, passed a node of the device.
                self.lanes.hurry();
                if let Request::Nudge { nodes, action: Nudge::Remove } = &request
                    && let Err(error) = self.ejects.note.keep(device, nodes)
                {
                    tracing::warn!(%error, "a restart will not know of the nudge");
                }
                let (helpers, events) = (self.ejects.helpers.clone(), events.clone());
                tokio::task::spawn_local(async move {
                    let tell = |stuck: crate::helpers::Stuck| {
                        let crate::helpers::Stuck { ms, stack, pid } = stuck;
                        _ = events.send(Event::Stuck { ms, stack, pid });
                    };
                    let result = helpers.write(&request, tell).await;
                    _ = events.send(Event::Written(result));
                });
            }
        }
    }

    /// Tells jobs what has changed for them.
    pub(super) fn settle_ejects(&mut self) {
        for running in self.ejects.running.values_mut() {
            if running.job.outcome().is_some() {
                continue;
            }
            let device = running.view.device;
            let counts = self.broker.counts_of(device);
            if counts.is_none() && !std::mem::replace(&mut running.is_lost, true) {
                _ = running.events.send(Event::Lost);
            }
            let drains = running.job.stage() == Stage::Draining;
            let is_empty = drains && counts == Some(Counts::default());
            if !std::mem::replace(&mut running.is_empty, is_empty) && is_empty {
                _ = running.events.send(Event::Emptied);
            }
            let inhibitors = self.broker.inhibitors_of(device);
            if inhibitors != running.inhibitors {
                running.inhibitors.clone_from(&inhibitors);
                _ = running.events.send(Event::Inhibitors(inhibitors));
            }
        }
    }

    fn inhibitors_of(&self, job: u64) -> Vec<InhibitorView> {
        self.ejects.running.get(&job).map(|it| it.inhibitors.clone()).unwrap_or_default()
    }

    fn eject_wake_ns(&self, job: u64) -> Option<u64> {
        self.ejects.running.get(&job)?.job.wake_ns()
    }

    fn look_for(&self, device: DeviceId) -> Result<Look, NotDone> {
        let mut wanted = self.broker.look_for(device).ok_or(NotDone::DeviceLost)?;
        wanted.blocks_while_open = self.ejects.blocks_while_open(&wanted.driver);
        let others = self.broker.present().filter(|&other| other != device);
        let others = others.filter_map(|other| self.broker.look_for(other)).collect();
        Ok(Look { device: wanted, others })
    }

    /// Says of each process what it is to the broker; of the broker itself and its keeper nothing, which let
    /// go by themselves of all that they have.
    fn add_clients(&self, holders: &mut Holders) {
        let own = [std::process::id(), self.journal.keeper_pid()];
        holders.processes.retain(|holder| !own.contains(&holder.pid.unsigned_abs()));
        let clients = self.broker.client_views();
        for holder in &mut holders.processes {
            let same = clients.iter().filter(|client| client.pid == holder.pid);
            holder.clients = same
                .map(|client| ClientOf {
                    client: client.id.0,
                    name: client.name.clone(),
                    on_loss: client.declared.on_loss.name().to_owned(),
                    survives: client.declared.survives,
                })
                .collect();
        }
    }

    fn show_job(&mut self, id: u64) {
        let Some(running) = self.ejects.running.get_mut(&id) else { return };
        let (view, job) = (&mut running.view, &running.job);
        view.stage = job.stage();
        view.message = job.message().to_owned();
        view.deadline_ns = job.deadline_ns();
        view.outcome = job.outcome();
        let json = |holders: &Holders| serde_json::to_string(holders).unwrap_or_default();
        view.holders = job.holders().map(json).unwrap_or_default();
        view.steps = serde_json::to_string(job.steps()).unwrap_or_default();
        let view = view.clone();
        self.tell_bus(BusUpdate::Job(Box::new(view)));
    }
}

/// What a user may see: their own processes, and how many there are besides.
fn keep_only_of(uid: Option<u32>, mut holders: Holders) -> Holders {
    let Some(uid) = uid else { return holders };
    let before = holders.processes.len();
    holders.processes.retain(|holder| holder.uid == uid);
    let hidden = before - holders.processes.len();
    if hidden > 0 {
        let processes = if hidden == 1 { "process" } else { "processes" };
        let text = format!(
            "{hidden} {processes} of other users hold it too; polkit does not let you see more \
             (org.dmashare.holders)"
        );
        holders.others.push(Other { kind: "unseen".to_owned(), text, active: false });
    }
    holders
}
