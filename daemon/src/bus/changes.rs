//! Property changes: one signal an update, with what really changed.

use std::borrow::Cow;
use std::collections::HashMap;

use zbus::fdo::Properties;
use zbus::names::InterfaceName;
use zbus::object_server::{Interface, InterfaceRef};
use zbus::zvariant::Value;

/// New values by property name.
pub(super) type Changes = HashMap<&'static str, Value<'static>>;

/// The properties of which `$old` and `$new` give different values.
macro_rules! changes {
    ($old:expr, $new:expr, { $($name:literal: $getter:ident,)* }) => {{
        let (old, new) = ($old, $new);
        let mut changes = $crate::bus::changes::Changes::new();
        $(
            let value = new.$getter();
            if old.$getter() != value {
                changes.insert($name, value.into());
            }
        )*
        changes
    }};
}
pub(super) use changes;

/// Puts a new state in the place of an object's, and tells what changed.
pub(super) async fn replace<I: Interface>(
    object: &InterfaceRef<I>,
    new: I,
    changes: fn(&I, &I) -> Changes,
) -> zbus::Result<()> {
    let changed = {
        let mut here = object.get_mut().await;
        let changed = changes(&here, &new);
        *here = new;
        changed
    };
    tell(object, changed).await
}

/// Tells what changed of an object.
pub(super) async fn tell<I: Interface>(
    object: &InterfaceRef<I>,
    changed: Changes,
) -> zbus::Result<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let name: InterfaceName<'_> = I::name();
    Properties::properties_changed(object.signal_emitter(), name, changed, Cow::Borrowed(&[])).await
}
