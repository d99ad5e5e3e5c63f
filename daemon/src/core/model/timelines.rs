//! Timelines and their points.

use dmashare_proto::message::{CreateTimeline, Direction, PointAt, Policy, SubmitPoint};

use super::*;

impl Model {
    pub(super) fn create_timeline(&mut self, n: usize, card: u8, how: u8) {
        let Some(client) = Self::pick(&self.clients, n) else { return };
        let policy = [Policy::Auto, Policy::Guard, Policy::Pass][usize::from(how % 3)];
        let direction = if how < 3 { Direction::Acquire } else { Direction::Release };
        let node = Self::node(card);
        let made = CheckedTimeline {
            syncobj: Counted::new(&self.open),
            hangup: Counted::new(&self.open),
            line: Counted::new(&self.open),
        };
        let options = CreateTimeline { policy, direction };
        let reply = self.ask(client, Checked::CreateTimeline { node, options, made });
        if let Reply::Timeline(it) = reply {
            self.never_raw(it.at.device, it.guard, false);
        }
    }

    pub(super) fn import_timeline(&mut self, n: usize, m: usize) {
        let Some(client) = Self::pick(&self.clients, n) else { return };
        let Some(token) = Self::pick(&self.tokens, m) else { return };
        self.try_token(client, token, Checked::ImportTimeline);
    }

    pub(super) fn promise(&mut self, n: usize, m: usize, point: u64) {
        let Some(client) = Self::pick(&self.clients, n) else { return };
        let Some(timeline) = Self::pick(&self.timelines_of(client), m) else { return };
        let reply = self.ask(client, Checked::PromisePoint(PointAt { timeline, point }));
        if reply == Reply::Done(()) {
            assert!(point > 0);
            let again = Checked::PromisePoint(PointAt { timeline, point });
            let again = self.ask(client, again);
            assert!(matches!(again, Reply::Error(it) if it.code == ErrorCode::BAD_VALUE));
        }
    }

    pub(super) fn submit(&mut self, n: usize, m: usize, point: u64, card: u8) {
        let Some(client) = Self::pick(&self.clients, n) else { return };
        let Some(timeline) = Self::pick(&self.timelines_of(client), m) else { return };
        let to = PointAt { timeline, point };
        let submit = SubmitPoint { to, deadline_ms: 0 };
        let node = Self::node(card);
        let source = (card < 3).then(|| {
            let source = Counted::new(&self.open);
            match self.broker.plan_point(client, node, submit) {
                Ok(PointPlan { guard: true }) => CheckedFence::Guarded {
                    source,
                    guard: Counted::new(&self.open),
                    ender: Counted::new(&self.open),
                    kind: GuardKind::Simulated,
                },
                _ => CheckedFence::Passed(source),
            }
        });
        let source = source.map(|source| (node, source));
        let done = source.is_none();
        let reply = self.ask(client, Checked::SubmitPoint { submit, source });
        if reply == Reply::Done(()) {
            let again = Checked::SubmitPoint { submit, source: None };
            let again = self.ask(client, again);
            assert!(matches!(again, Reply::Error(_)), "a point is submitted once");
            let state = self.ask(client, Checked::QueryPoint(to));
            assert!(done || matches!(state, Reply::PointState(it) if it != PointState::Promised));
        }
    }

    pub(super) fn ask_point(&mut self, n: usize, m: usize, point: u64, wait: bool) {
        let Some(client) = Self::pick(&self.clients, n) else { return };
        let Some(timeline) = Self::pick(&self.timelines_of(client), m) else { return };
        let at = PointAt { timeline, point };
        if !wait {
            self.ask(client, Checked::QueryPoint(at));
            return;
        }
        self.request += 1;
        let id = self.request;
        self.asked_to_wait.insert(id);
        self.waits.insert(id, client);
        let mut out = Vec::new();
        self.broker.request(self.now_ns, client, id, Checked::WaitPoint(at), &mut out);
        self.carry_out(out);
    }

    /// A wait is answered when its point is over, and never before.
    pub(super) fn point_told(&mut self, id: u64, state: PointState) {
        if self.asked_to_wait.contains(&id) {
            assert!(state.is_over(), "a wait was answered with {state:?}");
        }
    }
}
