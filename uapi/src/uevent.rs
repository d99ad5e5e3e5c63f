//! The kernel's own events about devices (lib/kobject_uevent.c), from netlink, before udevd has
//! them.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvmsg,
    setsockopt, socket, sockopt,
};

/// The multicast group of the kernel's events (udevd's are in 2).
const GROUP_KERNEL: u32 = 1;
/// Room for a burst: a dock with everything in it goes at once.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Large enough for any message: the kernel's own buffer has 2 KiB, and the header is a path.
pub const MESSAGE_MAX: usize = 8192;

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It does not end as the kernel's do.
    #[error("the uevent is cut off")]
    Truncated,
    /// It does not begin with `action@devpath`.
    #[error("the uevent has no header")]
    Header,
    /// A line is not `KEY=value`.
    #[error("the uevent has a line without '='")]
    Line,
    /// Something that every message of the kernel has is missing, or not text.
    #[error("the uevent has no usable {0}")]
    Missing(&'static str),
}

/// Why no event could be received.
#[derive(Debug, thiserror::Error)]
pub enum RecvError {
    /// Events were lost, for the socket was full. What was plugged and unplugged must be looked up.
    #[error("uevents were lost; look at the devices again")]
    Overrun,
    /// The kernel sent something unheard of. The next call goes on with the next message.
    #[error("a uevent that cannot be understood: {0}")]
    Malformed(#[from] ParseError),
    /// The socket failed.
    #[error("receiving uevents: {0}")]
    Io(#[from] io::Error),
}

/// One event. Borrows the buffer that it was received into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uevent<'a> {
    /// `add`, `remove`, `change`, `bind`, `unbind`, `move`, `online`, `offline`.
    pub action: &'a str,
    /// The device's folder, below /sys.
    pub devpath: &'a str,
    /// `drm`, `pci`, …
    pub subsystem: &'a str,
    /// `drm_minor`, …
    pub devtype: Option<&'a str>,
    /// The node's name, below /dev.
    pub devname: Option<&'a str>,
    /// The node's major number.
    pub major: Option<u32>,
    /// The node's minor number.
    pub minor: Option<u32>,
    /// Counts all events of the kernel.
    pub seqnum: u64,
    /// Present on events that somebody asked for by writing to a `uevent` file (it is 0 if they
    /// gave none): the device is as it was. Absent on the kernel's own.
    pub synth_uuid: Option<&'a str>,
    lines: &'a [u8],
}

impl<'a> Uevent<'a> {
    /// Takes a message apart. Never panics, whatever it is given; a message of which any part is
    /// cut off is an error.
    pub fn parse(message: &'a [u8]) -> Result<Self, ParseError> {
        let message = message.strip_suffix(b"\0").ok_or(ParseError::Truncated)?;
        let header_len = message.iter().position(|&b| b == 0).ok_or(ParseError::Header)?;
        let (header, lines) = (&message[..header_len], &message[header_len + 1..]);
        let header = str::from_utf8(header).map_err(|_| ParseError::Header)?;
        let (header_action, header_devpath) = header.split_once('@').ok_or(ParseError::Header)?;

        let (mut action, mut devpath, mut subsystem) = (None, None, None);
        let (mut devtype, mut devname, mut synth_uuid) = (None, None, None);
        let (mut major, mut minor, mut seqnum) = (None, None, None);
        for (key, value) in pairs(lines) {
            let value = value.ok_or(ParseError::Line)?;
            let text = str::from_utf8(value).ok();
            // The first of a key counts, as in `get`: the kernel's own come before a driver's.
            let to = match key {
                b"ACTION" => &mut action,
                b"DEVPATH" => &mut devpath,
                b"SUBSYSTEM" => &mut subsystem,
                b"DEVTYPE" => &mut devtype,
                b"DEVNAME" => &mut devname,
                b"SYNTH_UUID" => &mut synth_uuid,
                b"MAJOR" => &mut major,
                b"MINOR" => &mut minor,
                // The kernel writes it last, behind a driver's: a message without one is not whole.
                b"SEQNUM" => {
                    seqnum = text;
                    continue;
                }
                _ => continue,
            };
            to.get_or_insert(text);
        }
        let action = action.flatten().filter(|a| *a == header_action);
        let devpath = devpath.flatten().filter(|d| *d == header_devpath);
        let number = |text: Option<Option<&str>>| text.flatten().and_then(|t| t.parse().ok());
        let seqnum: Option<u64> = seqnum.and_then(|t| t.parse().ok());
        Ok(Self {
            action: action.ok_or(ParseError::Missing("ACTION"))?,
            devpath: devpath.ok_or(ParseError::Missing("DEVPATH"))?,
            subsystem: subsystem.flatten().ok_or(ParseError::Missing("SUBSYSTEM"))?,
            devtype: devtype.flatten(),
            devname: devname.flatten(),
            major: number(major),
            minor: number(minor),
            seqnum: seqnum.ok_or(ParseError::Missing("SEQNUM"))?,
            synth_uuid: synth_uuid.flatten(),
            lines,
        })
    }

