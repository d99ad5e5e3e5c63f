//! Nothing of one client is visible to another.
//!
//! Ids begin at a number that is nothing else, so every one that a message carries is found in its text,
//! in whatever field or sentence it is. And what a client asks about another one's id is answered
//! word for word as if there were no such id.

use dmashare_proto::message::{
    Access, AttachFence, Grant, Grantee, Inhibit, InhibitMode, PointAt, SubmitPoint, Terms,
};

use super::*;

/// The first id. It has as many digits as all that follow in a run.
pub(super) const FIRST_ID: u64 = 1_000_000_000_000_000;
/// What their texts begin with.
const DIGITS: &str = "1000000000";
/// An id that is never given out.
const NOBODYS: u64 = FIRST_ID + 999_999;
/// A token that nobody made.
const UNMADE: Token = Token([0xff; 16]);

/// Requests that take an id, made of one of the client's own objects and an id to try.
const REQUESTS: [fn(ObjectId, u64) -> Checked<Fake>; 12] = [
    |_, id| {
        let terms = Terms { to: Grantee::Anyone, uses: 1, ttl_ms: 1 };
        Checked::Grant(Grant { object: ObjectId(id), terms }, UNMADE)
    },
    |_, id| Checked::Release(ObjectId(id)),
    |_, id| Checked::QueryFence(ObjectId(id)),
    |_, id| Checked::PromisePoint(point(id, 1 << 20)),
    |_, id| {
        let submit = SubmitPoint { to: point(id, 1 << 20), deadline_ms: 0 };
        Checked::SubmitPoint { submit, source: None }
    },
    |_, id| Checked::QueryPoint(point(id, 1)),
    |_, id| Checked::WaitPoint(point(id, 1)),
    |own, id| Checked::AttachFence(attach(ObjectId(id), own)),
    |own, id| Checked::AttachFence(attach(own, ObjectId(id))),
    |_, id| Checked::AttachFence(attach(ObjectId(id), ObjectId(id))),
    |_, id| Checked::Acknowledge(DeviceId(id)),
    |_, id| {
        let (device, why) = (Some(DeviceId(id)), "none".to_owned());
        Checked::Inhibit(Inhibit { device, mode: InhibitMode::Block, why })
    },
];

fn point(timeline: u64, point: u64) -> PointAt {
    PointAt { timeline: ObjectId(timeline), point }
}

fn attach(fence: ObjectId, buffer: ObjectId) -> AttachFence {
    AttachFence { fence, buffer, access: Access::Write }
}

/// Whose ids are whose.
#[derive(Default)]
pub(super) struct Privacy {
    /// Devices, as they are called by all.
    public: HashSet<u64>,
    owners: HashMap<u64, ClientId>,
    /// Buffers that a client has imported.
    imported: HashSet<(ClientId, u64)>,
    /// What the client itself has just named.
    named: Option<u64>,
    /// Given out since the last operation.
    news: Vec<u64>,
    /// All that was given out to a client, for [`Model::check_privacy`] to go through.
    all: Vec<u64>,
    turn: usize,
    /// Tokens, what for, and whether only user 0 may use them.
    pub granted: HashMap<Token, (ObjectId, bool)>,
}

impl Privacy {
    pub fn is_public(&mut self, device: DeviceId) {
        self.public.insert(device.0);
    }

    pub fn belongs(&mut self, id: u64, client: ClientId) {
        self.owners.insert(id, client);
        self.news.push(id);
        self.all.push(id);
    }

    /// A client names an id, which an answer may repeat.
    pub fn name(&mut self, id: u64) {
        self.named = Some(id);
    }

    fn may_see(&self, client: ClientId, id: u64) -> bool {
        self.public.contains(&id)
            || self.owners.get(&id) == Some(&client)
            || self.imported.contains(&(client, id))
            || self.named == Some(id)
            || id == NOBODYS
    }
}

/// The ids in a text.
fn ids(text: &str) -> impl Iterator<Item = u64> + '_ {
    text.split(|ch: char| !ch.is_ascii_digit())
        .filter(|digits| digits.len() == 16 && digits.starts_with(DIGITS))
        .filter_map(|digits| digits.parse().ok())
}

