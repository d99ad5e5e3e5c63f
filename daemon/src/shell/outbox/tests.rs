use std::cell::Cell;

use dmashare_proto::transport::{Buffer, Received};
use dmashare_proto::{Event, message};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::*;
use crate::core::accounts_for_tests as accounts;
use crate::core::{Level, Quotas};

fn outbox(quotas: Quotas) -> (Outbox, OwnedFd, Account) {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    let account = accounts(quotas);
    let outbox = Outbox::new(Arc::new(ours), 1, None);
    outbox.charge_to(account.clone());
    (outbox, theirs, account)
}

fn event() -> Outgoing {
    let why = "x".repeat(1000);
    Outgoing::Event(Event::RemovalRequested(message::RemovalRequested {
        device: dmashare_proto::DeviceId(1),
        why,
    }))
}

fn fds(n: usize) -> Vec<Arc<OwnedFd>> {
    let (reader, _) = std::io::pipe().unwrap();
    let fd = Arc::new(OwnedFd::from(reader));
    std::iter::repeat_n(fd, n).collect()
}

/// All that is there, as a client that reads again.
fn receive(theirs: &OwnedFd) -> usize {
    let (mut buffer, mut messages) = (Buffer::default(), 0);
    while let Ok(Received::Datagram(..)) = buffer.receive(theirs.as_fd()) {
        messages += 1;
    }
    messages
}

#[test]
fn what_waits_is_charged_and_given_back_when_it_is_sent() {
    let (outbox, theirs, account) = outbox(Quotas::default());
    let mut pushed = 0;
    while account.used(Kind::QueuedBytes) < 10_000 {
        outbox.push(&event(), fds(2), usize::MAX);
        pushed += 1;
    }
    let queued = outbox.queue.borrow().len() as u64;
    let of_queue: u64 = outbox.queue.borrow().iter().map(|it| it.bytes.len() as u64).sum();
    assert_eq!(account.used(Kind::QueuedBytes), of_queue);
    outbox.look();
    assert_eq!(account.used(Kind::QueuedDescriptors), 2 * pushed, "in the queue and in the socket");
    let mut received = receive(&theirs);
    while outbox.flush() != Flushed::All {
        received += receive(&theirs);
    }
    received += receive(&theirs);
    assert_eq!(received as u64, pushed, "{queued} of them had waited");
    outbox.look();
    assert_eq!((account.used(Kind::QueuedBytes), account.used(Kind::QueuedDescriptors)), (0, 0));
    assert!(!outbox.is_over());
}

#[test]
fn who_does_not_read_is_over_at_its_bytes() {
    let quotas = Quotas::default().with(Kind::QueuedBytes, Level::Client, 20_000);
    let (outbox, _theirs, account) = outbox(quotas);
    while !outbox.is_over() {
        outbox.push(&event(), Vec::new(), usize::MAX);
        assert!(account.used(Kind::QueuedBytes) <= 20_000);
    }
    drop(outbox);
    assert_eq!(account.used(Kind::QueuedBytes), 0);
}

#[test]
fn who_does_not_receive_descriptors_is_over_at_their_bound_before_its_socket_is_full() {
    let quotas = Quotas::default().with(Kind::QueuedDescriptors, Level::Client, 100);
    let (outbox, _theirs, account) = outbox(quotas);
    let mut pushed = 0;
    while !outbox.is_over() {
        outbox.push(&event(), fds(4), usize::MAX);
        pushed += 1;
        assert!(pushed <= 26, "{} are counted", account.used(Kind::QueuedDescriptors));
    }
    assert!(outbox.queue.borrow().is_empty(), "the socket would have taken more");
}

#[test]
fn who_receives_may_have_any_number_of_descriptors() {
    let quotas = Quotas::default().with(Kind::QueuedDescriptors, Level::Client, 100);
    let (outbox, theirs, account) = outbox(quotas);
    for _ in 0..1000 {
        outbox.push(&event(), fds(4), usize::MAX);
        assert_eq!(receive(&theirs), 1);
        assert!(!outbox.is_over());
    }
    outbox.look();
    assert_eq!(account.used(Kind::QueuedDescriptors), 0);
}

thread_local! {
    static REFUSALS: Cell<u32> = const { Cell::new(0) };
}

fn refused_at_first(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    match REFUSALS.get() {
        0 => send(socket, bytes, fds),
        left => {
            REFUSALS.set(left - 1);
            Err(io::Error::from_raw_os_error(libc::ETOOMANYREFS))
        }
    }
}

#[tokio::test(start_paused = true)]
async fn too_many_in_flight_is_tried_again_by_itself_less_and_less_often() {
    let (mut outbox, theirs, account) = outbox(Quotas::default());
    outbox.send = refused_at_first;
    REFUSALS.set(12);
    outbox.push(&event(), fds(1), usize::MAX);
    assert_eq!(account.used(Kind::QueuedDescriptors), 1);
    let started = tokio::time::Instant::now();
    let mut waits = Vec::new();
    loop {
        let flushed = outbox.flush();
        if flushed == Flushed::All {
            break;
        }
        let before = tokio::time::Instant::now();
        outbox.may_try_again(flushed).await;
        waits.push(before.elapsed());
    }
    assert_eq!(waits.len(), 11);
    assert!(waits.is_sorted() && waits[0] < waits[1], "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= LAST_TRY + FIRST_TRY), "{waits:?}");
    assert!(started.elapsed() > LAST_TRY);
    assert_eq!(receive(&theirs), 1, "it came");
    assert_eq!(outbox.next_try.get(), FIRST_TRY, "and the next one is not made to wait for it");
}

#[tokio::test(start_paused = true)]
async fn what_a_former_client_has_not_received_stays_on_its_account() {
    let (outbox, theirs, account) = outbox(Quotas::default());
    outbox.push(&event(), fds(4), usize::MAX);
    outbox.break_off();
    let lingering = outbox.linger();
    tokio::pin!(lingering);
    let early = tokio::time::timeout(Duration::from_secs(3600), &mut lingering).await;
    assert!(early.is_err(), "an hour later it has not received them");
    assert_eq!(account.used(Kind::QueuedDescriptors), 4);
    assert_eq!((account.used(Kind::Clients), account.used(Kind::Descriptors)), (1, 1));
    drop(theirs);
    lingering.await;
    assert_eq!((account.used(Kind::QueuedDescriptors), account.used(Kind::Clients)), (0, 0));
}
