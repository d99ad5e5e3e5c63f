//! What there is of everything that could leak.

use anyhow::{Result, bail, ensure};

use crate::process::{eventually, named};
use crate::scenario::figures::{note, show};
use crate::{BOUND, Process, World, kernel_objects};

/// What the service and its keeper may grow by, in KiB, in however many cycles: what chance does to
/// an allocator, and the causes of the last 4096 ends, which take hundreds of cycles to be that many. In
/// a thousand cycles that is less than two KiB of each.
const GROWTH_KIB: u64 = 1024;
/// What the kernel may keep of each cycle, in KiB: a buffer that nobody has given back, with its file, is
/// more. And what its caches may have more at one moment than at another one: ten times what was seen.
const SLAB_KIB: u64 = 1;
const SLAB_SWING_KIB: u64 = 1024;
/// Processes that the service has something done by; none stays.
const HELPERS: [&str; 3] = ["dmashare-holders", "dmashare-kill", "dmashare-pci"];

/// At one moment.
pub(super) struct Sizes {
    /// The service's, and its keeper's.
    descriptors: [usize; 2],
    resident_kib: [u64; 2],
    helpers: usize,
    kernel: Option<Kernel>,
}

struct Kernel {
    dma_bufs: usize,
    timelines: usize,
    slab_kib: u64,
}

impl Sizes {
    /// When nobody is connected but who watches, and nothing is left of what was.
    pub fn at_rest(world: &World) -> Result<Self> {
        world.bus().until("one client, and no object", BOUND, |bus| {
            let idle = bus.devices()?.iter().all(|device| device.counts() == (0, 0, 0));
            Ok((idle && bus.clients()?.len() == 1).then_some(()))
        })?;
        eventually("no helper is left", BOUND, || Ok(helpers()? == 0))?;
        Self::now(world)
    }

    /// In the middle of it all, too.
    pub fn now(world: &World) -> Result<Self> {
        let [keeper] = named("dmashare-keeper")?[..] else { bail!("not one keeper") };
        let both = [world.broker()?, keeper];
        let [descriptors, kept] = both.map(|process| process.descriptors().map(|all| all.len()));
        let [resident, kept_kib] = both.map(Process::resident_kib);
        let kernel = (!world.is_simulated()).then(Kernel::now).transpose()?;
        Ok(Self {
            descriptors: [descriptors?, kept?],
            resident_kib: [resident?, kept_kib?],
            helpers: helpers()?,
            kernel,
        })
    }

    /// Waits until there is no more of what is closed in the background than there was here.
    pub fn wait_for(&self, world: &World) -> Result<()> {
        let what = "descriptors and the kernel's objects are as many as after the first cycles";
        let mut last = None;
        let done = eventually(what, BOUND, || {
            let now = last.insert(Self::now(world)?);
            let closed =
                now.descriptors.iter().zip(&self.descriptors).all(|(now, base)| now <= base);
            let kernel = now.kernel.as_ref().zip(self.kernel.as_ref());
            let ended = kernel.is_none_or(|(now, base)| {
                now.dma_bufs <= base.dma_bufs && now.timelines <= base.timelines
            });
            Ok(closed && ended)
        });
        if let (Err(_), Some(last)) = (&done, &last) {
            self.tell(last);
        }
        done
    }

    /// Checks that nothing has grown but what may.
    pub fn compare(&self, last: &Self, cycles: u32) -> Result<()> {
        self.tell(last);
        note("resident KiB before and after", vec![self.resident_kib[0], last.resident_kib[0]]);
        ensure!(last.helpers == 0, "{} helpers are left", last.helpers);
        for (who, (base, last)) in
            ["service", "keeper"].iter().zip(self.resident_kib.iter().zip(&last.resident_kib))
        {
            ensure!(*last <= base + GROWTH_KIB, "the {who} grew from {base} to {last} KiB");
        }
        let (Some(base), Some(last)) = (&self.kernel, &last.kernel) else { return Ok(()) };
        let grown = last.slab_kib.saturating_sub(base.slab_kib);
        note("kernel's growth, KiB a cycle", grown as f64 / f64::from(cycles));
        let most = u64::from(cycles) * SLAB_KIB + SLAB_SWING_KIB;
        ensure!(grown <= most, "the kernel has {grown} KiB more in {cycles} cycles, above {most}");
        Ok(())
    }

    /// Says what there is now, beside what there was here.
    pub fn tell(&self, last: &Self) {
        for (i, who) in ["service", "keeper"].into_iter().enumerate() {
            show(format_args!(
                "{who}: {} → {} descriptors, {} → {} KiB",
                self.descriptors[i],
                last.descriptors[i],
                self.resident_kib[i],
                last.resident_kib[i]
            ));
        }
        let (Some(base), Some(last)) = (&self.kernel, &last.kernel) else { return };
        show(format_args!(
            "kernel: {} → {} dma-bufs, {} → {} timelines of sw_sync, {} → {} KiB of slabs",
            base.dma_bufs,
            last.dma_bufs,
            base.timelines,
            last.timelines,
            base.slab_kib,
            last.slab_kib
        ));
    }
}

impl Kernel {
    fn now() -> Result<Self> {
        let timelines = kernel_objects::sw_sync_timelines()?;
        let (dma_bufs, slab_kib) = (kernel_objects::dma_bufs()?, kernel_objects::slab_kib()?);
        Ok(Self { dma_bufs, timelines, slab_kib })
    }
}

fn helpers() -> Result<usize> {
    let counts = HELPERS.map(|name| named(name).map(|found| found.len()));
    counts.into_iter().sum()
}
