//! An input as what clients do, and the ids that it means.

use dmashare_proto::codec::{self, HEADER};
use dmashare_proto::message::Request;
use dmashare_proto::{DeviceId, ObjectId, Token};

use crate::client::Client;

/// Steps of one input.
const STEPS: usize = 48;

pub struct Datagram<'a> {
    /// Sent as it is: nothing is put in the place of its ids.
    pub raw: bool,
    pub kinds: &'a [u8],
    pub bytes: &'a [u8],
}

pub enum Step<'a> {
    /// One of the two clients sends.
    Send(usize, Datagram<'a>),
    /// It leaves, and comes again.
    Again(usize),
    /// The eGPU goes.
    Unplug,
    /// A source fence ends.
    End(u8, Result<(), i32>),
}

pub struct Script<'a> {
    /// Whose connections begin with a `Hello`.
    pub greets: [bool; 2],
    pub steps: Vec<Step<'a>>,
}

impl<'a> Script<'a> {
    /// A byte: who does not greet (1, 2). Then steps, each a byte: what it is (the three lowest bits; 5 again,
    /// 6 unplug, 7 end, else send), whose (8), raw (16). A datagram has the count of its descriptors in a
    /// byte, a byte each, its length in two (little endian), and its bytes. An end has a byte: which
    /// fence, and whether it fails (128).
    pub fn parse(data: &'a [u8]) -> Self {
        let Some((&head, mut rest)) = data.split_first() else {
            return Self { greets: [true; 2], steps: Vec::new() };
        };
        let mut steps = Vec::new();
        while steps.len() < STEPS
            && let Some((step, after)) = step(rest)
        {
            steps.push(step);
            rest = after;
        }
        Self { greets: [head & 1 == 0, head & 2 == 0], steps }
    }
}

fn step(data: &[u8]) -> Option<(Step<'_>, &[u8])> {
    let (&what, rest) = data.split_first()?;
    let of = usize::from(what >> 3 & 1);
    match what & 7 {
        5 => Some((Step::Again(of), rest)),
        6 => Some((Step::Unplug, rest)),
        7 => {
            let (&which, rest) = rest.split_first()?;
            let result = if which & 128 == 0 { Ok(()) } else { Err(5) };
            Some((Step::End(which & 127, result), rest))
        }
        _ => {
            let (&count, rest) = rest.split_first()?;
            let (kinds, rest) = rest.split_at_checked(usize::from(count % 12))?;
            let (len, rest) = rest.split_first_chunk()?;
            let len = usize::from(u16::from_le_bytes(*len)).min(rest.len());
            let (bytes, rest) = rest.split_at(len);
            Some((Step::Send(of, Datagram { raw: what & 16 != 0, kinds, bytes }), rest))
        }
    }
}

/// What both clients were told of: small numbers in a request stand for these.
#[derive(Clone, Default)]
pub struct Known {
    pub objects: Vec<ObjectId>,
    pub devices: Vec<DeviceId>,
    pub tokens: Vec<Token>,
}

impl Known {
    pub fn of(clients: &[Client; 2]) -> Self {
        let mut all = Self::default();
        for Client { heard, .. } in clients {
            all.objects.extend(&heard.objects);
            all.devices.extend(&heard.devices);
            all.tokens.extend(&heard.tokens);
        }
        all
    }

    fn object(&self, id: &mut ObjectId) {
        if let Some(known) = pick(&self.objects, id.0) {
            *id = known;
        }
    }

    fn device(&self, id: &mut DeviceId) {
        if let Some(known) = pick(&self.devices, id.0) {
            *id = known;
        }
    }

    fn token(&self, token: &mut Token) {
        if let Some(known) = pick(&self.tokens, token.0[0].into()) {
            *token = known;
        }
    }

    /// The request with the ids that it means, and a header that fits; as it is where it is none.
    pub fn meant(&self, bytes: &[u8], fds: usize) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        if let Some(head) = bytes.first_chunk_mut::<HEADER>() {
            head[2..4].copy_from_slice(&(fds as u16).to_le_bytes());
            head[4..8].fill(0);
            head[8] |= 1;
        }
        let Ok((header, mut request)) = codec::decode_request(&bytes, fds) else { return bytes };
        match &mut request {
            Request::Grant(it) => self.object(&mut it.object),
            Request::Import(it) => self.token(&mut it.token),
            Request::Release(it) | Request::QueryFence(it) => self.object(it),
            Request::ImportFence(it) | Request::ImportTimeline(it) => self.token(it),
            Request::Acknowledge(it) => self.device(it),
            Request::PromisePoint(it) | Request::QueryPoint(it) | Request::WaitPoint(it) => {
                self.object(&mut it.timeline);
            }
            Request::SubmitPoint(it) => self.object(&mut it.to.timeline),
            Request::AttachFence(it) => {
                self.object(&mut it.fence);
                self.object(&mut it.buffer);
            }
            Request::Inhibit(it) => it.device.iter_mut().for_each(|device| self.device(device)),
            _ => {}
        }
        codec::encode(&request, header.id, fds).unwrap_or(bytes)
    }
}

/// Numbers from 64 on stand for themselves.
fn pick<T: Copy>(from: &[T], number: u64) -> Option<T> {
    let at = usize::try_from(number).ok().filter(|at| *at < 64)?;
    from.get(at.checked_rem(from.len())?).copied()
}
