//! The example in C, as a compositor on the iGPU: it shows the eGPU's frames, each when its guard has ended,
//! and keeps the last good one on the screen when the eGPU is pulled in the middle of the next. What the
//! screen shows is the kernel's word: the checksum of every composed frame (debugfs, the CRTC's `crc`).

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context, Result, bail, ensure};
use dmashare::{ExportedBuffer, Grant, SharedFence, Token};
use dmashare_uapi::sync_file::Status;

use super::Skip;
use super::local::Local;
use crate::clock::{human, now_ns};
use crate::scenario::figures::{note, show};
use crate::{BOUND, Buffer, Card, Source, Unplug, World};

pub(super) fn run(world: &mut World) -> Result<()> {
    let mut importer = Importer::start(world)?;
    let screen = importer.line()?;
    let size = screen.strip_prefix("screen ").and_then(|size| size.split_once('x'));
    let (width, height) = size.with_context(|| format!("it began with {screen:?}"))?;
    let (width, height) = (width.parse()?, height.parse()?);
    let crc = Crc::of(&world.igpu()?)?;
    let picture = |frame: u32| Picture { frame, width, height };
    crc.becomes(picture(0).crc(), "the screen is black at first")?;

    // Before.
    let local = Local::new(world)?;
    for number in 1..=3 {
        let mut frame = Frame::make(&local, picture(number))?;
        importer.show(&frame)?;
        importer.expect(&format!("frame {number} queued"))?;
        crc.stays(picture(number - 1).crc(), "a frame whose fence is pending is not shown")?;
        frame.source.signal()?;
        importer.expect(&format!("frame {number} shown"))?;
        importer.expect(&format!("frame {number} kept"))?;
        crc.becomes(picture(number).crc(), "the frame is on the screen")?;
    }

    // During: the fourth is half drawn.
    let frame = Frame::make(&local, picture(4))?;
    importer.show(&frame)?;
    importer.expect("frame 4 queued")?;
    let pulled_ns = now_ns();
    world.unplug(Unplug::Remove)?;
    let failed = importer.line()?;
    ensure!(
        failed.starts_with("frame 4 failed: ") && failed.contains("is lost (unplugged)"),
        "the eGPU was pulled, and it said {failed:?}"
    );
    let failed_ns = now_ns();
    ensure!(frame.source.status()? == Status::Pending, "the source ended; this shows nothing");
    importer.expect(&format!("lost device {}: unplugged; frame 3 stays", local.device))?;
    importer.expect(&format!("gone device {}", local.device))?;

    // After: nothing of the eGPU is left anywhere, and the screen shows what it showed.
    crc.becomes(picture(3).crc(), "the last good frame is on the screen")?;
    crc.stays(picture(3).crc(), "the last good frame stays on the screen")?;
    drop(frame);
    world.replug()?;
    let local = Local::new(world)?;
    let mut frame = Frame::make(&local, picture(5))?;
    frame.source.signal()?;
    importer.show(&frame)?;
    for what in ["queued", "shown", "kept"] {
        importer.expect(&format!("frame 5 {what}"))?;
    }
    crc.becomes(picture(5).crc(), "a frame of the card that came back is on the screen")?;
    importer.end()?;
    show(format_args!("from the pull to the failed frame told: {}", human(failed_ns - pulled_ns)));
    note("pull begun to failed frame told, ns", failed_ns - pulled_ns);
    Ok(())
}

/// What is drawn: no two are alike anywhere, and no row is like another.
#[derive(Clone, Copy)]
struct Picture {
    frame: u32,
    width: u32,
    height: u32,
}

impl Picture {
    /// XRGB; frame 0 is black.
    fn pixel(self, x: u32, y: u32) -> u32 {
        let mixed = (x * 3 + y * 5 + self.frame * 40) & 0xff;
        if self.frame == 0 {
            0
        } else {
            mixed << 16 | (y & 0xff) << 8 | (self.frame * 17 + x) & 0xff
        }
    }

    /// As vkms has it (drivers/gpu/drm/vkms/vkms_composer.c): of each row as it is composed, in 16 bits a
    /// channel, alpha first.
    fn crc(self) -> u32 {
        let mut crc = 0;
        for y in 0..self.height {
            for x in 0..self.width {
                let [blue, green, red, _] = self.pixel(x, y).to_le_bytes();
                for channel in [0xff, red, green, blue] {
                    // The same byte twice is the channel in 16 bits.
                    crc = crc32(crc32(crc, channel), channel);
                }
            }
        }
        crc
    }
}

