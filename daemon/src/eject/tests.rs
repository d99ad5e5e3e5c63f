//! The machine alone: stories, and whatever may happen in any order.

use dmashare_proto::ObjectId;
use dmashare_proto::holders::{ClientOf, Held, Holder, Holders, Other, Role, What};
use dmashare_proto::message::InhibitMode;
use dmashare_proto::sysfs::Nudge;
use proptest::prelude::*;

use super::*;

const CARD: &str = "/dev/dri/card1";
const DEVPATH: &str = "/devices/pci0/0000:03:00.0/drm/card1";

fn options() -> Options {
    Options {
        force: 0,
        timeout_ns: 9000 * MS,
        delay_ns: 5000 * MS,
        dry_run: false,
        nudge: NudgeWhen::Auto,
        deauthorize: false,
    }
}

fn target() -> Target {
    Target {
        name: "0000:03:00.0".to_owned(),
        cards: vec![(CARD.to_owned(), DEVPATH.to_owned())],
        functions: vec!["0000:03:00.1".to_owned(), "0000:03:00.0".to_owned()],
        router: Some("0-1".to_owned()),
        blocks_while_open: false,
    }
}

fn holder(command: &str, active: &str) -> Holder {
    let what = What::Node { path: CARD.to_owned(), drm: Vec::new() };
    let held = Held { what, fds: 1, active: active.to_owned(), ..Held::default() };
    Holder {
        pid: 512,
        start: 9,
        command: command.to_owned(),
        uid: 1000,
        user: "anna".to_owned(),
        holds: vec![held],
        ..Holder::default()
    }
}

fn found(processes: &[&Holder]) -> Event {
    let processes = processes.iter().map(|holder| (*holder).clone()).collect();
    Event::Looked(Ok(Holders { processes, ..Holders::default() }))
}

fn inhibitor(mode: InhibitMode) -> InhibitorView {
    InhibitorView {
        id: ObjectId(8),
        device: None,
        mode,
        why: "a recording".to_owned(),
        who: "recorder".to_owned(),
        pid: 71,
        uid: 1000,
    }
}

fn nudge(action: Nudge) -> Action {
    Action::Write(Request::Nudge { nodes: vec![DEVPATH.to_owned()], action })
}

fn remove(pci: &str) -> Action {
    Action::Write(Request::Remove { pci: pci.to_owned() })
}

/// A job that has drained and asks for its first look.
fn drained(options: Options) -> Job {
    let mut job = Job::new(options, target());
    assert_eq!(job.handle(0, Event::Begin(Vec::new())), [Action::Drain]);
    assert_eq!(job.handle(1, Event::Emptied), [Action::Look]);
    job
}

#[test]
fn nobody_is_in_the_way() {
    let mut job = drained(Options { deauthorize: true, ..options() });
    let idle = holder("sway", "");
    assert_eq!(job.handle(3, found(&[&idle])), [Action::Expect, remove("0000:03:00.1")]);
    assert_eq!(job.handle(4, Event::Written(Ok(()))), [remove("0000:03:00.0")]);
    assert!(!job.can_be_cancelled());
    assert!(job.handle(5, Event::Lost).is_empty(), "that is what was wanted");
    let deauthorize = Action::Write(Request::Deauthorize { router: "0-1".to_owned() });
    assert_eq!(job.handle(6, Event::Written(Ok(()))), [deauthorize]);
    assert!(job.handle(7, Event::Written(Ok(()))).is_empty());
    assert_eq!(job.outcome(), Some(Outcome::Ejected));
    assert_eq!(job.message(), "0000:03:00.0 is removed: it is safe to unplug");
}

#[test]
fn a_display_server_is_told_and_told_again_that_it_stays() {
    let mut job = drained(options());
    let mut sway = holder("sway", "it is DRM master");
    sway.session = "2".to_owned();
    assert_eq!(job.handle(2, found(&[&sway])), [nudge(Nudge::Remove)]);
    assert!(job.message().contains("sway (pid 512, user anna)"), "{}", job.message());
    assert_eq!(job.handle(3, Event::Written(Ok(()))), [Action::Look]);
    assert!(job.handle(4, found(&[&sway])).is_empty());
    let wake = job.wake_ns().unwrap();
    assert_eq!(job.handle(wake, Event::Time), [Action::Look]);
    let late = 20_000 * MS;
    assert_eq!(job.handle(late, found(&[&sway])), [nudge(Nudge::Add)]);
    assert_eq!(job.outcome(), None, "not before that is done");
    assert_eq!(job.handle(late, Event::Written(Ok(()))), [Action::Undrain]);
    assert_eq!(job.outcome(), Some(Outcome::Refused));
    let text = "sway (pid 512, user anna) holds it by /dev/dri/card1: it is DRM master; close it, or \
                eject with --force. The device is as before";
    assert_eq!(job.message(), text);
}

