//! The helpers: programs that do one thing for the daemon, in processes and with rights of their own.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use dmashare_proto::holders::{self, Holders, Kept, Look};
use dmashare_proto::kill;
use dmashare_proto::sysfs::{Answer, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Looks into every process.
const HOLDERS: &str = "holders";
/// Ends processes.
const KILL: &str = "kill";
/// Writes to sysfs.
const PCI: &str = "pci";
/// Where the programs are installed.
const PROGRAMS: &str = "/usr/libexec/dmashare";
/// The most that a look's answer may have, and a line of any other's.
const MOST: u64 = 32 << 20;
/// A look through the largest machines takes a tenth of a second.
const LOOK_TIME: Duration = Duration::from_secs(20);
/// A look at one process: the service goes on with it as if nothing were seen.
const KEEPS_TIME: Duration = Duration::from_secs(5);
/// A signal takes no time; starting the helper does.
const KILL_TIME: Duration = Duration::from_secs(5);
/// A write to sysfs that is no removal.
const WRITE_TIME: Duration = Duration::from_secs(10);

/// Where they are.
#[derive(Clone, Debug)]
pub struct Helpers {
    /// The folder of their sockets (systemd's), `NAME.sock`; who listens there starts one a connection.
    pub sockets: PathBuf,
    /// A folder of simulated devices: they are started from here then, and work on it.
    pub simulate: Option<PathBuf>,
}

/// The kernel has not come back from a write so far.
#[derive(Clone, Debug)]
pub struct Stuck {
    /// For how many milliseconds.
    pub ms: u64,
    /// Where in the kernel, the innermost function first.
    pub stack: Vec<String>,
    /// Whose task it is.
    pub pid: u32,
}

impl Helpers {
    /// Looks who holds a device.
    ///
    /// # Errors
    /// A sentence that says why that cannot be seen.
    pub async fn look(&self, look: &Look) -> Result<Holders, String> {
        self.answer(HOLDERS, &holders::Request::Look(look.clone()), LOOK_TIME).await
    }

    /// Looks what a process holds of dma-bufs.
    ///
    /// # Errors
    /// A sentence that says why that cannot be seen.
    pub async fn keeps(&self, pid: i32, inodes: Vec<u64>) -> Result<Vec<String>, String> {
        let request = holders::Request::Keeps { pid, inodes };
        let kept: Kept = self.answer(HOLDERS, &request, KEEPS_TIME).await?;
        Ok(kept.holds)
    }

    /// Ends a process that was started then, and no other.
    ///
    /// # Errors
    /// A sentence: it is gone, or there is no helper.
    pub async fn kill(&self, request: kill::Request) -> Result<(), String> {
        match self.answer(KILL, &request, KILL_TIME).await? {
            kill::Answer::Sent => Ok(()),
            kill::Answer::Failed { why } => Err(why),
        }
    }

    /// The one answer of a helper that gives one.
    async fn answer<T: DeserializeOwned>(
        &self,
        name: &str,
        request: &impl Serialize,
        limit: Duration,
    ) -> Result<T, String> {
        let answer = async {
            let stream = self.ask(name, request).await?;
            let mut bytes = Vec::new();
            stream.take(MOST).read_to_end(&mut bytes).await?;
            if bytes.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            Ok(serde_json::from_slice(&bytes)?)
        };
        match timeout(limit, answer).await {
            Ok(answer) => answer.map_err(|error| told(name, &error)),
            Err(_) => Err(format!("{name} has not answered within {} s", limit.as_secs())),
        }
    }

    /// Writes to sysfs. A removal takes as long as the kernel takes; `stuck` is told of that.
    ///
    /// # Errors
    /// A sentence: the kernel's, or that there is no helper.
    pub async fn write(
        &self,
        request: &Request,
        mut stuck: impl FnMut(Stuck),
    ) -> Result<(), String> {
        let answers = async {
            let stream = self.ask(PCI, request).await.map_err(|error| told(PCI, &error))?;
            let mut lines = stream.take(MOST).lines();
            loop {
                let line = lines.next_line().await.map_err(|error| told(PCI, &error))?;
                let line = line.ok_or_else(|| format!("{PCI} has ended without an answer"))?;
                match serde_json::from_str(&line) {
                    Ok(Answer::Done) => return Ok(()),
                    Ok(Answer::Failed { why }) => return Err(why),
                    Ok(Answer::Stuck { ms, stack, pid }) => stuck(Stuck { ms, stack, pid }),
                    Err(error) => return Err(told(PCI, &error.into())),
                }
            }
        };
        if matches!(request, Request::Remove { .. }) {
            return answers.await;
        }
        let late = || format!("the kernel has not answered within {} s", WRITE_TIME.as_secs());
        timeout(WRITE_TIME, answers).await.unwrap_or_else(|_| Err(late()))
    }

    /// A helper that has the request, to be read from.
    async fn ask(&self, name: &str, request: &impl Serialize) -> io::Result<BufReader<UnixStream>> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let mut stream = self.open(name).await?;
        stream.write_all(&line).await?;
        stream.shutdown().await?;
        Ok(BufReader::new(stream))
    }

    async fn open(&self, name: &str) -> io::Result<UnixStream> {
        if self.simulate.is_none() {
            let path = self.sockets.join(name).with_extension("sock");
            match UnixStream::connect(&path).await {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => return result,
            }
        }
        self.start(name)
    }

    /// Starts the program where systemd does not. It ends by itself, and is waited for by the runtime.
    fn start(&self, name: &str) -> io::Result<UnixStream> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let program = self.program(name)?;
        let mut command = tokio::process::Command::new(program);
        if let (Some(folder), PCI) = (&self.simulate, name) {
            command.arg("--simulate").arg(folder);
        }
        let theirs = OwnedFd::from(theirs);
        command.stdin(Stdio::from(theirs.try_clone()?)).stdout(Stdio::from(theirs));
        drop(command.spawn()?);
        UnixStream::from_std(ours)
    }

    fn program(&self, name: &str) -> io::Result<PathBuf> {
        let file = format!("dmashare-{name}");
        let own = std::env::current_exe().unwrap_or_default();
        let beside = own.parent().unwrap_or(Path::new("/")).join(&file);
        let installed = Path::new(PROGRAMS).join(&file);
        let found = [installed, beside].into_iter().find(|path| path.exists());
        found.ok_or_else(|| {
            let text = format!(
                "there is no {}/{name}.sock and no {PROGRAMS}/{file}: enable {file}.socket",
                self.sockets.display()
            );
            io::Error::new(io::ErrorKind::NotFound, text)
        })
    }
}

fn told(name: &str, error: &io::Error) -> String {
    format!("the helper {name}: {error}")
}
