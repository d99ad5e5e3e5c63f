//! Tokens: rights to import one object, with who may use them, how often, and until when.
//!
//! A token is looked up by a hash keyed at random (so that the time of a miss tells nothing about
//! near misses) and compared in constant time by `Token`'s own `Eq`. Whatever is wrong with one that
//! was guessed, the answer is the same.

use std::collections::{HashMap, HashSet};

use dmashare_proto::limits::MAX_TOKEN_TTL_MS;
use dmashare_proto::message::{Grant, Grantee, Reply, Terms};
use dmashare_proto::{ClientId, DeviceId, ErrorCode, ObjectId, Token, WireError};
use serde::{Deserialize, Serialize};

use super::accounts::{Charge, Kind};
use super::{Broker, Handles, Owned};
use crate::id_map::IdMap;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Right {
    object: ObjectId,
    pub owner: ClientId,
    to: Grantee,
    uses: u32,
    until_ns: u64,
    /// The device that it was lost with: its holder, and nobody else, is told so.
    lost: Option<DeviceId>,
    /// On its maker's account.
    #[serde(skip)]
    pub charge: Option<Charge>,
}

/// A token that is on its maker's account, and of no object yet. Dropped, it never was.
struct Draft {
    token: Token,
    terms: Terms,
    until_ns: u64,
    charge: Charge,
}

#[derive(Debug, Default)]
pub(super) struct Tokens {
    rights: HashMap<Token, Right>,
    /// Tokens of an object, so that its end finds them.
    of: IdMap<ObjectId, Vec<Token>>,
    /// Objects whose tokens have changed since they were last kept.
    touched: HashSet<ObjectId>,
    noted: bool,
}

impl Tokens {
    /// Drops an object's tokens.
    pub fn drop_for(&mut self, object: ObjectId) {
        let tokens = self.of.remove(&object).unwrap_or_default();
        if !tokens.is_empty() {
            self.touch(object);
        }
        for token in tokens {
            self.rights.remove(&token);
        }
    }

    /// Drops every token that a client made.
    pub fn drop_of(&mut self, owner: ClientId) {
        self.rights.retain(|_, right| right.owner != owner);
        self.forget_dropped();
    }

    /// Keeps an object's tokens as mere tombstones of a lost device.
    pub fn lose(&mut self, object: ObjectId, device: DeviceId) {
        for token in self.of.get(&object).into_iter().flatten() {
            if let Some(right) = self.rights.get_mut(token) {
                right.lost = Some(device);
            }
        }
        if self.of.contains_key(&object) {
            self.touch(object);
        }
    }

    /// Drops what has expired.
    fn expire(&mut self, now_ns: u64) {
        self.rights.retain(|_, right| right.until_ns > now_ns);
        self.forget_dropped();
    }

    fn forget_dropped(&mut self) {
        let Self { rights, of, touched, noted } = self;
        of.retain(|object, tokens| {
            let before = tokens.len();
            tokens.retain(|token| rights.contains_key(token));
            if *noted && tokens.len() < before {
                touched.insert(*object);
            }
            !tokens.is_empty()
        });
    }

    fn touch(&mut self, object: ObjectId) {
        if self.noted {
            self.touched.insert(object);
        }
    }

    /// From here on changes are noted; all that is there is new.
    pub fn note(&mut self) {
        self.noted = true;
        self.touched = self.of.keys().copied().collect();
    }

    /// Objects whose tokens have changed, and what they are now.
    pub fn take_touched(&mut self) -> impl Iterator<Item = (ObjectId, Vec<(Token, &Right)>)> + '_ {
        let touched = std::mem::take(&mut self.touched);
        touched.into_iter().map(|object| {
            let tokens = self.of.get(&object).into_iter().flatten();
            let rights = tokens.filter_map(|token| Some((*token, self.rights.get(token)?)));
            (object, rights.collect())
        })
    }

    /// Whether something is noted.
    pub fn is_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Puts back what was kept.
    pub fn put_back(&mut self, object: ObjectId, rights: Vec<(Token, Right)>) {
        self.of.insert(object, rights.iter().map(|(token, _)| *token).collect());
        self.rights.extend(rights);
    }

    /// Whether each is of one object, by which it is found.
    pub fn agree(&self) -> bool {
        let listed: usize = self.of.values().map(Vec::len).sum();
        listed == self.rights.len()
            && self.of.iter().all(|(object, tokens)| {
                let right = |token| self.rights.get(token);
                let is_its = |token| right(token).is_some_and(|right| right.object == *object);
                !tokens.is_empty() && tokens.iter().all(is_its)
            })
    }

    /// Of each, the object, who made it, and whether that was lost.
    pub fn rights(&self) -> impl Iterator<Item = (ObjectId, ClientId, bool)> + '_ {
        self.rights.values().map(|right| (right.object, right.owner, right.lost.is_some()))
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub fn count(&self) -> usize {
        self.rights.len()
    }

    #[cfg(test)]
    pub fn usable(&self) -> impl Iterator<Item = ObjectId> + '_ {
        self.rights.values().filter(|right| right.lost.is_none()).map(|right| right.object)
    }

    #[cfg(test)]
    pub fn owners(&self) -> impl Iterator<Item = ClientId> + '_ {
        self.rights.values().map(|right| right.owner)
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub fn is_empty(&self) -> bool {
        self.rights.is_empty() && self.of.is_empty()
    }
}

