//! Property changes: one signal an update, with what really changed.

use std::borrow::Cow;
use std::collections::HashMap;

use zbus::fdo::Properties;
use zbus::names::InterfaceName;
use zbus::object_server::{Interface, InterfaceRef};
use zbus::zvariant::Value;

/// What changed of an object.
#[derive(Default)]
pub(super) struct Changes {
    /// New values by property name.
    pub(super) values: HashMap<&'static str, Value<'static>>,
    /// Properties whose values not everybody may see.
    pub(super) hidden: Vec<&'static str>,
}

/// The properties of which `$old` and `$new` give different values; those after `hidden` without the values.
macro_rules! changes {
    (
        $old:expr, $new:expr, { $($name:literal: $getter:ident,)* }
        $(, hidden $old_view:expr, $new_view:expr, { $($hidden:literal: $field:ident $(. $more:ident)*,)* })?
    ) => {{
        let (old, new) = ($old, $new);
        let mut changes = $crate::bus::changes::Changes::default();
        $(
            let value = new.$getter();
            if old.$getter() != value {
                changes.values.insert($name, value.into());
            }
        )*
        $($(
            if $old_view.$field$(.$more)* != $new_view.$field$(.$more)* {
                changes.hidden.push($hidden);
            }
        )*)?
        _ = (old, new);
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
    let Changes { values, hidden } = changed;
    if values.is_empty() && hidden.is_empty() {
        return Ok(());
    }
    let name: InterfaceName<'_> = I::name();
    Properties::properties_changed(object.signal_emitter(), name, values, Cow::Owned(hidden)).await
}
