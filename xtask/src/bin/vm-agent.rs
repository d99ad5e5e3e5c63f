//! Runs in the virtual machine: starts commands for the host, and hands back what they write and
//! how they end. Speaks the frames of [`vm_frames`] over a virtio-serial port.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use nix::mount::MsFlags;
use nix::pty::Winsize;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use vm_frames::{End, Exec, HOST_SOCKET, PORT, ToGuest, ToHost, read_frame, write_frame};

/// How long output may still come after a command has ended: whoever holds its pipes beyond that
/// is a service that it left behind.
const LEFTOVERS: Duration = Duration::from_millis(500);

/// How long a killed command may take to die, before it is reported as ended all the same.
const DYING: Duration = Duration::from_secs(30);

#[derive(Default)]
struct State {
    /// The input of each running command; `None` once it was closed.
    inputs: HashMap<u64, Option<File>>,
    /// The process group of each running command.
    groups: HashMap<u64, Pid>,
    /// Guest programs that wait for the host's answer.
    asking: HashMap<u64, UnixStream>,
    next_request: u64,
}

struct Agent {
    port: Mutex<File>,
    state: Mutex<State>,
}

fn main() -> io::Result<()> {
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("PATH", "/mnt/stage/bin:/usr/sbin:/usr/bin:/sbin:/bin") };
    // SAFETY: as above.
    unsafe { std::env::set_var("HOME", "/root") };
    prepare();

    let port =
        OpenOptions::new().read(true).write(true).open(format!("/dev/virtio-ports/{PORT}"))?;
    let mut from_host = BufReader::new(port.try_clone()?);
    let agent = Arc::new(Agent { port: Mutex::new(port), state: Mutex::new(State::default()) });

    listen(&agent)?;
    agent.send(&ToHost::Hello { uptime: fs::read_to_string("/proc/uptime")? });
    while let Some(frame) = read_frame::<ToGuest>(&mut from_host)? {
        agent.handle(frame);
    }
    Ok(())
}

/// Waits until the devices are there, mounts what the host offers, and writes down who is who.
fn prepare() {
    report("udevadm settle", Command::new("udevadm").args(["settle", "--timeout=120"]).status());
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let argument = |name: &str| {
        cmdline.split_whitespace().find_map(|word| word.strip_prefix(name)).map(str::to_owned)
    };
    if argument("dmashare.share").is_some() {
        let options = "trans=virtio,version=9p2000.L,msize=512000,cache=mmap";
        let mounted = nix::mount::mount(
            Some("share"),
            "/mnt/share",
            Some("9p"),
            MsFlags::empty(),
            Some(options),
        );
        if let Err(error) = mounted {
            eprintln!("vm-agent: cannot mount the share: {error}");
        }
    }
    let cast = serde_json::json!({
        "egpu": argument("dmashare.egpu="),
        "stay": argument("dmashare.stay="),
        "igpu": "vkms",
        "host_socket": HOST_SOCKET,
    });
    report("write the cast", fs::write("/run/dmashare-vm.json", format!("{cast:#}\n")));
}

fn report<T>(what: &str, result: io::Result<T>) {
    if let Err(error) = result {
        eprintln!("vm-agent: {what}: {error}");
    }
}

/// Takes the requests of the guest's programs to the host.
fn listen(agent: &Arc<Agent>) -> io::Result<()> {
    if Path::new(HOST_SOCKET).exists() {
        fs::remove_file(HOST_SOCKET)?;
    }
    let listener = UnixListener::bind(HOST_SOCKET)?;
    let agent = Arc::clone(agent);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let agent = Arc::clone(&agent);
            thread::spawn(move || {
                let mut request = String::new();
                match BufReader::new(&stream).read_line(&mut request) {
                    Ok(1..) => agent.ask(stream, request.trim().to_owned()),
                    Ok(0) => {}
                    Err(error) => eprintln!("vm-agent: a request: {error}"),
                }
            });
        }
    });
    Ok(())
}

impl Agent {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Without the host there is nobody left to tell, so the failure goes to the journal.
    fn send(&self, frame: &ToHost) {
        let mut port = self.port.lock().expect("no holder panics");
        report("write to the host", write_frame(&mut *port, frame));
    }

    fn ask(&self, stream: UnixStream, request: String) {
        let req = {
            let mut state = self.state();
            state.next_request += 1;
            let req = state.next_request;
            state.asking.insert(req, stream);
            req
        };
        self.send(&ToHost::Host { req, request });
    }

    fn handle(self: &Arc<Self>, frame: ToGuest) {
        match frame {
            ToGuest::Exec { id, exec } => self.start(id, exec),
            ToGuest::In { id, data } => self.input(id, &data),
            ToGuest::Kill { id } => {
                if let Some(group) = self.state().groups.get(&id) {
                    kill(*group);
                }
            }
            ToGuest::HostReply { req, error } => {
                let asking = self.state().asking.remove(&req);
                if let Some(mut stream) = asking {
                    let line = match error {
                        None => "ok\n".to_owned(),
                        Some(error) => format!("err {}\n", error.replace('\n', " ")),
                    };
                    report("answer a request", stream.write_all(line.as_bytes()));
                }
            }
        }
    }

