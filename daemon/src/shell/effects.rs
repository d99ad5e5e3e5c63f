//! Effects, carried out in their order.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use dmashare_proto::report::{ImplicitFence, Step};
use dmashare_proto::{DeviceId, ObjectId};

use super::{Os, Shell, overdue};
use crate::clock::monotonic_ns;
use crate::core::{Effect, Effects};
use crate::reactor::{Command, OnPoint, Watched};
use crate::view::BusUpdate;

impl Shell {
    pub(super) fn carry_out(&mut self, effects: Effects<Os>) {
        for effect in effects {
            self.carry_out_one(effect);
        }
    }

    fn carry_out_one(&mut self, effect: Effect<Os>) {
        self.counters.note(&effect);
        match effect {
            Effect::Send { client, mut message, fds } => {
                self.broker.address(client, &mut message);
                if let Some(outbox) = self.connections.get(&client) {
                    outbox.push(&message, fds, self.queue_messages);
                }
            }
            Effect::Disconnect(client) => self.close(client),
            Effect::Watch { fence, device, source, ender, deadline_ns } => {
                let point = None;
                self.reactor.send(Command::Watch {
                    fence,
                    device,
                    source,
                    ender,
                    deadline_ns,
                    point,
                });
            }
            Effect::Probe { fence, client, id } => {
                self.reactor.send(Command::Probe { fence, client, id });
            }
            Effect::AddTimeline { timeline, device, line } => {
                self.timelines.add(timeline, &line);
                self.reactor.send(Command::AddTimeline(timeline, device, line));
            }
            Effect::Promise { timeline, point } => {
                self.reactor.send(Command::Promise(timeline, point));
            }
            Effect::SubmitPoint {
                fence,
                timeline,
                point,
                device,
                put,
                source,
                ender,
                deadline_ns,
            } => {
                let in_turn = !self.put_to_point(timeline, point, put.as_deref());
                let point = Some(OnPoint { timeline, point, in_turn });
                self.reactor.send(Command::Watch {
                    fence,
                    device,
                    source,
                    ender,
                    deadline_ns,
                    point,
                });
            }
            Effect::SignalPoint { timeline, point } => self.signal_point(timeline, point),
            Effect::EndPromises { timeline, errno } => {
                self.reactor.send(Command::EndPromises(timeline, errno));
            }
            Effect::EndRehearsed { fences, timelines, guards } => {
                self.end_rehearsed(fences, timelines, guards);
            }
            Effect::DropTimeline(timeline) => {
                self.timelines.forget(timeline);
                self.reactor.send(Command::DropTimeline(timeline));
            }
            Effect::ProbePoint { timeline, point, client, id } => {
                self.reactor.send(Command::ProbePoint { timeline, point, client, id });
            }
            Effect::WatchPoint { timeline, point } => self.watch_point(timeline, point),
            Effect::Attach { client, id, fence, buffers, access } => {
                let result = self.attach(&fence, &buffers, access);
                self.event(|broker, out| broker.attached(client, id, result, out));
            }
            Effect::Allocate(allocation) => {
                // Without the task nobody is served any more; the reply is not missed.
                if self.allocations.send(allocation).is_err() {
                    tracing::debug!("stopping; nothing is allocated any more");
                }
            }
            Effect::AddDevice { device, desc, gate, slot, word } => {
                tracing::info!(name: "device-present",
                    device = device.0,
                    name = desc.name,
                    driver = desc.driver,
                    removable = desc.removable,
                    reason = desc.removable_reason,
                    "a device is present"
                );
                let watched = Watched { desc, gate, slot, word };
                self.reactor.send(Command::AddDevice(device, watched));
            }
            Effect::ForgetDevice(device) => {
                tracing::info!(name: "device-gone", device = device.0, "a lost device is gone: nothing of it is left");
                self.reactor.send(Command::ForgetDevice(device));
                // Who sees the object go finds the whole story in the reports.
                self.flush_to_bus();
            }
            Effect::Stand(device, standing) => self.reactor.send(Command::Stand(device, standing)),
            Effect::Publish { slot, device, word } => self.state_page.publish(slot, device, word),
            Effect::ScanImplicit(device, buffers) => self.scan_implicit(device, buffers),
            Effect::Close(fds) => drop(fds),
            Effect::Discard(fds) => self.unused.discard(fds),
            Effect::Mark(device, step) => self.mark(device, step),
            Effect::Overdue { device, client, inodes, on_loss } => {
                if let Some(outbox) = self.connections.get(&client) {
                    let late = overdue::Late { device, client, pid: outbox.pid, inodes, on_loss };
                    if self.late.send(late).is_err() {
                        tracing::debug!("stopping; late clients are not met any more");
                    }
                }
            }
            Effect::TellLost { view, cause, at_ns, had } => {
                let device = view.id;
                tracing::warn!(name: "device-lost",
                    device = device.0,
                    cause = cause.name(),
                    buffers = had.buffers,
                    imports = had.imports,
                    fences = had.fences,
                    "a device is lost"
                );
                self.tell_bus(BusUpdate::Device(*view));
                self.tell_bus(BusUpdate::Lost { device, cause, at_ns, had });
                self.flush_to_bus();
            }
            Effect::TellWedged { view, recovery, task, injected, fences } => {
                let device = view.id;
                let by = if injected {
                    "an event that was written to sysfs says that a device is wedged (injected)"
                } else {
                    "a driver says that its device is wedged"
                };
                tracing::warn!(name: "device-wedged",
                    device = device.0,
                    name = view.name,
                    recovery,
                    task,
                    fences,
                    injected,
                    "{by}; recovery: {recovery} (for the administrator: it is not begun from here)"
                );
                self.tell_bus(BusUpdate::Device(*view));
                self.tell_bus(BusUpdate::Wedged { device, recovery, task, fences });
                self.flush_to_bus();
            }
            Effect::TellRemovalRequested(device, why) => {
                tracing::info!(device = device.0, why, "somebody asks for a device; it is present");
                self.tell_bus(BusUpdate::RemovalRequested { device, why });
            }
            Effect::ReserveIds(up_to) => self.reserve_ids(up_to),
        }
    }

