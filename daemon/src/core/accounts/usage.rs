//! What is shown of the accounts, and to whom.

use dmashare_proto::usage::{Client, Usage, User};

use crate::core::{Broker, Handles};

impl<H: Handles> Broker<H> {
    /// A user's own account; for root, everybody's.
    #[must_use]
    pub fn usage(&self, asker: u32) -> Usage {
        let is_root = asker == 0;
        let users = self.accounts.users().into_iter();
        let users = users.filter(|&(uid, _)| is_root || uid == asker);
        let users = users.map(|(uid, account)| {
            let mine = self.clients.iter().filter(|(_, client)| client.creds.uid == uid);
            let clients = mine.map(|(id, client)| Client {
                id: id.0,
                pid: client.creds.pid,
                name: client.name.clone(),
                rows: client.account.rows(),
            });
            User { uid, rows: account.rows(), clients: clients.collect() }
        });
        let all = if is_root { self.accounts.all().rows() } else { Vec::new() };
        Usage { all, users: users.collect() }
    }
}
