use std::time::{Duration, SystemTime};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use dmashare_proto::activity::Activity;
use jiff::tz::TimeZone;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use zbus::zvariant::ObjectPath;

use super::*;
use crate::job::Job;
use crate::model::{Client, ClientCounts, Device, DeviceCounts, Service};
use crate::render::sample::{device, holders};
use crate::snapshot;
use crate::world::{Event, Named};

fn client(id: u64, name: &str, unit: &str, buffers: u32) -> Client {
    Client {
        id,
        pid: 800 + u32::try_from(id).unwrap(),
        uid: 1000,
        name: name.to_owned(),
        unit: unit.to_owned(),
        on_loss: "wait".to_owned(),
        survives_removal: id == 6,
        counts: ClientCounts { buffers, ..ClientCounts::default() },
    }
}

fn devices(fences: u32) -> Vec<Device> {
    let igpu = Device {
        id: 1,
        name: "0000:00:02.0".to_owned(),
        driver: "i915".to_owned(),
        counts: DeviceCounts { imports: 12_345, ..DeviceCounts::default() },
        ..device()
    };
    let egpu = device();
    let counts = DeviceCounts { fences, ..egpu.counts };
    vec![igpu, Device { counts, ..egpu }]
}

/// Of the eGPU, after so many fences.
fn activity(fences: u64) -> Vec<Activity> {
    let quiet = Activity { device: 1, ..Activity::default() };
    let ages = [12, 4, 0, 1, 0];
    vec![quiet, Activity { device: 3, fences, ages, oldest_ns: 2_560_000_000, ..quiet }]
}

fn job(stage: &str, outcome: Option<&str>) -> Job {
    Job {
        id: 4,
        device: Some(3),
        device_name: "0000:01:00.0".to_owned(),
        stage: stage.to_owned(),
        message: "sway (pid 812) holds on".to_owned(),
        deadline_ns: 9_000_000_000,
        outcome: outcome.map(str::to_owned),
        holders: outcome.map(|_| holders()),
        ..Job::default()
    }
}

fn model() -> Model {
    let service =
        Service { version: "0.1.0".to_owned(), backend: "vgem".to_owned(), ..Service::default() };
    let clients = vec![
        client(5, "evil\x1b[31m", "app-evil.scope", 3),
        client(6, "compositor", "session-2.scope", 9),
    ];
    let mut model = Model::new(service, false);
    model.zone = TimeZone::UTC;
    model.show(true, devices(7), clients.clone(), Vec::new());
    model.answered(Answer::Activity(Duration::from_secs(0), activity(100)));
    model.show(true, devices(17), clients.clone(), vec![job("looking", None)]);
    model.answered(Answer::Activity(Duration::from_secs(4), activity(340)));
    model.happened(Event::ClientCame { client: clients[0].clone() }, at(1));
    let named = Named { id: 2, name: "0000:01:00.0".to_owned(), driver: "amdgpu".to_owned() };
    let lost = Event::Lost {
        device: named,
        cause: "unplugged".to_owned(),
        buffers: 3,
        imports: 2,
        fences: 7,
    };
    model.happened(lost, at(2));
    model
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045 + seconds)
}

fn screen(model: &Model, columns: u16, rows: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal.draw(|frame| draw(frame, model, 2_500_000_000, at(3))).unwrap();
    let buffer = terminal.backend().buffer();
    let mut out = String::new();
    for row in buffer.content().chunks(usize::from(columns)) {
        let line: String = row.iter().map(|cell| cell.symbol()).collect();
        out += line.trim_end();
        out.push('\n');
    }
    out
}

