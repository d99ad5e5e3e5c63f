//! An interactive shell: this terminal, in raw mode, joined to one in the guest.

use std::io::{IsTerminal, Read, Write};
use std::mem::MaybeUninit;
use std::thread;

use anyhow::{Context, Result};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use vm_frames::Exec;

/// The terminal in raw mode; as it was before, when dropped.
pub struct Raw(Option<Termios>);

impl Raw {
    /// Nothing changes if standard input is no terminal.
    pub fn enter() -> Result<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(Self(None));
        }
        let before = tcgetattr(&stdin).context("cannot read the terminal's settings")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw).context("cannot change the terminal")?;
        Ok(Self(Some(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0
            && let Err(error) = tcsetattr(std::io::stdin(), SetArg::TCSANOW, before)
        {
            eprintln!("the terminal stays raw ({error}); type `reset`");
        }
    }
}

/// A login shell on a terminal of this one's size.
pub fn command() -> Exec {
    let mut exec = Exec {
        argv: vec!["/bin/bash".into(), "-l".into()],
        terminal: Some(size()),
        ..Exec::default()
    };
    let term = std::env::var("TERM").unwrap_or_else(|_| "linux".into());
    exec.env.insert("TERM".into(), term);
    exec
}

fn size() -> (u16, u16) {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: TIOCGWINSZ writes a winsize, and nothing else.
    let done = unsafe { libc::ioctl(0, libc::TIOCGWINSZ, size.as_mut_ptr()) };
    // SAFETY: zeroed at first, so it is a valid value in either case.
    let size = unsafe { size.assume_init() };
    if done == 0 && size.ws_row > 0 { (size.ws_row, size.ws_col) } else { (24, 80) }
}

/// Hands what is typed to `to`, until there is no more; then once nothing.
pub fn forward_input(mut to: impl FnMut(Vec<u8>) -> Result<()> + Send + 'static) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let length = std::io::stdin().read(&mut buffer).unwrap_or(0);
            // An error means that the command has ended.
            if to(buffer[..length].to_vec()).is_err() || length == 0 {
                return;
            }
        }
    });
}

/// Writes what comes out of the guest where it belongs.
pub fn print(fd: u8, data: &[u8]) {
    let written = if fd == 2 {
        std::io::stderr().write_all(data)
    } else {
        let mut stdout = std::io::stdout();
        stdout.write_all(data).and_then(|()| stdout.flush())
    };
    // As any program whose reader has gone away.
    if written.is_err() {
        std::process::exit(1);
    }
}
