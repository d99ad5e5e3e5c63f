//! What the handles of the broker's objects have in common.

/// The functions that every handle of an object has. `$object` is the field with the library's type.
macro_rules! handle_functions {
    ($type:ty, $id:ident, $destroy:ident, $release:ident) => {
        #[unsafe(no_mangle)]
        pub extern "C" fn $id(handle: Handle<$type>) -> u64 {
            value(0, || Ok(handle.get()?.object.id().0))
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $destroy(handle: Handle<$type>) -> c_int {
            call(|| handle.remove().map(|_| 0))
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $release(handle: Handle<$type>) -> c_int {
            call(|| {
                match handle.into_inner()?.object.release() {
                    // It has mappings; the sentence says so.
                    Err(dmashare::Error::InvalidArgument(text)) => {
                        Err(crate::failure::Failure::new(libc::EBUSY, text))
                    }
                    result => Ok(result.map(|()| 0)?),
                }
            })
        }
    };
}
pub(crate) use handle_functions;

/// Those of an object that always has a device too.
macro_rules! object_functions {
    ($type:ty, $id:ident, $is_lost:ident, $device:ident, $destroy:ident, $release:ident) => {
        crate::object::handle_functions!($type, $id, $destroy, $release);

        #[unsafe(no_mangle)]
        pub extern "C" fn $is_lost(handle: Handle<$type>) -> c_int {
            call(|| Ok(handle.get()?.object.is_lost().into()))
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $device(
            handle: Handle<$type>,
            device: Out<Handle<crate::device::Device>>,
        ) -> c_int {
            call(|| {
                device.check()?;
                let object = handle.get()?;
                device.put(Handle::new(crate::device::Device::bare(object.object.device()))?);
                Ok(0)
            })
        }
    };
}
pub(crate) use object_functions;
