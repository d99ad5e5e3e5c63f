//! A machine that stays between commands: a process that owns it, and a socket through which
//! commands reach it, one after the other. It speaks the agent's own frames.

use std::fs;
use std::io::{BufReader, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;
use vm_frames::{End, Exec, ToGuest, ToHost, read_frame, write_frame};

use super::{Sink, Vm, shell};
use crate::paths;
use crate::progress::Progress;

/// After this long without a command it goes away by itself.
const IDLE_MS: u32 = 4 * 60 * 60 * 1000;

/// How long a killed command may take to die.
const DYING: Duration = Duration::from_secs(60);

/// When a client is told that it waits for others.
const BUSY: Duration = Duration::from_secs(3);

fn socket() -> Result<PathBuf> {
    Ok(paths::vm()?.join("control.sock"))
}

/// A connection to the machine in the background, if there is one.
pub fn connect() -> Result<Option<UnixStream>> {
    match UnixStream::connect(socket()?) {
        Ok(stream) => Ok(Some(stream)),
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
        {
            Ok(None)
        }
        Err(error) => Err(error).context("cannot reach the machine in the background"),
    }
}

/// Starts the process, and returns when its machine is up.
pub fn start(share: Option<&Path>, progress: &Progress) -> Result<()> {
    let log = paths::vm()?.join("background.log");
    let file = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["vm", "serve"]);
    if let Some(share) = share {
        command.arg("--share").arg(share);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
    // SAFETY: setsid is async-signal-safe.
    unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into)) };
    let mut child = command.spawn().context("cannot start the background process")?;
    let mut word = String::new();
    let mut output = child.stdout.take().context("no output")?;
    progress.step("boot the virtual machine in the background", || {
        // It closes its output once it is ready, or dead.
        output.read_to_string(&mut word)?;
        if word != "ready\n" {
            bail!("it did not start:\n{}", paths::tail(&log, 40));
        }
        Ok(())
    })
}

/// Stops it. False if there was none.
pub fn stop() -> Result<bool> {
    let Some(mut stream) = connect()? else { return Ok(false) };
    let owner = getsockopt(&stream, PeerCredentials).context("whose machine is it?")?;
    kill(Pid::from_raw(owner.pid()), Signal::SIGKILL).context("cannot stop it")?;
    // The end of the connection is the end of the process; how it ends does not matter.
    drop(stream.read(&mut [0]));
    fs::remove_file(socket()?).context("cannot remove its socket")?;
    Ok(true)
}

/// The process itself. The machine belongs to this thread.
pub fn serve(share: Option<&Path>) -> Result<()> {
    let path = socket()?;
    let mut vm = Some(Vm::boot(share, &Progress::Shown)?);
    if path.exists() {
        fs::remove_file(&path).context("cannot remove an old socket")?;
    }
    let listener = UnixListener::bind(&path)
        .with_context(|| format!("cannot listen at {}", path.display()))?;
    println!("ready");
    // Whoever waits for that word waits for the end of the output.
    let null = fs::File::options().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(&null).context("cannot close the output")?;

    loop {
        let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, PollTimeout::try_from(IDLE_MS)?)? == 0 {
            break;
        }
        let (stream, _) = listener.accept()?;
        // A card that is gone for good, or a machine that died, is made good by the next boot.
        if vm.as_ref().is_some_and(|vm| vm.channel.used_up() || !vm.channel.alive()) {
            vm = None;
        }
        let mut machine = match vm.take() {
            Some(machine) => machine,
            None => Vm::boot(share, &Progress::Shown)?,
        };
        if let Err(error) = attend(&mut machine, stream) {
            eprintln!("vm: a command: {error:#}");
        }
        vm = Some(machine);
    }
    fs::remove_file(&path).context("cannot remove the socket")
}

/// One client: one command, or none.
fn attend(vm: &mut Vm, stream: UnixStream) -> Result<()> {
    let mut from = BufReader::new(stream.try_clone()?);
    let mut to = stream;
    let exec = match read_frame::<ToGuest>(&mut from)? {
        Some(ToGuest::Exec { exec, .. }) => exec,
        _ => return Ok(()),
    };
    write_frame(&mut to, &ToHost::Hello { uptime: String::new() })?;
    let scenarios = exec.argv.first().is_some_and(|program| program == "dmashare-scenarios");
    if let Err(error) = vm.install() {
        let end = End::Failed(format!("{error:#}"));
        return Ok(write_frame(&mut to, &ToHost::Exit { id: 0, end })?);
    }
    let running = vm.channel.start(exec)?;
    let control = running.control();
    thread::spawn(move || {
        while let Ok(Some(ToGuest::In { data, .. })) = read_frame(&mut from) {
            if control.input(data).is_err() {
                return;
            }
        }
        // The client is gone. After the command's end this finds nobody.
        if let Err(error) = control.kill(DYING) {
            eprintln!("vm: {error:#}");
        }
    });
    let mut end = None;
    while end.is_none() {
        let frame = running.frames.recv().context("the machine ended")?;
        if let ToHost::Exit { .. } = frame {
            end = Some(frame);
        } else if write_frame(&mut to, &frame).is_err() {
            // Its reader kills the command, whose end is awaited here all the same.
        }
    }
    drop(running);
    let failed = !matches!(end, Some(ToHost::Exit { end: End::Code(0), .. }));
    if scenarios && failed && !vm.channel.used_up() {
        vm.save_logs()?;
    }
    if !vm.channel.used_up() {
        vm.rescan()?;
    }
    // A client that is gone does not need it.
    end.map_or(Ok(()), |end| Ok(write_frame(&mut to, &end)?))
}

/// Runs a command through the socket.
pub fn run(stream: UnixStream, exec: Exec, sink: Sink<'_>) -> Result<End> {
    let interactive = exec.terminal.is_some();
    let mut to = stream.try_clone()?;
    write_frame(&mut to, &ToGuest::Exec { id: 0, exec })?;
    if interactive {
        shell::forward_input(move |data| Ok(write_frame(&mut to, &ToGuest::In { id: 0, data })?));
    } else {
        write_frame(&mut to, &ToGuest::In { id: 0, data: Vec::new() })?;
    }
    stream.set_read_timeout(Some(BUSY))?;
    let mut from = BufReader::new(stream);
    // The first word comes when the machine turns to this command; after that there is no bound.
    let mut first = true;
    loop {
        let frame = read_frame::<ToHost>(&mut from);
        if std::mem::take(&mut first) {
            from.get_ref().set_read_timeout(None)?;
        }
        match frame {
            Ok(Some(ToHost::Out { fd, data, .. })) => sink(fd, &data),
            Ok(Some(ToHost::Exit { end, .. })) => return Ok(end),
            Ok(Some(_)) => {}
            Ok(None) => bail!("the virtual machine ended in the middle of a command"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                eprintln!("the machine is busy with another command, or boots; waiting");
            }
            Err(error) => return Err(error.into()),
        }
    }
}
