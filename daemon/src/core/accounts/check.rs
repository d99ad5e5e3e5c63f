//! What the model holds the accounts against: they are what the tables come to.

use dmashare_proto::message::GuardKind;

use super::{Kind, cost};
#[cfg(test)]
use super::{Level, Quotas};
use crate::core::buffers::Cost;
use crate::core::inhibit::Holder;
use crate::core::{Allocation, Broker, Handles};

/// Small, so that each is reached.
#[cfg(test)]
pub(in crate::core) fn quotas() -> Quotas {
    Quotas::default()
        .with(Kind::Clients, Level::All, 8)
        .with(Kind::Clients, Level::User, 6)
        .with(Kind::Objects, Level::User, 40)
        .with(Kind::Objects, Level::Client, 12)
        .with(Kind::Descriptors, Level::All, 140)
        .with(Kind::Descriptors, Level::User, 90)
        .with(Kind::Descriptors, Level::Client, 35)
        .with(Kind::Tokens, Level::User, 20)
        .with(Kind::Tokens, Level::Client, 6)
        .with(Kind::Fences, Level::User, 20)
        .with(Kind::Memory, Level::User, 4 << 20)
        .with(Kind::Memory, Level::Client, 3 << 20)
}

fn descriptors<H: Handles>(broker: &Broker<H>) -> u64 {
    let planes = |neutral: bool, planes: usize| if neutral { cost::NEUTRAL } else { planes as u64 };
    let buffers = broker.buffers.values();
    let buffers: u64 = buffers.map(|it| planes(it.device.is_none(), it.planes.len())).sum();
    let pending = broker.fences.values().filter(|fence| fence.pending.is_some());
    let pending = pending.map(|fence| match fence.guard {
        GuardKind::Source | GuardKind::None => cost::PASSED,
        _ => cost::GUARDED,
    });
    let timelines = broker.timelines.values();
    let timelines: u64 = timelines.map(|it| cost::TIMELINE + it.watched.len() as u64).sum();
    let by_bus = broker.inhibitors.values();
    let by_bus = by_bus.filter(|held| matches!(held.holder, Holder::Bus(..))).count() as u64;
    let clients = broker.clients.len() as u64;
    clients * cost::CONNECTION + buffers + pending.sum::<u64>() + timelines + by_bus
}

/// The accounts are what the tables and the allocations under way come to, and nobody is over a limit.
pub(in crate::core) fn agree<H: Handles>(broker: &Broker<H>, coming: &[Allocation]) {
    let all = broker.accounts.all();
    let objects = broker.clients.values().map(|client| client.objects.len());
    let neutral = broker.buffers.values().filter(|buffer| buffer.device.is_none());
    let neutral = neutral.map(|buffer| match &buffer.cost {
        Cost::Neutral([bytes, _]) => bytes.of().1,
        Cost::Exported(_) => 0,
    });
    let coming_bytes = coming.iter().map(|it| it.size);
    let pending = broker.fences.values().filter(|fence| fence.pending.is_some());
    for (kind, there) in [
        (Kind::Clients, broker.clients.len() as u64),
        (Kind::Objects, objects.sum::<usize>() as u64),
        (Kind::Descriptors, descriptors(broker) + coming.len() as u64 * cost::NEUTRAL),
        (Kind::Tokens, broker.tokens.count() as u64),
        (Kind::Fences, pending.count() as u64),
        (Kind::Memory, neutral.chain(coming_bytes).sum()),
    ] {
        assert_eq!(all.used(kind), there, "I1 {} on the accounts", kind.name());
    }
    let users = broker.accounts.users();
    let clients = broker.clients.values().map(|client| &client.account);
    let accounts = clients.chain(users.iter().map(|(_, account)| account)).chain([all]);
    for account in accounts {
        for kind in Kind::ALL {
            assert!(account.may(kind, 0).is_ok(), "I8: {} of {account:?}", kind.name());
        }
    }
    for kind in Kind::ALL {
        let sum: u64 = users.iter().map(|(_, account)| account.used(kind)).sum();
        assert_eq!(sum, all.used(kind), "each {} is somebody's", kind.name());
    }
    for client in broker.clients.values() {
        assert_eq!(client.account.used(Kind::Objects), client.objects.len() as u64);
    }
}

/// Everyone has left and everything has ended: nothing is on any account.
pub(in crate::core) fn settled<H: Handles>(broker: &Broker<H>) {
    agree(broker, &[]);
    for kind in Kind::ALL {
        assert_eq!(broker.accounts.all().used(kind), 0, "{} are left", kind.name());
    }
    assert!(broker.accounts.users().is_empty(), "nobody has an account who has nothing");
}
