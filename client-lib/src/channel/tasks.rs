//! Waits of asynchronous tasks on the connection, beside those of threads.
//!
//! Each of them watches the socket by itself, and whichever comes first reads for all: a future that is
//! kept and not polled can hold up nobody. What another one has read, a task is woken for by its waker. No
//! task holds the receive buffer while it waits, so threads read beside it.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::Waker;

use dmashare_proto::Request;
use dmashare_proto::codec::encode;
use dmashare_proto::transport::send;

use super::receive::BATCH;
use super::send::{is_hang_up, too_large};
use super::{Channel, Handler, Slot};
use crate::error::Error;

/// The tasks that wait, each by an id of the requests' row.
#[derive(Default)]
pub(super) struct Tasks {
    waiting: HashMap<u64, Waker>,
    /// They found somebody reading, and look again when that one leaves.
    turned_away: Vec<u64>,
}

/// What became of an attempt to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// Messages were read, and given to whom they belong.
    Some,
    /// There was none, or the connection has ended.
    Nothing,
    /// Somebody else reads. The task will be woken when that one leaves.
    Busy,
}

/// A request that has its place, and may have to be sent still.
pub(crate) struct Question {
    pub(crate) id: u64,
    pub(crate) unsent: Option<Vec<u8>>,
}

impl<A, N> Channel<A, N> {
    /// For a wait that asks nothing.
    pub(crate) fn new_task(&self) -> Result<u64, Error> {
        let id = self.reserve(Slot::Waiting)?;
        self.lock().slots.remove(&id);
        Ok(id)
    }

    /// Takes up the question `earlier` if it is open, else prepares another.
    pub(crate) fn prepare(
        &self,
        request: &Request,
        earlier: Option<u64>,
    ) -> Result<Question, Error> {
        if let Some(id) = earlier.filter(|id| self.resume(*id)) {
            return Ok(Question { id, unsent: None });
        }
        let id = self.reserve(Slot::Waiting)?;
        match encode(request, id, 0) {
            Ok(bytes) => Ok(Question { id, unsent: Some(bytes) }),
            Err(error) => {
                self.lock().slots.remove(&id);
                Err(too_large(error))
            }
        }
    }

