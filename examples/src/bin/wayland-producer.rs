//! A Wayland client that draws on an external GPU and survives its unplug: it goes on, on the same
//! Wayland connection, with a buffer that belongs to no GPU.
//!
//! Two roads to the compositor, which knows nothing of dmashared: dma-bufs by zwp_linux_dmabuf_v1, and,
//! where it has wp_linux_drm_syncobj_v1, the points of a timeline whose promises end when the GPU goes.
//! So a compositor that waits for a frame of the lost GPU does not wait for ever.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use dmashare::{
    Access, Connection, DeviceId, Direction, Event, Grant, Importer, Layout, MappedBuffer, Policy,
    Protection, Timeline,
};
use dmashare_examples::Card;
use dmashare_examples::window::{Globals, State, would_block};
use drm_fourcc::DrmFourcc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use wayland_client::globals::registry_queue_init;
use wayland_client::protocol::wl_buffer::WlBuffer;
use wayland_client::protocol::wl_surface::WlSurface;
use wayland_client::{Connection as Wayland, QueueHandle};
use wayland_protocols::wp::linux_drm_syncobj::v1::client::wp_linux_drm_syncobj_surface_v1::WpLinuxDrmSyncobjSurfaceV1;
use wayland_protocols::wp::linux_drm_syncobj::v1::client::wp_linux_drm_syncobj_timeline_v1::WpLinuxDrmSyncobjTimelineV1;

/// Draws on a GPU, shows it on a Wayland compositor, and goes on when the GPU is pulled
#[derive(Parser)]
struct Args {
    /// The primary node of the GPU that draws
    #[arg(long, value_name = "NODE")]
    gpu: PathBuf,
    /// Draw into buffers of this GPU instead, the compositor's: as an offload GPU does
    #[arg(long, value_name = "NODE")]
    into: Option<PathBuf>,
    /// Stop after so many frames
    #[arg(long)]
    frames: Option<u64>,
    /// Begin this frame and never end it, as a GPU that hangs (needs explicit synchronization)
    #[arg(long, value_name = "FRAME")]
    hang: Option<u64>,
}

/// A buffer as the compositor has it, and where it is painted.
struct Slot {
    wl: WlBuffer,
    memory: MappedBuffer,
    layout: Layout,
    /// The release point of its last frame.
    until: u64,
}

/// Explicit synchronization, for as long as the GPU is there.
struct Explicit {
    surface: WpLinuxDrmSyncobjSurfaceV1,
    acquire: (Timeline, WpLinuxDrmSyncobjTimelineV1),
    release: (Timeline, WpLinuxDrmSyncobjTimelineV1),
}

struct Producer {
    broker: Connection,
    queue: QueueHandle<State>,
    globals: Globals,
    surface: WlSurface,
    slots: Vec<Slot>,
    explicit: Option<Explicit>,
    modifier: u64,
    into: bool,
    /// The GPU whose loss takes the buffers or the points; `None` after it.
    gpu: Option<DeviceId>,
    frame: u64,
    hang: Option<u64>,
}

const BUFFERS: usize = 3;
/// Left half, and the right half of even and odd frames.
const GPU: [u32; 3] = [0xff20_40c0, 0xff10_a040, 0xff20_b050];
const FALLBACK: [u32; 3] = [0xffd0_7010, 0xffb0_2020, 0xffc0_3030];

