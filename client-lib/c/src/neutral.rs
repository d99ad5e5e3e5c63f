//! `struct dmashare_neutral`

use std::ffi::c_int;

use dmashare::NeutralBuffer;

use crate::argument::Out;
use crate::connection::Connection;
use crate::failure::{call, value};
use crate::handle::{Handle, kinds};
use crate::import::Import;
use crate::object::handle_functions;
use crate::planes::plane_functions;

pub struct Neutral {
    pub(crate) object: NeutralBuffer,
    pub(crate) connection: dmashare::Connection,
}

kinds! { 11 Neutral, "neutral buffer"; }

handle_functions!(Neutral, dmashare_neutral_id, dmashare_neutral_destroy, dmashare_neutral_release);

plane_functions!(
    Neutral,
    dmashare_neutral_layout,
    dmashare_neutral_plane_size,
    dmashare_neutral_needs_cpu_sync,
    dmashare_neutral_with_plane_fd,
    dmashare_neutral_dup_plane_fd,
    dmashare_neutral_map,
    dmashare_neutral_map_range
);

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_allocate(
    connection: Handle<Connection>,
    width: u32,
    height: u32,
    fourcc: u32,
    buffer: Out<Handle<Neutral>>,
) -> c_int {
    call(|| {
        buffer.check()?;
        let connection = connection.get()?.connection.clone();
        let object = connection.allocate(width, height, fourcc)?;
        buffer.put(Handle::new(Neutral { object, connection })?);
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_preserve(import: Handle<Import>, copy: Out<Handle<Neutral>>) -> c_int {
    call(|| {
        copy.check()?;
        let import = import.get()?;
        let object = import.connection.preserve(&import.object)?;
        copy.put(Handle::new(Neutral { object, connection: import.connection.clone() })?);
        Ok(0)
    })
}
