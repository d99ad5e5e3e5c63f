//! A machine with GPUs, a broker and a bus, simulated or real.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use dmashare::{Connection, DeviceId};
use dmashare_proto::keeper::Key;

use crate::actor::{Actor, User};
use crate::bus::{self, Bus};
use crate::{Card, Process, Role};

mod kind;
mod simulated;
mod udevd;
mod vm;
mod wait;
mod watchdog;

pub(crate) use vm::{journalctl, systemctl};

pub use kind::{Backend, Machine, Unplug};
pub use udevd::NoUdevd;
pub use watchdog::Watched;

use simulated::Simulated;
use vm::Vm;

/// How long anything may take that is known to happen: generous, since the machine is slow.
pub const BOUND: Duration = Duration::from_secs(60);

enum Inner {
    Simulated(Simulated),
    Vm(Vm),
}

/// A machine with its broker running. Dropped, what it started is stopped (vm: the installed service
/// stays).
pub struct World {
    backend: Backend,
    inner: Inner,
    bus: Bus,
}

impl World {
    /// A clean machine: all cards there, the broker running with this backend and with `config` (TOML,
    /// may be empty) as its last drop-in, nothing in its tables.
    ///
    /// # Errors
    /// The daemon is not built (simulated), or not installed (vm); it does not start.
    pub fn start(backend: Backend, config: &str) -> Result<Self> {
        let (inner, bus) = match backend.machine() {
            Machine::Simulated => {
                let (simulated, bus) = Simulated::start(config)?;
                (Inner::Simulated(simulated), bus)
            }
            Machine::Vm => {
                let (vm, bus) = Vm::start(backend, config)?;
                (Inner::Vm(vm), bus)
            }
        };
        let world = Self { backend, inner, bus };
        world.wait_ready()?;
        let found = world.bus.backend()?;
        if found != backend.name() {
            bail!("the broker uses {found} for its guards, not {}", backend.name());
        }
        Ok(world)
    }

    /// Until the broker is on the bus with all the cards.
    ///
    /// # Errors
    /// It is not there in time.
    pub fn wait_ready(&self) -> Result<()> {
        let cards = [Role::Egpu, Role::Igpu, Role::Stay].map(|role| self.card(role));
        let cards: Vec<Card> = cards.into_iter().collect::<Result<_>>()?;
        self.bus.until("the broker with its devices", BOUND, |bus| {
            // Asking for objects of a name that nobody has would start the service once more.
            if !bus.is_owned()? {
                return Ok(None);
            }
            let Ok(devices) = bus.devices() else { return Ok(None) };
            let all = cards.iter().all(|card| devices.iter().any(|device| is_of(device, card)));
            Ok(all.then_some(()))
        })
    }

    /// Which machine it is.
    #[must_use]
    pub fn machine(&self) -> Machine {
        self.backend.machine()
    }

    /// Whether its cards, buffers and fences are simulated.
    #[must_use]
    pub fn is_simulated(&self) -> bool {
        self.machine() == Machine::Simulated
    }

    /// What guards are made of.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The broker on D-Bus.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// The bus's address; `system` for the system's.
    #[must_use]
    pub fn bus_address(&self) -> String {
        match &self.inner {
            Inner::Simulated(simulated) => simulated.bus_address(),
            Inner::Vm(_) => "system".to_owned(),
        }
    }

