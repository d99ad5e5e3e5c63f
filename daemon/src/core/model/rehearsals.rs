//! Rehearsals, one case after the other.

use dmashare_proto::message::{
    Access, AttachFence, CreateTimeline, Direction, Grant, Grantee, Layout, Plane, PointAt, Policy,
    ShareFence, Terms,
};

use super::*;

/// Clients with one thing each to say.
impl Model {
    fn client(&mut self) -> ClientId {
        let before = self.clients.len();
        self.apply(Op::Connect);
        assert_eq!(self.clients.len(), before + 1);
        self.clients[before]
    }

    fn shared(&mut self, client: ClientId) -> ObjectId {
        let guarded = CheckedFence::Guarded {
            source: Counted::new(&self.open),
            guard: Counted::new(&self.open),
            ender: Counted::new(&self.open),
            kind: GuardKind::Simulated,
        };
        let (node, options) =
            (Self::node(1), ShareFence { policy: Policy::Guard, deadline_ms: 0, grant: None });
        match self.ask(client, Checked::ShareFence { node, options, source: guarded, token: None })
        {
            Reply::FenceShared(it) => it.fence,
            other => panic!("{other:?}"),
        }
    }

    fn exported(&mut self, client: ClientId) -> message::Exported {
        let (fd, inode, size) = (Counted::new(&self.open), 7, 64);
        let planes = vec![CheckedPlane { fd, inode, size, exporter: "drm".to_owned() }];
        let layout = Layout {
            width: 4,
            height: 4,
            fourcc: drm_fourcc::DrmFourcc::Xrgb8888 as u32,
            modifier: 0,
            planes: vec![Plane { offset: 0, stride: 16 }],
        };
        let (node, grant) = (Self::node(1), None);
        match self.ask(client, Checked::Export { node, layout, planes, grant }) {
            Reply::Exported(it) => it,
            other => panic!("{other:?}"),
        }
    }

    fn timeline(&mut self, client: ClientId) -> ObjectId {
        let made = CheckedTimeline {
            syncobj: Counted::new(&self.open),
            hangup: Counted::new(&self.open),
            line: Counted::new(&self.open),
        };
        let options = CreateTimeline { policy: Policy::Guard, direction: Direction::Acquire };
        match self.ask(client, Checked::CreateTimeline { node: Self::node(1), options, made }) {
            Reply::Timeline(it) => it.timeline,
            other => panic!("{other:?}"),
        }
    }

    fn token(&mut self, client: ClientId, object: ObjectId) -> Token {
        let token = self.new_token();
        let grant = Grant { object, terms: Terms { to: Grantee::Anyone, uses: 1, ttl_ms: 1000 } };
        assert_eq!(self.ask(client, Checked::Grant(grant, token)), Reply::Granted(token));
        token
    }

    fn fence_for(&mut self, client: ClientId, of: ClientId, fence: ObjectId) -> ObjectId {
        let token = self.token(of, fence);
        match self.ask(client, Checked::ImportFence(token)) {
            Reply::FenceImported(it) => it.fence,
            other => panic!("{other:?}"),
        }
    }

    fn state(&mut self, client: ClientId, fence: ObjectId) -> FenceState {
        match self.ask(client, Checked::QueryFence(fence)) {
            Reply::FenceState(state) => state,
            other => panic!("{other:?}"),
        }
    }

    /// Rehearses for a client; gives what it was told of it.
    fn loses(&mut self, client: ClientId, device: DeviceId) -> (Rehearsed, Vec<Event>) {
        let mut guards = crate::id_map::IdMap::default();
        for fence in self.broker.plan_rehearsal(device, client) {
            guards.insert(fence, (Counted::new(&self.open), Counted::new(&self.open)));
        }
        let mut out = Vec::new();
        let done = self.broker.rehearse_for(self.now_ns, 0, device, client, guards, &mut out);
        if let Ok(done) = &done {
            self.privacy.belongs(done.epoch.0, client);
            self.privacy.belongs(done.comes_as.0, client);
        }
        let events = self.carry_out(out).into_iter().filter_map(|(to, message)| {
            assert_eq!(to, client);
            match message {
                Outgoing::Event(event) => Some(event),
                Outgoing::Reply(..) => None,
            }
        });
        let events = events.collect();
        self.check();
        (done.unwrap(), events)
    }
}

const REHEARSED: fn(FenceState) -> bool =
    |it| matches!(it, FenceState::Failed { cause: Cause::Rehearsed, .. });

