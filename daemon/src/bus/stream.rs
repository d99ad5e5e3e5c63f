//! The connection to the bus. zbus's own reader takes descriptors without MSG_CMSG_CLOEXEC and
//! overlooks MSG_CTRUNC; this one does not, since every user of the bus may send some.

use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::pin::Pin;

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use zbus::connection::socket::{ReadHalf, Socket, Split};

/// The kernel passes at most this many descriptors with a message (SCM_MAX_FD).
const ROOM: usize = 253;

/// A connection to a bus in the file system or in the abstract namespace.
pub(super) struct BusStream(UnixStream);

impl BusStream {
    pub(super) async fn connect(path: &Path) -> io::Result<Self> {
        UnixStream::connect(path).await.map(Self)
    }
}

impl Socket for BusStream {
    type ReadHalf = Reader;
    type WriteHalf = OwnedWriteHalf;

    fn split(self) -> Split<Reader, OwnedWriteHalf> {
        let (read, write) = self.0.into_split();
        Split::new(Reader(read), write)
    }
}

/// The reading half.
#[derive(Debug)]
pub(super) struct Reader(OwnedReadHalf);

type Received = io::Result<(usize, Vec<OwnedFd>)>;

impl ReadHalf for Reader {
    fn recvmsg<'reader, 'buffer, 'call>(
        &'reader mut self,
        buffer: &'buffer mut [u8],
    ) -> Pin<Box<dyn Future<Output = Received> + Send + 'call>>
    where
        'reader: 'call,
        'buffer: 'call,
        Self: 'call,
    {
        let stream = self.0.as_ref();
        Box::pin(async move {
            loop {
                stream.readable().await?;
                match stream.try_io(Interest::READABLE, || receive(stream.as_raw_fd(), buffer)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    other => return other,
                }
            }
        })
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }
}

fn receive(socket: RawFd, buffer: &mut [u8]) -> Received {
    // As `u64` because a control message header wants its alignment.
    let mut control = [0_u64; (ROOM * size_of::<RawFd>()).div_ceil(8) + 2];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros is a msghdr without name, data and control message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let len = loop {
        // SAFETY: the header points to one buffer for data and one for control messages, both
        // borrowed mutably for the call, with their lengths in bytes.
        let result = unsafe { libc::recvmsg(socket, &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        match Errno::result(result) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    let fds = take_fds(&message);
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        // Which message lost descriptors cannot be told any more.
        return Err(io::Error::other("the bus sent more file descriptors than could be received"));
    }
    match usize::try_from(len).unwrap_or(0) {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        len => Ok((len, fds)),
    }
}

/// Takes every descriptor that the kernel installed for a receive.
fn take_fds(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the kernel filled in the header; its control pointer and length are valid.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give null or a header inside the control buffer.
    while let Some(header) = unsafe { control.as_ref() } {
        if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: `control` points to a control message header.
            let data = unsafe { libc::CMSG_DATA(control) }.cast::<RawFd>();
            // SAFETY: it only computes a length.
            let head = unsafe { libc::CMSG_LEN(0) } as usize;
            // A `usize` or a `u32`, as the C library has it.
            let len: usize = header.cmsg_len as _;
            let count = len.saturating_sub(head) / size_of::<RawFd>();
            for i in 0..count {
                // SAFETY: the message's length says that `count` descriptors follow its header.
                let raw = unsafe { data.wrapping_add(i).read_unaligned() };
                // SAFETY: the kernel installed it for this call just now and nobody else knows it,
                // so it has one owner from here.
                fds.push(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
        // SAFETY: `control` is a header inside the message's control buffer.
        control = unsafe { libc::CMSG_NXTHDR(message, control) };
    }
    fds
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::io::IoSlice;
    use std::os::unix::net::UnixStream as StdStream;

    fn pair() -> (StdStream, Reader) {
        let (ours, theirs) = StdStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (read, write) = UnixStream::from_std(ours).unwrap().into_split();
        write.forget();
        (theirs, Reader(read))
    }

    #[tokio::test]
    async fn descriptors_come_close_on_exec() {
        let (theirs, mut reader) = pair();
        let file = tempfile::tempfile().unwrap();
        let rights = [file.as_raw_fd(), file.as_raw_fd()];
        let data = [IoSlice::new(b"abc")];
        let control = [ControlMessage::ScmRights(&rights)];
        sendmsg::<()>(theirs.as_raw_fd(), &data, &control, MsgFlags::empty(), None).unwrap();
        let mut buffer = [0; 2];
        let (len, fds) = reader.recvmsg(&mut buffer).await.unwrap();
        assert_eq!((len, &buffer, fds.len()), (2, b"ab", 2));
        for fd in fds {
            let flags = FdFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFD).unwrap());
            assert!(flags.contains(FdFlag::FD_CLOEXEC));
        }
        assert_eq!(reader.recvmsg(&mut buffer).await.unwrap().0, 1);
        drop(theirs);
        let error = reader.recvmsg(&mut buffer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