    /// The broker's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        match &self.inner {
            Inner::Simulated(simulated) => simulated.socket(),
            Inner::Vm(_) => "/run/dmashare/broker.sock".into(),
        }
    }

    /// A connection of this process to the broker.
    ///
    /// # Errors
    /// It is not there.
    pub fn connect(&self, name: &str) -> Result<Connection> {
        let socket = self.socket();
        let connection = Connection::builder().name(name).connect_to(&socket);
        connection.with_context(|| format!("connect to {}", socket.display()))
    }

    /// Another process that does what it is told. The user counts in the virtual machine only.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn actor(&self, name: &str, user: User) -> Result<Actor> {
        let user = if self.is_simulated() { User::Own } else { user };
        Actor::start(name, user)
    }

    /// The same, connected to the broker, whose events it serves.
    ///
    /// # Errors
    /// It cannot be started, or cannot connect.
    pub fn client(&self, name: &str, user: User) -> Result<Actor> {
        let actor = self.actor(name, user)?;
        actor.connect(&self.socket())?;
        Ok(actor)
    }

    /// A card as it is now.
    ///
    /// # Errors
    /// It is not there.
    pub fn card(&self, role: Role) -> Result<Card> {
        let card = match &self.inner {
            Inner::Simulated(simulated) => simulated.card(role),
            Inner::Vm(vm) => vm.card(role),
        };
        card?.with_context(|| format!("the card {role:?} is not there"))
    }

    /// The card that is pulled.
    ///
    /// # Errors
    /// It is not there.
    pub fn egpu(&self) -> Result<Card> {
        self.card(Role::Egpu)
    }

    /// The card that imports.
    ///
    /// # Errors
    /// It is not there.
    pub fn igpu(&self) -> Result<Card> {
        self.card(Role::Igpu)
    }

    /// The broker's device for a card that is there.
    ///
    /// # Errors
    /// It has none.
    pub fn device(&self, card: &Card) -> Result<bus::Device> {
        let mut devices = self.bus.devices()?;
        devices.retain(|device| is_of(device, card));
        devices.pop().with_context(|| format!("the broker has no device for {card:?}"))
    }

    /// Takes the eGPU away, and returns when the kernel has finished with it.
    ///
    /// # Errors
    /// It is not there; the kernel did not finish in time.
    pub fn unplug(&self, how: Unplug) -> Result<()> {
        match (&self.inner, how) {
            (_, Unplug::Remove) => self.unplug_card(Role::Egpu),
            (Inner::Vm(vm), Unplug::HotUnplug) => vm.hot_unplug(),
            (Inner::Simulated(simulated), Unplug::Vanish) => simulated.vanish(),
            (Inner::Vm(vm), Unplug::Vanish) => vm.vanish(),
            (Inner::Simulated(_), Unplug::HotUnplug) => {
                bail!("a PCIe hot-unplug needs a PCIe slot")
            }
        }
    }

    /// Takes any card away that is on a PCI bus, as [`Unplug::Remove`] does.
    ///
    /// # Errors
    /// It is not there.
    pub fn unplug_card(&self, role: Role) -> Result<()> {
        match &self.inner {
            Inner::Simulated(simulated) => simulated.unplug(role),
            Inner::Vm(vm) => vm.remove(role),
        }
    }

    /// Brings it back, as far as the kernel is concerned.
    ///
    /// # Errors
    /// Its nodes did not come in time.
    pub fn bring_back_card(&self, role: Role) -> Result<Card> {
        match &self.inner {
            Inner::Simulated(simulated) => simulated.plug(role),
            Inner::Vm(vm) => vm.rescan(role),
        }
    }

    /// Brings the eGPU back; gives it with its new id at the broker.
    ///
    /// # Errors
    /// It did not come in time.
    pub fn replug(&self) -> Result<(Card, DeviceId)> {
        let watcher = self.connect("watcher")?;
        let card = self.bring_back()?;
        let id = self.arrived(&watcher, &card)?;
        Ok((card, id))
    }

    /// Brings the eGPU back, as far as the kernel is concerned.
    ///
    /// # Errors
    /// Its nodes did not come in time.
    pub fn bring_back(&self) -> Result<Card> {
        self.bring_back_card(Role::Egpu)
    }

    /// Takes udevd away, until what this gives is ended or dropped.
    ///
    /// # Errors
    /// There is none (simulated); it does not stop.
    pub fn stop_udevd(&self) -> Result<NoUdevd> {
        match &self.inner {
            Inner::Simulated(_) => bail!("a simulated machine has no udevd"),
            Inner::Vm(_) => NoUdevd::begin(),
        }
    }

    /// Writes an action into the uevent file of a card's primary node: the kernel sends a synthetic
    /// event, and nothing else happens.
    ///
    /// # Errors
    /// It is not there.
    pub fn synthetic(&self, card: &Card, action: &str) -> Result<()> {
        match &self.inner {
            Inner::Simulated(simulated) => simulated.synthetic(card, action),
            Inner::Vm(_) => vm::synthetic(card, action),
        }
    }

    /// Says that a card hangs: `words` are `WEDGED=` and what goes with it, letters and digits only if
    /// they are injected (the kernel is asked for the event). A driver's own word needs a driver, so
    /// that is for simulated cards.
    ///
    /// # Errors
    /// It is not there.
    pub fn wedge(&self, card: &Card, words: &str, injected: bool) -> Result<()> {
        match (&self.inner, injected) {
            (Inner::Simulated(simulated), _) => simulated.wedge(card, words, injected),
            (Inner::Vm(_), true) => {
                vm::synthetic(card, &format!("change fe4d7c9d-b8c6-4a70-9ef1-3d8a58d18eed {words}"))
            }
            (Inner::Vm(_), false) => bail!("no driver here can be made to say so"),
        }
    }

    /// What a look at a card reads, as a file (simulated cards).
    ///
    /// # Errors
    /// It is a real one.
    pub fn config_space(&self, card: &Card) -> Result<PathBuf> {
        if !card.simulated {
            bail!("a real card's is not for tests to write");
        }
        Ok(card.sysfs.join("config"))
    }

    /// The broker's process.
    ///
    /// # Errors
    /// It does not run.
    pub fn broker(&self) -> Result<Process> {
        match &self.inner {
            Inner::Simulated(simulated) => simulated.broker(),
            Inner::Vm(_) => vm::broker(),
        }
    }

    /// Starts the broker again, with what is on disk, after stopping it if it runs.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart_broker(&mut self) -> Result<()> {
        match &mut self.inner {
            Inner::Simulated(simulated) => simulated.restart()?,
            Inner::Vm(_) => vm::restart()?,
        }
        self.wait_ready()
    }

    /// Restarts the broker as an upgrade of its package does.
    ///
    /// # Errors
    /// It does not start.
    pub fn upgrade_broker(&mut self) -> Result<()> {
        match &mut self.inner {
            Inner::Simulated(simulated) => simulated.upgrade(),
            Inner::Vm(_) => vm::upgrade(),
        }
    }

    /// Kills the broker, and has its service manager start it again.
    ///
    /// # Errors
    /// It does not start.
    pub fn kill_broker(&mut self) -> Result<()> {
        match &mut self.inner {
            Inner::Simulated(simulated) => simulated.kill().and_then(|()| simulated.begin(&[])),
            Inner::Vm(_) => vm::kill(),
        }
    }

    /// Kills the broker, which is not started again before `meanwhile` is over.
    ///
    /// # Errors
    /// It does not start; or `meanwhile`'s.
    pub fn kill_broker_while(&mut self, meanwhile: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        match &mut self.inner {
            Inner::Simulated(simulated) => {
                simulated.kill()?;
                meanwhile(self)?;
                self.begin_broker(&[])
            }
            Inner::Vm(_) => vm::kill_while(|| meanwhile(self)),
        }
    }

    /// Kills the broker, which stays away until [`Self::begin_broker`] (simulated).
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_quietly(&mut self) -> Result<()> {
        match &mut self.inner {
            Inner::Simulated(simulated) => simulated.kill(),
            Inner::Vm(_) => bail!("systemd starts it"),
        }
    }

    /// Starts the broker again after it was killed by somebody else; below the words of a program that
    /// starts it (simulated).
    ///
    /// # Errors
    /// It does not start.
    pub fn begin_broker(&mut self, below: &[String]) -> Result<()> {
        match &mut self.inner {
            Inner::Simulated(simulated) => simulated.reap().and_then(|()| simulated.begin(below)),
            Inner::Vm(_) => bail!("systemd starts it"),
        }
    }

    /// Writes into what is kept over a restart, while there is no broker (simulated).
    ///
    /// # Errors
    /// There is no keeper.
    pub fn spoil(&self, key: Key, bytes: &[u8]) -> Result<()> {
        match &self.inner {
            Inner::Simulated(simulated) => simulated.spoil(key, bytes),
            Inner::Vm(_) => bail!("the connection to the keeper is in systemd's store"),
        }
    }

    /// Stops the broker as its service manager does.
    ///
    /// # Errors
    /// It does not stop.
    pub fn stop_broker(&mut self) -> Result<()> {
        match &mut self.inner {
            Inner::Simulated(simulated) => simulated.stop(),
            Inner::Vm(_) => vm::stop(),
        }
    }

    /// All that the broker has logged since it was started, reasons and all.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn log_of_run(&self) -> Result<String> {
        match &self.inner {
            Inner::Simulated(simulated) => Ok(simulated.log()),
            Inner::Vm(_) => vm::log_of_run(),
        }
    }

    /// What the broker has logged lately, for the message of a failure.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = match &self.inner {
            Inner::Simulated(simulated) => simulated.log(),
            Inner::Vm(_) => vm::log(),
        };
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

fn is_of(device: &bus::Device, card: &Card) -> bool {
    let nodes = card.nodes.iter().map(|node| node.to_string_lossy());
    device.state == "present" && device.nodes.iter().map(String::as_str).eq(nodes)
}