    /// The value of any key, if it is there and is text.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a str> {
        let (_, value) = pairs(self.lines).find(|(k, _)| *k == key.as_bytes())?;
        str::from_utf8(value?).ok()
    }
}

/// The lines as key and value; no value where there is no '='.
fn pairs(lines: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    lines.split(|&b| b == 0).map(|line| match line.iter().position(|&b| b == b'=') {
        Some(at) => (&line[..at], Some(&line[at + 1..])),
        None => (line, None),
    })
}

/// A socket that receives the kernel's events, and nobody else's. Needs no privilege.
#[derive(Debug)]
pub struct KernelUevents(OwnedFd);

impl KernelUevents {
    /// Listens from now on. Poll the descriptor for reading, then [`KernelUevents::recv`] until
    /// nothing is left.
    pub fn open() -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        // Beyond the system's limit needs CAP_NET_ADMIN; up to it does not. A smaller buffer is
        // not an error: an overrun is reported.
        if setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        }
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUP_KERNEL))?;
        Ok(Self(fd))
    }

    /// The next event, or `None` if there is none now. `buf` should have [`MESSAGE_MAX`] bytes.
    /// Messages that are not from the kernel are thrown away.
    pub fn recv<'b>(&self, buf: &'b mut [u8]) -> Result<Option<Uevent<'b>>, RecvError> {
        let len = loop {
            match self.recv_one(buf)? {
                Received::Kernel(len) => break len,
                Received::Stranger => {}
                Received::Nothing => return Ok(None),
            }
        };
        Ok(Some(Uevent::parse(&buf[..len])?))
    }

    fn recv_one(&self, buf: &mut [u8]) -> Result<Received, RecvError> {
        let mut iov = [IoSliceMut::new(buf)];
        let flags = MsgFlags::MSG_DONTWAIT;
        match recvmsg::<NetlinkAddr>(self.0.as_raw_fd(), &mut iov, None, flags) {
            // Port 0 is the kernel's: no socket can be bound to it.
            Ok(message) if message.address.is_none_or(|a| a.pid() != 0) => Ok(Received::Stranger),
            Ok(message) if message.flags.contains(MsgFlags::MSG_TRUNC) => {
                Err(ParseError::Truncated.into())
            }
            Ok(message) => Ok(Received::Kernel(message.bytes)),
            Err(Errno::EAGAIN) => Ok(Received::Nothing),
            Err(Errno::EINTR) => Ok(Received::Stranger),
            Err(Errno::ENOBUFS) => Err(RecvError::Overrun),
            Err(errno) => Err(RecvError::Io(errno.into())),
        }
    }
}

enum Received {
    Kernel(usize),
    Stranger,
    Nothing,
}

