//! Effects are carried out as the shell and the reactor would.

use super::*;

impl Model {
    /// Carries effects out as the shell and the reactor would.
    pub(super) fn carry_out(&mut self, effects: Effects<Fake>) -> Vec<(ClientId, Outgoing)> {
        let mut sent = Vec::new();
        for effect in effects {
            match effect {
                Effect::Send { client, mut message, .. } => {
                    self.broker.address(client, &mut message);
                    match &message {
                        Outgoing::Reply(id, reply) => {
                            *self.replies.entry(*id).or_default() += 1;
                            self.waits.remove(id);
                            match reply {
                                Reply::Exported(it) => {
                                    self.own(client, it.buffer);
                                    self.knows(client, it.at.device);
                                    self.tokens.extend(it.token);
                                }
                                Reply::Imported(it) => {
                                    self.own(client, it.import);
                                    self.imported(client, it.import, it.buffer);
                                    if let Some(at) = it.at {
                                        self.knows(client, at.device);
                                    }
                                }
                                Reply::Allocated(it) => self.own(client, it.buffer),
                                Reply::Inhibited(it) => self.own(client, *it),
                                Reply::FenceShared(it) => {
                                    self.own(client, it.fence);
                                    self.knows(client, it.at.device);
                                    self.tokens.extend(it.token);
                                }
                                Reply::FenceImported(it) => {
                                    self.own(client, it.fence);
                                    if it.state == FenceState::Pending {
                                        self.knows(client, it.at.device);
                                    }
                                }
                                Reply::Timeline(it) => {
                                    self.own(client, it.timeline);
                                    self.knows(client, it.at.device);
                                }
                                Reply::Devices(devices) => {
                                    let ids = devices.iter().map(|it| it.at.device);
                                    let ids: BTreeSet<_> = ids.collect();
                                    assert_eq!(ids.len(), devices.len(), "a device is listed once");
                                    self.known.extend(ids.into_iter().map(|id| (client, id)));
                                }
                                Reply::PointState(state) => self.point_told(*id, *state),
                                Reply::Granted(token) => self.tokens.push(*token),
                                _ => {}
                            }
                        }
                        Outgoing::Event(Event::DeviceLost(lost)) => {
                            assert!(
                                self.told.insert((client, lost.device)),
                                "I6: {client} was told twice of {}",
                                lost.device
                            );
                        }
                        Outgoing::Event(Event::DeviceAdded(it)) => {
                            let is_new = self.known.insert((client, it.at.device));
                            assert!(is_new, "{client} was told twice that {} came", it.at.device);
                        }
                        Outgoing::Event(Event::DeviceGone(device)) => {
                            // Who came after the loss knows it from the list.
                            assert!(self.known.contains(&(client, *device)), "gone, never there");
                            assert!(self.told_gone.insert((client, *device)), "gone twice");
                        }
                        Outgoing::Event(_) => {}
                    }
                    self.nothing_foreign(client, &message);
                    sent.push((client, message));
                }
                Effect::Stand(device, standing) => {
                    let drains = standing == Standing::Draining;
                    assert_ne!(self.draining.contains_key(&device), drains, "said again");
                    if drains {
                        self.draining.insert(device, self.gates[&device].counts());
                    } else {
                        self.draining.remove(&device);
                    }
                }
                Effect::AddDevice { device, gate, .. } => {
                    if !self.gates.contains_key(&device) {
                        self.fresh(device.0);
                        self.privacy.is_public(device);
                    }
                    self.gates.insert(device, gate);
                }
                Effect::Watch { fence, device, ender, .. }
                | Effect::SubmitPoint { fence, device, ender, .. } => {
                    // What comes out of the queue after the loss is ended at once.
                    let lost = self.gates[&device].is_lost();
                    self.watched.insert(fence, (device, ender));
                    if lost {
                        self.watched.remove(&fence);
                        let at_ns = self.now_ns;
                        let state = FenceState::Failed { cause: Cause::Unplugged, at_ns };
                        let mut out = Vec::new();
                        self.broker.fence_ended(fence, state, &mut out);
                        sent.extend(self.carry_out(out));
                    }
                }
                Effect::Allocate(allocation) => self.allocations.push(allocation),
                Effect::AddTimeline { timeline, line, .. } => {
                    assert!(self.lines.insert(timeline, line).is_none());
                }
                Effect::DropTimeline(timeline) => {
                    assert!(self.lines.remove(&timeline).is_some(), "a timeline goes once");
                }
                Effect::EndPromises { timeline, errno } => {
                    let mut out = Vec::new();
                    self.broker.promises_ended(timeline, errno, self.now_ns, &mut out);
                    sent.extend(self.carry_out(out));
                }
                // An old kernel now and then.
                Effect::WatchPoint { timeline, point } if point % 3 == 0 => {
                    let error = WireError::new(ErrorCode::UNSUPPORTED, "an old kernel");
                    let mut out = Vec::new();
                    self.broker.watch_failed(timeline, point, &error, &mut out);
                    sent.extend(self.carry_out(out));
                    let known = &self.broker.timelines[&timeline];
                    assert!(!known.waits.contains_key(&point), "nobody is left waiting");
                }
                Effect::ProbePoint { timeline, point, client, id } => {
                    let mut out = Vec::new();
                    let now_ns = self.now_ns;
                    self.broker.point_probed(now_ns, timeline, point, None, (client, id), &mut out);
                    sent.extend(self.carry_out(out));
                }
                Effect::EndRehearsed { fences, guards, .. } => {
                    for fence in fences {
                        assert!(self.watched.remove(&fence).is_some(), "I3: it ended once");
                    }
                    for (fence, ender) in guards {
                        let (_, of) = self.watched.get_mut(&fence).expect("it goes on");
                        assert!(of.replace(ender).is_some(), "it had a guard");
                    }
                }
                Effect::Attach { client, id, .. } => {
                    let mut out = Vec::new();
                    self.broker.attached(client, id, Ok(()), &mut out);
                    sent.extend(self.carry_out(out));
                }
                Effect::Probe { fence, client, id } => {
                    let mut out = Vec::new();
                    self.broker.probed(fence, client, id, &mut out);
                    sent.extend(self.carry_out(out));
                }
                Effect::ForgetDevice(device) => {
                    assert!(self.gone.insert(device), "a device goes once");
                    assert_eq!(self.gates[&device].counts(), crate::view::Counts::default());
                    self.gates.remove(&device);
                }
                Effect::Disconnect(client) => {
                    self.clients.retain(|other| *other != client);
                    let mut out = Vec::new();
                    self.broker.disconnect(client, &mut out);
                    sent.extend(self.carry_out(out));
                }
                _ => {}
            }
        }
        sent
    }

    pub(super) fn ask(&mut self, client: ClientId, request: Checked<Fake>) -> Reply {
        self.request += 1;
        let id = self.request;
        let mut out = Vec::new();
        self.broker.request(self.now_ns, client, id, request, &mut out);
        let sent = self.carry_out(out);
        assert_eq!(self.replies.get(&id), Some(&1), "a request has one reply");
        sent.into_iter()
            .find_map(|(to, message)| match message {
                Outgoing::Reply(of, reply) if of == id && to == client => Some(reply),
                _ => None,
            })
            .expect("the reply goes to who asked")
    }
}
