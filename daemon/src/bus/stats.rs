//! `org.dmashare.Stats1`: what the service counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use zbus::interface;

use crate::counters::Counters;

/// The interface.
pub(super) struct Stats(pub(super) Arc<Counters>);

#[interface(name = "org.dmashare.Stats1", introspection_docs = false)]
impl Stats {
    /// Each counter, by its name.
    #[zbus(out_args("counters"))]
    fn get_counters(&self) -> BTreeMap<&'static str, u64> {
        self.0.all().collect()
    }
}
