//! The producer: draws 60 frames a second on the eGPU, until that stops in the middle of one.

use std::collections::VecDeque;
use std::io::{self, BufRead as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dmashare::{Connection, Error, Event, ExportedBuffer, FenceOptions, Grant, SharedFence};
use dmashare_uapi::sync_file::Status;

use super::bystander::hand_over;
use super::frame::{HEIGHT, draw};
use super::gpu::{Canvas, Gpu};
use super::lines::{Lines, ProducerStory, Said, ToConsumer, ToProducer, send};
use super::options::PartOptions;
use crate::clock::now_ns;
use crate::{Machine, Source};

const BUFFERS: usize = 3;
/// From one frame to the next.
pub const PERIOD: Duration = Duration::from_micros(16_667);
/// What the drawing of a frame's second half waits for: as long as a GPU would need.
const HALF: Duration = Duration::from_millis(4);

/// One buffer, drawn here and shown elsewhere.
struct Shared {
    canvas: Canvas,
    exported: ExportedBuffer,
}

/// Runs it.
///
/// # Errors
/// Anything that the demo does not expect.
pub fn run(options: &PartOptions) -> Result<()> {
    let gpu = Gpu::open(options.machine == Machine::Simulated, &options.node)?;
    let broker = Connection::builder().name("demo producer").connect_to(&options.socket)?;
    let mut buffers = Vec::new();
    let mut tokens = Vec::new();
    for _ in 0..BUFFERS {
        let canvas = gpu.canvas()?;
        let exported = export(&broker, &gpu, &canvas)?;
        tokens.push(broker.grant(&exported, Grant::default())?.to_hex());
        buffers.push(Shared { canvas, exported });
    }
    let consumer = UnixStream::connect(&options.frames_socket)?;
    send(&mut &consumer, &ToConsumer::Buffers(tokens))?;
    let bystander = UnixStream::connect(options.raw_socket())?;
    let dma_bufs = buffers.iter().map(|shared| shared.canvas.buffer.dma_buf.as_fd());
    hand_over(&bystander, &dma_bufs.collect::<Vec<_>>())?;
    send(&mut io::stdout(), &Said::Ready(buffers.len()))?;

    let mut link = Link { gpu: &gpu, broker: &broker, buffers: &buffers, consumer: &consumer };
    let stuck = link.frames(options.frames)?;
    hand_over(&bystander, &[stuck.work.fd()])?;
    let story = after_the_loss(&link, &stuck)?;
    send(&mut io::stdout(), &Said::Producer(story))?;
    // Stays connected until it is told to end, so that what is counted then is not its absence.
    io::stdin().lock().lines().for_each(drop);
    Ok(())
}

fn export(broker: &Connection, gpu: &Gpu, canvas: &Canvas) -> Result<ExportedBuffer, Error> {
    broker.export(gpu.node(), &canvas.buffer.layout, &[canvas.buffer.dma_buf.as_fd()])
}

/// A frame that others have the fence of.
struct Frame {
    number: u32,
    work: Source,
    _fence: SharedFence,
}

struct Link<'a> {
    gpu: &'a Gpu,
    broker: &'a Connection,
    buffers: &'a [Shared],
    consumer: &'a UnixStream,
}

impl Link<'_> {
    /// Draws that many frames, and half of one more, which it gives back.
    fn frames(&mut self, count: u32) -> Result<Frame> {
        let mut answers = Lines::new(self.consumer);
        let ToProducer::Imported = answers.expect("that it has the buffers")? else {
            bail!("the consumer shows frames before it has buffers");
        };
        let mut out = VecDeque::new();
        let mut done_ns = None;
        let mut next = Instant::now();
        for number in 1.. {
            if out.len() == self.buffers.len() - 1 {
                // Its buffer is the next to be drawn into.
                let shown: Frame = out.pop_front().context("no frame is out")?;
                let ToProducer::Shown(number) = answers.expect("that it has shown a frame")? else {
                    bail!("the consumer imports twice");
                };
                ensure!(number == shown.number, "frame {number} was shown out of its order");
            }
            let mut frame = self.begin(number, done_ns)?;
            if number > count {
                return Ok(frame);
            }
            sleep(HALF);
            self.draw(number, HEIGHT / 2..HEIGHT)?;
            // Read first: the consumer may be awake before the call is back.
            done_ns = Some(now_ns());
            frame.work.signal()?;
            out.push_back(frame);
            next = (next + PERIOD).max(Instant::now());
            sleep(next - Instant::now());
        }
        bail!("there are no numbers left");
    }

    /// Shares a frame whose work is to be done, and does half of it.
    fn begin(&self, number: u32, before_done_ns: Option<u64>) -> Result<Frame> {
        let work = self.gpu.work()?;
        let options = FenceOptions::default();
        let fence = self.broker.share_fence(self.gpu.node(), work.fd(), options)?;
        let token = self.broker.grant(&fence, Grant::default())?.to_hex();
        let buffer = number as usize % self.buffers.len();
        let frame = ToConsumer::Frame { number, buffer, fence: token, before_done_ns };
        send(&mut &*self.consumer, &frame)?;
        self.draw(number, 0..HEIGHT / 2)?;
        Ok(Frame { number, work, _fence: fence })
    }

    fn draw(&self, number: u32, rows: std::ops::Range<u32>) -> Result<()> {
        let canvas = &self.buffers[number as usize % self.buffers.len()].canvas;
        draw(&canvas.map, canvas.stride(), number, rows)?;
        Ok(())
    }
}

/// Waits for the loss, and tries to go on.
fn after_the_loss(link: &Link<'_>, stuck: &Frame) -> Result<ProducerStory> {
    let exported = |shared: &&Shared| shared.exported.is_lost();
    let device = link.buffers[0].exported.device().id();
    let (told_ns, errno) = loop {
        let events = link.broker.dispatch(None)?;
        let told_ns = now_ns();
        let lost = events.into_iter().find_map(|event| match event {
            Event::DeviceLost(lost) if lost.device() == device => Some(lost),
            _ => None,
        });
        if let Some(lost) = lost {
            break (told_ns, lost.cause().errno());
        }
    };
    let buffers_lost = link.buffers.iter().filter(exported).count();
    let refusal = match export(link.broker, link.gpu, &link.buffers[0].canvas) {
        Err(error) if error.is_device_lost() => error.to_string(),
        Err(error) => return Err(error).context("an export failed for another reason"),
        Ok(_) => String::new(),
    };
    let refused_ns = now_ns();
    // Not before the consumer is awake, which is for others to know.
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let source_pending = stuck.work.status()? == Status::Pending;
    Ok(ProducerStory {
        told_ns,
        errno,
        buffers_lost,
        buffers: link.buffers.len(),
        refused_ns,
        refusal,
        source_seen_ns: now_ns(),
        source_pending,
    })
}
