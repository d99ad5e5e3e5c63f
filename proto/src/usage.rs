//! What users make the broker hold, and how much they may: `Broker1.GetUsage` gives it as JSON.

use serde::{Deserialize, Serialize};

/// The accounts that the caller may see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// All users together; empty unless root asks.
    pub all: Vec<Row>,
    /// Those who have anything: the caller alone, or for root each, by uid.
    pub users: Vec<User>,
}

/// A user's account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Who.
    pub uid: u32,
    /// What they have, with what outlived their connections.
    pub rows: Vec<Row>,
    /// Their connections, by id.
    pub clients: Vec<Client>,
}

/// A connection's account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Its id.
    pub id: u64,
    /// Its process when it connected.
    pub pid: i32,
    /// What it calls itself.
    pub name: String,
    /// What it has.
    pub rows: Vec<Row>,
}

/// One thing that is counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// What: `objects`, `descriptors` and so on.
    pub resource: String,
    /// How much of it is in use.
    pub used: u64,
    /// How much may be; nothing where it is not bounded on this account. Bytes where the resource is.
    pub most: Option<u64>,
    /// The key in the configuration that says so.
    pub limit: Option<String>,
}
