//! Frames from one Vulkan device to another, in another process, over dmashared: memory as a dma-buf, the
//! order as sync_files. When the exporter's GPU is pulled, both stop and say why. vkWaitForFences
//! does not hang: what the importer's queue waits for is the broker's guard, which always ends.
//!
//! The exporter starts the importer, which is this program too, writes a line to it for each frame, and
//! reads one when the frame has been read.
//!
//! On a GPU with a Vulkan driver of its own (VK_EXT_physical_device_drm says which DRM device it is) the memory
//! is the VkDevice's, and so is the sync_file of each frame. On lavapipe (Mesa 25 and later, with udmabuf)
//! the memory that Vulkan exports is no GPU's, so the broker allocates it, or the GPU's kernel driver does
//! (`--memory card`); Vulkan imports it on both sides. It exports a sync_file when the work is done (the
//! kernel's stub fence, signalled), under the DRM device that is named; pending ones it can import and waits for.

use std::io::Write;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use dmashare::{
    Connection, DeviceInfo, Error, ExportedBuffer, FenceOptions, FenceStatus, Grant, Importer,
    Layout, NeutralBuffer, Plane, Policy, Token,
};
use dmashare_examples::Card;
use dmashare_examples::gpus::{choose, nodes, open};
use dmashare_examples::peer::Peer;
use dmashare_examples::vulkan::{Gpu, Memory};
use drm_fourcc::DrmFourcc;

