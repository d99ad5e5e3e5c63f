//! A mapping that cannot be taken back. Alone in its process, whose data limit it lowers.

mod common;

use common::{DEVICE, NOW, SOON, connected, import, mappings};
use dmashare::{Access, Error, Event, Protection};
use dmashare_proto::Request;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[test]
fn it_is_told_and_not_acknowledged_until_it_worked() {
    let name = "dmashare-revoke-fails";
    let (connection, mut broker) = connected();
    let buffer = import(&connection, &mut broker, 21, name);
    // Private writable pages count as data: over this mapping, zero pages are refused.
    let mapped = buffer.map(0, Protection::ReadWrite).unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_DATA).unwrap();
    // Memory for what dispatch allocates, so that it need not ask the kernel.
    drop(vec![0_u8; 64 * 1024]);
    setrlimit(Resource::RLIMIT_DATA, 4096, hard).unwrap();
    broker.lose(1);
    let events = connection.dispatch(SOON);
    setrlimit(Resource::RLIMIT_DATA, soft, hard).unwrap();

    let mut events = events.unwrap();
    let Some(Event::DeviceLost(lost)) = events.pop() else { panic!("no loss") };
    let [(id, error)] = lost.failed() else { panic!("{lost:?}") };
    assert_eq!((*id, error.raw_os_error()), (buffer.id(), Some(libc::ENOMEM)));
    assert_eq!(mappings(name), 1);
    // What counts is told all the same.
    assert!(mapped.device().unwrap().is_lost());

    setrlimit(Resource::RLIMIT_DATA, 4096, hard).unwrap();
    let told = lost.acknowledge();
    setrlimit(Resource::RLIMIT_DATA, soft, hard).unwrap();
    let error = told.unwrap_err();
    assert!(matches!(&error, Error::Io { .. }) && error.errno() == libc::ENOMEM, "{error:?}");
    assert!(broker.try_request().is_none(), "the broker was told what is not true");

    // Who meets it tries again.
    assert!(mapped.begin(Access::Read).unwrap_err().is_device_lost());
    assert_eq!(mappings(name), 0);
    drop((mapped, buffer));
    broker.expect_done(&Request::Release(dmashare::ObjectId(21)));

    // And a loss that is kept tries again when it is dropped.
    let device = dmashare_proto::state_page::DeviceState::Present;
    broker.set(common::AT, device);
    broker.event(dmashare_proto::Event::DeviceGone(DEVICE));
    assert_eq!(connection.dispatch(SOON).unwrap().len(), 1);
    let buffer = import(&connection, &mut broker, 22, name);
    let mapped = buffer.map(0, Protection::ReadWrite).unwrap();
    setrlimit(Resource::RLIMIT_DATA, 4096, hard).unwrap();
    broker.lose(1);
    let events = connection.dispatch(SOON);
    setrlimit(Resource::RLIMIT_DATA, soft, hard).unwrap();
    assert_eq!(mappings(name), 1);
    drop(events.unwrap());
    assert!(mapped.is_revoked());
    assert_eq!(mappings(name), 0);
    broker.expect_done(&Request::Acknowledge(DEVICE));
    assert!(connection.dispatch(NOW).unwrap().is_empty());
}
