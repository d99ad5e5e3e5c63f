//! Buffers, imports and tokens, and what is released.

use dmashare_proto::message::{Grant, Grantee, Layout, Plane, Terms};

use super::*;

impl Model {
    pub(super) fn export(&mut self, n: usize, card: u8, planes: u8) {
        let Some(client) = Self::pick(&self.clients, n) else { return };
        let layout = Layout {
            width: 4,
            height: 4,
            fourcc: drm_fourcc::DrmFourcc::Xrgb8888 as u32,
            modifier: 0,
            planes: vec![Plane { offset: 0, stride: 16 }; usize::from(planes)],
        };
        let plane = |inode| CheckedPlane {
            fd: Counted::new(&self.open),
            inode,
            size: 64,
            exporter: "drm".to_owned(),
        };
        let checked = (0..planes).map(|i| plane(u64::from(i))).collect();
        let node = Self::node(card);
        // Every other one with a token, of which every fourth has terms that nobody may have.
        let grant = n.is_multiple_of(2).then(|| {
            let (to, uses) = (Grantee::Anyone, u32::from(!n.is_multiple_of(8)));
            (Terms { to, uses, ttl_ms: 100 }, self.new_token())
        });
        let reply = self.ask(client, Checked::Export { node, layout, planes: checked, grant });
        let Reply::Exported(it) = reply else { return };
        assert_eq!(it.token, grant.map(|(_, token)| token));
        if let Some(token) = it.token {
            self.privacy.granted.insert(token, (it.buffer, false));
        }
    }

    pub(super) fn new_token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token.to_le_bytes())
    }

    pub(super) fn grant(&mut self, n: usize, m: usize, uses: u32) {
        let Some(client) = Self::pick(&self.clients, n) else { return };
        let Some(object) = Self::pick(&self.objects_of(client), m) else { return };
        let to = if m.is_multiple_of(3) { Grantee::Uid(0) } else { Grantee::Anyone };
        let terms = Terms { to, uses, ttl_ms: 1 + u32::try_from(m).unwrap() * 100 };
        let (grant, token) = (Grant { object, terms }, self.new_token());
        let reply = self.ask(client, Checked::Grant(grant, token));
        if reply == Reply::Granted(token) {
            self.privacy.granted.insert(token, (object, to == Grantee::Uid(0)));
        }
        if reply == Reply::Granted(token) && self.passed_fences.contains(&object) {
            self.passed.insert(token);
        }
    }

    pub(super) fn import(&mut self, n: usize, m: usize) {
        let Some(client) = Self::pick(&self.clients, n) else { return };
        let Some(token) = Self::pick(&self.tokens, m) else { return };
        self.try_token(client, token, |token| Checked::Import { token, by: None });
    }

    pub(super) fn release(&mut self, n: usize, m: usize) {
        let Some(client) = Self::pick(&self.clients, n) else { return };
        let Some(object) = Self::pick(&self.objects_of(client), m) else { return };
        let reply = self.ask(client, Checked::Release(object));
        assert_eq!(reply, Reply::Done(()));
        let again = self.ask(client, Checked::Release(object));
        assert!(matches!(again, Reply::Error(error)
            if error.code == ErrorCode::UNKNOWN_OBJECT));
    }

    pub(super) fn release_foreign(&mut self, n: usize, m: usize) {
        let (Some(client), Some(other)) =
            (Self::pick(&self.clients, n), Self::pick(&self.clients, n + 1))
        else {
            return;
        };
        let Some(object) = Self::pick(&self.objects_of(other), m) else { return };
        self.try_foreign(client, object.0);
    }
}