#[test]
fn who_said_that_it_lets_go_is_not_in_the_way() {
    for (on_loss, survives, is_in_the_way) in [
        ("wait", false, true),
        ("wait", true, false),
        ("ignore", false, false),
        ("kill", false, false),
    ] {
        let mut client = holder("viewer", "a mapping");
        client.clients.push(ClientOf {
            on_loss: on_loss.to_owned(),
            survives,
            ..ClientOf::default()
        });
        let mut job = drained(options());
        let actions = job.handle(2, found(&[&client]));
        assert_eq!(actions.is_empty(), is_in_the_way, "{on_loss} {survives}");
    }
}

#[test]
fn force_ends_a_program_and_no_screen() {
    let mut job = drained(Options { force: 1, ..options() });
    let program = holder("stubborn", "a mapping");
    let late = 6000 * MS;
    assert!(job.handle(2, found(&[&program])).is_empty());
    let wake = job.wake_ns().unwrap();
    assert_eq!(job.handle(wake, Event::Time), [Action::Look]);
    let term = |kill| Action::Signal { pid: 512, start: 9, kill };
    assert_eq!(job.handle(late, found(&[&program])), [term(false)]);
    let mut now = late;
    let mut signals = Vec::new();
    for _ in 0..20 {
        now = job.wake_ns().unwrap();
        assert_eq!(job.handle(now, Event::Time), [Action::Look]);
        signals.extend(job.handle(now, found(&[&program])));
        if job.outcome().is_some() {
            break;
        }
    }
    assert_eq!(signals, [term(true), Action::Undrain], "each once");
    assert_eq!(job.outcome(), Some(Outcome::Refused));
    assert!(job.message().contains("after SIGKILL"), "{}", job.message());
    assert!(now < late + 2 * KILL_TIME);

    let mut screen = program;
    screen.role = Role::Compositor;
    let mut job = drained(Options { force: 1, nudge: NudgeWhen::Never, ..options() });
    assert_eq!(job.handle(late, found(&[&screen])), [Action::Undrain]);
    assert!(job.message().contains("--force twice"), "{}", job.message());
    let mut job = drained(Options { force: 2, nudge: NudgeWhen::Never, ..options() });
    assert_eq!(job.handle(late, found(&[&screen])), [term(false)]);
    screen.role = Role::Init;
    let mut job = drained(Options { force: 2, nudge: NudgeWhen::Never, ..options() });
    assert_eq!(job.handle(late, found(&[&screen])), [Action::Undrain]);
}

#[test]
fn what_no_process_holds_is_not_forced() {
    let mut job = drained(Options { force: 2, ..options() });
    let others =
        vec![Other { kind: "vfio".to_owned(), text: "a guest has it".to_owned(), active: true }];
    let holders = Holders { others, ..Holders::default() };
    job.handle(2, Event::Looked(Ok(holders.clone())));
    job.handle(job.wake_ns().unwrap(), Event::Time);
    assert_eq!(job.handle(20_000 * MS, Event::Looked(Ok(holders))), [Action::Undrain]);
    assert_eq!(job.outcome(), Some(Outcome::Refused));
}

