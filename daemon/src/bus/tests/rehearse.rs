//! `Rehearse()`: asked of the shell, and of polkit where the shell does not simply let the caller.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::unistd::getuid;
use zbus::interface;
use zbus::zvariant::OwnedValue;

use super::*;
use crate::core::NotRehearsed;

const AUTHORITY: &str = "org.freedesktop.PolicyKit1";

type Asked = Arc<Mutex<Vec<(String, String, u32)>>>;

/// A stand-in for polkit, with one answer for all.
struct Authority {
    answer: (bool, bool),
    asked: Asked,
    /// Who has to be there for the answer.
    gate: Arc<tokio::sync::Semaphore>,
}

#[interface(name = "org.freedesktop.PolicyKit1.Authority")]
impl Authority {
    async fn check_authorization(
        &self,
        subject: (String, HashMap<String, OwnedValue>),
        action: String,
        details: HashMap<String, String>,
        flags: u32,
        _cancel: String,
    ) -> (bool, bool, HashMap<String, String>) {
        assert_eq!(subject.0, "system-bus-name");
        assert!(details.is_empty(), "who is not root may state none");
        let name = String::try_from(subject.1["name"].clone()).unwrap();
        self.asked.lock().unwrap().push((name, action, flags));
        drop(self.gate.acquire().await);
        (self.answer.0, self.answer.1, HashMap::new())
    }
}

pub(super) struct Polkit {
    _connection: Connection,
    asked: Asked,
    pub(super) gate: Arc<tokio::sync::Semaphore>,
}

impl Polkit {
    pub(super) async fn start(stage: &Stage, answer: (bool, bool)) -> Self {
        let connection = within(address(stage.dir.path()).connect()).await.unwrap();
        let (asked, gate) = (Asked::default(), Arc::new(tokio::sync::Semaphore::new(0)));
        let authority = Authority { answer, asked: asked.clone(), gate: gate.clone() };
        let path = "/org/freedesktop/PolicyKit1/Authority";
        connection.object_server().at(path, authority).await.unwrap();
        within(connection.request_name(AUTHORITY)).await.unwrap();
        Self { _connection: connection, asked, gate }
    }
}

async fn shown() -> Option<Stage> {
    let stage = Stage::set().await?;
    let mut signals = stage.signals().await;
    stage.face.tell(BusUpdate::Device(device(1)));
    // The object, and the list that it is in.
    signals.next().await;
    signals.next().await;
    Some(stage)
}

async fn call(stage: &Stage, client: u64, after_ms: u32) -> zbus::Result<()> {
    let path = format!("{ROOT}/device/d1");
    let proxy = zbus::Proxy::new(&stage.client, NAME, path, "org.dmashare.Device1").await?;
    let flags = zbus::proxy::MethodFlags::AllowInteractiveAuth;
    let body = (client, after_ms);
    within(proxy.call_with_flags::<_, _, ()>("Rehearse", flags.into(), &body)).await.map(|_| ())
}

fn error(result: zbus::Result<()>) -> (String, String) {
    match result {
        Err(zbus::Error::MethodError(name, why, _)) => {
            let name = name.strip_prefix("org.dmashare.Error.").unwrap().to_owned();
            (name, why.unwrap_or_default())
        }
        other => panic!("{other:?}"),
    }
}

/// The shell's part: what it was asked, once a question, and its answers in turn.
async fn answer(
    stage: &mut mpsc::UnboundedReceiver<RehearseRequest>,
    answers: &[Result<(), NotScheduled>],
) -> Vec<bool> {
    let mut authorised = Vec::new();
    for answer in answers {
        let request = within(stage.recv()).await.unwrap();
        assert_eq!((request.device, request.uid), (DeviceId(1), getuid().as_raw()));
        authorised.push(request.authorised);
        request.answer.send(*answer).unwrap();
    }
    authorised
}

fn take(stage: &mut Stage) -> mpsc::UnboundedReceiver<RehearseRequest> {
    std::mem::replace(&mut stage.face.rehearsals, mpsc::unbounded_channel().1)
}

#[tokio::test]
async fn what_is_the_callers_own_needs_no_authority() {
    let Some(mut stage) = shown().await else { return };
    let mut shell = take(&mut stage);
    let told = async {
        let request = within(shell.recv()).await.unwrap();
        assert_eq!((request.client, request.after), (Some(ClientId(7)), Duration::from_secs(2)));
        assert!(!request.authorised);
        request.answer.send(Ok(())).unwrap();
        let request = within(shell.recv()).await.unwrap();
        assert_eq!((request.client, request.after), (None, Duration::ZERO));
        request.answer.send(Ok(())).unwrap();
    };
    let called = async {
        call(&stage, 7, 2000).await.unwrap();
        call(&stage, 0, 0).await.unwrap();
    };
    tokio::join!(told, called);
}