fn error(reply: Reply) -> WireError {
    match reply {
        Reply::Error(error) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_client_loses_what_it_alone_has() {
    let mut model = Model::new();
    model.plug(1);
    let [other, subject, third] = [(); 3].map(|()| model.client());
    let theirs = model.exported(other);
    let mine = model.exported(subject);
    let device = theirs.at.device;
    let import = |model: &mut Model, by, of, buffer| {
        let token = model.token(of, buffer);
        match model.ask(by, Checked::Import { token, by: None }) {
            Reply::Imported(it) => it.import,
            other => panic!("{other:?}"),
        }
    };
    let taken = import(&mut model, subject, other, theirs.buffer);
    let kept = import(&mut model, third, other, theirs.buffer);
    let of_mine = import(&mut model, third, subject, mine.buffer);
    // The subject's alone; another importer's too; the subject's own, with an importer and without.
    let [alone, both] = [(); 2].map(|()| model.shared(other));
    let [given, unused] = [(); 2].map(|()| model.shared(subject));
    let my_alone = model.fence_for(subject, other, alone);
    let my_both = model.fence_for(subject, other, both);
    let third_both = model.fence_for(third, other, both);
    let third_given = model.fence_for(third, subject, given);
    let [line, shared_line] = [(); 2].map(|()| model.timeline(subject));
    let token = model.token(subject, shared_line);
    assert!(matches!(model.ask(third, Checked::ImportTimeline(token)), Reply::Timeline(_)));
    for timeline in [line, shared_line] {
        let promise = Checked::PromisePoint(PointAt { timeline, point: 3 });
        assert_eq!(model.ask(subject, promise), Reply::Done(()));
    }

    let (done, events) = model.loses(subject, device);
    let [Event::DeviceLost(lost), Event::DeviceAdded(added)] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!((lost.device, lost.cause), (device, Cause::Rehearsed));
    assert_eq!((lost.buffers, lost.imports, lost.fences), (1, 1, 3));
    assert_eq!((added.at.device, done.lost), (done.comes_as, device));
    let counts = model.gates[&device].counts();
    assert_eq!((counts.buffers, counts.imports, counts.timelines), (2, 2, 1));

    assert!(REHEARSED(model.state(subject, my_alone)));
    assert!(REHEARSED(model.state(subject, unused)));
    for (client, fence) in [
        (other, alone),
        (subject, my_both),
        (third, third_both),
        (other, both),
        (third, third_given),
    ] {
        assert_eq!(model.state(client, fence), FenceState::Pending);
    }
    for request in [
        Checked::QueryFence(given),
        Checked::Grant(
            Grant { object: mine.buffer, terms: Terms { to: Grantee::Anyone, uses: 1, ttl_ms: 1 } },
            Token([9; 16]),
        ),
        Checked::PromisePoint(PointAt { timeline: line, point: 9 }),
        Checked::AttachFence(AttachFence { fence: my_both, buffer: taken, access: Access::Read }),
    ] {
        let error = error(model.ask(subject, request));
        assert_eq!((error.code, error.object), (ErrorCode::DEVICE_LOST, device.0), "{error}");
        assert!(error.message.starts_with(&format!("device {device} is gone")), "{error}");
    }
    let on = Checked::PromisePoint(PointAt { timeline: shared_line, point: 9 });
    assert_eq!(model.ask(subject, on), Reply::Done(()));
    // Who comes now gets the fence's new guard, pending as the fence is.
    let later = model.fence_for(third, other, alone);
    assert_eq!(model.state(third, later), FenceState::Pending);
    let attach =
        |fence, buffer| Checked::AttachFence(AttachFence { fence, buffer, access: Access::Read });
    for buffer in [kept, of_mine] {
        assert_eq!(model.ask(third, attach(third_both, buffer)), Reply::Done(()));
    }

    // It goes on with the device under the new id, and lets go of the old one.
    assert_eq!(model.exported(subject).at.device, done.comes_as);
    assert_eq!(model.exported(other).at.device, device);
    let reply = model.ask(subject, Checked::ListDevices);
    let Reply::Devices(list) = reply else { panic!("{reply:?}") };
    let listed: Vec<_> = list.iter().map(|it| (it.at.device, it.state.name())).collect();
    assert_eq!(listed, [(done.comes_as, "present"), (device, "lost")]);
    assert!(!model.told_gone.contains(&(subject, device)));
    for _ in 0..2 {
        assert_eq!(model.ask(subject, Checked::Acknowledge(device)), Reply::Done(()));
        assert!(model.told_gone.contains(&(subject, device)));
    }
    let early = error(model.ask(subject, Checked::Acknowledge(done.comes_as)));
    assert_eq!(early.code, ErrorCode::BAD_VALUE);
    assert!(early.message.starts_with(&format!("device {} is not lost", done.comes_as)));
    // Also once nothing of it is left, why it is gone is known.
    let gone = error(model.ask(subject, Checked::QueryFence(given)));
    let words = format!("device {device} is gone (rehearsed)");
    assert!(gone.message.starts_with(&words), "{gone}");
    let report = model.broker.reports().last().unwrap();
    assert_eq!((report.device, report.epoch()), (device, done.epoch));
    assert_eq!((report.guards, report.promises, report.told, report.awaited), (2, 1, 1, 1));
    assert!(model.broker.device_view(done.epoch).is_none(), "nobody else sees it");
    model.check();

    // The real loss is everybody's, each in their own words.
    model.close_gate(0);
    model.lose(0);
    for (client, named) in [(subject, done.comes_as), (other, device), (third, device)] {
        assert!(model.told.contains(&(client, named)), "{client}");
    }
}

#[test]
fn again_and_again_each_time_under_a_new_id() {
    let mut model = Model::new();
    model.plug(1);
    let subject = model.client();
    let device = *model.gates.keys().next().unwrap();
    let mut knew = device;
    for _ in 0..200 {
        // It has nothing of it, and is told all the same.
        let (done, events) = model.loses(subject, device);
        assert!(matches!(events.as_slice(), [
            Event::DeviceLost(lost), Event::DeviceGone(gone), Event::DeviceAdded(added),
        ] if lost.device == knew && *gone == knew && added.at.device == done.comes_as));
        assert_eq!(done.lost, knew);
        assert_eq!(model.ask(subject, Checked::Acknowledge(knew)), Reply::Done(()));
        knew = done.comes_as;
    }
    let long_gone = error(model.ask(subject, Checked::Acknowledge(device)));
    assert_eq!(long_gone.code, ErrorCode::UNKNOWN_DEVICE);
    assert!(format!("{:?}", model.broker.clients[&subject].epochs).len() < 5000, "I8");
    assert_eq!(model.broker.devices.len(), 1);
}

#[test]
fn a_silent_client_is_met_by_the_policy() {
    let mut model = Model::new();
    model.plug(1);
    let [other, subject] = [(); 2].map(|()| model.client());
    let exported = model.exported(other);
    let token = model.token(other, exported.buffer);
    model.ask(subject, Checked::Import { token, by: None });
    let (done, _) = model.loses(subject, exported.at.device);
    assert!(model.broker.is_awaited(done.epoch, subject));
    model.apply(Op::Tick(2_000_000_000));
    assert_eq!(model.clients, [other], "it is disconnected");
    assert!(!model.broker.devices.contains_key(&done.epoch));
    assert_eq!(model.gates[&exported.at.device].counts().imports, 0);
    model.check();
}

#[test]
fn for_all_the_device_comes_back_as_another() {
    let mut model = Model::new();
    model.plug(1);
    let [exporter, importer] = [(); 2].map(|()| model.client());
    let exported = model.exported(exporter);
    let token = model.token(exporter, exported.buffer);
    model.ask(importer, Checked::Import { token, by: None });
    model.loses(importer, exported.at.device);
    model.apply(Op::Rehearse(0));
    let refused = model.broker.may_rehearse(exported.at.device, None);
    assert_eq!(refused, Err(NotRehearsed::DeviceLost(exported.at.device)));
    model.apply(Op::Lose(0));
    let again = model.exported(importer).at.device;
    assert!(again > exported.at.device);
    assert_eq!(model.exported(exporter).at.device, again, "for all it has one name again");
    assert_eq!(model.broker.may_rehearse(again, None), Ok(None));
    let stranger = ClientId(999);
    let refused = model.broker.may_rehearse(again, Some(stranger));
    assert_eq!(refused, Err(NotRehearsed::NoClient(stranger)));
    model.check();
}

/// Its id was answered as one that there is: whoever tried numbers learned of others' rehearsals.
#[test]
fn what_one_client_lost_is_unknown_to_others() {
    use dmashare_proto::message::{Inhibit, InhibitMode};

    let mut model = Model::new();
    model.plug(1);
    let [other, subject] = [(); 2].map(|()| model.client());
    let device = *model.gates.keys().next().unwrap();
    let (done, _) = model.loses(subject, device);
    let inhibit =
        Inhibit { device: Some(done.epoch), mode: InhibitMode::Block, why: "the model".to_owned() };
    model.privacy.name(done.epoch.0);
    for request in [Checked::Acknowledge(done.epoch), Checked::Inhibit(inhibit)] {
        let error = error(model.ask(other, request));
        assert_eq!(error.code, ErrorCode::UNKNOWN_DEVICE, "{error}");
    }
    assert_eq!(model.ask(subject, Checked::Acknowledge(done.lost)), Reply::Done(()));
}
