//! A driver that faults before the loss is told. Alone in its process, whose handler it sets.

mod common;

use common::{connected, import, mappings, open_fds};
use dmashare::{Access, Protection};
use nix::unistd::ftruncate;

#[test]
fn a_fault_takes_the_import_back_before_anybody_has_told() {
    let (connection, mut broker) = connected();
    dmashare::install_sigbus_guard().unwrap();
    dmashare::install_sigbus_guard().unwrap();
    let faulty = import(&connection, &mut broker, 19, "dmashare-sigbus-faulty");
    let sound = import(&connection, &mut broker, 20, "dmashare-sigbus-sound");
    let (first, second) =
        (faulty.map(0, Protection::Read).unwrap(), faulty.map(0, Protection::ReadWrite).unwrap());
    let other = sound.map(0, Protection::Read).unwrap();
    let mut bytes = vec![0xff; first.len()];

    let bracket = first.begin(Access::Read).unwrap();
    let elsewhere = second.begin(Access::Write).unwrap();
    faulty.with_plane_fd(0, |fd| ftruncate(fd, 0).unwrap()).unwrap();
    first.copy_to_slice(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0), "zeros, and no signal");
    assert!(bracket.end().unwrap_err().is_device_lost(), "and nobody trusts them");
    // All of the import is in doubt.
    assert!(elsewhere.end().unwrap_err().is_device_lost());
    assert!(second.begin(Access::Write).unwrap_err().is_device_lost());
    // All of it, at the first refusal: not only what faulted.
    assert_eq!(mappings("dmashare-sigbus-faulty"), 0, "what has not faulted is still the file's");
    second.copy_from_slice(0, &[1; 16]).unwrap();
    assert!(!faulty.is_lost(), "of the device nothing is known");
    assert!(first.is_revoked() && second.is_revoked());
    assert!(faulty.map(0, Protection::Read).unwrap_err().is_device_lost());
    assert!(faulty.dup_plane_fd(0).unwrap_err().is_device_lost());
    assert_eq!(open_fds("dmashare-sigbus-faulty"), 0);

    let bracket = other.begin(Access::Read).unwrap();
    other.copy_to_slice(0, &mut bytes).unwrap();
    bracket.end().unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0xaa), "another import is as it was");

    // The loss, when it comes, finds nothing amiss.
    broker.lose(2);
    let events = connection.dispatch(common::SOON).unwrap();
    assert!(matches!(&events[..], [dmashare::Event::DeviceLost(lost)] if lost.failed().is_empty()));
    assert_eq!(mappings("dmashare-sigbus-sound"), 0);
}
