//! What `dmasharectl` is made of: the rendering of unplug reports (also used by the demo), the view
//! of the broker on D-Bus, and the doctor. The binary only parses arguments and prints.

pub mod bus;
pub mod doctor;
pub mod failure;
pub mod json;
pub mod model;
pub mod rehearse;
pub mod render;
pub mod select;
