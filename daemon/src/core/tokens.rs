//! Tokens: rights to import one object, with who may use them, how often, and until when.
//!
//! A token is looked up by a hash keyed at random (so that the time of a miss tells nothing about
//! near misses) and compared in constant time by `Token`'s own `Eq`. Whatever is wrong with one that
//! was guessed, the answer is the same.

use std::collections::HashMap;

use dmashare_proto::limits::MAX_TOKEN_TTL_MS;
use dmashare_proto::message::{Grant, Grantee, Reply};
use dmashare_proto::{ClientId, DeviceId, ErrorCode, ObjectId, Token, WireError};

use super::{Broker, Handles, Owned};

#[derive(Debug)]
struct Right {
    object: ObjectId,
    owner: ClientId,
    to: Grantee,
    uses: u32,
    until_ns: u64,
    /// The device that it was lost with: its holder, and nobody else, is told so.
    lost: Option<DeviceId>,
}

#[derive(Debug, Default)]
pub(super) struct Tokens {
    rights: HashMap<Token, Right>,
    /// Tokens of an object, so that its end finds them.
    of: HashMap<ObjectId, Vec<Token>>,
}

impl Tokens {
    /// Drops an object's tokens; gives the clients that had made them.
    pub fn drop_for(&mut self, object: ObjectId) -> Vec<ClientId> {
        let tokens = self.of.remove(&object).unwrap_or_default();
        tokens.iter().filter_map(|token| self.rights.remove(token)).map(|it| it.owner).collect()
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
    }

    /// Drops what has expired; gives the clients that had made them.
    fn expire(&mut self, now_ns: u64) -> Vec<ClientId> {
        let mut owners = Vec::new();
        self.rights.retain(|_, right| {
            let keep = right.until_ns > now_ns;
            if !keep {
                owners.push(right.owner);
            }
            keep
        });
        self.forget_dropped();
        owners
    }

    fn forget_dropped(&mut self) {
        let rights = &self.rights;
        self.of.retain(|_, tokens| {
            tokens.retain(|token| rights.contains_key(token));
            !tokens.is_empty()
        });
    }

    #[cfg(test)]
    pub fn usable(&self) -> impl Iterator<Item = ObjectId> + '_ {
        self.rights.values().filter(|right| right.lost.is_none()).map(|right| right.object)
    }

    #[cfg(test)]
    pub fn owners(&self) -> impl Iterator<Item = ClientId> + '_ {
        self.rights.values().map(|right| right.owner)
    }

    #[cfg(test)]
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
        if grant.uses == 0 || grant.ttl_ms == 0 || grant.ttl_ms > MAX_TOKEN_TTL_MS {
            return Err(WireError::new(
                ErrorCode::BAD_VALUE,
                format!("a token has at least one use and lives 1 to {MAX_TOKEN_TTL_MS} ms"),
            )
            .about(grant.object.0));
        }
        if self.made_tokens(client) >= self.limits.tokens_per_client {
            let expired = self.tokens.expire(now_ns);
            self.count_tokens(&expired);
        }
        if self.made_tokens(client) >= self.limits.tokens_per_client {
            return Err(WireError::new(
                ErrorCode::OVER_QUOTA,
                format!(
                    "limits.tokens_per_client = {} tokens are unused; let them be used or expire",
                    self.limits.tokens_per_client
                ),
            ));
        }
        self.tokens.rights.insert(
            token,
            Right {
                object: grant.object,
                owner: client,
                to: grant.to,
                uses: grant.uses,
                until_ns: now_ns + u64::from(grant.ttl_ms) * 1_000_000,
                lost: None,
            },
        );
        self.tokens.of.entry(grant.object).or_default().push(token);
        if let Some(client) = self.clients.get_mut(&client) {
            client.tokens += 1;
        }
        Ok(Reply::Granted(token))
    }

    fn made_tokens(&self, client: ClientId) -> usize {
        self.clients.get(&client).map_or(0, |client| client.tokens)
    }

    /// Notes that tokens of these clients' are no more.
    pub(super) fn count_tokens(&mut self, owners: &[ClientId]) {
        for owner in owners {
            if let Some(client) = self.clients.get_mut(owner) {
                client.tokens = client.tokens.saturating_sub(1);
            }
        }
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
        if right.uses > 0 {
            return;
        }
        let (object, owner) = (right.object, right.owner);
        self.tokens.rights.remove(token);
        if let Some(tokens) = self.tokens.of.get_mut(&object) {
            tokens.retain(|other| other != token);
            if tokens.is_empty() {
                self.tokens.of.remove(&object);
            }
        }
        self.count_tokens(&[owner]);
    }
}
