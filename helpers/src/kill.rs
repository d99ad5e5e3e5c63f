//! Ends a process that was seen before, and no other that has its id since.

use std::io;
use std::os::fd::AsFd;

use dmashare_proto::kill::{Answer, How, Request};
use dmashare_uapi::pidfd;
use nix::sys::signal::Signal;
use nix::unistd::Uid;

/// Whether who is at the other end of a socket may ask: root, or the user that this helper runs as, who is
/// the daemon's.
///
/// # Errors
/// They may not, or it is no socket. A sentence.
pub fn check_asker(socket: impl AsFd) -> io::Result<()> {
    let asker = pidfd::peer(socket.as_fd())?.uid;
    if asker == 0 || asker == Uid::effective().as_raw() {
        return Ok(());
    }
    let text = format!("user {asker} may not have processes ended");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// Carries a request out.
#[must_use]
pub fn serve(request: Request) -> Answer {
    match end(request) {
        Ok(()) => Answer::Sent,
        Err(error) => Answer::Failed { why: error.to_string() },
    }
}

fn end(Request { pid, start, how }: Request) -> io::Result<()> {
    // 0 and less name groups, for kill(2); nothing of the broker's goes on without process 1.
    if pid <= 1 {
        let text = format!("{pid} is no process that is ended");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    // Pinned first: whoever has the id now has it until this is closed.
    let process = pidfd::open(pid)?;
    if pidfd::start_time(pid)? != start {
        let text = format!("process {pid} has ended; another one has its id");
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    let signal = match how {
        How::Term => Signal::SIGTERM,
        How::Kill => Signal::SIGKILL,
    };
    pidfd::send_signal(process.as_fd(), signal)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn who_has_the_id_since_is_spared() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let start = pidfd::start_time(pid).unwrap();
        let Answer::Failed { why } = serve(Request { pid, start: start + 1, how: How::Kill })
        else {
            panic!("another process was hit");
        };
        assert!(why.contains("another one has its id"), "{why}");
        assert!(child.try_wait().unwrap().is_none());
        assert_eq!(serve(Request { pid, start, how: How::Term }), Answer::Sent);
        assert_eq!(child.wait().unwrap().signal(), Some(15));
        let gone = serve(Request { pid, start, how: How::Kill });
        assert!(matches!(gone, Answer::Failed { .. }), "{gone:?}");
    }

    #[test]
    fn neither_groups_nor_process_1() {
        for pid in [1, 0, -1, i32::MIN] {
            let start = pidfd::start_time(1).unwrap();
            let answer = serve(Request { pid, start, how: How::Kill });
            assert!(matches!(answer, Answer::Failed { .. }), "{pid}: {answer:?}");
        }
    }

    #[test]
    fn its_own_user_may_ask_and_by_a_socket_alone() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        check_asker(&ours).unwrap();
        check_asker(std::fs::File::open("/dev/null").unwrap()).unwrap_err();
    }
}
