//! What is missing at the start, and comes: the bus, the devices, udev.

use anyhow::{Context, Result, ensure};
use dmashare::DeviceId;
use dmashare_proto::message::Event;

use crate::hostile::service::{PrivateBus, Service};
use crate::hostile::{Bystanders, Raw};
use crate::scenario::figures::show;
use crate::scenario::{Skip, share};
use crate::{BOUND, Bus, Role, Unplug, World};

const NO_BUS: &str = "unix:path=/nonexistent/bus";

/// It serves without, says so, and is on the bus as soon as there is one.
pub(super) fn run_no_bus(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Egpu)?;
    pair.meanwhile(|| {
        let mut service = Service::new(world, world.is_simulated())?;
        if world.is_simulated() {
            plug_before(&service, "igpu")?;
        }
        let path = service.path("bus.sock");
        let address = format!("unix:path={}", path.display());
        service.start(&address)?;
        let mut raw = Raw::hello(&service.socket(), "no bus")?;
        let devices = raw.devices()?;
        ensure!(!devices.is_empty(), "no devices:\n{}", service.log());
        let bus = PrivateBus::start(&path)?;
        let seen = Bus::connect(&address)?;
        let on_bus = seen.until("the broker on a bus that came late", BOUND, |bus| {
            Ok(if bus.is_owned()? { bus.devices().ok() } else { None })
        })?;
        ensure!(on_bus.len() == devices.len(), "{devices:?}, and on the bus {on_bus:?}");
        seen.until("the client on the bus", BOUND, |bus| {
            Ok((bus.clients()?.len() == 1).then_some(()))
        })?;
        said(&service, "no bus; going on without it")?;
        // And when it goes again.
        drop((seen, bus));
        raw.devices().context("without a bus again")?;
        service.stop()
    })?;
    pair.undisturbed(world)
}

fn said(service: &Service, words: &str) -> Result<()> {
    let log = service.log();
    ensure!(log.contains(words), "it has not said {words:?}:\n{log}");
    Ok(())
}

fn plug_before(service: &Service, name: &str) -> Result<()> {
    // Nobody listens yet, and nobody has to: it is found at the start.
    drop(service.plug(name));
    ensure!(service.path("devices").join(name).exists(), "the device was not made");
    Ok(())
}

/// No GPU at all, and then one.
pub(super) fn run_no_device(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Egpu)?;
    pair.meanwhile(|| {
        let mut service = Service::new(world, true)?;
        let bus = service.path("bus.sock");
        let address = format!("unix:path={}", bus.display());
        let _bus = PrivateBus::start(&bus)?;
        service.start(&address)?;
        let mut raw = Raw::hello(&service.socket(), "no device")?;
        ensure!(raw.devices()?.is_empty(), "there is a device");
        service.plug("late")?;
        match raw.event()? {
            Event::DeviceAdded(info) => ensure!(info.driver == "late-sim", "{info:?}"),
            other => anyhow::bail!("no device but {other:?}"),
        }
        ensure!(raw.devices()?.len() == 1, "it is not in the list");
        Bus::connect(&address)?.until("the device on the bus", BOUND, |bus| {
            Ok((bus.is_owned()? && bus.devices()?.len() == 1).then_some(()))
        })?;
        let dma_buf = dmashare_uapi::sim::buffer(4096)?;
        let node = std::fs::File::open(service.path("devices/late/card0"))?;
        let layout = crate::hostile::objects::linear(16, 16);
        let fds = [std::os::fd::AsFd::as_fd(&node), std::os::fd::AsFd::as_fd(&dma_buf)];
        let (reply, _) = raw.request(&crate::hostile::objects::export(&layout), &fds)?;
        ensure!(matches!(reply, dmashare_proto::Reply::Exported(_)), "{reply:?}");
        service.stop()
    })?;
    pair.undisturbed(world)
}

/// No udevd and no DRM: the service itself, on the machine as it is, in a mount namespace where both
/// are hidden, and /dev too, without which libudev does not even listen.
pub(super) fn run_no_udev(world: &mut World) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Skip("only root can hide udev in a mount namespace".to_owned()).into());
    }
    let pair = Bystanders::start(world, Role::Egpu)?;
    pair.meanwhile(|| {
        let mut service = Service::new(world, false)?;
        let hide = "for dir in /run/udev /sys/class/drm /sys/kernel/debug /dev; do \
                    test ! -d $dir || mount -t tmpfs none $dir || exit 99; done; exec \"$@\"";
        service.by(&["unshare", "--mount", "--propagation", "private", "sh", "-c", hide, "sh"]);
        if let Err(error) = service.start(NO_BUS) {
            if error.to_string().contains("exit status: 99") {
                return Err(Skip(format!("no mount namespace: {error}")).into());
            }
            return Err(error);
        }
        said(&service, "udevd does not run")?;
        said(&service, "devices that come are not seen")?;
        let mut raw = Raw::hello(&service.socket(), "no udev")?;
        show(format_args!("{} devices without udev", raw.devices()?.len()));
        service.stop()
    })?;
    pair.undisturbed(world)
}

/// udevd is away when the service starts: it serves what there is. A card that comes meanwhile is known
/// when udevd has told of it, with what the rules say.
pub(super) fn run_udev_later(world: &mut World) -> Result<()> {
    let away = world.stop_udevd()?;
    world.restart_broker()?;
    let log = world.log_of_run()?;
    ensure!(log.contains("devices that come are seen once it does"), "it has not said so:\n{log}");
    let pair = Bystanders::start(world, Role::Stay)?;
    pair.meanwhile(|| {
        share::run(world).context("without udevd")?;
        let lost = world.device(&world.egpu()?)?.id;
        world.unplug(Unplug::Remove)?;
        world.wait_gone(lost)?;
        let before = ids(world)?;
        let watcher = world.connect("watcher")?;
        let card = world.bring_back()?;
        let known = watcher.devices()?;
        ensure!(known.len() == before.len(), "udevd has told of none, and there are {known:?}");

        away.end()?;
        let came = world.arrived(&watcher, &card)?;
        drop(watcher);
        // As udev's rules have it.
        world.wait_device(came, "the card that came, which can be pulled", |device| {
            device.is_some_and(|device| device.removable)
        })?;
        let mut others = ids(world)?;
        others.retain(|&id| id != came);
        ensure!(others == before, "told of once more, {before:?} are {others:?}");
        share::run(world).context("with udevd")
    })?;
    pair.undisturbed(world)
}

fn ids(world: &World) -> Result<Vec<DeviceId>> {
    Ok(world.bus().devices()?.iter().map(|device| device.id).collect())
}
