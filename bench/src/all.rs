//! Every measurement with the rounds that it has, and all of them one after the other.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dmashare_tests::{Backend, World, hostile};

use crate::report::Section;
use crate::unplug::Load;
use crate::{access, detection, growth, guard, holders, idle, rate, restart, share, unplug};

/// Other fences, where there are to be many.
const MANY: usize = 10_000;
/// On simulated devices each guard and each buffer costs two descriptors of a limit that may be as low
/// as this machine's.
const MANY_SIMULATED: usize = 3_000;

/// How it is measured.
#[derive(Clone, Copy)]
pub struct How {
    /// With the kernel's own devices.
    pub real: bool,
    /// A tenth of the rounds.
    pub quick: bool,
}

type Step = (&'static str, fn(How) -> Result<Section>);

impl How {
    /// Everything that this machine can show.
    pub fn all(self) -> Result<Vec<Section>> {
        const SIMULATED: &[Step] = &[
            ("share", How::share),
            ("rate", How::rate),
            ("access", How::access),
            ("growth", |how| how.growth(None)),
            ("restart", |how| how.restart(MANY)),
            ("unplug", |how| how.unplug(None)),
            ("idle", How::idle),
            ("holders", How::holders),
        ];
        const REAL: &[Step] = &[
            ("access", How::access),
            ("share", How::share),
            ("guard", |how| how.guard(0)),
            ("guard --others 10000", |how| how.guard(MANY)),
            ("detection", How::detection),
            ("unplug", |how| how.unplug(None)),
        ];
        let steps = if self.real { REAL } else { SIMULATED };
        let measure = |(place, (name, step)): (usize, &Step)| {
            eprint!("[{}/{}] {name} ", place + 1, steps.len());
            let start = Instant::now();
            let section = step(self).with_context(|| (*name).to_owned())?;
            eprintln!("{} s", start.elapsed().as_secs());
            Ok(section)
        };
        steps.iter().enumerate().map(measure).collect()
    }

    fn rounds(self, all: usize) -> usize {
        if self.quick { (all / 10).max(1) } else { all }
    }

    fn world(self, config: &str) -> Result<World> {
        World::start(if self.real { Backend::SwSync } else { Backend::Simulated }, config)
    }

    /// `access`
    pub fn access(self) -> Result<Section> {
        access::measure(&self.world("")?, self.rounds(500))
    }

    /// `share`
    pub fn share(self) -> Result<Section> {
        share::measure(&self.world("")?, self.rounds(if self.real { 100 } else { 500 }))
    }

    /// `rate`
    pub fn rate(self) -> Result<Section> {
        let world = World::start(Backend::Simulated, rate::CONFIG)?;
        rate::measure(&world, self.rounds(8).max(3), Duration::from_millis(500))
    }

    /// `guard`
    pub fn guard(self, others: usize) -> Result<Section> {
        guard::measure(&self.world(guard::CONFIG)?, self.rounds(1000), others)
    }

    /// `unplug`
    pub fn unplug(self, objects: Option<usize>) -> Result<Section> {
        let most = if self.real { MANY } else { MANY_SIMULATED };
        let objects = objects.unwrap_or(most);
        let load = Load { clients: 100, guards: objects, imports: objects };
        let rounds = self.rounds(if self.real { 3 } else { 10 });
        unplug::measure(&self.world(unplug::CONFIG)?, rounds, load)
    }

    /// `detection`
    pub fn detection(self) -> Result<Section> {
        detection::measure(&self.world("")?, self.rounds(10).max(3))
    }

    /// `restart`
    pub fn restart(self, buffers: usize) -> Result<Section> {
        hostile::new_files_limit()?;
        restart::measure(self.rounds(50), buffers)
    }

    /// `growth`
    pub fn growth(self, most: Option<usize>) -> Result<Section> {
        growth::measure(most.unwrap_or(if self.quick { 10_000 } else { 100_000 }))
    }

    /// `idle`
    pub fn idle(self) -> Result<Section> {
        let length = Duration::from_secs(if self.quick { 2 } else { 20 });
        idle::measure(&World::start(Backend::Simulated, "")?, length)
    }

    /// `holders`
    pub fn holders(self) -> Result<Section> {
        holders::measure(self.rounds(20))
    }
}
