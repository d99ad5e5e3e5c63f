//! The columns of the two tables, and what they are sorted by.

use std::cmp::Ordering;

use super::rates::Rates;
use crate::model::{Client, Device};

/// Headings of the devices.
pub(super) const DEVICE_COLUMNS: [&str; 11] =
    ["ID", "NAME", "DRIVER", "STATE", "BUF", "IMP", "FEN", "TL", "OLDEST", "BUF/s", "FEN/s"];
/// Headings of the clients.
pub(super) const CLIENT_COLUMNS: [&str; 9] =
    ["ID", "PID", "NAME", "UNIT", "ON LOSS", "BUF", "IMP", "FEN", "TL"];

/// By which column, and which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sort {
    pub(super) column: usize,
    pub(super) reversed: bool,
}

impl Sort {
    pub(super) fn next(&mut self, columns: usize) {
        self.column = (self.column + 1) % columns;
    }

    pub(super) fn before(&mut self, columns: usize) {
        self.column = (self.column + columns - 1) % columns;
    }

    fn order(self, order: Ordering) -> Ordering {
        if self.reversed { order.reverse() } else { order }
    }

    /// Numbers with the largest first, words and ids from the beginning.
    pub(super) fn devices(self, devices: &mut [Device], rates: &Rates) {
        devices.sort_by(|a, b| {
            let rate = |device: &Device| rates.of(device.id);
            let oldest = |device: &Device| rates.last(device.id).map(|it| it.oldest_ns);
            let order = match self.column {
                1 => a.name.cmp(&b.name),
                2 => a.driver.cmp(&b.driver),
                3 => a.state.cmp(&b.state),
                4 => b.counts.buffers.cmp(&a.counts.buffers),
                5 => b.counts.imports.cmp(&a.counts.imports),
                6 => b.counts.fences.cmp(&a.counts.fences),
                7 => b.counts.timelines.cmp(&a.counts.timelines),
                8 => oldest(b).cmp(&oldest(a)),
                9 => rate(b).buffers.total_cmp(&rate(a).buffers),
                10 => rate(b).fences.total_cmp(&rate(a).fences),
                _ => Ordering::Equal,
            };
            self.order(order.then(a.id.cmp(&b.id)))
        });
    }

    pub(super) fn clients(self, clients: &mut [Client]) {
        clients.sort_by(|a, b| {
            let order = match self.column {
                1 => a.pid.cmp(&b.pid),
                2 => a.name.cmp(&b.name),
                3 => a.unit.cmp(&b.unit),
                4 => a.on_loss.cmp(&b.on_loss),
                5 => b.counts.buffers.cmp(&a.counts.buffers),
                6 => b.counts.imports.cmp(&a.counts.imports),
                7 => b.counts.fences.cmp(&a.counts.fences),
                8 => b.counts.timelines.cmp(&a.counts.timelines),
                _ => Ordering::Equal,
            };
            self.order(order.then(a.id.cmp(&b.id)))
        });
    }
}
