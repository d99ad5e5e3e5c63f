//! Commands in the guest: the host's side of the agent's port.

use std::collections::HashMap;
use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use vm_frames::{End, Exec, ToGuest, ToHost, read_frame, write_frame};

use super::qmp::Qmp;

struct Shared {
    to_guest: Mutex<UnixStream>,
    /// `None` once the machine is gone: nobody may wait for it any more.
    sessions: Mutex<Option<HashMap<u64, Sender<ToHost>>>>,
    session_ended: Condvar,
    qmp: Mutex<Qmp>,
    used_up: AtomicBool,
    next_id: AtomicU64,
}

/// The connection to a guest.
#[derive(Clone)]
pub struct Channel {
    shared: Arc<Shared>,
}

/// A command under way in the guest. Dropped, it goes on unheard.
pub struct Running {
    control: Control,
    /// Output, and at last the end. Disconnected if the machine dies.
    pub frames: Receiver<ToHost>,
}

/// What can be said to a command under way.
#[derive(Clone)]
pub struct Control {
    id: u64,
    shared: Arc<Shared>,
}

impl Channel {
    /// Serves the port from now on. The second value is told when the guest is up.
    pub fn new(port: UnixStream, qmp: Qmp) -> Result<(Self, Receiver<String>)> {
        let reader = port.try_clone().context("cannot clone the agent's socket")?;
        let shared = Arc::new(Shared {
            to_guest: Mutex::new(port),
            sessions: Mutex::new(Some(HashMap::new())),
            session_ended: Condvar::new(),
            qmp: Mutex::new(qmp),
            used_up: AtomicBool::new(false),
            next_id: AtomicU64::new(1),
        });
        let (up, is_up) = mpsc::channel();
        let serve = Arc::clone(&shared);
        thread::spawn(move || {
            serve.read(BufReader::new(reader), &up);
            // Whoever waits for a command wakes up with an error.
            *serve.sessions() = None;
        });
        Ok((Self { shared }, is_up))
    }

    /// Starts a command.
    pub fn start(&self, exec: Exec) -> Result<Running> {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let (to, frames) = mpsc::channel();
        match self.shared.sessions().as_mut() {
            Some(sessions) => sessions.insert(id, to),
            None => bail!("the virtual machine has ended"),
        };
        let control = Control { id, shared: Arc::clone(&self.shared) };
        control.send(&ToGuest::Exec { id, exec })?;
        Ok(Running { control, frames })
    }

    /// Runs a command to its end; `sink` gets its output as it comes.
    pub fn run(&self, exec: Exec, sink: &mut dyn FnMut(u8, &[u8])) -> Result<End> {
        let running = self.start(exec)?;
        running.control().input(Vec::new())?;
        loop {
            match running.frames.recv() {
                Ok(ToHost::Out { fd, data, .. }) => sink(fd, &data),
                Ok(ToHost::Exit { end, .. }) => return Ok(end),
                Ok(_) => {}
                Err(_) => bail!("the virtual machine ended in the middle of a command"),
            }
        }
    }

    /// Whether something was done to the card that only a new boot undoes.
    pub fn used_up(&self) -> bool {
        self.shared.used_up.load(Ordering::Relaxed)
    }

    /// Whether the machine still runs.
    pub fn alive(&self) -> bool {
        self.shared.sessions().is_some()
    }
}

impl Running {
    /// For another thread.
    pub fn control(&self) -> Control {
        self.control.clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(sessions) = self.control.shared.sessions().as_mut() {
            sessions.remove(&self.control.id);
        }
        self.control.shared.session_ended.notify_all();
    }
}

impl Control {
    /// Gives the command input; nothing is the end of its input.
    pub fn input(&self, data: Vec<u8>) -> Result<()> {
        self.send(&ToGuest::In { id: self.id, data })
    }

    /// Kills it, and returns when its end was told. What cannot be killed (it hangs in the kernel)
    /// is reported as failed after the bound, and the machine as used up.
    pub fn kill(&self, bound: Duration) -> Result<()> {
        self.send(&ToGuest::Kill { id: self.id })?;
        let (sessions, timeout) = self
            .shared
            .session_ended
            .wait_timeout_while(self.shared.sessions(), bound, |sessions| {
                sessions.as_ref().is_some_and(|all| all.contains_key(&self.id))
            })
            .expect("no holder panics");
        if timeout.timed_out()
            && let Some(to) = sessions.as_ref().and_then(|all| all.get(&self.id))
        {
            self.shared.used_up.store(true, Ordering::Relaxed);
            let end = End::Failed("hangs in the kernel; the machine must be rebooted".into());
            // Whoever does not listen any more does not need to know.
            drop(to.send(ToHost::Exit { id: self.id, end }));
        }
        Ok(())
    }

    fn send(&self, frame: &ToGuest) -> Result<()> {
        self.shared.send(frame).context("cannot reach the guest's agent")
    }
}

impl Shared {
    fn sessions(&self) -> MutexGuard<'_, Option<HashMap<u64, Sender<ToHost>>>> {
        self.sessions.lock().expect("no holder panics")
    }

    fn send(&self, frame: &ToGuest) -> std::io::Result<()> {
        write_frame(&mut *self.to_guest.lock().expect("no holder panics"), frame)
    }

    fn read(self: &Arc<Self>, mut from: BufReader<UnixStream>, up: &Sender<String>) {
        loop {
            let frame = match read_frame::<ToHost>(&mut from) {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(error) => return eprintln!("vm: the agent's channel: {error}"),
            };
            match frame {
                ToHost::Hello { uptime } => {
                    if up.send(uptime).is_err() {
                        eprintln!("vm: the guest's agent was restarted");
                    }
                }
                ToHost::Host { req, request } => {
                    let shared = Arc::clone(self);
                    thread::spawn(move || shared.serve(req, &request));
                }
                ToHost::Out { id, .. } | ToHost::Exit { id, .. } => {
                    // A command that nobody waits for any more may go on.
                    if let Some(to) = self.sessions().as_ref().and_then(|all| all.get(&id)) {
                        drop(to.send(frame));
                    }
                }
            }
        }
    }

    fn serve(&self, req: u64, request: &str) {
        let result = self.qmp.lock().expect("no holder panics").perform(request);
        if result.is_ok() {
            self.used_up.store(true, Ordering::Relaxed);
        }
        let error = result.err().map(|error| format!("{error:#}"));
        if let Err(error) = self.send(&ToGuest::HostReply { req, error }) {
            eprintln!("vm: cannot answer {request:?}: {error}");
        }
    }
}

/// Waits for the guest's first word.
pub fn wait_up(is_up: &Receiver<String>, bound: Duration) -> Result<String> {
    match is_up.recv_timeout(bound) {
        Ok(uptime) => Ok(uptime),
        Err(RecvTimeoutError::Timeout) => bail!("not up after {} s", bound.as_secs()),
        Err(RecvTimeoutError::Disconnected) => bail!("QEMU has ended"),
    }
}