impl AsFd for KernelUevents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::{ParseError, Uevent};

    const REMOVE: &[u8] = b"remove@/devices/pci0000:00/0000:00:02.0/drm/card1\0\
        ACTION=remove\0DEVPATH=/devices/pci0000:00/0000:00:02.0/drm/card1\0SUBSYSTEM=drm\0\
        MAJOR=226\0MINOR=1\0DEVNAME=dri/card1\0DEVTYPE=drm_minor\0SEQNUM=4711\0";

    #[test]
    fn a_card_goes() {
        let event = Uevent::parse(REMOVE).unwrap();
        assert_eq!((event.action, event.subsystem), ("remove", "drm"));
        assert_eq!(event.devpath, "/devices/pci0000:00/0000:00:02.0/drm/card1");
        assert_eq!((event.major, event.minor, event.seqnum), (Some(226), Some(1), 4711));
        assert_eq!((event.devname, event.devtype), (Some("dri/card1"), Some("drm_minor")));
        assert_eq!(event.synth_uuid, None);
        assert_eq!(event.get("DEVNAME"), Some("dri/card1"));
        assert_eq!(event.get("DEVNAM"), None);
    }

    #[test]
    fn a_synthetic_one_says_so() {
        let message = b"add@/x\0ACTION=add\0DEVPATH=/x\0SUBSYSTEM=pci\0SYNTH_UUID=0\0SEQNUM=1\0";
        let event = Uevent::parse(message).unwrap();
        assert_eq!(event.synth_uuid, Some("0"));
        assert_eq!((event.major, event.devtype), (None, None));
    }

    #[test]
    fn cut_off_anywhere_it_is_an_error() {
        for len in 0..REMOVE.len() {
            assert!(Uevent::parse(&REMOVE[..len]).is_err(), "{len} bytes were accepted");
        }
    }

    #[test]
    fn any_byte_changed_never_panics() {
        for at in 0..REMOVE.len() {
            for byte in [0, b'=', b'@', 0x80, 0xff] {
                let mut message = REMOVE.to_vec();
                message[at] = byte;
                if let Ok(event) = Uevent::parse(&message) {
                    let _any = event.get("SUBSYSTEM");
                }
            }
        }
    }

    #[test]
    fn what_the_kernel_never_sends() {
        let error = |message: &[u8]| Uevent::parse(message).unwrap_err();
        assert_eq!(error(b""), ParseError::Truncated);
        assert_eq!(error(b"\0"), ParseError::Header);
        assert_eq!(error(b"libudev\0\xfe\xed\xca\xfe\0"), ParseError::Header);
        assert_eq!(error(b"add@/x\0ACTION\0"), ParseError::Line);
        assert_eq!(error(b"add@/x\0ACTION=remove\0SEQNUM=1\0"), ParseError::Missing("ACTION"));
        let no_number = b"add@/x\0ACTION=add\0DEVPATH=/x\0SUBSYSTEM=y\0SEQNUM=\0";
        assert_eq!(error(no_number), ParseError::Missing("SEQNUM"));
    }

    #[test]
    fn what_is_said_twice_is_read_as_get_reads_it() {
        let message = b"add@/x\0ACTION=add\0DEVPATH=/x\0SUBSYSTEM=y\0MAJOR=1\0DEVNAME=a\0\
            ACTION=remove\0SUBSYSTEM=drm\0MAJOR=2\0DEVNAME=b\0SEQNUM=1\0";
        let event = Uevent::parse(message).unwrap();
        assert_eq!((event.action, event.subsystem, event.major), ("add", "y", Some(1)));
        assert_eq!(event.devname, event.get("DEVNAME"));
        let message = b"add@/x\0ACTION=remove\0ACTION=add\0DEVPATH=/x\0SUBSYSTEM=y\0SEQNUM=1\0";
        assert_eq!(Uevent::parse(message).unwrap_err(), ParseError::Missing("ACTION"));
    }

    #[test]
    fn a_value_that_is_not_text_does_not_lose_the_event() {
        let message = b"add@/x\0ACTION=add\0DEVPATH=/x\0SUBSYSTEM=y\0ODD=\xff\0SEQNUM=1\0";
        let event = Uevent::parse(message).unwrap();
        assert_eq!(event.get("ODD"), None);
        assert_eq!(event.seqnum, 1);
    }
}
