use std::collections::HashMap;

use zbus::zvariant::{ObjectPath, OwnedValue, Str, Value};

use super::*;

fn owned(value: impl Into<Value<'static>>) -> OwnedValue {
    value.into().try_to_owned().unwrap()
}

fn text(text: &str) -> OwnedValue {
    Str::from(text.to_owned()).into()
}

fn job_properties(stage: &str, outcome: &str) -> Properties {
    [
        ("Id", owned(3_u64)),
        ("Device", owned(ObjectPath::try_from("/org/dmashare/Broker1/device/d2").unwrap())),
        ("DeviceName", text("0000:01:00.0")),
        ("Uid", owned(1000_u32)),
        ("Stage", text(stage)),
        ("Message", text("so it is")),
        ("Holders", text("")),
        ("DeadlineNs", owned(0_u64)),
        ("Outcome", text(outcome)),
        ("DryRun", owned(false)),
        ("Steps", text(r#"[{"stage":"draining","at_ns":5,"message":"asked"}]"#)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

const JOB_PATH: &str = "/org/dmashare/Broker1/job/j3";

fn added(stage: &str, outcome: &str) -> Signal {
    let interfaces: HashMap<_, _> = [(JOB.to_owned(), job_properties(stage, outcome))].into();
    Signal::Added(JOB_PATH.to_owned(), interfaces)
}

fn changed(of: &[(&str, &str)]) -> Signal {
    let changed = of.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect();
    Signal::Changed(JOB_PATH.to_owned(), JOB.to_owned(), changed)
}

fn ended() -> Signal {
    Signal::Ended {
        path: JOB_PATH.to_owned(),
        outcome: "refused".to_owned(),
        message: "sway holds on".to_owned(),
    }
}

fn words(world: &mut World, signals: impl IntoIterator<Item = Signal>) -> Vec<&'static str> {
    signals.into_iter().flat_map(|signal| world.apply(signal)).map(|event| event.word()).collect()
}

#[test]
fn a_job_is_told_of_a_stage_a_time_and_ends_once() {
    let finished = || changed(&[("Outcome", "refused"), ("Message", "sway holds on")]);
    for last in [[finished(), ended()], [ended(), finished()]] {
        let mut world = World::default();
        let signals = [
            added("draining", ""),
            changed(&[("DeviceName", "0000:01:00.0")]),
            changed(&[("Stage", "looking")]),
        ];
        let told = words(&mut world, signals.into_iter().chain(last));
        assert_eq!(told, ["eject", "changed", "eject", "eject-ended", "changed"]);
        let job = world.job(3).unwrap();
        assert_eq!(
            (job.outcome.as_deref(), job.message.as_str()),
            (Some("refused"), "sway holds on")
        );
        assert_eq!((job.device, job.steps[0].message.as_str()), (Some(2), "asked"));
    }
    assert_eq!(words(&mut World::default(), [added("ended", "would-eject")]), ["eject-ended"]);
}

#[test]
fn what_is_not_known_or_not_whole_is_left_out() {
    let mut world = World::default();
    let mut part = job_properties("draining", "");
    part.remove("Stage");
    let strange = HashMap::from([(JOB.to_owned(), part)]);
    let signals = [
        ended(),
        changed(&[("Stage", "looking")]),
        Signal::Added(JOB_PATH.to_owned(), strange),
        Signal::Added("/org/dmashare/Broker1/device/d2".to_owned(), HashMap::new()),
        Signal::Added("/org/dmashare/Broker1/thing/t2".to_owned(), HashMap::new()),
        Signal::Removed("/elsewhere".to_owned(), vec![JOB.to_owned()]),
    ];
    assert!(words(&mut world, signals).is_empty());
    assert!(world.jobs().is_empty());
}

#[test]
fn a_service_that_stops_leaves_nothing() {
    let mut world = World::default();
    let objects = Objects::from([(
        ObjectPath::try_from(JOB_PATH).unwrap().into(),
        HashMap::from([(JOB.to_owned(), job_properties("looking", ""))]),
    )]);
    assert_eq!(world.replace(objects), Event::Service { running: true, devices: 0, clients: 0 });
    assert_eq!(world.jobs().len(), 1);
    assert_eq!(words(&mut world, [Signal::Owner(None), Signal::Owner(None)]), ["service"]);
    assert!(!world.is_running() && world.jobs().is_empty());
}