#[tokio::test]
async fn polkit_decides_on_all_else() {
    for (answer_of, outcome) in [((true, false), None), ((false, false), Some("does not let you"))]
    {
        let Some(mut stage) = shown().await else { return };
        let polkit = Polkit::start(&stage, answer_of).await;
        polkit.gate.add_permits(1);
        let mut shell = take(&mut stage);
        let answers: &[_] = match outcome {
            None => &[Err(NotScheduled::NotYours), Ok(())],
            Some(_) => &[Err(NotScheduled::NotYours)],
        };
        let (authorised, called) = tokio::join!(answer(&mut shell, answers), call(&stage, 0, 0));
        match outcome {
            None => {
                called.unwrap();
                assert_eq!(authorised, [false, true]);
            }
            Some(words) => {
                let (name, why) = error(called);
                assert_eq!(name, "NotAuthorized");
                assert!(why.contains(words) && why.contains("for all"), "{why}");
            }
        }
        let name = stage.client.unique_name().unwrap().to_string();
        let asked = polkit.asked.lock().unwrap().clone();
        assert_eq!(asked, [(name, "org.dmashare.rehearse".to_owned(), 1)]);
    }
}

#[tokio::test]
async fn without_polkit_it_is_refused_with_a_word_of_why() {
    let Some(mut stage) = shown().await else { return };
    let mut shell = take(&mut stage);
    let answers = [Err(NotScheduled::NotYours)];
    let (_, called) = tokio::join!(answer(&mut shell, &answers), call(&stage, 7, 0));
    let (name, why) = error(called);
    assert_eq!(name, "NotAuthorized");
    let whose = "client 7 is another user's, and there is no polkit on the bus";
    assert!(why.starts_with(whose), "{why}");
}

#[tokio::test]
async fn whoever_waits_for_a_password_is_in_nobodys_way() {
    let Some(mut stage) = shown().await else { return };
    let polkit = Polkit::start(&stage, (true, false)).await;
    let mut shell = take(&mut stage);
    let mut signals = stage.signals().await;
    let others = async {
        answer(&mut shell, &[Err(NotScheduled::NotYours)]).await;
        while polkit.asked.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        // The device is shown on as it changes, and can be asked.
        let mut view = device(1);
        view.counts.buffers = 5;
        stage.face.tell(BusUpdate::Device(view));
        assert_eq!(told(&signals.next().await), ("d1".into(), "PropertiesChanged".into()));
        let path = format!("{ROOT}/device/d1");
        let device = zbus::Proxy::new(&stage.client, NAME, path, "org.dmashare.Device1");
        let device = device.await.unwrap();
        assert_eq!(within(device.get_property::<u32>("Buffers")).await.unwrap(), 5);
        polkit.gate.add_permits(1);
        answer(&mut shell, &[Ok(())]).await;
    };
    let (_, called) = tokio::join!(others, call(&stage, 0, 0));
    called.unwrap();
}

#[tokio::test]
async fn what_cannot_be_has_a_name() {
    let Some(mut stage) = shown().await else { return };
    let mut shell = take(&mut stage);
    for (why, name, words) in [
        (NotScheduled::TooMany(32), "Busy", "32 rehearsals of yours"),
        (
            NotScheduled::Impossible(NotRehearsed::DeviceLost(DeviceId(1))),
            "DeviceLost",
            "device 1 is lost already",
        ),
        (
            NotScheduled::Impossible(NotRehearsed::NoClient(ClientId(7))),
            "UnknownClient",
            "there is no client 7",
        ),
        (NotScheduled::Impossible(NotRehearsed::NoRoom), "Busy", "could not come back"),
    ] {
        let answers = [Err(why)];
        let (_, called) = tokio::join!(answer(&mut shell, &answers), call(&stage, 7, 0));
        let (of, text) = error(called);
        assert_eq!(of, name);
        assert!(text.contains(words), "{text}");
    }
    let (name, why) = error(call(&stage, 7, 3_600_001).await);
    assert_eq!((name.as_str(), why.contains("3600000 ms")), ("BadValue", true), "{why}");
    drop(shell);
    assert_eq!(error(call(&stage, 7, 0).await).0, "Stopping");
}