impl Producer {
    /// Buffers of the GPU, through the broker: exported, and imported by a token, as another process
    /// would have them.
    fn share(&mut self, args: &Args, size: (u32, u32)) -> Result<()> {
        let gpu = Card::open(&args.gpu)?;
        let into = args.into.as_deref().map(Card::open).transpose()?;
        let maker = into.as_ref().unwrap_or(&gpu);
        for _ in 0..BUFFERS {
            let (fd, layout) = maker.buffer(size.0, size.1)?;
            let planes = [fd.as_fd()];
            let (exported, token) =
                self.broker.export_granted(maker.as_fd(), &layout, &planes, Grant::default())?;
            self.gpu = Some(exported.device().id());
            let import = self.broker.import(token, Importer::Cpu)?;
            let memory = import.map(0, Protection::ReadWrite)?;
            let wl = import.with_plane_fd(0, |fd| {
                self.globals.buffer(fd, &layout, self.modifier, &self.queue)
            })?;
            self.slots.push(Slot { wl, memory, layout, until: 0 });
        }
        if let Some(manager) = &self.globals.syncobj {
            let timeline = |direction| -> Result<_> {
                let line = self.broker.create_timeline(gpu.as_fd(), Policy::Auto, direction)?;
                let wl = manager.import_timeline(line.syncobj(), &self.queue, ());
                Ok((line, wl))
            };
            let acquire = timeline(Direction::Acquire)?;
            let release = timeline(Direction::Release)?;
            let surface = manager.get_surface(&self.surface, &self.queue, ());
            self.gpu = Some(acquire.0.device().id());
            self.explicit = Some(Explicit { surface, acquire, release });
        }
        println!("shared {BUFFERS} buffers of {}x{} through the broker", size.0, size.1);
        Ok(())
    }

    /// The GPU is gone: memory that belongs to none takes its place, or that of the GPU which is left.
    fn fall_back(&mut self, size: (u32, u32)) -> Result<()> {
        // Without it the surface is synchronized as any other.
        if let Some(Explicit { surface, acquire, release }) = self.explicit.take() {
            surface.destroy();
            acquire.1.destroy();
            release.1.destroy();
        }
        self.gpu = None;
        if self.into {
            self.slots.iter_mut().for_each(|slot| slot.until = 0);
            println!("fell back to drawing without the GPU into the same buffers");
            return Ok(());
        }
        for slot in self.slots.drain(..) {
            slot.wl.destroy();
        }
        for _ in 0..BUFFERS {
            let buffer = self.broker.allocate(size.0, size.1, DrmFourcc::Xrgb8888 as u32)?;
            let memory = buffer.map(0, Protection::ReadWrite)?;
            let layout = buffer.layout().clone();
            let wl = buffer.with_plane_fd(0, |fd| {
                self.globals.buffer(fd, &layout, self.modifier, &self.queue)
            })?;
            self.slots.push(Slot { wl, memory, layout, until: 0 });
        }
        println!("fell back to {BUFFERS} neutral buffers on the same Wayland connection");
        Ok(())
    }

    /// Commits a frame, and paints it: with explicit synchronization the compositor waits for the point
    /// meanwhile, else it is painted before.
    fn show(&mut self, state: &mut State) -> Result<()> {
        let (frame, on_gpu) = (self.frame + 1, self.gpu.is_some());
        let explicit = self.explicit.as_ref();
        let is_free = |slot: &Slot| match explicit {
            _ if slot.until == 0 => Ok(true),
            Some(it) => it.release.0.query(slot.until).map(|state| state.is_over()),
            None => Ok(!state.busy.contains(&slot.wl)),
        };
        let mut free = None;
        for (at, slot) in self.slots.iter().enumerate() {
            if is_free(slot)? {
                free = Some(at);
                break;
            }
        }
        let slot = &mut self.slots[free.unwrap_or((frame as usize) % BUFFERS)];
        let paint = |slot: &Slot| paint(slot, if on_gpu { GPU } else { FALLBACK }, frame);
        match explicit {
            Some(it) => {
                it.acquire.0.promise(frame)?;
                it.release.0.promise(frame)?;
                it.surface.set_acquire_point(&it.acquire.1, 0, frame as u32);
                it.surface.set_release_point(&it.release.1, 0, frame as u32);
            }
            None => paint(slot)?,
        }
        slot.until = frame;
        self.surface.attach(Some(&slot.wl), 0, 0);
        self.surface.damage_buffer(0, 0, i32::MAX, i32::MAX);
        self.surface.frame(&self.queue, ());
        self.surface.commit();
        state.busy.insert(slot.wl.clone());
        state.wants_frame = false;
        state.flush()?;
        self.frame = frame;
        if let Some(it) = explicit {
            if self.hang == Some(frame) {
                println!("frame {frame} hangs: the compositor waits for its point");
                return Ok(());
            }
            paint(slot)?;
            it.acquire.0.submit_done(frame)?;
        }
        if frame == 1 || frame % 30 == 0 || !on_gpu && frame % 10 == 0 {
            println!("frame {frame} {}", if on_gpu { "of the GPU" } else { "of no GPU" });
        }
        Ok(())
    }
}