#[test]
fn inhibitors_delay_and_block() {
    let delay = inhibitor(InhibitMode::Delay);
    let mut job = Job::new(options(), target());
    assert!(job.handle(0, Event::Begin(vec![delay.clone()])).is_empty());
    assert_eq!(job.message(), "waits for recorder (pid 71): a recording");
    assert!(job.handle(1, Event::Inhibitors(vec![delay.clone()])).is_empty());
    assert_eq!(job.wake_ns(), Some(5000 * MS));
    assert_eq!(job.handle(2, Event::Inhibitors(Vec::new())), [Action::Drain]);

    let mut job = Job::new(options(), target());
    job.handle(0, Event::Begin(vec![delay]));
    assert_eq!(job.handle(5000 * MS, Event::Time), [Action::Drain], "the limit");
    let block = inhibitor(InhibitMode::Block);
    assert_eq!(job.handle(5001 * MS, Event::Inhibitors(vec![block])), [Action::Undrain]);
    assert_eq!(job.outcome(), Some(Outcome::Refused));
    assert!(job.message().starts_with("recorder (pid 71) blocks ejects: a recording"));
}

#[test]
fn a_dry_run_changes_nothing() {
    let dry = Options { dry_run: true, ..options() };
    let mut job = Job::new(dry, target());
    assert_eq!(job.handle(0, Event::Begin(vec![inhibitor(InhibitMode::Delay)])), [Action::Look]);
    assert!(job.handle(1, found(&[&holder("sway", "")])).is_empty());
    assert_eq!(job.outcome(), Some(Outcome::WouldEject));
    let mut job = Job::new(dry, target());
    job.handle(0, Event::Begin(Vec::new()));
    assert!(job.handle(1, found(&[&holder("sway", "a mapping")])).is_empty());
    assert_eq!(job.outcome(), Some(Outcome::Refused));
}

#[test]
fn a_cancel_in_the_middle_of_a_write_takes_it_back() {
    let mut job = drained(Options { nudge: NudgeWhen::Always, ..options() });
    assert_eq!(job.handle(2, found(&[&holder("sway", "")])), [nudge(Nudge::Remove)]);
    assert!(job.handle(3, Event::Cancel).is_empty());
    assert_eq!(job.handle(4, Event::Written(Ok(()))), [nudge(Nudge::Add)]);
    assert_eq!(job.handle(5, Event::Written(Ok(()))), [Action::Undrain]);
    assert_eq!(job.outcome(), Some(Outcome::Cancelled));
}

#[test]
fn a_removal_that_fails_brings_the_siblings_back() {
    let mut job = drained(Options { nudge: NudgeWhen::Never, ..options() });
    job.handle(2, found(&[]));
    job.handle(3, Event::Written(Ok(())));
    let failed = job.handle(4, Event::Written(Err("busy".to_owned())));
    assert_eq!(failed, [Action::Write(Request::Rescan)]);
    assert_eq!(job.handle(5, Event::Written(Ok(()))), [Action::Unexpect, Action::Undrain]);
    assert_eq!(job.outcome(), Some(Outcome::Failed));
    assert_eq!(job.message(), "the kernel did not remove 0000:03:00.0: busy");
}

#[test]
fn a_kernel_that_is_stuck_is_told_of() {
    let mut job = drained(Options { nudge: NudgeWhen::Never, ..options() });
    job.handle(2, found(&[]));
    let stack = vec!["dma_fence_default_wait".to_owned(), "commit_tail".to_owned()];
    assert!(job.handle(3, Event::Stuck { ms: 2100, stack, pid: 99 }).is_empty());
    let text = job.message();
    assert!(text.contains("for 2 s, in dma_fence_default_wait (called by commit_tail)"), "{text}");
    assert_eq!((job.outcome(), job.wake_ns()), (None, None));
}

/// What happens next, and how.
#[derive(Clone, Debug)]
enum Chance {
    Answer { in_the_way: bool, ok: bool },
    Time,
    Lost,
    Cancel,
    Emptied,
    Inhibitors(Vec<InhibitorView>),
    Stuck,
}

fn chance() -> impl Strategy<Value = Chance> {
    let inhibitors = prop_oneof![
        3 => Just(Vec::new()),
        1 => Just(vec![inhibitor(InhibitMode::Delay)]),
        1 => Just(vec![inhibitor(InhibitMode::Block)]),
    ];
    prop_oneof![
        8 => (any::<bool>(), proptest::bool::weighted(0.8))
            .prop_map(|(in_the_way, ok)| Chance::Answer { in_the_way, ok }),
        6 => Just(Chance::Time),
        1 => Just(Chance::Lost),
        1 => Just(Chance::Cancel),
        3 => Just(Chance::Emptied),
        2 => inhibitors.prop_map(Chance::Inhibitors),
        1 => Just(Chance::Stuck),
    ]
}

