//! What the service counts: the names and meanings of its counters, for the bus and for metrics.

macro_rules! counters {
    ($($(#[doc = $says:literal])* $name:ident = $word:literal,)*) => {
        /// A counter. It only grows, and begins with the service's process.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Counter { $($(#[doc = $says])* $name,)* }

        impl Counter {
            /// All, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name, on the bus and (with `dmashare_` before it and `_total` after it) in metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// What it counts, in a line.
            #[must_use]
            pub fn says(self) -> &'static str {
                match self { $(Self::$name => concat!($($says),*).trim(),)* }
            }
        }
    };
}

counters! {
    /// Connections on which a client said hello.
    ClientsConnected = "clients_connected",
    /// Clients that had not let go of a lost GPU in time.
    ClientsOverdue = "clients_overdue",
    /// Requests of clients that were refused with an error.
    RequestsRefused = "requests_refused",
    /// Buffers that clients exported.
    BuffersExported = "buffers_exported",
    /// Imports of buffers.
    BuffersImported = "buffers_imported",
    /// Neutral buffers that were made.
    BuffersAllocated = "buffers_allocated",
    /// Fences that clients shared.
    FencesShared = "fences_shared",
    /// Imports of fences.
    FencesImported = "fences_imported",
    /// Fences that ended with their work done, points of timelines among them.
    FencesDone = "fences_done",
    /// Fences that ended with an error while their GPU was there: its driver's, a hang, a deadline.
    FencesFailed = "fences_failed",
    /// Timelines that were made.
    TimelinesMade = "timelines_made",
    /// Points of timelines that were submitted with a fence.
    PointsSubmitted = "points_submitted",
    /// Tokens that were given out.
    TokensGranted = "tokens_granted",
    /// GPUs that were pulled.
    DevicesUnplugged = "devices_unplugged",
    /// GPUs that vanished without an event.
    DevicesVanished = "devices_vanished",
    /// GPUs that an eject removed.
    DevicesEjected = "devices_ejected",
    /// GPUs whose loss was rehearsed for all clients.
    DevicesRehearsed = "devices_rehearsed",
    /// Hangs of GPUs that drivers declared.
    DevicesWedged = "devices_wedged",
    /// Buffers that were lost with their GPU.
    BuffersLost = "buffers_lost",
    /// Imports that were taken back, since their GPU was lost.
    ImportsRevoked = "imports_revoked",
    /// Pending fences that were ended, since their GPU was lost.
    FencesLost = "fences_lost",
    /// Ejects that were begun, trials among them.
    EjectsBegun = "ejects_begun",
}

#[cfg(test)]
mod tests {
    use super::Counter;

    #[test]
    fn numbers_are_places_and_names_are_metrics() {
        for (at, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, at);
            let name = counter.name();
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert!(
                Counter::ALL.iter().filter(|other| other.name() == name).count() == 1,
                "{name}"
            );
            assert!(counter.says().ends_with('.') && !counter.says().starts_with(' '));
        }
    }
}
