//! What a `[[driver]]` of the configuration says.

/// What a driver does when its device is removed while somebody has it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhileOpen {
    /// It lets go: whoever has a node open keeps a descriptor that only gives errors.
    LetsGo,
    /// The removal waits until nobody has the device open, or is unsafe until then.
    Blocks,
}

impl WhileOpen {
    /// The word in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LetsGo => "lets-go",
            Self::Blocks => "blocks",
        }
    }
}

/// What the configuration says about a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverOverride {
    /// Its name in sysfs.
    pub name: String,
    /// What it does.
    pub open: WhileOpen,
}