fn press(model: &mut Model, code: KeyCode) -> Option<Action> {
    model.key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn keys(model: &mut Model, keys: &str) -> Option<Action> {
    keys.chars().map(|ch| press(model, KeyCode::Char(ch))).last().flatten()
}

#[test]
fn the_screen_in_two_sizes() {
    snapshot::check("top-80x24.txt", &screen(&model(), 80, 24));
    snapshot::check("top-200x40.txt", &screen(&model(), 200, 40));
}

#[test]
fn a_screen_of_any_size_is_drawn() {
    let mut model = model();
    for over in ["", "?", " e", "ni"] {
        keys(&mut model, over);
        for (columns, rows) in [(1, 1), (20, 5), (39, 9), (300, 100)] {
            screen(&model, columns, rows);
        }
    }
}

#[test]
fn keys_select_and_sort() {
    let mut model = model();
    assert_eq!(press(&mut model, KeyCode::Enter), Some(Action::Inspect(1)));
    press(&mut model, KeyCode::Esc);
    keys(&mut model, "jj");
    assert_eq!(press(&mut model, KeyCode::Enter), Some(Action::Inspect(3)), "the last one stays");
    press(&mut model, KeyCode::Esc);
    // By name, driver, state, buffers: who has the most is the first.
    keys(&mut model, "ssss");
    let order: Vec<u64> = model.devices.iter().map(|device| device.id).collect();
    assert_eq!(order, [3, 1]);
    keys(&mut model, "r");
    assert_eq!(model.devices[0].id, 1);
    assert_eq!(model.chosen().unwrap().id, 3, "the selection is a device, not a row");
    press(&mut model, KeyCode::Tab);
    keys(&mut model, "SSSS");
    assert_eq!(model.clients[0].id, 6, "by buffers");
    assert_eq!(press(&mut model, KeyCode::Enter), None, "a client is no device");
    assert_eq!(keys(&mut model, "q"), Some(Action::Quit));
    let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(model.key(control), Some(Action::Quit));
}

#[test]
fn holders_are_inspected() {
    let mut model = model();
    assert_eq!(keys(&mut model, "ji"), Some(Action::Inspect(3)));
    assert!(screen(&model, 80, 24).contains("looking…"));
    model.answered(Answer::Holders(3, Ok(holders())));
    snapshot::check("top-holders.txt", &screen(&model, 110, 30));
    keys(&mut model, "jj");
    assert!(!screen(&model, 110, 30).contains("is held by"), "it scrolls");
    press(&mut model, KeyCode::Esc);
    // An answer that comes when nobody looks any more.
    model.answered(Answer::Holders(3, Err("too late".to_owned())));
    assert!(!screen(&model, 110, 30).contains("too late"));
}

#[test]
fn an_eject_is_asked_for_twice_and_its_end_is_told() {
    let mut model = model();
    assert_eq!(keys(&mut model, "je"), None);
    snapshot::check("top-eject.txt", &screen(&model, 80, 24));
    assert_eq!(keys(&mut model, "x"), None, "no other key is a yes");
    assert_eq!(keys(&mut model, "ne"), None);
    assert_eq!(keys(&mut model, "y"), Some(Action::Eject { device: 3, force: 0 }));
    assert_eq!(keys(&mut model, "ef"), None);
    assert!(screen(&model, 80, 24).contains("are ENDED"));
    assert_eq!(keys(&mut model, "y"), Some(Action::Eject { device: 3, force: 1 }));
    assert_eq!(keys(&mut model, "c"), Some(Action::Cancel(4)));
    let path = ObjectPath::try_from("/org/dmashare/Broker1/job/j4").unwrap();
    model.answered(Answer::Begun(Ok(path.into())));
    let ended = || Event::EjectEnded { job: job("ended", Some("refused")) };
    model.happened(ended(), at(4));
    let shown = screen(&model, 110, 30);
    assert!(shown.contains("is not ejected") && shown.contains("wireplumber"), "{shown}");
    press(&mut model, KeyCode::Esc);
    model.happened(ended(), at(5));
    assert!(!screen(&model, 110, 30).contains("is not ejected"), "another one's job");
}

#[test]
fn a_job_that_ended_before_its_name_was_known_is_told_too() {
    let mut model = model();
    model.show(true, devices(0), Vec::new(), vec![job("ended", Some("ejected"))]);
    let path = ObjectPath::try_from("/org/dmashare/Broker1/job/j4").unwrap();
    model.answered(Answer::Begun(Ok(path.into())));
    assert!(screen(&model, 80, 24).contains("it is safe to unplug"));
}

#[test]
fn a_lost_device_is_not_ejected_and_a_stopped_service_is_told() {
    let mut model = model();
    let lost = Device { cause: Some("unplugged".to_owned()), ..device() };
    model.show(false, vec![lost], Vec::new(), Vec::new());
    assert_eq!(keys(&mut model, "e"), None);
    let shown = screen(&model, 80, 24);
    assert!(shown.contains("d3 is lost already"), "{shown}");
    assert!(shown.contains("dmashared has stopped"), "{shown}");
}
