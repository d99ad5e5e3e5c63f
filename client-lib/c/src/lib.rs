//! The C ABI of [`dmashare`]: `libdmashare.so.1`, built by cargo-c. What it promises is in
//! `include/dmashare.h`, which is written by hand; `prototypes.rs`, made of it, has the compiler say
//! that the functions here are those. `libdmashare.map` gives every symbol its version.
//!
//! | module | has |
//! | --- | --- |
//! | `handle` | handles: numbers, looked up in tables, never given out twice |
//! | `argument` | what C passes, looked at before it is used |
//! | `failure` | negative errno, the sentence for it, and no panic across the border |
//! | `object`, `planes` | functions that several types of handles have |
//! | the others | one type of handle each |

#![cfg(target_os = "linux")]

mod argument;
mod attach;
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
mod neutral;
mod object;
mod planes;
#[rustfmt::skip]
mod prototypes;
mod standing;
mod status;
mod timeline;
mod token;
