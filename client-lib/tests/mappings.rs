//! Several mappings of one import: parts of it, nested brackets, dropped in any order and at any moment.

mod common;

use std::sync::Barrier;
use std::thread;

use common::{SOON, connected, import, mappings, open_fds};
use dmashare::{Access, Error, Event, ImportedBuffer, MappedBuffer, Protection};

/// The page size that the test's buffer of 8 KiB is two of.
const PAGE: usize = 4096;

fn read(mapped: &MappedBuffer) -> Vec<u8> {
    let mut bytes = vec![0; mapped.len()];
    let bracket = mapped.begin(Access::Read).unwrap();
    mapped.copy_to_slice(0, &mut bytes).unwrap();
    bracket.end().unwrap();
    bytes
}

fn write(mapped: &MappedBuffer, offset: usize, bytes: &[u8]) {
    let bracket = mapped.begin(Access::Write).unwrap();
    mapped.copy_from_slice(offset, bytes).unwrap();
    bracket.end().unwrap();
}

#[test]
fn parts_show_what_lies_there() {
    let (connection, mut broker) = connected();
    let buffer = import(&connection, &mut broker, 18, "dmashare-parts");
    let whole = buffer.map(0, Protection::ReadWrite).unwrap();
    let second = buffer.map_range(0, PAGE as u64, PAGE, Protection::ReadWrite).unwrap();
    let some = buffer.map_range(0, PAGE as u64, 100, Protection::Read).unwrap();
    assert_eq!((whole.len(), second.len(), some.len()), (2 * PAGE, PAGE, 100));
    write(&second, 10, &[1, 2, 3]);
    assert_eq!(read(&whole)[PAGE + 10..PAGE + 13], [1, 2, 3]);
    assert_eq!(read(&some)[9..14], [0xaa, 1, 2, 3, 0xaa]);
    write(&whole, PAGE + 99, &[9]);
    assert_eq!(read(&some)[99], 9);
    // No more than what was asked for, though the page goes on.
    let error = some.copy_to_slice(99, &mut [0; 2]).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
    let error = some.copy_from_slice(0, &[0]).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
    // An import lives with the last of its mappings.
    drop(buffer);
    drop(whole);
    assert_eq!(read(&second)[10..13], [1, 2, 3]);
}

#[test]
fn brackets_nest_and_each_is_told() {
    let (connection, mut broker) = connected();
    let buffer = import(&connection, &mut broker, 18, "dmashare-nested");
    let first = buffer.map(0, Protection::ReadWrite).unwrap();
    let second = buffer.map(0, Protection::Read).unwrap();
    let (outer, inner) =
        (first.begin(Access::ReadWrite).unwrap(), first.begin(Access::Read).unwrap());
    let other = second.begin(Access::Read).unwrap();
    inner.end().unwrap();
    let again = first.begin(Access::Read).unwrap();
    broker.lose(1);
    // On another thread than the one that began.
    let ends = thread::scope(|scope| {
        let ends = [outer, again, other].map(|bracket| scope.spawn(|| bracket.end()));
        ends.map(|end| end.join().unwrap())
    });
    for end in ends {
        assert!(end.unwrap_err().is_device_lost());
    }
    assert!(first.begin(Access::Read).unwrap_err().is_device_lost());
    let late = buffer.map(0, Protection::Read).expect_err("mapped after the loss");
    assert!(late.is_device_lost(), "{late}");
    // What is written now stays in this process.
    first.copy_from_slice(0, &[5]).unwrap();
    let mut byte = [0];
    second.copy_to_slice(0, &mut byte).unwrap();
    assert_eq!(byte, [0]);
}

#[test]
fn dropped_in_any_order_while_they_are_taken() {
    const NAME: &str = "dmashare-dropped";
    for round in 0..100_usize {
        let (connection, mut broker) = connected();
        let buffer: ImportedBuffer = import(&connection, &mut broker, 18, NAME);
        let mut all: Vec<_> = (0..8).map(|_| buffer.map(0, Protection::Read).unwrap()).collect();
        // Another order each time.
        all.rotate_left(round % 8);
        if round % 2 == 0 {
            all.reverse();
        }
        let start = Barrier::new(5);
        thread::scope(|scope| {
            while !all.is_empty() {
                let mine = all.split_off(all.len() - 2);
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    for mapped in mine {
                        let mut bytes = vec![0; mapped.len()];
                        if let Ok(bracket) = mapped.begin(Access::Read) {
                            mapped.copy_to_slice(0, &mut bytes).unwrap();
                            let is_whole = bytes.iter().all(|byte| *byte == 0xaa);
                            assert!(bracket.end().is_err() || is_whole, "round {round}");
                        }
                        drop(mapped);
                    }
                });
            }
            start.wait();
            broker.lose(1);
            let events = connection.dispatch(SOON).unwrap();
            assert!(matches!(&events[..], [Event::DeviceLost(lost)] if lost.failed().is_empty()));
        });
        drop(buffer);
        assert_eq!((mappings(NAME), open_fds(NAME)), (0, 0), "round {round}");
    }
}
