//! Writes to sysfs, for one request.

fn main() {}
