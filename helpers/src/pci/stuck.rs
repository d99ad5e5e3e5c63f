//! A call of the kernel's that may never come back, watched from beside it.

use std::fs;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use dmashare_proto::sysfs::Answer;
use nix::unistd::{Pid, gettid};

/// What takes longer is told of, this often. Removals take tens to hundreds of milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// Does something on a thread of its own, and says while it takes long where in the kernel it is.
pub(super) fn watched(
    action: impl FnOnce() -> io::Result<()> + Send + 'static,
    say: &mut impl FnMut(&Answer),
) -> io::Result<()> {
    let began = Instant::now();
    let (tell, told) = channel();
    let (done, ended) = channel();
    thread::Builder::new().name("kernel".to_owned()).spawn(move || {
        // The other end waits for both.
        _ = tell.send(gettid());
        _ = done.send(action());
    })?;
    let task = told.recv().map_err(|_| io::Error::other("the thread has ended"))?;
    loop {
        match ended.recv_timeout(PATIENCE) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(io::Error::other("the thread has panicked"));
            }
            Err(RecvTimeoutError::Timeout) => {
                let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                say(&Answer::Stuck { ms, stack: stack(task), pid: std::process::id() });
            }
        }
    }
}

/// Where a task of this process sits: its stack, for which the kernel wants CAP_SYS_ADMIN, else the
/// function alone that it sleeps in.
fn stack(task: Pid) -> Vec<String> {
    let proc = format!("/proc/self/task/{task}");
    if let Ok(stack) = fs::read_to_string(format!("{proc}/stack")) {
        let functions: Vec<String> = stack.lines().filter_map(function).collect();
        if !functions.is_empty() {
            return functions;
        }
    }
    match fs::read_to_string(format!("{proc}/wchan")) {
        // A task that runs sleeps nowhere.
        Ok(function) if function.trim() != "0" => vec![function.trim().to_owned()],
        _ => Vec::new(),
    }
}

/// `[<0>] dma_fence_default_wait+0x1c3/0x240`
fn function(line: &str) -> Option<String> {
    let name = line.split_ascii_whitespace().nth(1)?.split('+').next()?;
    Some(name.to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_stack() {
        let line = "[<0>] dma_fence_default_wait+0x1c3/0x240 [drm]";
        assert_eq!(function(line).as_deref(), Some("dma_fence_default_wait"));
        assert_eq!(function(""), None);
    }

    #[test]
    fn what_takes_long_is_told_of() {
        let (go, wait) = channel::<()>();
        let mut told = Vec::new();
        let mut say = |answer: &Answer| {
            told.push(answer.clone());
            // Seen once, it may go on.
            _ = go.send(());
        };
        let result = watched(
            move || {
                wait.recv().map_err(|_| io::Error::other("never"))?;
                Err(io::Error::other("refused"))
            },
            &mut say,
        );
        assert_eq!(result.unwrap_err().to_string(), "refused");
        let Some(Answer::Stuck { ms, pid, .. }) = told.first() else { panic!("{told:?}") };
        assert!(*ms >= 1000 && *pid == std::process::id());
    }
}
