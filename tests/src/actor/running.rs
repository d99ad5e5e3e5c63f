//! A task that an actor was told, from the teller's side.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use super::{Actor, Done, Refusal, Replies};

/// A task that is under way.
#[must_use = "a task whose result nobody takes can fail unseen"]
pub struct Running<'a> {
    pub(super) actor: &'a Actor,
    pub(super) id: u64,
    pub(super) what: String,
}

impl Running<'_> {
    /// Waits for the end of the task.
    ///
    /// # Errors
    /// It failed (a [`Refusal`]), or did not end in time.
    pub fn wait(self, bound: Duration) -> Result<Done> {
        let what = self.what.clone();
        self.result(bound)?.map_err(|refusal| anyhow::Error::new(refusal).context(what))
    }

    /// Waits for the end of a task that is to fail.
    ///
    /// # Errors
    /// It succeeded, or did not end in time.
    pub fn refused(self, bound: Duration) -> Result<Refusal> {
        let what = self.what.clone();
        match self.result(bound)? {
            Ok(done) => bail!("{what} was to fail, and gave {done:?}"),
            Err(refusal) => Ok(refusal),
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let replies = self.actor.replies.0.lock().unwrap_or_else(PoisonError::into_inner);
        replies.came.contains_key(&self.id)
    }

    /// Whether the task has said that it is at it, or has ended.
    #[must_use]
    pub fn is_at_it(&self) -> bool {
        let replies = self.actor.replies.0.lock().unwrap_or_else(PoisonError::into_inner);
        replies.over || replies.at_it.contains(&self.id) || replies.came.contains_key(&self.id)
    }

    /// Waits until the task is at it: a `Wait` waits, a `ReadUntilLost` reads.
    ///
    /// # Errors
    /// It is not in time, or has ended.
    pub fn at_it(&self, bound: Duration) -> Result<()> {
        let begun = |replies: &mut Replies| {
            if replies.at_it.contains(&self.id) {
                return Some(true);
            }
            replies.came.contains_key(&self.id).then_some(false)
        };
        if self.until(bound, begun)? {
            return Ok(());
        }
        bail!("{}: it ended before it had begun", self.what)
    }

    fn result(self, bound: Duration) -> Result<Result<Done, Refusal>> {
        self.until(bound, |replies| replies.came.remove(&self.id))
    }

    fn until<T>(
        &self,
        bound: Duration,
        mut look: impl FnMut(&mut Replies) -> Option<T>,
    ) -> Result<T> {
        let end = Instant::now() + bound;
        let mut replies = self.actor.replies.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = look(&mut replies) {
                return Ok(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if replies.over || left.is_zero() {
                drop(replies);
                return Err(anyhow!("{}: {} within {bound:?}", self.what, self.actor.end()));
            }
            let more = self.actor.replies.1.wait_timeout(replies, left);
            replies = more.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
