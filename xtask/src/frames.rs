//! What the host and the guest's agent say to each other: JSON objects, one a line.
//!
//! The host starts commands and gives them input; the agent hands back their output and their
//! end. Programs in the guest can ask the host for something (to pull the card, say) through the
//! agent's socket, [`HOST_SOCKET`].

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

/// The name of the virtio-serial port in the guest: `/dev/virtio-ports/<this>`.
pub const PORT: &str = "dmashare.agent";

/// Where programs in the guest ask the host. One line in, one line (`ok` or `err REASON`) out.
pub const HOST_SOCKET: &str = "/run/vm-host.sock";

/// A command to be run in the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Added to the agent's own environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The working directory; `/root` if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The command and all its children are killed after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u64>,
    /// Rows and columns of a terminal to run it on; without it, stdout and stderr are pipes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<(u16, u16)>,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It exited with this status.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// It was killed because its time was up.
    TimedOut,
    /// It could not be started.
    Failed(String),
}

impl End {
    /// The status a shell would give it.
    pub fn status(&self) -> i32 {
        match self {
            Self::Code(code) => *code,
            Self::Signal(signal) => 128 + signal,
            Self::TimedOut => 124,
            Self::Failed(_) => 127,
        }
    }
}

/// From the host to the agent. `id` is the host's name for a running command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToGuest {
    /// Start a command.
    Exec {
        /// The name it gets.
        id: u64,
        /// What to run.
        exec: Exec,
    },
    /// Input for a command; none is the end of its input.
    In {
        /// The command.
        id: u64,
        /// The bytes, see [`bytes`].
        #[serde(with = "bytes")]
        data: Vec<u8>,
    },
    /// Kill a command and its children.
    Kill {
        /// The command.
        id: u64,
    },
    /// The answer to [`ToHost::Host`].
    HostReply {
        /// The request's number.
        req: u64,
        /// What went wrong, if something did.
        error: Option<String>,
    },
}

/// From the agent to the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToHost {
    /// The guest is up.
    Hello {
        /// Seconds since its kernel started.
        uptime: String,
    },
    /// A command has written something.
    Out {
        /// The command.
        id: u64,
        /// 1 or 2.
        fd: u8,
        /// The bytes, see [`bytes`].
        #[serde(with = "bytes")]
        data: Vec<u8>,
    },
    /// A command has ended, and all its output has been sent.
    Exit {
        /// The command.
        id: u64,
        /// How.
        end: End,
    },
    /// A program in the guest asks for something.
    Host {
        /// The agent's number for it.
        req: u64,
        /// For example `hotunplug egpu`.
        request: String,
    },
}

/// Bytes as a JSON string, each byte the character of the same number: text stays readable,
/// nothing is lost.
pub mod bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes them.
    pub fn serialize<S: Serializer>(data: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&data.iter().map(|&byte| char::from(byte)).collect::<String>())
    }

    /// Reads them; a character above 255 is an error.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        text.chars().map(|c| u8::try_from(c).map_err(|_| D::Error::custom("not a byte"))).collect()
    }
}

/// Writes one frame and its newline, in one piece.
pub fn write_frame<T: Serialize>(mut to: impl Write, frame: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(frame)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Reads one frame; `None` at the end of the stream.
pub fn read_frame<T: for<'de> Deserialize<'de>>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    if from.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<T>(frame: &T) -> String
    where
        T: Serialize + for<'de> Deserialize<'de> + PartialEq + std::fmt::Debug,
    {
        let mut line = Vec::new();
        write_frame(&mut line, frame).unwrap();
        assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
        assert_eq!(&read_frame::<T>(&mut &line[..]).unwrap().unwrap(), frame);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn every_byte_survives() {
        let data: Vec<u8> = (0..=255).collect();
        round_trip(&ToHost::Out { id: 7, fd: 1, data });
    }

    #[test]
    fn text_stays_readable() {
        let line = round_trip(&ToHost::Out { id: 7, fd: 1, data: b"ok coldplug\n".to_vec() });
        assert_eq!(line, "{\"out\":{\"id\":7,\"fd\":1,\"data\":\"ok coldplug\\n\"}}\n");
    }

    #[test]
    fn commands_and_ends() {
        let exec = Exec { argv: vec!["ls".into()], timeout_s: Some(3), ..Exec::default() };
        let line = round_trip(&ToGuest::Exec { id: 1, exec });
        assert_eq!(line, "{\"exec\":{\"id\":1,\"exec\":{\"argv\":[\"ls\"],\"timeout_s\":3}}}\n");
        round_trip(&ToHost::Exit { id: 1, end: End::Signal(9) });
        assert_eq!(End::Signal(9).status(), 137);
    }

    #[test]
    fn the_end_of_the_stream_is_no_error() {
        assert_eq!(read_frame::<ToHost>(&mut &b""[..]).unwrap(), None);
        assert!(read_frame::<ToHost>(&mut &b"{\"exit\":"[..]).is_err());
    }
}
