//! The connection to the bus. zbus's own reader takes descriptors without MSG_CMSG_CLOEXEC and
//! overlooks MSG_CTRUNC; this one does not, since every user of the bus may send some.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;

use dmashare_proto::fd_passing::{CONTROL_WORDS, receive_with_fds};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use zbus::connection::socket::{ReadHalf, Socket, Split};

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
                match stream.try_io(Interest::READABLE, || receive(stream.as_fd(), buffer)) {
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

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Received {
    let mut fds = Vec::new();
    let (len, flags) = receive_with_fds(socket, buffer, &mut [0; CONTROL_WORDS], &mut fds)?;
    if flags & libc::MSG_CTRUNC != 0 {
        // Which message lost descriptors cannot be told any more.
        return Err(io::Error::other("the bus sent more file descriptors than could be received"));
    }
    match len {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        len => Ok((len, fds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::io::IoSlice;
    use std::os::fd::AsRawFd;
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
