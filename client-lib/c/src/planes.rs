//! What imported and neutral buffers have in common: planes.

macro_rules! plane_functions {
    (
        $type:ty, $layout:ident, $size:ident, $needs_cpu_sync:ident, $with_fd:ident, $dup_fd:ident,
        $map:ident, $map_range:ident
    ) => {
        #[unsafe(no_mangle)]
        pub extern "C" fn $layout(
            buffer: Handle<$type>,
            layout: Out<crate::export::Layout>,
        ) -> c_int {
            call(|| {
                layout.check()?;
                layout.put(buffer.get()?.object.layout().into());
                Ok(0)
            })
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $size(buffer: Handle<$type>, plane: u32) -> u64 {
            value(0, || {
                let buffer = buffer.get()?;
                buffer.object.sizes().get(plane as usize).copied().ok_or_else(|| {
                    let id = buffer.object.id();
                    crate::failure::Failure::invalid(format!("buffer {id} has no plane {plane}"))
                })
            })
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $needs_cpu_sync(buffer: Handle<$type>) -> c_int {
            call(|| Ok(buffer.get()?.object.needs_cpu_sync().into()))
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $with_fd(
            buffer: Handle<$type>,
            plane: u32,
            with: Option<extern "C" fn(c_int, *mut std::ffi::c_void) -> c_int>,
            data: *mut std::ffi::c_void,
        ) -> c_int {
            use std::os::fd::AsRawFd;
            call(|| {
                let with =
                    with.ok_or_else(|| crate::failure::Failure::invalid("the function is NULL"))?;
                let buffer = buffer.get()?;
                Ok(buffer.object.with_plane_fd(plane as usize, |fd| with(fd.as_raw_fd(), data))?)
            })
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $dup_fd(buffer: Handle<$type>, plane: u32) -> c_int {
            use std::os::fd::IntoRawFd;
            call(|| Ok(buffer.get()?.object.dup_plane_fd(plane as usize)?.into_raw_fd()))
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $map(
            buffer: Handle<$type>,
            plane: u32,
            protection: u32,
            mapping: Out<Handle<crate::mapping::Mapping>>,
        ) -> c_int {
            call(|| {
                mapping.check()?;
                let protection = crate::argument::protection(protection)?;
                let mapped = buffer.get()?.object.map(plane as usize, protection)?;
                mapping.put(Handle::new(crate::mapping::Mapping(mapped))?);
                Ok(0)
            })
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $map_range(
            buffer: Handle<$type>,
            plane: u32,
            offset: u64,
            size: usize,
            protection: u32,
            mapping: Out<Handle<crate::mapping::Mapping>>,
        ) -> c_int {
            call(|| {
                mapping.check()?;
                let protection = crate::argument::protection(protection)?;
                let buffer = buffer.get()?;
                let mapped = buffer.object.map_range(plane as usize, offset, size, protection)?;
                mapping.put(Handle::new(crate::mapping::Mapping(mapped))?);
                Ok(0)
            })
        }
    };
}
pub(crate) use plane_functions;
