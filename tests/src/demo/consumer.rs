//! The consumer: shows frames on the iGPU, and waits for one that never comes.
//!
//! Three threads, as a compositor has them: this one waits for frames, one serves the broker's
//! connection, and one is the screen, which reads what is shown all the time.

use std::io::{self, BufRead as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use dmashare::{
    Access, Connection, FenceStatus, GuardKind, ImportedBuffer, ImportedFence, Importer,
};
use dmashare::{MappedBuffer, Protection};
use dmashare_uapi::sync_file::{self, Status};

use super::frame::{HEIGHT, WIDTH, is_row, is_zero};
use super::gpu::Gpu;
use super::lines::{ConsumerStory, Lines, Said, Sharing, ToConsumer, ToProducer, send};
use super::options::PartOptions;
use super::screen::{Screen, Shown};
use super::served::{Served, serve};
use crate::clock::now_ns;
use crate::{Machine, Process};

/// Longest time for what the broker does at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// A buffer of the producer's.
struct Picture {
    import: ImportedBuffer,
    map: MappedBuffer,
}

impl Picture {
    fn stride(&self) -> usize {
        self.import.layout().planes[0].stride as usize
    }
}

/// Runs it.
///
/// # Errors
/// Anything that the demo does not expect.
pub fn run(options: &PartOptions) -> Result<()> {
    let gpu = Gpu::open(options.machine == Machine::Simulated, &options.node)?;
    let broker = Connection::builder().name("demo consumer").connect_to(&options.socket)?;
    let listener = UnixListener::bind(&options.frames_socket)?;
    send(&mut io::stdout(), &Said::Ready(0))?;

    let producer = listener.accept()?.0;
    let mut frames = Lines::new(&producer);
    let ToConsumer::Buffers(tokens) = frames.expect("its buffers")? else {
        bail!("the producer sends frames before buffers");
    };
    let mut pictures = Vec::new();
    for token in tokens {
        let import = broker.import(token.parse()?, Importer::Device(gpu.node()))?;
        let map = import.map(0, Protection::Read)?;
        pictures.push(Picture { import, map });
    }
    let mut handles = Vec::new();
    for picture in &pictures {
        handles.extend(picture.import.with_plane_fd(0, |fd| gpu.take_in(fd))??);
    }
    let gem_handles = handles.len();
    let served = serve(
        broker.clone(),
        pictures[0].import.device().context("a neutral buffer")?.id(),
        handles,
    );
    send(&mut &producer, &ToProducer::Imported)?;
    send(&mut io::stdout(), &Said::Ready(pictures.len()))?;

    let sharing =
        Sharing { gem_handles, buffer_fds: Process::own().dma_bufs()?, ..Sharing::default() };
    let screen = Screen::default();
    let story = thread::scope(|scope| {
        let shown = scope.spawn(|| screen.scan_out());
        let consumer = Consumer { broker: &broker, pictures: &pictures, screen: &screen };
        let result = consumer.show(frames, &producer, sharing, options.frames, &served);
        screen.stop();
        let mut story = result?;
        story.screen = shown.join().map_err(|_| anyhow::anyhow!("the screen has failed"))??;
        Ok::<_, anyhow::Error>(story)
    })?;
    send(&mut io::stdout(), &Said::Consumer(story))?;
    // Stays connected until it is told to end, so that what is counted then is not its absence.
    io::stdin().lock().lines().for_each(drop);
    Ok(())
}

struct Consumer<'p, 's> {
    broker: &'p Connection,
    pictures: &'p [Picture],
    screen: &'s Screen<'p>,
}

impl Consumer<'_, '_> {
    /// Shows every frame; the last is never finished.
    fn show(
        &self,
        mut frames: Lines<&UnixStream>,
        mut producer: &UnixStream,
        mut sharing: Sharing,
        count: u32,
        served: &Receiver<Result<Served>>,
    ) -> Result<ConsumerStory> {
        let mut before: Option<(u32, u64)> = None;
        loop {
            let frame = frames.expect("a frame")?;
            let ToConsumer::Frame { number, buffer, fence, before_done_ns } = frame else {
                bail!("the producer sends buffers twice");
            };
            if number == 1 {
                sharing.first_ns = now_ns();
            }
            if let (Some(done_ns), Some((_, awake_ns))) = (before_done_ns, before) {
                sharing.latencies_ns.push(awake_ns.saturating_sub(done_ns));
            }
            let fence = self.broker.import_fence(fence.parse()?)?;
            if number > count {
                sharing.waits_for = number;
                sharing.since_ns = now_ns();
                send(&mut io::stdout(), &Said::Waiting(sharing))?;
                return self.last(&fence, served);
            }
            let status = fence.wait(Some(PATIENCE))?;
            let awake_ns = now_ns();
            let FenceStatus::Ok { .. } = status else { bail!("frame {number}: {status:?}") };
            let picture = self.pictures.get(buffer).context("a buffer that there is not")?;
            check(picture, number)?;
            sharing.good += 1;
            sharing.last_ns = now_ns();
            // The screen lets go of the frame before; then that can be drawn over.
            self.screen.show(Shown { number, map: &picture.map, stride: picture.stride() });
            if let Some((number, _)) = before.replace((number, awake_ns)) {
                send(&mut producer, &ToProducer::Shown(number))?;
            }
        }
    }

    /// Waits for the frame that never comes, and looks around.
    fn last(
        &self,
        fence: &ImportedFence,
        served: &Receiver<Result<Served>>,
    ) -> Result<ConsumerStory> {
        // As an event loop does: it polls the fd, and then asks how the fence ended.
        let fd = fence.fd().context("the last frame's fence has ended before its time")?;
        sync_file::wait(fd, None)?;
        let awake_ns = now_ns();
        let status = fence.status()?;
        let known_ns = now_ns();
        let (errno, error) = match status {
            FenceStatus::Failed(error) => (error.errno(), error.to_string()),
            other => (0, format!("{other:?}")),
        };
        let kernel_status = match fence.guard() {
            GuardKind::SwSync => Some(match sync_file::status(fd)? {
                Status::Error(errno) => -errno,
                Status::Signalled => 1,
                Status::Pending => 0,
            }),
            _ => None,
        };
        let Served::Lost(lost) = served.recv_timeout(PATIENCE)?? else {
            bail!("told that the device is gone before it was told that it is lost");
        };
        let (mut zeroed, mut begin_refused) = (0, 0);
        for picture in self.pictures {
            let refused =
                picture.map.begin(Access::Read).is_err_and(|error| error.is_device_lost());
            begin_refused += usize::from(refused);
            let mut bytes = vec![1; picture.map.len()];
            picture.map.copy_to_slice(0, &mut bytes)?;
            zeroed += usize::from(is_zero(&bytes));
        }
        let buffer_fds = Process::own().dma_bufs()?;
        let Served::Gone(gone_ns) = served.recv_timeout(PATIENCE)?? else {
            bail!("told twice that the device is lost");
        };
        Ok(ConsumerStory {
            awake_ns,
            known_ns,
            errno,
            error,
            kernel_status,
            revoked_ns: lost.revoked_ns,
            revoked: lost.revoked,
            acknowledged_ns: lost.acknowledged_ns,
            screen: super::lines::ScreenStory::default(),
            zeroed,
            mappings: self.pictures.len(),
            bytes: self.pictures.iter().map(|picture| picture.map.len()).sum(),
            begin_refused,
            buffer_fds,
            gone_ns,
        })
    }
}

/// Reads a whole frame, in a bracket.
fn check(picture: &Picture, number: u32) -> Result<()> {
    let stride = picture.stride();
    let mut pixels = vec![0; WIDTH as usize * 4];
    let bracket = picture.map.begin(Access::Read)?;
    for row in 0..HEIGHT {
        picture.map.copy_to_slice(row as usize * stride, &mut pixels)?;
        if !is_row(&pixels, number, row) {
            bail!("frame {number}: row {row} is not what was drawn");
        }
    }
    bracket.end()?;
    Ok(())
}
