//! Fences.

use dmashare_proto::message::{Access, AttachFence, Grantee, Policy, ShareFence, Terms};

use super::*;

impl Model {
    pub(super) fn share(&mut self, n: usize, card: u8, how: u8) {
        let Some(client) = Self::pick(&self.clients, n) else { return };
        let node = Self::node(card);
        let policy = [Policy::Auto, Policy::Guard, Policy::Pass, Policy::Auto][usize::from(how)];
        let plan = self.broker.plan_fence(client, node, policy);
        let source = Counted::new(&self.open);
        let source = match plan {
            _ if how == 3 => CheckedFence::Ended(Err(5)),
            Ok(FencePlan { guard: true, .. }) => CheckedFence::Guarded {
                source,
                guard: Counted::new(&self.open),
                ender: Counted::new(&self.open),
                kind: GuardKind::Simulated,
            },
            _ => CheckedFence::Passed(source),
        };
        let (to, uses, ttl_ms) = (Grantee::Anyone, u32::from(!n.is_multiple_of(8)), 100);
        let token = n.is_multiple_of(2).then(|| self.new_token());
        let grant = token.map(|_| Terms { to, uses, ttl_ms });
        let options = ShareFence { policy, deadline_ms: 0, grant };
        let reply = self.ask(client, Checked::ShareFence { node, options, source, token });
        if let Reply::FenceShared(fence) = reply {
            let passed = policy == Policy::Pass;
            self.never_raw(fence.at.device, fence.guard, passed);
            assert_eq!(fence.token, token);
            if let Some(token) = token {
                self.privacy.granted.insert(token, (fence.fence, false));
            }
            if passed {
                self.passed_fences.insert(fence.fence);
                self.passed.extend(token);
            }
        }
    }

    pub(super) fn import_fence(&mut self, n: usize, m: usize) {
        let Some(client) = Self::pick(&self.clients, n) else { return };
        let Some(token) = Self::pick(&self.tokens, m) else { return };
        let reply = self.try_token(client, token, Checked::ImportFence);
        if let Reply::FenceImported(fence) = reply {
            self.never_raw(fence.at.device, fence.guard, self.passed.contains(&token));
        }
    }

    pub(super) fn end_fence(&mut self, n: usize, ok: bool) {
        let mut fences: Vec<_> = self.watched.keys().copied().collect();
        fences.sort_unstable();
        let Some(fence) = Self::pick(&fences, n) else { return };
        self.watched.remove(&fence);
        let at_ns = self.now_ns;
        let state = ended(if ok { Ok(()) } else { Err(5) }, at_ns);
        let mut out = Vec::new();
        self.broker.fence_ended(fence, state, &mut out);
        self.carry_out(out);
    }

    pub(super) fn query(&mut self, n: usize, m: usize) {
        let Some(client) = Self::pick(&self.clients, n) else { return };
        let Some(object) = Self::pick(&self.objects_of(client), m) else { return };
        self.ask(client, Checked::QueryFence(object));
    }

    pub(super) fn attach(&mut self, n: usize, m: usize, k: usize) {
        let Some(client) = Self::pick(&self.clients, n) else { return };
        let objects = self.objects_of(client);
        let (Some(fence), Some(buffer)) = (Self::pick(&objects, m), Self::pick(&objects, k)) else {
            return;
        };
        let access = Access::Write;
        self.ask(client, Checked::AttachFence(AttachFence { fence, buffer, access }));
    }

    /// I4: the source of a removable device's fence goes out by policy `pass` alone.
    pub(super) fn never_raw(&self, device: DeviceId, guard: GuardKind, passed: bool) {
        let removable =
            self.broker.devices.get(&device).is_some_and(|device| device.desc.removable);
        assert!(!removable || passed || guard != GuardKind::Source, "I4: a raw fence of {device}");
    }
}