/// A byte more of the kernel's crc32_le.
fn crc32(crc: u32, byte: u8) -> u32 {
    (0..8)
        .fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
}

/// The checksums of what a card's first CRTC shows.
struct Crc(PathBuf);

impl Crc {
    fn of(card: &Card) -> Result<Self> {
        let name = card.primary().file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let minor = name.strip_prefix("card").context("a primary node")?;
        let folder = PathBuf::from(format!("/sys/kernel/debug/dri/{minor}/crtc-0/crc"));
        ensure!(folder.is_dir(), "no {}", folder.display());
        fs::write(folder.join("control"), "auto")?;
        Ok(Self(folder))
    }

    /// Looks at frames, each as it is composed, until one is the last.
    fn watch(&self, mut is_last: impl FnMut(u32) -> Result<bool>) -> Result<()> {
        for line in BufReader::new(File::open(self.0.join("data"))?).lines() {
            let line = line?;
            let hex = line.rsplit("0x").next().unwrap_or_default().trim();
            if is_last(u32::from_str_radix(hex, 16).with_context(|| format!("{line:?}"))?)? {
                return Ok(());
            }
        }
        bail!("the screen is off")
    }

    fn becomes(&self, wanted: u32, why: &str) -> Result<()> {
        let begun = now_ns();
        self.watch(|seen| {
            let late = u128::from(now_ns() - begun) > BOUND.as_nanos();
            ensure!(!late, "{why}: it shows {seen:08x}, not {wanted:08x}");
            Ok(seen == wanted)
        })
    }

    fn stays(&self, wanted: u32, why: &str) -> Result<()> {
        let mut left = 5;
        self.watch(|seen| {
            ensure!(seen == wanted, "{why}: it shows {seen:08x}, not {wanted:08x}");
            left -= 1;
            Ok(left == 0)
        })
    }
}

/// A frame of the eGPU's, with its fence in our hand.
struct Frame {
    buffer: Token,
    fence: Token,
    source: Source,
    _shared: (Buffer, ExportedBuffer, SharedFence),
}

impl Frame {
    fn make(local: &Local, picture: Picture) -> Result<Self> {
        let drawn = Buffer::make(&local.card, picture.width, picture.height)?;
        drawn.draw(|x, y| picture.pixel(x, y))?;
        let node = local.card.open_render()?;
        let exported =
            local.exporter.export(node.as_fd(), &drawn.layout, &[drawn.dma_buf.as_fd()])?;
        let source = Source::endless(false)?;
        let shared = local.share(source.fd())?;
        let buffer = local.exporter.grant(&exported, Grant::default())?;
        let fence = local.exporter.grant(&shared, Grant::default())?;
        Ok(Self { buffer, fence, source, _shared: (drawn, exported, shared) })
    }
}

/// The program.
struct Importer {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Importer {
    fn start(world: &World) -> Result<Self> {
        let program = std::env::current_exe()?.with_file_name("kms-importer");
        if !program.exists() {
            bail!(Skip("kms-importer is not built: there is no cargo-c".to_owned()));
        }
        let mut child = Command::new(program)
            .arg(world.igpu()?.primary())
            .arg(world.socket())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("kms-importer")?;
        let output = BufReader::new(child.stdout.take().context("its output")?);
        let (to, lines) = channel();
        std::thread::spawn(move || {
            // It ends with the program, or with whoever reads it.
            for line in output.lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    break;
                }
            }
        });
        let input = child.stdin.take();
        Ok(Self { child, input, lines })
    }

    fn show(&mut self, frame: &Frame) -> Result<()> {
        let input = self.input.as_mut().context("its input")?;
        Ok(writeln!(input, "{} {}", frame.buffer.to_hex(), frame.fence.to_hex())?)
    }

    fn line(&self) -> Result<String> {
        self.lines.recv_timeout(BOUND).context("kms-importer says nothing more")
    }

    fn expect(&self, wanted: &str) -> Result<()> {
        let line = self.line()?;
        ensure!(line == wanted, "it said {line:?}, not {wanted:?}");
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        drop(self.input.take());
        self.expect("handles left: 0")?;
        let status = self.child.wait()?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }
}

impl Drop for Importer {
    fn drop(&mut self) {
        // It fails where the program has ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