/// Shares frames between two Vulkan devices, and stops when the GPU is pulled
#[derive(Parser)]
struct Args {
    /// A DRM node of the GPU that exports; the first that can be pulled, if none is given
    #[arg(long, value_name = "NODE")]
    gpu: Option<PathBuf>,
    /// Where the memory is from: vulkan, if the GPU has a Vulkan driver, else neutral
    #[arg(long)]
    memory: Option<Origin>,
    /// Stop after so many frames
    #[arg(long)]
    frames: Option<u64>,
    /// Let an inherited sync_file stand for the end of a frame's work: of a GPU that is late, or hangs
    #[arg(long, value_name = "FRAME:FD", value_parser = parse_late)]
    late: Option<(u64, RawFd)>,
    /// Import a buffer: how the program starts itself
    #[arg(long, hide = true)]
    import: Option<Token>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Origin {
    /// The VkDevice exports it
    Vulkan,
    /// The GPU's kernel driver makes it, and Vulkan imports it
    Card,
    /// It is no GPU's, and outlives each of them
    Neutral,
}

/// What the broker keeps for the exporter.
enum Source {
    OfGpu(ExportedBuffer),
    OfNone(NeutralBuffer),
}

const SIZE: u32 = 256;
const STRIDE: u32 = SIZE * 4;
const LEN: u64 = STRIDE as u64 * SIZE as u64;
/// A guard even for a GPU that cannot be pulled: it may hang all the same.
const GUARDED: FenceOptions = FenceOptions { policy: Policy::Guard, deadline: None };
/// After which a frame that is waited for is talked about.
const LATE: Duration = Duration::from_millis(500);

fn parse_late(text: &str) -> Result<(u64, RawFd)> {
    let (frame, fd) = text.split_once(':').context("a frame and a descriptor are needed")?;
    Ok((frame.parse()?, fd.parse()?))
}

/// The two halves of a frame.
fn colours(frame: u64) -> [u32; 2] {
    let frame = frame as u32 & 0xff_ffff;
    [0xff00_0000 | frame, 0xffff_ffff - frame]
}

fn is_frame(words: &[u32], frame: u64) -> bool {
    let (first, second) = words.split_at(words.len() / 2);
    let [above, below] = colours(frame);
    first.iter().all(|word| *word == above) && second.iter().all(|word| *word == below)
}

/// Memory that the exporter draws into, as the broker has it.
fn share(
    origin: Origin,
    broker: &Connection,
    gpu: &DeviceInfo,
    vulkan: &Gpu,
) -> Result<(Memory, Source)> {
    let nodes = nodes(gpu);
    let (memory, fd, layout) = match origin {
        Origin::Neutral => {
            let buffer = broker.allocate(SIZE, SIZE, DrmFourcc::Xrgb8888 as u32)?;
            let memory = vulkan.import(buffer.dup_plane_fd(0)?, LEN)?;
            return Ok((memory, Source::OfNone(buffer)));
        }
        Origin::Card => {
            let card = Card::open(nodes.last().context("a GPU without a node")?)?;
            let (fd, layout) = card.buffer(SIZE, SIZE)?;
            (vulkan.import(fd.try_clone()?, LEN)?, fd, layout)
        }
        Origin::Vulkan => {
            let (memory, fd) = vulkan.export(LEN)?;
            let (fourcc, planes) =
                (DrmFourcc::Xrgb8888 as u32, vec![Plane { offset: 0, stride: STRIDE }]);
            (memory, fd, Layout { width: SIZE, height: SIZE, fourcc, modifier: 0, planes })
        }
    };
    let exported = broker.export(open(&nodes[0])?.as_fd(), &layout, &[fd.as_fd()])?;
    Ok((memory, Source::OfGpu(exported)))
}

fn export(args: &Args) -> Result<()> {
    let broker = Connection::builder().name("vulkan-share exporter").connect()?;
    let gpu = choose(&broker, args.gpu.as_deref())?;
    let vulkan = Gpu::open(&nodes(&gpu))?;
    let default = if vulkan.node.is_some() { Origin::Vulkan } else { Origin::Neutral };
    let origin = args.memory.unwrap_or(default);
    let (memory, source) = share(origin, &broker, &gpu, &vulkan)?;
    // A GPU that hangs never lets go of it; the end of the process does.
    let memory = ManuallyDrop::new(memory);
    let token = match &source {
        Source::OfGpu(buffer) => broker.grant(buffer, Grant::default()),
        Source::OfNone(buffer) => broker.grant(buffer, Grant::default()),
    }?;
    let node = &nodes(&gpu)[0];
    let (vulkan_name, fences_of) = (&vulkan.name, gpu.device.id());
    println!(
        "exporter: {vulkan_name}, {origin:?} memory, fences of device {fences_of} ({})",
        node.display()
    );
    // SAFETY: whoever gave the number gave the descriptor with it, for this alone.
    let given = args.late.map(|(at, fd)| (at, unsafe { OwnedFd::from_raw_fd(fd) }));
    // The importer is not to inherit it.
    let late = given.map(|(at, fd)| fd.try_clone().map(|fd| (at, fd))).transpose()?;
    let mut importer = Command::new("/proc/self/exe")
        .args(["--import", &token.to_hex(), "--gpu"])
        .arg(node)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the importer")?;
    let mut to = importer.stdin.take().context("a pipe")?;
    let mut peer = Peer::new(importer.stdout.take().context("a pipe")?, gpu);
    let node = open(node)?;
    let mut frames = || -> Result<()> {
        for frame in 1..=args.frames.unwrap_or(u64::MAX) {
            let end = match &late {
                Some((at, fd)) if *at == frame => {
                    vulkan.fill(&memory, colours(frame))?;
                    Some(fd.try_clone()?)
                }
                _ => vulkan.fill(&memory, colours(frame))?,
            };
            let (node, grant) = (node.as_fd(), Grant::default());
            let share =
                |end: OwnedFd| broker.share_fence_granted(node, end.as_fd(), GUARDED, grant);
            let (_fence, token) = end.map(share).transpose()?.unzip();
            let token = token.map_or_else(|| "-".to_owned(), Token::to_hex);
            // If the importer has ended, its answer tells.
            writeln!(to, "{frame} {token}").ok();
            if peer.next(&broker)?.is_none() {
                bail!("the importer has ended at frame {frame}");
            }
        }
        Ok(())
    };
    let result = frames();
    drop(to);
    importer.wait().context("wait for the importer")?;
    let Err(error) = result else { return Ok(()) };
    Err(peer.explain(&broker, error)?)
}

fn import(args: &Args, token: Token) -> Result<()> {
    let broker = Connection::builder().name("vulkan-share importer").connect()?;
    let gpu = choose(&broker, args.gpu.as_deref())?;
    let mut others = broker.devices()?;
    others.retain(|it| it.device.id() != gpu.device.id());
    let vulkan = Gpu::open(&others.iter().flat_map(nodes).collect::<Vec<_>>())?;
    let node = vulkan.node.as_deref().map(open).transpose()?;
    let by = node.as_ref().map_or(Importer::Cpu, |node| Importer::Device(node.as_fd()));
    let buffer = broker.import(token, by)?;
    let memory = vulkan.import(buffer.dup_plane_fd(0)?, LEN)?;
    let copy = vulkan.readable(LEN)?;
    eprintln!("importer: {} reads {buffer:?}", vulkan.name);
    let mut peer = Peer::new(std::io::stdin(), gpu);
    let mut good = 0;
    let mut frames = || -> Result<()> {
        while let Some(line) = peer.next(&broker)? {
            let (frame, token) = line.split_once(' ').context("a frame and its fence")?;
            let frame: u64 = frame.parse()?;
            let fence = match token {
                "-" => None,
                hex => Some(broker.import_fence(hex.parse()?)?),
            };
            let guard = fence.as_ref().map(|fence| fence.dup_fd()).transpose()?.flatten();
            vulkan.copy(guard, &memory, &copy)?;
            if !vulkan.wait(Some(LATE))? {
                eprintln!("importer: frame {frame} is late; vkWaitForFences waits for its guard");
                vulkan.wait(None)?;
            }
            // Vulkan does not see an error that the kernel's fence has.
            match fence.map(|fence| fence.status()).transpose()? {
                Some(FenceStatus::Failed(error)) => return Err(Error::Fence(error).into()),
                // The copy may be of memory that went meanwhile.
                _ if buffer.is_lost() => return Err(peer.why().into()),
                _ if !is_frame(&copy.words()?, frame) => bail!("frame {frame} is not whole"),
                _ => good = frame,
            }
            if frame == 1 || frame.is_multiple_of(30) {
                eprintln!("importer: {frame} frames are good");
            }
            println!("{frame}");
        }
        Ok(())
    };
    let result = frames();
    eprintln!("importer: stops after {good} good frames");
    let Err(error) = result else { return Ok(()) };
    let error = peer.explain(&broker, error)?;
    if !peer.is_lost() {
        return Err(error);
    }
    if buffer.device().is_none() {
        vulkan.copy(None, &memory, &copy)?;
        vulkan.wait(None)?;
        let words = copy.words()?;
        match (good..=good + 1).find(|frame| is_frame(&words, *frame)) {
            Some(frame) => eprintln!("importer: the neutral buffer holds frame {frame}"),
            None => eprintln!("importer: the neutral buffer holds a frame that is half drawn"),
        }
    }
    // What is not the library's to take back, and then the word that nothing is left.
    drop(memory);
    peer.acknowledge()?;
    Err(error)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (who, result) = match args.import {
        Some(token) => ("importer", import(&args, token)),
        None => ("exporter", export(&args)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{who}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