    fn input(&self, id: u64, data: &[u8]) {
        let mut state = self.state();
        let Some(slot) = state.inputs.get_mut(&id) else { return };
        if data.is_empty() {
            *slot = None;
        } else if let Some(file) = slot {
            // A program that does not read its input any more is no error.
            if file.write_all(data).is_err() {
                *slot = None;
            }
        }
    }

    fn start(self: &Arc<Self>, id: u64, exec: Exec) {
        match spawn(&exec) {
            Ok((child, input, outputs)) => {
                let mut state = self.state();
                let group = Pid::from_raw(child.id().cast_signed());
                state.groups.insert(id, group);
                state.inputs.insert(id, Some(input));
                drop(state);
                let agent = Arc::clone(self);
                thread::spawn(move || {
                    let end = agent.attend(id, child, group, outputs, exec.timeout_s);
                    let mut state = agent.state();
                    state.groups.remove(&id);
                    state.inputs.remove(&id);
                    drop(state);
                    agent.send(&ToHost::Exit { id, end });
                });
            }
            Err(error) => {
                let name = exec.argv.first().map_or("(nothing)", String::as_str);
                let end = End::Failed(format!("{name}: {error}"));
                self.send(&ToHost::Exit { id, end });
            }
        }
    }

    /// Forwards the command's output until it has ended.
    fn attend(
        self: &Arc<Self>,
        id: u64,
        mut child: Child,
        group: Pid,
        outputs: Vec<(u8, File)>,
        timeout_s: Option<u64>,
    ) -> End {
        let (done, finished) = mpsc::channel();
        let readers = outputs.len();
        for (fd, output) in outputs {
            let agent = Arc::clone(self);
            let done: Sender<()> = done.clone();
            thread::spawn(move || {
                agent.forward(id, fd, output);
                // The receiver may have given up waiting.
                drop(done);
            });
        }
        drop(done);

        let (ended, wait) = mpsc::channel();
        thread::spawn(move || {
            let status = child.wait();
            // The receiver has given up on a command that hung.
            drop(ended.send(status));
        });
        let bound = timeout_s.map_or(Duration::from_secs(u64::MAX / 4), Duration::from_secs);
        let (status, timed_out) = match wait.recv_timeout(bound) {
            Ok(status) => (status, false),
            Err(RecvTimeoutError::Timeout) => {
                kill(group);
                // A process in an uninterruptible sleep does not even die.
                (wait.recv_timeout(DYING).unwrap_or_else(|_| Err(io::Error::other("hangs"))), true)
            }
            Err(RecvTimeoutError::Disconnected) => (Err(io::Error::other("lost")), false),
        };
        if readers > 0 {
            // Ends at once by disconnection, when all readers are at the end.
            if let Err(RecvTimeoutError::Timeout) = finished.recv_timeout(LEFTOVERS) {}
        }
        match status {
            _ if timed_out => End::TimedOut,
            Err(error) => End::Failed(error.to_string()),
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => End::Code(code),
                (None, signal) => End::Signal(signal.unwrap_or(0)),
            },
        }
    }

    fn forward(&self, id: u64, fd: u8, mut output: File) {
        let mut buffer = [0; 16 * 1024];
        // A terminal whose last user is gone reads as EIO.
        while let Ok(length @ 1..) = output.read(&mut buffer) {
            self.send(&ToHost::Out { id, fd, data: buffer[..length].to_vec() });
        }
    }
}

fn kill(group: Pid) {
    // It may have ended by itself in this moment.
    if let Err(error) = killpg(group, Signal::SIGKILL) {
        eprintln!("vm-agent: kill {group}: {error}");
    }
}

type Spawned = (Child, File, Vec<(u8, File)>);

fn spawn(exec: &Exec) -> io::Result<Spawned> {
    let (program, arguments) =
        exec.argv.split_first().ok_or_else(|| io::Error::other("no command"))?;
    let mut command = Command::new(program);
    command.args(arguments).envs(&exec.env);
    command.current_dir(exec.cwd.as_deref().unwrap_or("/root"));
    let Some((rows, cols)) = exec.terminal else {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0);
        let mut child = command.spawn()?;
        let input: OwnedFd = child.stdin.take().expect("piped").into();
        let out: OwnedFd = child.stdout.take().expect("piped").into();
        let err: OwnedFd = child.stderr.take().expect("piped").into();
        return Ok((child, input.into(), vec![(1, out.into()), (2, err.into())]));
    };

    let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = nix::pty::openpty(&size, None)?;
    command.stdin(pty.slave.try_clone()?).stdout(pty.slave.try_clone()?).stderr(pty.slave);
    let own_session = || {
        nix::unistd::setsid()?;
        // SAFETY: stdin is the terminal; the call only changes who controls it.
        if unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: setsid and ioctl are async-signal-safe, and nothing is allocated.
    unsafe { command.pre_exec(own_session) };
    let child = command.spawn()?;
    let output: File = pty.master.try_clone()?.into();
    Ok((child, pty.master.into(), vec![(1, output)]))
}