    pub(super) fn reserve_ids(&self, up_to: u64) {
        if let Err(error) = self.id_file.reserve(up_to) {
            // Ids of this life stay unique; those of the next could repeat.
            tracing::error!(%error, "ids could not be reserved; they may repeat after a restart");
        }
    }

    fn mark(&mut self, device: DeviceId, step: Step) {
        let at_ns = monotonic_ns();
        self.broker.mark(device, step, at_ns);
        if let Some(report) = self.broker.reports().find(|report| report.epoch() == device) {
            tracing::info!(name: "unplug-step",
                device = device.0,
                step = step.name(),
                us = report.micros(step).unwrap_or(0),
                "unplug: {}",
                step.name()
            );
        }
    }

    /// The exporter's fences in the reservation objects of lost buffers: nobody can end them from
    /// here, so they are named, and watched.
    fn scan_implicit(&mut self, device: DeviceId, buffers: Vec<(ObjectId, Arc<OwnedFd>)>) {
        let mut found = Vec::new();
        for (buffer, fd) in buffers {
            match self.machine.implicit(fd.as_fd()) {
                Ok(None) => {}
                Ok(Some((fence, infos))) => {
                    let seen_ns = monotonic_ns();
                    found.extend(infos.into_iter().map(|info| ImplicitFence {
                        buffer,
                        driver: info.driver,
                        timeline: info.timeline,
                        seen_ns,
                        ended_ns: None,
                    }));
                    self.reactor.send(Command::WatchImplicit { device, buffer, fence });
                }
                Err(error) => {
                    tracing::warn!(%buffer, %error, "its implicit fences cannot be looked at");
                }
            }
        }
        for fence in &found {
            tracing::warn!(name: "implicit-fence",
                device = device.0,
                buffer = fence.buffer.0,
                driver = fence.driver,
                timeline = fence.timeline,
                "an implicit fence of a lost buffer is still pending; only its driver can end it"
            );
        }
        if !found.is_empty() {
            self.broker.implicit_found(device, found);
        }
    }
}