fn paint(slot: &Slot, colours: [u32; 3], frame: u64) -> Result<(), dmashare::Error> {
    let Slot { memory, layout, .. } = slot;
    let (width, stride) = (layout.width as usize, layout.planes[0].stride as usize);
    let right = colours[1 + (frame % 2) as usize].to_ne_bytes();
    let row =
        [colours[0].to_ne_bytes().repeat(width / 2), right.repeat(width - width / 2)].concat();
    let access = memory.begin(Access::Write)?;
    for y in 0..layout.height as usize {
        memory.copy_from_slice(layout.planes[0].offset as usize + y * stride, &row)?;
    }
    access.end()
}

fn main() -> Result<()> {
    let args = Args::parse();
    let wayland = Wayland::connect_to_env().context("the Wayland compositor")?;
    let (globals, mut events) = registry_queue_init::<State>(&wayland).context("its globals")?;
    let queue = events.handle();
    let mut state = State::new(&wayland);
    let globals = Globals::bind(&globals, &queue)?;
    let surface = globals.window(&queue);
    while !state.is_configured() {
        events.blocking_dispatch(&mut state)?;
    }
    let modifier = state.modifier.context("the compositor takes no XRGB8888 dma-buf")?;
    let sync = if globals.syncobj.is_some() { "explicit" } else { "implicit" };
    println!("compositor takes dma-bufs; synchronization is {sync}");
    let broker = Connection::builder().name("wayland-producer").reconnect(true).connect()?;
    let (slots, explicit) = (Vec::new(), None);
    let mut producer = Producer {
        broker,
        queue,
        globals,
        surface,
        slots,
        explicit,
        modifier,
        into: args.into.is_some(),
        gpu: None,
        frame: 0,
        hang: args.hang,
    };
    let size = state.size;
    producer.share(&args, size)?;

    while !state.is_closed && args.frames.is_none_or(|most| producer.frame < most) {
        events.dispatch_pending(&mut state)?;
        if state.wants_frame {
            match producer.show(&mut state).map_err(anyhow::Error::downcast::<dmashare::Error>) {
                Ok(()) => {}
                // Told by whatever was done last, before its event.
                Err(Ok(error)) if error.is_device_lost() || error.is_disconnected() => {
                    println!("frame {} failed: {error}", producer.frame + 1);
                    producer.fall_back(size)?;
                    producer.show(&mut state)?;
                }
                Err(Ok(error)) => return Err(error.into()),
                Err(Err(error)) => return Err(error),
            }
        }
        state.flush()?;
        let Some(reading) = events.prepare_read() else { continue };
        let mut fds = [reading.connection_fd(), producer.broker.as_fd()]
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        poll(&mut fds, PollTimeout::NONE)?;
        let [shown, told] = fds.map(|fd| fd.any().unwrap_or(true));
        if shown {
            match reading.read() {
                Err(error) if would_block(&error) => {}
                read => drop(read?),
            }
        }
        if told {
            for event in producer.broker.dispatch(Some(Duration::ZERO))? {
                let Event::DeviceLost(lost) = event else { continue };
                println!(
                    "told: device {} is lost, {} imports were taken",
                    lost.device(),
                    lost.imports().len()
                );
                if producer.gpu == Some(lost.device()) {
                    producer.fall_back(size)?;
                    producer.show(&mut state)?;
                }
                lost.acknowledge()?;
            }
        }
    }
    println!("ended after {} frames", producer.frame);
    Ok(())
}