impl<H: Handles> Broker<H> {
    pub(super) fn grant(
        &mut self,
        now_ns: u64,
        client: ClientId,
        grant: &Grant,
        token: Token,
    ) -> Result<Reply, WireError> {
        match self.owned(client, grant.object)? {
            Owned::Buffer | Owned::Fence => {}
            Owned::Timeline => {
                if let Some(timeline) = self.timelines.get(&grant.object)
                    && timeline.lost.is_some()
                {
                    return Err(self.lost_error(timeline.at.device));
                }
            }
            Owned::Lost(device) => return Err(self.lost_error(device)),
            Owned::Import | Owned::FenceImport | Owned::TimelineImport => {
                return Err(WireError::new(
                    ErrorCode::WRONG_OBJECT,
                    "a token is made by the exporter; this is an import",
                )
                .about(grant.object.0));
            }
            Owned::Inhibitor => {
                return Err(WireError::new(
                    ErrorCode::WRONG_OBJECT,
                    "this is an inhibitor, which nobody can import",
                )
                .about(grant.object.0));
            }
        }
        let draft = self.draft(now_ns, client, grant.terms, token);
        let draft = draft.map_err(|error| error.about(grant.object.0))?;
        Ok(Reply::Granted(self.bind(draft, client, grant.object)))
    }

    /// Makes an object and a token for it, if one is wanted: both or neither.
    pub(super) fn granted(
        &mut self,
        now_ns: u64,
        client: ClientId,
        wanted: Option<(Terms, Token)>,
        make: impl FnOnce(&mut Self) -> Result<Reply, WireError>,
    ) -> Result<Reply, WireError> {
        let Some((terms, token)) = wanted else { return make(self) };
        let draft = self.draft(now_ns, client, terms, token)?;
        let mut reply = make(self)?;
        match &mut reply {
            Reply::Exported(it) => it.token = Some(self.bind(draft, client, it.buffer)),
            Reply::FenceShared(it) => it.token = Some(self.bind(draft, client, it.fence)),
            _ => {}
        }
        Ok(reply)
    }

    fn draft(
        &mut self,
        now_ns: u64,
        client: ClientId,
        terms: Terms,
        token: Token,
    ) -> Result<Draft, WireError> {
        if terms.uses == 0 || terms.ttl_ms == 0 || terms.ttl_ms > MAX_TOKEN_TTL_MS {
            return Err(WireError::new(
                ErrorCode::BAD_VALUE,
                format!("a token has at least one use and lives 1 to {MAX_TOKEN_TTL_MS} ms"),
            ));
        }
        if self.account(client).is_some_and(|account| account.may(Kind::Tokens, 1).is_err()) {
            self.tokens.expire(now_ns);
        }
        let charge = self.charge(client, Kind::Tokens, 1)?;
        let until_ns = now_ns + u64::from(terms.ttl_ms) * 1_000_000;
        Ok(Draft { token, terms, until_ns, charge })
    }

    fn bind(&mut self, draft: Draft, owner: ClientId, object: ObjectId) -> Token {
        let Draft { token, terms: Terms { to, uses, .. }, until_ns, charge } = draft;
        let (lost, charge) = (None, Some(charge));
        let right = Right { object, owner, to, uses, until_ns, lost, charge };
        self.tokens.rights.insert(token, right);
        self.tokens.of.entry(object).or_default().push(token);
        self.tokens.touch(object);
        token
    }

    /// What a token gives this client. The use is counted only by [`Self::use_token`], once the
    /// import succeeded.
    pub(super) fn look_at_token(
        &self,
        now_ns: u64,
        client: ClientId,
        token: &Token,
    ) -> Result<ObjectId, WireError> {
        let uid = self.clients.get(&client).map(|client| client.creds.uid);
        let right = self.tokens.rights.get(token).filter(|right| {
            let may = match right.to {
                Grantee::Anyone => true,
                Grantee::Uid(only) => uid == Some(only),
            };
            may && right.until_ns > now_ns && right.uses > 0
        });
        match right {
            Some(Right { lost: Some(device), .. }) => Err(self.lost_error(*device)),
            Some(right) => Ok(right.object),
            None => Err(WireError::new(
                ErrorCode::BAD_TOKEN,
                "the token is unknown, used up, expired, or for another user; ask the exporter \
                 for a new one",
            )),
        }
    }

    pub(super) fn use_token(&mut self, token: &Token) {
        let Some(right) = self.tokens.rights.get_mut(token) else { return };
        right.uses -= 1;
        let (object, left) = (right.object, right.uses);
        self.tokens.touch(object);
        if left > 0 {
            return;
        }
        self.tokens.rights.remove(token);
        if let Some(tokens) = self.tokens.of.get_mut(&object) {
            tokens.retain(|other| other != token);
            if tokens.is_empty() {
                self.tokens.of.remove(&object);
            }
        }
    }
}
