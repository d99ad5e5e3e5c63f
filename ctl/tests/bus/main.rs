//! The tool against stand-ins for the service and for a desktop, on buses of their own.

mod common;
mod eject;
mod holders;
mod manual;
mod notify;
mod screen;
mod shows;
mod watch;