impl Model {
    /// An object that a client is told to have.
    pub(super) fn own(&mut self, client: ClientId, object: ObjectId) {
        self.fresh(object.0);
        let objects = &self.broker.clients[&client].objects;
        assert!(objects.contains_key(&object), "{client} is told of {object}, which it has not");
        self.privacy.belongs(object.0, client);
    }

    /// The exporter's id of what a client has imported, which it is told too.
    pub(super) fn imported(&mut self, client: ClientId, import: ObjectId, buffer: ObjectId) {
        let known = &self.broker.imports[&import];
        assert_eq!((known.client, known.buffer), (client, buffer));
        self.privacy.imported.insert((client, buffer.0));
    }

    /// A message carries no id but its reader's own and those of all.
    pub(super) fn nothing_foreign(&self, client: ClientId, message: &Outgoing) {
        let text = match message {
            Outgoing::Reply(_, reply) => format!("{reply:?}"),
            Outgoing::Event(event) => format!("{event:?}"),
        };
        for id in ids(&text) {
            assert!(self.privacy.may_see(client, id), "{client} is told of {id}: {text}");
        }
    }

    /// What is new is tried by all others; and, one each time, what was there before.
    pub(super) fn check_privacy(&mut self) {
        for id in std::mem::take(&mut self.privacy.news) {
            for client in self.clients.clone() {
                self.try_foreign(client, id);
            }
        }
        self.privacy.turn += 1;
        let turn = self.privacy.turn;
        let client = Self::pick(&self.clients, turn);
        // The last ones: of most that was given out before nothing is left.
        let recent = &self.privacy.all[self.privacy.all.len().saturating_sub(64)..];
        if let (Some(client), Some(id)) = (client, Self::pick(recent, turn / 3)) {
            self.try_foreign(client, id);
        }
    }

    pub(super) fn try_foreign(&mut self, client: ClientId, id: u64) {
        let is_anothers = self.privacy.owners.get(&id).is_some_and(|owner| *owner != client);
        if !is_anothers || self.privacy.imported.contains(&(client, id)) {
            return;
        }
        let own = Self::pick(&self.objects_of(client), self.privacy.turn);
        let own = own.unwrap_or(ObjectId(NOBODYS));
        for request in REQUESTS {
            let told = self.named_in(client, id, request(own, id));
            let right = self.named_in(client, NOBODYS, request(own, NOBODYS));
            assert_eq!(told.replace(&id.to_string(), &NOBODYS.to_string()), right, "of {id}");
        }
        for card in 0..3 {
            let plan = |id| {
                let submit = SubmitPoint { to: point(id, 1 << 20), deadline_ms: 0 };
                let plan = self.broker.plan_point(client, Self::node(card), submit);
                format!("{:?}", plan.map(|plan| plan.guard))
            };
            let told = plan(id).replace(&id.to_string(), &NOBODYS.to_string());
            assert_eq!(told, plan(NOBODYS), "of {id}");
        }
    }

    /// The answer to a request that is refused, and changes nothing.
    fn named_in(&mut self, client: ClientId, id: u64, request: Checked<Fake>) -> String {
        self.privacy.named = Some(id);
        self.request += 1;
        let mut out = Vec::new();
        self.broker.request(self.now_ns, client, self.request, request, &mut out);
        assert_eq!(out.len(), 1, "a refusal does nothing");
        let sent = self.carry_out(out);
        self.privacy.named = None;
        match sent.as_slice() {
            [(to, Outgoing::Reply(_, reply @ Reply::Error(_)))] if *to == client => {
                format!("{reply:?}")
            }
            _ => panic!("{client} uses {id}, which it has not: {} messages", sent.len()),
        }
    }

    /// A token names its object to who may use it; one that was made for another user is no token.
    pub(super) fn try_token(
        &mut self,
        client: ClientId,
        token: Token,
        request: fn(Token) -> Checked<Fake>,
    ) -> Reply {
        let Some((object, for_root)) = self.privacy.granted.get(&token).copied() else {
            return self.ask(client, request(token));
        };
        if for_root && self.uid(client) != 0 {
            let (reply, unmade) = (self.ask(client, request(token)), request(UNMADE));
            assert_eq!(reply, self.ask(client, unmade), "a token of another user's is not there");
            return reply;
        }
        self.privacy.named = Some(object.0);
        let reply = self.ask(client, request(token));
        self.privacy.named = None;
        reply
    }
}
