//! How many file descriptors there may be: the process's own limit, as it follows from what clients may
//! cost, and what clients may cost, where that limit cannot be had.

use dmashare_proto::limits::MAX_FDS;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::discard;
use crate::config::Limits;
use crate::core::{Kind, Level, Quotas};

/// What the service needs for itself: its sockets, the bus, the devices' nodes, helpers, ejects, and
/// what it looks at for a moment (an unplug's implicit fences are the most of that).
const OWN: u64 = 4096;

/// What a connection may have in hand at one time beyond its quota: a message's descriptors, which are not
/// charged yet, and those that wait to be closed, which are charged whatever the limits; and one by which a full
/// socket is watched.
const IN_HAND: u64 = (discard::MOST + MAX_FDS + 1) as u64;

/// What is kept from clients, of a limit that has `room`: never more than three eighths of it, so that a
/// small limit still serves some.
fn reserve(limits: &Limits, room: u64) -> u64 {
    OWN.min(room / 8) + (u64::from(limits.clients) * IN_HAND).min(room / 4)
}

/// The process's limit under which all that is configured can be held.
fn needed(limits: &Limits) -> u64 {
    u64::from(limits.descriptors) + OWN + u64::from(limits.clients) * IN_HAND
}

/// What clients may have of `room`.
fn share(limits: &Limits, room: u64) -> u64 {
    u64::from(limits.descriptors).min(room.saturating_sub(reserve(limits, room)))
}

/// Raises the process's limit as far as it goes; gives the descriptors that may be held for clients, so
/// that they never bring it to the limit.
pub(super) fn budget(limits: &Limits) -> u64 {
    let needed = needed(limits);
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(both) => both,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files is not known; limits.descriptors is taken to fit");
            return u64::from(limits.descriptors);
        }
    };
    let wanted = hard.min(needed.max(soft));
    let mut room = soft;
    if wanted > soft {
        match setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) {
            Ok(()) => room = wanted,
            Err(error) => tracing::warn!(%error, soft, "the limit of open files cannot be raised"),
        }
    }
    let share = share(limits, room);
    if share < u64::from(limits.descriptors) {
        tracing::warn!(name: "limits-not-met",
            limit = room,
            needed,
            descriptors = share,
            "limits.descriptors = {} cannot be met under a limit of {room} open files: {share} descriptors \
             are held for clients at most. Raise LimitNOFILE to {needed}, or lower limits.descriptors",
            limits.descriptors
        );
    }
    share
}

/// What clients may cost, with the descriptors that there are for all of them.
pub(super) fn quotas(limits: &Limits, descriptors: u64) -> Quotas {
    let n = u64::from;
    Quotas::default()
        .with(Kind::Clients, Level::All, n(limits.clients))
        .with(Kind::Clients, Level::User, n(limits.clients_per_uid))
        .with(Kind::Objects, Level::User, n(limits.objects_per_uid))
        .with(Kind::Objects, Level::Client, n(limits.objects_per_client))
        .with(Kind::Descriptors, Level::All, descriptors)
        .with(Kind::Descriptors, Level::User, n(limits.descriptors_per_uid))
        .with(Kind::Descriptors, Level::Client, n(limits.descriptors_per_client))
        .with(Kind::Tokens, Level::User, n(limits.tokens_per_uid))
        .with(Kind::Tokens, Level::Client, n(limits.tokens_per_client))
        .with(Kind::Fences, Level::User, n(limits.pending_fences_per_uid))
        .with(Kind::Memory, Level::User, n(limits.neutral_mib_per_uid) << 20)
        .with(Kind::Memory, Level::Client, n(limits.neutral_mib_per_client) << 20)
        .with(Kind::QueuedBytes, Level::User, n(limits.queue_kib_per_uid) << 10)
        .with(Kind::QueuedBytes, Level::Client, n(limits.queue_kib_per_client) << 10)
        .with(Kind::QueuedDescriptors, Level::User, n(limits.queue_descriptors_per_uid))
        .with(Kind::QueuedDescriptors, Level::Client, n(limits.queue_descriptors_per_client))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_configured_fits_the_limit_that_is_asked_for() {
        for limits in
            [Limits::default(), Limits { clients: 1, descriptors: 64, ..Limits::default() }]
        {
            assert_eq!(share(&limits, needed(&limits) * 2), u64::from(limits.descriptors));
        }
        // With a limit as asked for, nothing is taken off the default.
        let limits = Limits::default();
        assert_eq!(share(&limits, needed(&limits)), u64::from(limits.descriptors));
    }

    #[test]
    fn the_units_limit_is_enough_for_the_defaults() {
        let unit = include_str!("../../../systemd/dmashared.service");
        let limit = unit.lines().find_map(|line| line.strip_prefix("LimitNOFILE=")).unwrap();
        assert_eq!(limit.parse::<u64>().unwrap(), 524_288);
        assert!(needed(&Limits::default()) <= 524_288, "{}", needed(&Limits::default()));
    }

    #[test]
    fn under_a_small_limit_clients_have_what_leaves_a_reserve() {
        let limits = Limits::default();
        for room in [64, 1024, 20_000, 100_000, 400_000] {
            let left = room - share(&limits, room);
            assert!(left > room / 8, "{left} of {room} are left to the service");
            assert!(share(&limits, room) > room / 2, "clients are served");
        }
    }
}
