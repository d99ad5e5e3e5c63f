//! Writes to sysfs.
