//! The C ABI of [`dmashare`]: `libdmashare.so.1`, built by cargo-c. What it promises is in
//! `include/dmashare.h`, which is written by hand; `prototypes.rs`, made of it, has the compiler say
//! that the functions here are those. `libdmashare.map` gives every symbol its version.
//!
//! | module | has |
//! | --- | --- |
//! | [`handle`] | handles: numbers, looked up in tables, never given out twice |
//! | [`argument`] | what C passes, looked at before it is used |
//! | [`failure`] | negative errno, the sentence for it, and no panic across the border |
//! | the others | one type of handle each |

#![cfg(target_os = "linux")]

mod argument;
mod connection;
mod device;
mod export;
mod failure;
mod fence;
mod handle;
mod import;
mod listener;
mod lost;
mod mapping;
mod object;
#[rustfmt::skip]
mod prototypes;
mod status;
mod timeline;
mod token;
