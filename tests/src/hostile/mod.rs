//! Clients that mean no good, or are broken: what the library never does, done by hand; and those
//! beside them, who must not notice.

pub mod bystanders;
pub mod fuse;
pub mod menagerie;
pub mod objects;
pub mod pace;
pub mod python;
pub mod raw;
pub mod service;
mod user;

pub use bystanders::Bystanders;
pub use raw::{Came, Raw, expect};
pub use user::{as_user, new_files_limit};
