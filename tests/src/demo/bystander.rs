//! The bystander: a second consumer on the iGPU, without the broker. The producer hands it the
//! dma-bufs and the fence themselves over a socket, as programs do today.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dmashare_proto::fd_passing::{CONTROL_WORDS, receive_with_fds};
use dmashare_uapi::mapping::{Mapping, Prot};
use dmashare_uapi::sync_file;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::frame::{HEIGHT, WIDTH, is_zero};
use super::gpu::Gpu;
use super::lines::{BystanderStory, Said, send};
use super::options::PartOptions;
use crate::clock::now_ns;
use crate::{Machine, Process};

/// A hundred and eighty frames: more than anybody looks at a screen that stands still. The kernel knows
/// no bound for such a wait.
const GIVES_UP: Duration = Duration::from_secs(3);

/// Runs it.
///
/// # Errors
/// Anything that the demo does not expect.
pub fn run(options: &PartOptions) -> Result<()> {
    let gpu = Gpu::open(options.machine == Machine::Simulated, &options.node)?;
    let listener = UnixListener::bind(options.raw_socket())?;
    send(&mut io::stdout(), &Said::Ready(0))?;

    let producer = listener.accept()?.0;
    let mut buffers = Vec::new();
    let mut handles = Vec::new();
    for dma_buf in take(&producer)? {
        handles.extend(gpu.take_in(dma_buf.as_fd())?);
        let map =
            Mapping::map(dma_buf.as_fd(), 0, LEAST, Prot::Read).context("cannot map a buffer")?;
        buffers.push((dma_buf, map));
    }
    send(&mut io::stdout(), &Said::Ready(buffers.len()))?;

    let fences = take(&producer)?;
    let fence = fences.first().context("the producer has handed over no fence")?;
    let since_ns = now_ns();
    send(&mut io::stdout(), &Said::Waits)?;
    let pending = !sync_file::wait(fence.as_fd(), Some(GIVES_UP))?;
    let gave_up_ns = now_ns();

    let mut shown = 0;
    for (_, map) in &buffers {
        let mut bytes = vec![0; LEAST];
        map.copy_to(0, &mut bytes)?;
        shown += usize::from(!is_zero(&bytes));
    }
    let buffer_fds = Process::own().dma_bufs()?;
    let story = BystanderStory {
        since_ns,
        gave_up_ns,
        pending,
        buffers: buffers.len(),
        shown,
        buffer_fds,
        gem_handles: handles.len(),
    };
    send(&mut io::stdout(), &Said::Bystander(story))?;
    io::stdin().lines().for_each(drop);
    Ok(())
}

/// Bytes of a frame without anything between its rows.
const LEAST: usize = WIDTH as usize * HEIGHT as usize * 4;

/// Gives somebody descriptors of the same open files.
///
/// # Errors
/// The kernel's.
pub fn hand_over(to: &UnixStream, fds: &[BorrowedFd<'_>]) -> Result<()> {
    let raw: Vec<_> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let control = [ControlMessage::ScmRights(&raw)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(b"!")], &control, flags, None)
        .context("cannot hand descriptors over")?;
    Ok(())
}

fn take(from: &UnixStream) -> Result<Vec<OwnedFd>> {
    let (mut byte, mut control, mut fds) = ([0], [0; CONTROL_WORDS], Vec::new());
    let (len, _) = receive_with_fds(from.as_fd(), &mut byte, &mut control, &mut fds)?;
    ensure!(len == 1, "the producer is gone before it has handed anything over");
    Ok(fds)
}
