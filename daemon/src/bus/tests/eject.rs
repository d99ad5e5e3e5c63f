//! `Eject()`, `GetHolders()`, `Attach()` and `Job1`: what the shell is asked, and what the caller gets.

use std::collections::HashMap;

use dmashare_proto::holders::{Holder, Holders};
use dmashare_proto::job::{Outcome, Stage as Step};
use nix::unistd::getuid;
use zbus::zvariant::{OwnedObjectPath, Value};

use super::rehearse::Polkit;
use super::*;
use crate::bus::{EjectRequest, NotDone};
use crate::eject::NudgeWhen;
use crate::view::JobView;

async fn present(stage: &Stage) -> zbus::Proxy<'static> {
    stage.face.tell(BusUpdate::Device(device(7)));
    let path = format!("{ROOT}/device/d7");
    zbus::Proxy::new(&stage.client, NAME, path, "org.dmashare.Device1").await.unwrap()
}

fn error_of<T: std::fmt::Debug>(result: zbus::Result<T>) -> (String, String) {
    match result {
        Err(zbus::Error::MethodError(name, text, _)) => {
            (name.trim_start_matches("org.dmashare.Error.").to_owned(), text.unwrap_or_default())
        }
        other => panic!("{other:?}"),
    }
}

/// Lets everybody, whoever runs the tests. Root is not asked.
async fn lenient(stage: &Stage) -> Polkit {
    let polkit = Polkit::start(stage, (true, false)).await;
    polkit.gate.add_permits(1);
    polkit
}

fn dry() -> HashMap<&'static str, Value<'static>> {
    HashMap::from([("dry-run", Value::from(true))])
}

#[tokio::test]
async fn a_job_is_begun_followed_and_ends_once() {
    let Some(mut stage) = Stage::set().await else { return };
    let _polkit = lenient(&stage).await;
    let device = present(&stage).await;
    let mut options = dry();
    options.insert("timeout-ms", Value::from(2500_u32));
    options.insert("nudge", Value::from("never"));
    let call = device.call::<_, _, OwnedObjectPath>("Eject", &options);
    let answer = async {
        let Some(EjectRequest::Eject { device, options, uid, answer }) =
            stage.face.ejects.recv().await
        else {
            panic!("another request")
        };
        assert_eq!((device, uid), (DeviceId(7), getuid().as_raw()));
        assert_eq!((options.timeout_ns, options.nudge), (2_500_000_000, NudgeWhen::Never));
        assert!(options.dry_run && options.force == 0 && !options.deauthorize);
        let view = JobView { id: 3, device, dry_run: true, uid, ..JobView::default() };
        stage.face.tell(BusUpdate::Job(Box::new(view.clone())));
        answer.send(Ok(3)).unwrap();
        view
    };
    let (path, mut view) = within(async { tokio::join!(call, answer) }).await;
    let path = path.unwrap();
    assert_eq!(path.as_str(), format!("{ROOT}/job/j3"));
    let job = zbus::Proxy::new(&stage.client, NAME, path, "org.dmashare.Job1").await.unwrap();
    let mut ends = job.receive_signal("Ended").await.unwrap();
    view.stage = Step::Ended;
    view.outcome = Some(Outcome::WouldEject);
    view.message = "nobody is in the way".to_owned();
    // Said again, it has not ended again.
    for _ in 0..2 {
        stage.face.tell(BusUpdate::Job(Box::new(view.clone())));
    }
    let ended = within(futures_util::StreamExt::next(&mut ends)).await.unwrap();
    let said: (String, String) = ended.body().deserialize().unwrap();
    assert_eq!(said, ("would-eject".to_owned(), String::new()));
    let message: String = within(job.get_property("Message")).await.unwrap();
    assert_eq!(message, "nobody is in the way");
    assert_eq!(job.get_property::<String>("Stage").await.unwrap(), "ended");
    stage.face.tell(BusUpdate::JobGone(3));
    let gone = within(futures_util::StreamExt::next(&mut ends));
    let jobs = async {
        let broker = zbus::Proxy::new(&stage.client, NAME, ROOT, NAME).await.unwrap();
        loop {
            let jobs = broker.get_property::<Vec<OwnedObjectPath>>("Jobs").await.unwrap();
            if jobs.is_empty() {
                return;
            }
        }
    };
    tokio::select! {
        ended = gone => panic!("{ended:?}"),
        () = jobs => {}
    }
}

#[tokio::test]
async fn what_is_refused_has_a_name() {
    let Some(mut stage) = Stage::set().await else { return };
    let _polkit = lenient(&stage).await;
    let device = present(&stage).await;
    for (why, name) in [
        (NotDone::DeviceLost, "DeviceLost"),
        (NotDone::Busy(12), "Busy"),
        (NotDone::Refused("the boot GPU".to_owned()), "Refused"),
        (NotDone::Unsupported("no PCI".to_owned()), "Unsupported"),
        (NotDone::Failed("no helper".to_owned()), "Failed"),
    ] {
        let options = dry();
        let call = device.call::<_, _, OwnedObjectPath>("Eject", &options);
        let answer = async {
            let Some(EjectRequest::Eject { answer, .. }) = stage.face.ejects.recv().await else {
                panic!("another request")
            };
            answer.send(Err(why.clone())).unwrap();
        };
        let (told, ()) = within(async { tokio::join!(call, answer) }).await;
        let (error, text) = error_of(told);
        assert_eq!(error, name);
        assert!(why != NotDone::Busy(12) || text.contains("/job/j12"), "{text}");
    }
    let unknown = HashMap::from([("hurry", Value::from(true))]);
    let told = within(device.call::<_, _, OwnedObjectPath>("Eject", &unknown)).await;
    assert_eq!(error_of(told).0, "BadValue");
}

#[tokio::test]
async fn without_an_authority_one_sees_ones_own() {
    let Some(mut stage) = Stage::set().await else { return };
    let device = present(&stage).await;
    let call = device.call::<_, _, String>("GetHolders", &());
    let answer = async {
        let Some(EjectRequest::Holders { device, only_of, answer }) =
            stage.face.ejects.recv().await
        else {
            panic!("another request")
        };
        // There is no polkit on this bus; root is not asked.
        let uid = getuid().as_raw();
        assert_eq!((device, only_of), (DeviceId(7), Some(uid).filter(|uid| *uid != 0)));
        let holder = Holder { pid: 512, command: "sway".to_owned(), ..Holder::default() };
        answer.send(Ok(Holders { processes: vec![holder], ..Holders::default() })).unwrap();
    };
    let (told, ()) = within(async { tokio::join!(call, answer) }).await;
    let holders: Holders = serde_json::from_str(&told.unwrap()).unwrap();
    assert_eq!(holders.processes[0].command, "sway");
}