    /// Sends what [`Self::prepare`] made; false if there is no room at the moment.
    pub(crate) fn send_now(&self, bytes: &[u8]) -> Result<bool, Error> {
        match send(self.socket.as_fd(), bytes, &[]) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
            // The end is there to be read, behind whatever the broker said before it.
            Err(error) if is_hang_up(&error) => Ok(true),
            Err(source) => Err(Error::Io { what: "cannot send a request", source }),
        }
    }

    /// The answer, if it is there.
    pub(crate) fn take_answer(&self, id: u64) -> Option<A> {
        let mut state = self.lock();
        if !matches!(state.slots.get(&id), Some(Slot::Answered(_))) {
            return None;
        }
        match state.slots.remove(&id) {
            Some(Slot::Answered(answer)) => Some(answer),
            _ => None,
        }
    }

    /// Nobody waits for this question any more. Says whether it stays open, to be taken up again.
    pub(crate) fn leave_question(&self, question: &Question, open: bool) -> bool {
        if self.is_forked() {
            return false;
        }
        if question.unsent.is_some() {
            self.lock().slots.remove(&question.id);
            return false;
        }
        self.leave(question.id, if open { Slot::Open } else { Slot::Abandoned });
        open && matches!(self.lock().slots.get(&question.id), Some(Slot::Open))
    }

    /// Has a task woken from here on when there may be something for it that others have read. To be
    /// called before it looks for what it wants.
    pub(crate) fn wait_as(&self, id: u64, waker: &Waker) {
        let mut state = self.lock();
        let former = match state.tasks.waiting.get(&id) {
            Some(known) if known.will_wake(waker) => None,
            _ => state.tasks.waiting.insert(id, waker.clone()),
        };
        drop(state);
        drop(former);
    }

    /// A task waits no more.
    pub(crate) fn wait_no_more(&self, id: u64) {
        if self.is_forked() {
            return;
        }
        let former = self.lock().tasks.waiting.remove(&id);
        drop(former);
    }

    /// Reads what is there without waiting, for a task that waits.
    pub(crate) fn read_now<H>(&self, handler: &H, id: u64) -> Read
    where
        H: Handler<Answer = A, Notice = N>,
    {
        let reader = {
            let mut state = self.lock();
            let reader = self.reader_from(&mut state);
            if reader.is_none() && !state.tasks.turned_away.contains(&id) {
                state.tasks.turned_away.push(id);
            }
            reader
        };
        let Some(mut reader) = reader else { return Read::Busy };
        let read = (0..BATCH).take_while(|_| matches!(reader.read_one(handler), Ok(true))).count();
        if read > 0 { Read::Some } else { Read::Nothing }
    }

    /// What is to be watched.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    // Wakers are called, and dropped, without the lock: what they do then is another library's.

    pub(super) fn wake_task(&self, id: u64) {
        let waker = self.lock().tasks.waiting.get(&id).cloned();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn wake_tasks(&self) {
        let wakers: Vec<_> = self.lock().tasks.waiting.values().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Tasks {
    /// The reader leaves: who is to be woken for that.
    pub(super) fn turned_away(&mut self) -> Vec<Waker> {
        self.turned_away.drain(..).filter_map(|id| self.waiting.get(&id).cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use dmashare_proto::codec::encode;
    use dmashare_proto::transport::Buffer;
    use dmashare_proto::{DeviceId, Event, Reply};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    struct Plain;

    impl Handler for Plain {
        type Answer = Reply;
        type Notice = Event;

        fn reply(&self, reply: Reply, _: Vec<OwnedFd>) -> Result<Reply, Error> {
            Ok(reply)
        }

        fn event(&self, event: Event) -> Result<Option<Event>, Error> {
            Ok(Some(event))
        }

        fn unwanted(&self, _: Reply) {}

        fn closed(&self) {}
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Woken {
        fn times(&self) -> usize {
            self.0.swap(0, Ordering::Relaxed)
        }
    }

    fn channel() -> (Channel<Reply, Event>, OwnedFd) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (own, broker) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        (Channel::new(own, Box::<Buffer>::default()).unwrap(), broker)
    }

    #[test]
    fn who_found_somebody_reading_is_woken_when_that_one_leaves() {
        let (channel, broker) = channel();
        let (task, other) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
        channel.wait_as(2, &Arc::clone(&task).into());
        channel.wait_as(3, &Arc::clone(&other).into());
        let reader = channel.try_read().unwrap();
        assert_eq!(channel.read_now(&Plain, 2), Read::Busy);
        assert_eq!(channel.read_now(&Plain, 2), Read::Busy);
        let gone = encode(&Event::DeviceGone(DeviceId(3)), 0, 0).unwrap();
        send(broker.as_fd(), &gone, &[]).unwrap();
        assert_eq!(task.times(), 0);
        drop(reader);
        assert_eq!((task.times(), other.times()), (1, 0));
        assert_eq!(channel.read_now(&Plain, 2), Read::Some, "what the other left behind");
        assert_eq!(channel.read_now(&Plain, 2), Read::Nothing);
    }

    #[test]
    fn an_answer_wakes_its_task_and_an_event_all() {
        let (channel, broker) = channel();
        let (task, other) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
        let question = channel.prepare(&Request::ListDevices(()), None).unwrap();
        let loss = channel.new_task().unwrap();
        channel.wait_as(question.id, &Arc::clone(&task).into());
        channel.wait_as(loss, &Arc::clone(&other).into());
        let mut reader = channel.try_read().unwrap();
        let answer = encode(&Reply::Done(()), question.id, 0).unwrap();
        send(broker.as_fd(), &answer, &[]).unwrap();
        assert!(reader.read_one(&Plain).unwrap());
        assert_eq!((task.times(), other.times()), (1, 0));
        assert!(channel.take_answer(question.id).is_some());

        let gone = encode(&Event::DeviceGone(DeviceId(3)), 0, 0).unwrap();
        send(broker.as_fd(), &gone, &[]).unwrap();
        assert!(reader.read_one(&Plain).unwrap());
        assert_eq!((task.times(), other.times()), (1, 1));
        // Whoever waits no more is not woken, and nothing of it is kept.
        channel.wait_no_more(question.id);
        channel.wait_no_more(loss);
        send(broker.as_fd(), &gone, &[]).unwrap();
        assert!(reader.read_one(&Plain).unwrap());
        assert_eq!((task.times(), other.times()), (0, 0));
        drop(reader);
        let state = channel.lock();
        assert!(state.tasks.waiting.is_empty() && state.slots.is_empty());
        assert_eq!((Arc::strong_count(&task), Arc::strong_count(&other)), (1, 1));
    }
}
