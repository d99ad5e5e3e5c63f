//! Questions that the broker answers when something has happened, which may be never.

use std::collections::HashMap;

use dmashare_proto::Request;

use super::{Channel, Handler, Slot};
use crate::deadline::Deadline;
use crate::error::Error;

/// What became of such a question.
pub(crate) enum Asked<A> {
    Answered(A),
    /// Not answered in time. It is still asked, and can be taken up again by this.
    Open(u64),
}

impl<A, N> Channel<A, N> {
    /// Takes up the question `earlier` if it is open, else asks it, which has time until `sent_by`.
    /// Waits for the answer until the deadline.
    pub(crate) fn ask<H>(
        &self,
        handler: &H,
        request: &Request,
        earlier: Option<u64>,
        sent_by: Deadline,
        deadline: Deadline,
    ) -> Result<Asked<A>, Error>
    where
        H: Handler<Answer = A, Notice = N>,
    {
        let id = match earlier.filter(|id| self.resume(*id)) {
            Some(id) => id,
            None => self.start(handler, request, &[], sent_by)?,
        };
        let answer = self.wait(handler, id, deadline)?.or_else(|| self.leave(id, Slot::Open));
        Ok(answer.map_or(Asked::Open(id), Asked::Answered))
    }

    pub(super) fn resume(&self, id: u64) -> bool {
        match self.lock().slots.get_mut(&id) {
            Some(slot @ Slot::Open) => {
                *slot = Slot::Waiting;
                true
            }
            _ => false,
        }
    }

    /// Strikes out the questions that are answered by now.
    pub(crate) fn retain_open(&self, questions: &mut HashMap<u64, Vec<u64>>) {
        let state = self.lock();
        questions.retain(|_, ids| {
            ids.retain(|id| matches!(state.slots.get(id), Some(Slot::Open)));
            !ids.is_empty()
        });
    }
}