/// The world that a job changes, and what it asked and was not answered.
#[derive(Debug, Default)]
struct World {
    looks: bool,
    writes: Option<Request>,
    drained: bool,
    told_remove: bool,
    expected: bool,
    gone: BTreeSet<String>,
    lost: bool,
}

impl World {
    fn do_all(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Drain => assert!(!std::mem::replace(&mut self.drained, true)),
                Action::Undrain => assert!(std::mem::replace(&mut self.drained, false)),
                Action::Expect => assert!(!std::mem::replace(&mut self.expected, true)),
                Action::Unexpect => assert!(std::mem::replace(&mut self.expected, false)),
                Action::Signal { .. } => {}
                Action::Look => assert!(!std::mem::replace(&mut self.looks, true)),
                Action::Write(request) => {
                    assert_eq!(self.writes, None, "one at a time");
                    self.writes = Some(request);
                }
            }
        }
    }

    /// What a write does, if it succeeds.
    fn carry_out(&mut self, request: &Request) {
        match request {
            Request::Nudge { action, .. } => self.told_remove = *action == Nudge::Remove,
            Request::Remove { pci } => {
                self.gone.insert(pci.clone());
            }
            Request::Rescan => self.gone.clear(),
            Request::Deauthorize { .. } => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn it_ends_and_leaves_the_device_as_it_says(
        chances in proptest::collection::vec(chance(), 0..40),
        force in 0_u8..3,
        nudge in prop_oneof![Just(NudgeWhen::Auto), Just(NudgeWhen::Always), Just(NudgeWhen::Never)],
        dry_run in proptest::bool::weighted(0.1),
        deauthorize: bool,
    ) {
        let mut job = Job::new(Options { force, nudge, dry_run, deauthorize, ..options() }, target());
        let mut world = World::default();
        let mut now = 0;
        world.do_all(job.handle(now, Event::Begin(Vec::new())));
        let mut sway = holder("sway", "it is DRM master");
        sway.session = "1".to_owned();
        // After chance, all is well: what is asked is answered, and nobody is in the way.
        let well = Chance::Answer { in_the_way: false, ok: true };
        let calm = (0..200).map(|turn| if turn % 2 == 0 { well.clone() } else { Chance::Time });
        let mut every_undo_worked = true;
        for chance in chances.into_iter().chain(calm) {
            if job.outcome().is_some() {
                break;
            }
            let event = match chance {
                Chance::Time => {
                    now = job.wake_ns().unwrap_or(now);
                    Event::Time
                }
                Chance::Lost => {
                    world.lost = true;
                    Event::Lost
                }
                Chance::Cancel => Event::Cancel,
                Chance::Emptied => Event::Emptied,
                Chance::Inhibitors(all) => Event::Inhibitors(all),
                Chance::Stuck => Event::Stuck { ms: 1000, stack: Vec::new(), pid: 1 },
                Chance::Answer { in_the_way, ok } if std::mem::take(&mut world.looks) => match ok {
                    true => found(&[&sway][..usize::from(in_the_way)]),
                    false => Event::Looked(Err("no helper".to_owned())),
                },
                Chance::Answer { ok, .. } => match world.writes.take() {
                    None => continue,
                    Some(request) if ok => {
                        world.carry_out(&request);
                        Event::Written(Ok(()))
                    }
                    Some(request) => {
                        let undoes = matches!(
                            request,
                            Request::Rescan | Request::Nudge { action: Nudge::Add, .. }
                        );
                        every_undo_worked &= !undoes;
                        Event::Written(Err("no".to_owned()))
                    }
                },
            };
            now += MS;
            world.do_all(job.handle(now, event));
        }
        let outcome = job.outcome().expect("it ends");
        prop_assert!(job.stage() == Stage::Ended && !job.message().is_empty());
        prop_assert!(job.handle(now, Event::Cancel).is_empty());
        if outcome == Outcome::Ejected {
            prop_assert!(world.lost || world.gone.len() == 2);
        } else {
            prop_assert!(!world.drained && !world.expected);
            if every_undo_worked && world.writes.is_none() {
                prop_assert!(!world.told_remove && world.gone.is_empty(), "{world:?}");
            }
        }
    }
}
