//! What the demo's processes tell each other: a line of JSON a message. Times are CLOCK_MONOTONIC,
//! the clock of the unplug report, and the same in every process.

use std::io::{self, BufRead as _, BufReader, Read, Write};

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Reads messages.
pub struct Lines<R>(BufReader<R>);

impl<R: Read> Lines<R> {
    /// Of a stream that has nothing else on it.
    pub fn new(from: R) -> Self {
        Self(BufReader::new(from))
    }

    /// Waits for the next one; `None` at the end.
    ///
    /// # Errors
    /// The stream's, or the line is none of ours.
    pub fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        serde_json::from_str(&line).map(Some).with_context(|| format!("not a message: {line:?}"))
    }

    /// The same where the end is a failure.
    ///
    /// # Errors
    /// As [`Self::next`]; or there is none.
    pub fn expect<T: DeserializeOwned>(&mut self, what: &str) -> Result<T> {
        self.next()?.with_context(|| format!("the other side is gone before it sent {what}"))
    }
}

/// Sends one.
///
/// # Errors
/// The stream's.
pub fn send<T: Serialize>(to: &mut impl Write, message: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

/// Producer to consumer.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToConsumer {
    /// First of all: a token for each buffer.
    Buffers(Vec<String>),
    /// A frame whose work has just begun.
    Frame {
        /// From 1 on.
        number: u32,
        /// Which buffer.
        buffer: usize,
        /// A token for its fence.
        fence: String,
        /// When the GPU had ended the frame before.
        before_done_ns: Option<u64>,
    },
}

/// Consumer to producer.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToProducer {
    /// The buffers are imported.
    Imported,
    /// A frame is not shown any more: its buffer can be drawn into again.
    Shown(u32),
}

/// A process of the demo to the one that runs it.
#[derive(Debug, Serialize, Deserialize)]
pub enum Said {
    /// It is set up; the number of buffers that it has.
    Ready(usize),
    /// The consumer is about to wait for a frame that will never come.
    Waiting(Sharing),
    /// The bystander waits for the same frame.
    Waits,
    /// The producer, when all was over.
    Producer(ProducerStory),
    /// The consumer, when all was over.
    Consumer(ConsumerStory),
    /// The bystander, when it has waited long enough.
    Bystander(BystanderStory),
}

/// How the sharing went until the last frame.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sharing {
    /// The frame that is waited for.
    pub waits_for: u32,
    /// Since when.
    pub since_ns: u64,
    /// Frames that were received and whose every row was right.
    pub good: u32,
    /// When the first came.
    pub first_ns: u64,
    /// When the last was read.
    pub last_ns: u64,
    /// From the source's signal to the consumer awake, a frame each, in nanoseconds.
    pub latencies_ns: Vec<u64>,
    /// Of the buffers in /proc/self/fd.
    pub buffer_fds: usize,
    /// GEM handles made of the buffers on the consumer's GPU.
    pub gem_handles: usize,
}

/// What the producer saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProducerStory {
    /// When it read that its device is lost.
    pub told_ns: u64,
    /// The errno of that.
    pub errno: i32,
    /// How many of its exported buffers are lost.
    pub buffers_lost: usize,
    /// Of how many.
    pub buffers: usize,
    /// When its next export was refused.
    pub refused_ns: u64,
    /// What it was told; empty if it was not refused for the loss.
    pub refusal: String,
    /// When it looked at the source fence of the last frame for the last time.
    pub source_seen_ns: u64,
    /// Whether that was still pending.
    pub source_pending: bool,
}

/// What the consumer saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConsumerStory {
    /// When its wait for the last frame ended.
    pub awake_ns: u64,
    /// When it knew how.
    pub known_ns: u64,
    /// How: the positive errno, 0 if without an error.
    pub errno: i32,
    /// The same in words.
    pub error: String,
    /// What the guard's sync_file says in the kernel; `None` where that cannot show errors.
    pub kernel_status: Option<i32>,
    /// When the event was read and its imports were taken back.
    pub revoked_ns: u64,
    /// How many.
    pub revoked: usize,
    /// When the broker had its acknowledgement.
    pub acknowledged_ns: u64,
    /// What the screen saw, which reads the last good frame all the time.
    pub screen: ScreenStory,
    /// Mappings that read zeros from end to end.
    pub zeroed: usize,
    /// Of how many.
    pub mappings: usize,
    /// Their size together.
    pub bytes: usize,
    /// On how many of them `begin` failed.
    pub begin_refused: usize,
    /// Of the buffers in /proc/self/fd, now.
    pub buffer_fds: usize,
    /// When it was told that nothing of the device is left.
    pub gone_ns: u64,
}

/// What a consumer sees that has no broker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BystanderStory {
    /// When it began to wait for the fence itself.
    pub since_ns: u64,
    /// When it stopped.
    pub gave_up_ns: u64,
    /// Whether the fence was pending then.
    pub pending: bool,
    /// Buffers that it was handed.
    pub buffers: usize,
    /// How many of them still show a picture.
    pub shown: usize,
    /// Of the buffers in /proc/self/fd, then.
    pub buffer_fds: usize,
    /// GEM handles made of the buffers on its GPU.
    pub gem_handles: usize,
}

/// What the thread saw that scans out the last good frame, as a screen does.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ScreenStory {
    /// Rows read and found right.
    pub rows: u64,
    /// When `begin` or `end` first said that the device is lost.
    pub refused_ns: u64,
    /// Rows read after that.
    pub rows_after: u64,
    /// When a row read as zeros.
    pub zeros_ns: u64,
}
