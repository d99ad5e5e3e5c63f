//! What the process says of itself, and `struct dmashare_inhibitor`

use std::ffi::{c_char, c_int};

use dmashare::{DeviceId, InhibitMode, LossPolicy};

use crate::argument::{In, Out};
use crate::connection::Connection;
use crate::failure::{Failure, call, value};
use crate::handle::{Handle, kinds};
use crate::object::handle_functions;

pub struct Inhibitor {
    object: dmashare::Inhibitor,
}

kinds! { 12 Inhibitor, "inhibitor"; }

handle_functions!(
    Inhibitor,
    dmashare_inhibitor_id,
    dmashare_inhibitor_destroy,
    dmashare_inhibitor_release
);

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_declare(
    connection: Handle<Connection>,
    on_loss: u32,
    survives: c_int,
) -> c_int {
    call(|| {
        let on_loss = LossPolicy::ALL
            .get(on_loss as usize)
            .ok_or_else(|| Failure::invalid(format!("{on_loss} is nothing to do on a loss")))?;
        connection.get()?.connection.declare(*on_loss, survives != 0)?;
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_inhibit(
    connection: Handle<Connection>,
    device: u64,
    mode: u32,
    why: In<c_char>,
    inhibitor: Out<Handle<Inhibitor>>,
) -> c_int {
    call(|| {
        inhibitor.check()?;
        let mode = InhibitMode::ALL
            .get(mode as usize)
            .ok_or_else(|| Failure::invalid(format!("{mode} is no way to inhibit")))?;
        let why = why.text().ok_or_else(|| Failure::invalid("the reason is NULL"))?;
        let why = why.to_str().map_err(|_| Failure::invalid("the reason is not UTF-8"))?;
        let device = Some(DeviceId(device)).filter(|device| device.0 != 0);
        let object = connection.get()?.connection.inhibit(device, *mode, why)?;
        inhibitor.put(Handle::new(Inhibitor { object })?);
        Ok(0)
    })
}
