//! `struct dmashare_import`

use std::ffi::{c_int, c_void};
use std::os::fd::{AsRawFd, IntoRawFd};

use dmashare::{Buffer, ImportedBuffer, Importer};

use crate::argument::{self, In, Out};
use crate::connection::Connection;
use crate::export::{Export, Layout};
use crate::failure::{Failure, call, value};
use crate::fence::{Fence, SharedFence};
use crate::handle::{Handle, kinds};
use crate::mapping::Mapping;
use crate::object::object_functions;
use crate::token::Token;

pub struct Import {
    pub(crate) object: ImportedBuffer,
    pub(crate) connection: dmashare::Connection,
}

kinds! { 5 Import, "imported buffer"; }

object_functions!(
    Import,
    dmashare_import_id,
    dmashare_import_is_lost,
    dmashare_import_device,
    dmashare_import_destroy,
    dmashare_import_release
);

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

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_import_layout(import: Handle<Import>, layout: Out<Layout>) -> c_int {
    call(|| {
        layout.check()?;
        layout.put(import.get()?.object.layout().into());
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_import_plane_size(import: Handle<Import>, plane: u32) -> u64 {
    value(0, || {
        let import = import.get()?;
        import.object.sizes().get(plane as usize).copied().ok_or_else(|| {
            Failure::invalid(format!("import {} has no plane {plane}", import.object.id()))
        })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_import_needs_cpu_sync(import: Handle<Import>) -> c_int {
    call(|| Ok(import.get()?.object.needs_cpu_sync().into()))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_import_with_plane_fd(
    import: Handle<Import>,
    plane: u32,
    with: Option<extern "C" fn(c_int, *mut c_void) -> c_int>,
    data: *mut c_void,
) -> c_int {
    call(|| {
        let with = with.ok_or_else(|| Failure::invalid("the function is NULL"))?;
        let import = import.get()?;
        Ok(import.object.with_plane_fd(plane as usize, |fd| with(fd.as_raw_fd(), data))?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_import_dup_plane_fd(import: Handle<Import>, plane: u32) -> c_int {
    call(|| Ok(import.get()?.object.dup_plane_fd(plane as usize)?.into_raw_fd()))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_import_map(
    import: Handle<Import>,
    plane: u32,
    protection: u32,
    mapping: Out<Handle<Mapping>>,
) -> c_int {
    call(|| {
        mapping.check()?;
        let protection = argument::protection(protection)?;
        let mapped = import.get()?.object.map(plane as usize, protection)?;
        mapping.put(Handle::new(Mapping(mapped))?);
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_import_map_range(
    import: Handle<Import>,
    plane: u32,
    offset: u64,
    size: usize,
    protection: u32,
    mapping: Out<Handle<Mapping>>,
) -> c_int {
    call(|| {
        mapping.check()?;
        let protection = argument::protection(protection)?;
        let mapped = import.get()?.object.map_range(plane as usize, offset, size, protection)?;
        mapping.put(Handle::new(Mapping(mapped))?);
        Ok(0)
    })
}

fn attach(
    (buffer, of_buffer): (&impl Buffer, &dmashare::Connection),
    (fence, of_fence): (&impl dmashare::Fence, &dmashare::Connection),
    access: u32,
) -> Result<c_int, Failure> {
    use std::os::fd::AsFd;
    let access = argument::access(access)?;
    // Both are open, so equal numbers are the same one.
    if of_buffer.as_fd().as_raw_fd() != of_fence.as_fd().as_raw_fd() {
        return Err(Failure::invalid("the buffer and the fence are of different connections"));
    }
    of_buffer.attach(fence, buffer, access)?;
    Ok(0)
}

macro_rules! attach_functions {
    ($($name:ident $buffer:ty, $fence:ty;)*) => { $(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(
            buffer: Handle<$buffer>,
            fence: Handle<$fence>,
            access: u32,
        ) -> c_int {
            call(|| {
                let (buffer, fence) = (buffer.get()?, fence.get()?);
                attach(
                    (&buffer.object, &buffer.connection),
                    (&fence.object, &fence.connection),
                    access,
                )
            })
        }
    )* };
}

attach_functions! {
    dmashare_import_attach Import, Fence;
    dmashare_import_attach_shared Import, SharedFence;
    dmashare_export_attach Export, Fence;
    dmashare_export_attach_shared Export, SharedFence;
}
