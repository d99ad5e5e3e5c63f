//! `[limits]`: what clients may cost.

use std::collections::HashMap;

use super::ConfigError;
use super::keys::{Place, Set};
use super::value;

/// What clients may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Clients at one time.
    pub clients: u32,
    /// Clients of one user at one time.
    pub clients_per_uid: u32,
    /// Buffers, imports, fences, timelines and inhibitors of one client.
    pub objects_per_client: u32,
    /// The same of one user.
    pub objects_per_uid: u32,
    /// Descriptors that the daemon holds for all clients.
    pub descriptors: u32,
    /// Those that it holds for one user.
    pub descriptors_per_uid: u32,
    /// Those that it holds for one client.
    pub descriptors_per_client: u32,
    /// Unused tokens of one client.
    pub tokens_per_client: u32,
    /// Unused tokens of one user.
    pub tokens_per_uid: u32,
    /// Messages that wait for a client to read them, before it is disconnected.
    pub queue_messages: u32,
    /// KiB of them, before it is disconnected.
    pub queue_kib_per_client: u32,
    /// KiB of them for all clients of one user.
    pub queue_kib_per_uid: u32,
    /// Descriptors on their way to a client, before it is disconnected.
    pub queue_descriptors_per_client: u32,
    /// Those on their way to all clients of one user.
    pub queue_descriptors_per_uid: u32,
    /// Pending fences of one user, released or not: each costs descriptors until it ends.
    pub pending_fences_per_uid: u32,
    /// MiB of neutral buffers of one user.
    pub neutral_mib_per_uid: u32,
    /// MiB of neutral buffers that one client made.
    pub neutral_mib_per_client: u32,
    /// Unanswered waits for points, and allocations, of one client. One loss may answer all of them at once, so they
    /// are to fit into its queue.
    pub waits_per_client: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 1024,
            clients_per_uid: 256,
            objects_per_client: 16384,
            objects_per_uid: 65536,
            descriptors: 393_216,
            descriptors_per_uid: 131_072,
            descriptors_per_client: 65536,
            tokens_per_client: 16384,
            tokens_per_uid: 65536,
            queue_messages: 256,
            queue_kib_per_client: 4096,
            queue_kib_per_uid: 65536,
            queue_descriptors_per_client: 2048,
            queue_descriptors_per_uid: 16384,
            pending_fences_per_uid: 16384,
            neutral_mib_per_uid: 512,
            neutral_mib_per_client: 512,
            waits_per_client: 128,
        }
    }
}

/// The most of anything that is counted: beyond it a limit would be none.
const MANY: u32 = 1 << 20;
/// The longest message fits a queue.
const LEAST_QUEUE_KIB: u32 = (dmashare_proto::limits::MAX_MESSAGE / 1024) as u32;
/// So do the most descriptors beside one.
const LEAST_QUEUE_DESCRIPTORS: u32 = dmashare_proto::limits::MAX_FDS as u32;

macro_rules! keys {
    ($($key:ident $least:expr;)*) => {
        /// The keys of the section.
        pub(super) const KEYS: &[(&str, Set)] = &[
            $((stringify!($key), |to, v| {
                value::number(v, $least, MANY).map(|n| to.limits.$key = n)
            }),)*
        ];
    };
}

keys! {
    clients 1;
    clients_per_uid 1;
    objects_per_client 1;
    objects_per_uid 1;
    descriptors 64;
    descriptors_per_uid 16;
    descriptors_per_client 16;
    tokens_per_client 1;
    tokens_per_uid 1;
    queue_messages 1;
    queue_kib_per_client LEAST_QUEUE_KIB;
    queue_kib_per_uid LEAST_QUEUE_KIB;
    queue_descriptors_per_client LEAST_QUEUE_DESCRIPTORS;
    queue_descriptors_per_uid LEAST_QUEUE_DESCRIPTORS;
    neutral_mib_per_client 1;
    neutral_mib_per_uid 1;
    waits_per_client 1;
    pending_fences_per_uid 1;
}

type Field = (&'static str, fn(&mut Limits) -> &mut u32);

/// What is part of what.
const WITHIN: [(Field, Field); 9] = [
    (("clients_per_uid", |it| &mut it.clients_per_uid), ("clients", |it| &mut it.clients)),
    (
        ("objects_per_client", |it| &mut it.objects_per_client),
        ("objects_per_uid", |it| &mut it.objects_per_uid),
    ),
    (
        ("tokens_per_client", |it| &mut it.tokens_per_client),
        ("tokens_per_uid", |it| &mut it.tokens_per_uid),
    ),
    (
        ("descriptors_per_client", |it| &mut it.descriptors_per_client),
        ("descriptors_per_uid", |it| &mut it.descriptors_per_uid),
    ),
    (
        ("descriptors_per_uid", |it| &mut it.descriptors_per_uid),
        ("descriptors", |it| &mut it.descriptors),
    ),
    (
        ("descriptors_per_client", |it| &mut it.descriptors_per_client),
        ("descriptors", |it| &mut it.descriptors),
    ),
    (
        ("neutral_mib_per_client", |it| &mut it.neutral_mib_per_client),
        ("neutral_mib_per_uid", |it| &mut it.neutral_mib_per_uid),
    ),
    (
        ("queue_kib_per_client", |it| &mut it.queue_kib_per_client),
        ("queue_kib_per_uid", |it| &mut it.queue_kib_per_uid),
    ),
    (
        ("queue_descriptors_per_client", |it| &mut it.queue_descriptors_per_client),
        ("queue_descriptors_per_uid", |it| &mut it.queue_descriptors_per_uid),
    ),
];

/// Holds limits against each other. Of two that contradict, one that is written down wins over one that
/// is a default; two that are written down are a mistake.
///
/// # Errors
/// The first two that contradict each other, with the place of the narrower one.
pub(super) fn agree(
    limits: &mut Limits,
    places: &HashMap<String, Place>,
) -> Result<(), ConfigError> {
    let written = |key: &str| places.get(&format!("limits.{key}"));
    // A default that gives way to one side must not do so to the other in the next turn: what is wide
    // and written is looked at first.
    for pass in 0..4 {
        for ((narrow, part), (wide, whole)) in WITHIN {
            let (of_one, of_all) = (*part(limits), *whole(limits));
            if of_one <= of_all {
                continue;
            }
            match (written(narrow), written(wide)) {
                (Some(place), Some(_)) => {
                    let what = format!("{of_one} is beyond limits.{wide} = {of_all}");
                    return Err(place.clone().wrong(format!("limits.{narrow}"), what));
                }
                (None, _) => *part(limits) = of_all,
                (Some(_), None) if pass > 0 => *whole(limits) = of_one,
                (Some(_), None) => {}
            }
        }
    }
    Ok(())
}
