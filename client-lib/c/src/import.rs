//! `struct dmashare_import`

use std::ffi::c_int;

use dmashare::{ImportedBuffer, Importer};

use crate::argument::{self, In, Out};
use crate::connection::Connection;
use crate::device::Device;
use crate::failure::{Failure, call, value};
use crate::handle::{Handle, kinds};
use crate::object::handle_functions;
use crate::planes::plane_functions;
use crate::token::Token;

pub struct Import {
    pub(crate) object: ImportedBuffer,
    pub(crate) connection: dmashare::Connection,
}

kinds! { 5 Import, "imported buffer"; }

handle_functions!(Import, dmashare_import_id, dmashare_import_destroy, dmashare_import_release);

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_import_is_lost(import: Handle<Import>) -> c_int {
    call(|| Ok(import.get()?.object.is_lost().into()))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_import_device(
    import: Handle<Import>,
    device: Out<Handle<Device>>,
) -> c_int {
    call(|| {
        device.check()?;
        let import = import.get()?;
        let known = import.object.device().ok_or_else(|| {
            Failure::new(libc::ENOENT, "the buffer is a neutral one, which belongs to no device")
        })?;
        device.put(Handle::new(Device::bare(known))?);
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_import_buffer(
    connection: Handle<Connection>,
    token: In<Token>,
    node: c_int,
    import: Out<Handle<Import>>,
) -> c_int {
    call(|| {
        import.check()?;
        let token = Token::read(&token)?;
        let by = match node {
            -1 => Importer::Cpu,
            node => Importer::Device(argument::fd(node, "the DRM node")?),
        };
        let connection = connection.get()?.connection.clone();
        let object = connection.import(token, by)?;
        import.put(Handle::new(Import { object, connection })?);
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_import_buffer_id(import: Handle<Import>) -> u64 {
    value(0, || Ok(import.get()?.object.buffer().0))
}

plane_functions!(
    Import,
    dmashare_import_layout,
    dmashare_import_plane_size,
    dmashare_import_needs_cpu_sync,
    dmashare_import_with_plane_fd,
    dmashare_import_dup_plane_fd,
    dmashare_import_map,
    dmashare_import_map_range
);

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_import_preserve_on_request(
    import: Handle<Import>,
    preserve: c_int,
) -> c_int {
    call(|| {
        import.get()?.object.preserve_on_request(preserve != 0);
        Ok(0)
    })
}
