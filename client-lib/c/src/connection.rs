//! `struct dmashare_connection`

use std::ffi::{c_char, c_int, c_void};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, PoisonError};

use dmashare::{Builder, GuardKind};

use crate::argument::{self, In, Out, Versioned};
use crate::failure::{Failure, call, value};
use crate::handle::{Handle, kinds};
use crate::listener::{Listener, Told};

pub struct Connection {
    pub(crate) connection: dmashare::Connection,
    pub(crate) listener: Mutex<Option<Told>>,
}

kinds! { 1 Connection, "connection"; }

impl Connection {
    pub(crate) fn listener(&self) -> Option<Told> {
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `struct dmashare_connect_options`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ConnectOptions {
    version: u32,
    name: *const c_char,
    patience_ns: i64,
    reconnect: u32,
    reserved: u32,
}

// SAFETY: `#[repr(C)]`, the first a u32, and zeros are a NULL pointer and integers.
unsafe impl Versioned for ConnectOptions {
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}

fn builder(options: &In<ConnectOptions>) -> Result<Builder, Failure> {
    let mut builder = dmashare::Connection::builder();
    if let Some(options) = options.versioned()? {
        if let Some(name) = In::of(options.name).text() {
            let name = name.to_str().map_err(|_| Failure::invalid("the name is not UTF-8"))?;
            builder = builder.name(name);
        }
        builder = builder.reconnect(options.reconnect != 0);
        if options.patience_ns != 0 {
            builder = builder.patience(argument::timeout(options.patience_ns));
        }
    }
    Ok(builder)
}

fn give(
    connected: Result<dmashare::Connection, dmashare::Error>,
    to: &Out<Handle<Connection>>,
) -> Result<c_int, Failure> {
    to.put(Handle::new(Connection { connection: connected?, listener: Mutex::default() })?);
    Ok(0)
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_connect(
    options: In<ConnectOptions>,
    connection: Out<Handle<Connection>>,
) -> c_int {
    call(|| {
        connection.check()?;
        give(builder(&options)?.connect(), &connection)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_connect_to(
    path: In<c_char>,
    options: In<ConnectOptions>,
    connection: Out<Handle<Connection>>,
) -> c_int {
    call(|| {
        connection.check()?;
        let path = path.text().ok_or_else(|| Failure::invalid("the path is NULL"))?;
        let path = std::ffi::OsStr::from_bytes(path.to_bytes());
        give(builder(&options)?.connect_to(path), &connection)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_connect_take_fd(
    socket: c_int,
    options: In<ConnectOptions>,
    connection: Out<Handle<Connection>>,
) -> c_int {
    call(|| {
        connection.check()?;
        let builder = builder(&options)?;
        give(builder.from_fd(argument::take_fd(socket, "the socket")?), &connection)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_connection_destroy(connection: Handle<Connection>) -> c_int {
    call(|| connection.remove().map(|_| 0))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_connection_fd(connection: Handle<Connection>) -> c_int {
    call(|| Ok(connection.get()?.connection.as_fd().as_raw_fd()))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_connection_instance(
    connection: Handle<Connection>,
    instance: Out<[u8; 16]>,
) -> c_int {
    call(|| {
        instance.check()?;
        instance.put(connection.get()?.connection.instance());
        Ok(0)
    })
}

/// `enum dmashare_guard`
pub(crate) fn guard_number(guard: GuardKind) -> c_int {
    match guard {
        GuardKind::Source => 0,
        GuardKind::SwSync => 1,
        GuardKind::Vgem => 2,
        GuardKind::Simulated => 3,
        GuardKind::None => 4,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_connection_guard(connection: Handle<Connection>) -> c_int {
    call(|| Ok(guard_number(connection.get()?.connection.guard_backend())))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_connection_is_closed(connection: Handle<Connection>) -> c_int {
    call(|| Ok(connection.get()?.connection.is_closed().into()))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_connection_set_listener(
    connection: Handle<Connection>,
    listener: In<Listener>,
    data: *mut c_void,
) -> c_int {
    call(|| {
        let told = listener.versioned()?.map(|listener| Told::new(listener, data));
        let connection = connection.get()?;
        *connection.listener.lock().unwrap_or_else(PoisonError::into_inner) = told;
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_dispatch(handle: Handle<Connection>, timeout_ns: i64) -> c_int {
    call(|| {
        let connection = handle.get()?;
        let events = match connection.connection.dispatch(argument::timeout(timeout_ns)) {
            Ok(events) => events,
            Err(error) => {
                let disconnected = error.is_disconnected();
                let failure = Failure::from(error);
                if disconnected {
                    connection.tell_disconnected(handle, -failure.errno);
                }
                return Err(failure);
            }
        };
        let count = c_int::try_from(events.len()).unwrap_or(c_int::MAX);
        for event in events {
            // Looked at anew: a callback may set another listener, or destroy the connection.
            let told = handle.get().ok().and_then(|connection| connection.listener());
            if let Some(told) = told {
                told.tell(handle, &connection.connection, event)?;
            }
        }
        Ok(count)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_version() -> *const c_char {
    value(c"".as_ptr(), || Ok(concat!("1.0.0", "\0").as_ptr().cast()))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_handle_count() -> usize {
    crate::handle::LIVE.load(std::sync::atomic::Ordering::Relaxed)
}
