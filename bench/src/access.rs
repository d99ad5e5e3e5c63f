//! `begin` and `end` beside the least that could do: two loads that nobody contends.

use std::hint::black_box;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use dmashare::{Access, Grant, Importer, MappedBuffer, Protection};
use dmashare_tests::{Buffer, World};
use dmashare_uapi::dma_buf;

use crate::report::{Finding, Goal, Section};
use crate::turns::{Contestant, take};

/// Operations a turn: so many that the clock's own cost is nothing.
const MANY: u32 = 20_000;
/// Of those that are system calls.
const SOME: u32 = 500;

/// A cache line of its own.
#[repr(align(64))]
struct Line(AtomicU32);

fn brackets(memory: &MappedBuffer, times: u32) {
    for _ in 0..times {
        let bracket = memory.begin(Access::Read).expect("the device is there");
        black_box(memory.as_ptr());
        bracket.end().expect("the device is there");
    }
}

pub fn measure(world: &World, rounds: usize) -> Result<Section> {
    let (maker, reader) = (world.connect("maker")?, world.connect("reader")?);
    let card = world.egpu()?;
    let buffer = Buffer::make(&card, 64, 64)?;
    let exported = maker.export(buffer.node.as_fd(), &buffer.layout, &[buffer.dma_buf.as_fd()])?;
    let import = reader.import(maker.grant(&exported, Grant::default())?, Importer::Cpu)?;
    let exported_memory = import.map(0, Protection::Read)?;
    let neutral = maker.allocate(64, 64, buffer.layout.fourcc)?;
    let neutral_memory = neutral.map(0, Protection::Read)?;

    let (first, second) = (Line(AtomicU32::new(1)), Line(AtomicU32::new(1)));
    let mut all = vec![Contestant {
        name: "two atomic loads (acquire)",
        batch: MANY,
        run: Box::new(|times| {
            for _ in 0..times {
                black_box(black_box(&first).0.load(Ordering::Acquire));
                black_box(black_box(&second).0.load(Ordering::Acquire));
            }
        }),
    }];
    let mut notes = Vec::new();
    let fd = buffer.dma_buf.as_fd();
    all.push(Contestant {
        name: "begin + end, a neutral buffer",
        batch: if neutral.needs_cpu_sync() { SOME } else { MANY },
        run: Box::new(|times| brackets(&neutral_memory, times)),
    });
    if import.needs_cpu_sync() {
        all.push(Contestant {
            name: "DMA_BUF_IOCTL_SYNC, start + end",
            batch: SOME,
            run: Box::new(move |times| {
                for _ in 0..times {
                    dma_buf::sync_start(fd, dma_buf::Access::Read).expect("a dma-buf");
                    dma_buf::sync_end(fd, dma_buf::Access::Read).expect("a dma-buf");
                }
            }),
        });
        all.push(Contestant {
            name: "begin + end with DMA_BUF_IOCTL_SYNC, a device's buffer",
            batch: SOME,
            run: Box::new(|times| brackets(&exported_memory, times)),
        });
    } else {
        notes.push("Without DMA_BUF_IOCTL_SYNC: simulated buffers are coherent.".to_owned());
        all.push(Contestant {
            name: "begin + end, a device's buffer",
            batch: MANY,
            run: Box::new(|times| brackets(&exported_memory, times)),
        });
    }
    let with_sync = import.needs_cpu_sync();
    let times = take("An access bracket", rounds, all);
    let what = "begin and end of an access";
    let mut findings =
        vec![Finding::times(what, "two atomic loads", times.ratio(1, 0), Goal::AtMost(2.0))];
    if with_sync {
        let beside = "DMA_BUF_IOCTL_SYNC by itself";
        let what = "begin and end with DMA_BUF_IOCTL_SYNC";
        findings.push(Finding::times(what, beside, times.ratio(3, 2), Goal::AtMost(1.3)));
    }
    let plots = vec![times.plot("access.svg")];
    Ok(Section { tables: vec![times.table()], findings, plots, notes })
}
