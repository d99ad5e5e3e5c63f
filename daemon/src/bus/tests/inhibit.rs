//! `Inhibit()`: what the shell is asked, and what the caller gets.

use std::os::fd::AsFd as _;

use dmashare_proto::message::{Inhibit, InhibitMode};
use dmashare_proto::{ErrorCode, WireError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::getuid;
use zbus::zvariant::{self, ObjectPath, OwnedObjectPath};

use super::*;
use crate::view::InhibitorView;

type Ask<'a> = (ObjectPath<'a>, &'a str, &'a str, &'a str);

fn ask<'a>(device: &'a str, mode: &'a str, who: &'a str, why: &'a str) -> Ask<'a> {
    (ObjectPath::try_from(device).unwrap(), mode, who, why)
}

#[tokio::test]
async fn it_is_held_until_the_caller_closes_what_it_got() {
    let Some(mut stage) = Stage::set().await else { return };
    let broker = zbus::Proxy::new(&stage.client, NAME, ROOT, NAME).await.unwrap();
    let device = format!("{ROOT}/device/d7");
    for (device, id) in [(device.as_str(), Some(DeviceId(7))), ("/", None)] {
        let asked = ask(device, "delay", "recorder", "a recording");
        let held = broker.call::<_, _, zvariant::OwnedFd>("Inhibit", &asked);
        let answer = async {
            let request = stage.face.inhibits.recv().await.unwrap();
            let (why, mode) = ("a recording".to_owned(), InhibitMode::Delay);
            assert_eq!(request.inhibit, Inhibit { device: id, mode, why });
            assert_eq!((request.who.as_str(), request.creds.uid), ("recorder", getuid().as_raw()));
            request.answer.send(Ok(())).unwrap();
            request.held
        };
        let (inhibitor, held) = within(async { tokio::join!(held, answer) }).await;
        let inhibitor = inhibitor.unwrap();
        let mut byte = [0];
        assert_eq!(nix::unistd::read(&held, &mut byte), Err(nix::errno::Errno::EAGAIN));
        drop(inhibitor);
        // The bus may still have its own copy of what it passed on.
        let hung_up = tokio::task::spawn_blocking(move || {
            let mut polled = [PollFd::new(held.as_fd(), PollFlags::empty())];
            let seen = poll(&mut polled, PollTimeout::from(20_000_u16));
            (seen, polled[0].revents(), nix::unistd::read(&held, &mut [0]))
        });
        let seen = within(hung_up).await.unwrap();
        assert_eq!(seen, (Ok(1), Some(PollFlags::POLLHUP), Ok(0)), "closed is seen");
    }
}

#[tokio::test]
async fn what_is_refused_has_a_name() {
    let Some(mut stage) = Stage::set().await else { return };
    let broker = zbus::Proxy::new(&stage.client, NAME, ROOT, NAME).await.unwrap();
    let long = "x".repeat(65);
    let cases = [
        (ask("/", "never", "", "why"), None, "BadValue"),
        (ask("/", "block", &long, "why"), None, "BadValue"),
        (ask("/org/other", "block", "", "why"), None, "UnknownDevice"),
        (ask("/", "block", "", "why"), Some(ErrorCode::DEVICE_LOST), "DeviceLost"),
        (ask("/", "block", "", "why"), Some(ErrorCode::OVER_QUOTA), "OverQuota"),
    ];
    for (asked, code, name) in cases {
        let call = broker.call::<_, _, zvariant::OwnedFd>("Inhibit", &asked);
        let answer = async {
            if let Some(code) = code {
                let request = stage.face.inhibits.recv().await.unwrap();
                request.answer.send(Err(WireError::new(code, "no"))).unwrap();
            }
        };
        let (told, ()) = within(async { tokio::join!(call, answer) }).await;
        match told {
            Err(zbus::Error::MethodError(error, _, _)) => {
                assert_eq!(error.as_str(), format!("org.dmashare.Error.{name}"));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn all_that_are_held_and_the_neutral_buffers_are_properties() {
    let Some(stage) = Stage::set().await else { return };
    let broker = zbus::Proxy::new(&stage.client, NAME, ROOT, NAME).await.unwrap();
    let held = InhibitorView {
        id: ObjectId(9),
        device: Some(DeviceId(7)),
        mode: InhibitMode::Block,
        why: "saving".to_owned(),
        who: "editor".to_owned(),
        pid: 12,
        uid: 1000,
    };
    stage.face.tell(BusUpdate::Inhibitors(vec![held]));
    stage.face.tell(BusUpdate::Neutral { buffers: 2, bytes: 8192 });
    type Row = (u64, OwnedObjectPath, String, String, String, u32, u32);
    within(async {
        let mut changes = broker.receive_property_changed::<u64>("NeutralBytes").await;
        while broker.get_property::<u64>("NeutralBytes").await.unwrap() != 8192 {
            futures_util::StreamExt::next(&mut changes).await;
        }
    })
    .await;
    assert_eq!(broker.get_property::<u32>("NeutralBuffers").await.unwrap(), 2);
    let rows = broker.get_property::<Vec<Row>>("Inhibitors").await.unwrap();
    let [(id, device, mode, why, who, pid, uid)] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((*id, *pid, *uid), (9, 12, 1000));
    assert_eq!(device.as_str(), format!("{ROOT}/device/d7"));
    assert_eq!([mode, why, who].map(String::as_str), ["block", "saving", "editor"]);
}
