//! A client, which says whatever it likes, and listens well.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use dmashare_proto::codec::{self, Incoming};
use dmashare_proto::limits::VERSION;
use dmashare_proto::message::{Event, Hello, Reply, Request};
use dmashare_proto::transport::{Buffer, Received, connect_to};
use dmashared::shell::fuzzing::Service;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::BOUND;
use crate::script::{Datagram, Known};

pub struct Client {
    socket: OwnedFd,
    buffer: Buffer,
    /// Its connection has ended.
    over: bool,
    /// What it was told of.
    pub heard: Known,
    /// What all were told of.
    pub known: Known,
}

impl Client {
    pub fn connect(service: &Service, greets: bool) -> Self {
        let socket = connect_to(service.socket()).expect("the service listens");
        let (heard, known) = (Known::default(), Known::default());
        let mut this = Self { socket, buffer: Buffer::default(), over: false, heard, known };
        if greets {
            let name = "fuzz".to_owned();
            let hello = Hello { version_min: VERSION, version_max: VERSION, features: 0, name };
            for request in [Request::Hello(hello), Request::ListDevices(())] {
                let bytes = codec::encode(&request, 1, 0).expect("it is small");
                this.send(Datagram { raw: true, kinds: &[], bytes: &bytes }, Vec::new());
            }
        }
        this
    }

    /// Another descriptor of its end.
    pub fn socket(&self) -> OwnedFd {
        self.socket.try_clone().expect("a descriptor")
    }

    /// Sends, and waits for the answer where one is to come at once.
    pub fn send(&mut self, datagram: Datagram<'_>, fds: Vec<OwnedFd>) {
        if self.over {
            return;
        }
        let bytes = match datagram.raw {
            true => datagram.bytes.to_vec(),
            false => self.known.meant(datagram.bytes, fds.len()),
        };
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[][..] } else { &rights[..] };
        let parts = [IoSlice::new(&bytes)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        if sendmsg::<()>(self.socket.as_raw_fd(), &parts, control, flags, None).is_err() {
            self.over = true;
            return;
        }
        drop(fds);
        let request = codec::decode_request(&bytes, raw.len());
        let waits = matches!(request, Ok((_, Request::WaitPoint(_))));
        let end = if waits { PollTimeout::ZERO } else { PollTimeout::try_from(BOUND).expect("ms") };
        while !self.over && self.readable(end) {
            if self.receive() && !waits {
                return;
            }
        }
        assert!(self.over || waits, "not answered within {BOUND:?}: {request:?}");
    }

    fn readable(&self, timeout: PollTimeout) -> bool {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, timeout) {
                // The fuzzer's own timer.
                Err(Errno::EINTR) => {}
                result => return result.expect("it can be polled") > 0,
            }
        }
    }

    /// Takes what has come; whether it is an answer.
    fn receive(&mut self) -> bool {
        let received = self.buffer.receive(self.socket.as_fd());
        let (len, fds) = match received {
            Ok(Received::Datagram(len, fds)) => (len, fds),
            Ok(Received::Truncated) => panic!("the service sends what is too long"),
            Ok(Received::Closed) | Err(_) => {
                self.over = true;
                return false;
            }
        };
        let message = codec::decode_incoming(self.buffer.bytes(len), fds.len());
        match message.expect("what the service says can be read") {
            Incoming::Event(event) => {
                if let Event::DeviceAdded(device) = event {
                    self.heard.devices.push(device.at.device);
                }
                false
            }
            Incoming::Reply(_, reply) => {
                self.hear(reply);
                true
            }
        }
    }

    fn hear(&mut self, reply: Reply) {
        let heard = &mut self.heard;
        match reply {
            Reply::Devices(all) => {
                heard.devices = all.iter().map(|device| device.at.device).collect();
            }
            Reply::Exported(it) => {
                heard.objects.push(it.buffer);
                heard.tokens.extend(it.token);
            }
            Reply::Granted(token) => heard.tokens.push(token),
            Reply::Imported(it) => heard.objects.push(it.import),
            Reply::FenceShared(it) => {
                heard.objects.push(it.fence);
                heard.tokens.extend(it.token);
            }
            Reply::FenceImported(it) => heard.objects.push(it.fence),
            Reply::Timeline(it) => heard.objects.push(it.timeline),
            Reply::Allocated(it) => heard.objects.push(it.buffer),
            Reply::Inhibited(id) => heard.objects.push(id),
            _ => {}
        }
    }
}
