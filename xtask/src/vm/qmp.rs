//! QEMU's control channel: JSON commands and answers, a line each.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// QEMU answers within milliseconds; it is given this long.
const BOUND: Duration = Duration::from_secs(60);

/// The connection.
pub struct Qmp {
    to: UnixStream,
    from: BufReader<UnixStream>,
}

impl Qmp {
    /// Reads the greeting and leaves the negotiation mode.
    pub fn new(socket: UnixStream) -> Result<Self> {
        socket.set_read_timeout(Some(BOUND))?;
        let mut qmp = Self { from: BufReader::new(socket.try_clone()?), to: socket };
        qmp.read().context("no greeting from QEMU")?;
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// One command; events that come in between are passed over.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.to
            .write_all(format!("{request}\n").as_bytes())
            .with_context(|| format!("cannot send {command} to QEMU"))?;
        loop {
            let mut answer = self.read().with_context(|| format!("no answer to {command}"))?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU: {command}: {}", error["desc"].as_str().unwrap_or("refused"));
            }
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            bail!("QEMU has ended");
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// What the guest's programs can ask for. Neither can be undone in this boot.
    pub fn perform(&mut self, request: &str) -> Result<()> {
        match request {
            // The port's button is pressed; the guest takes the card down in its own time.
            "hotunplug egpu" => self.execute("device_del", &json!({ "id": "egpu-switch" })),
            // No event at all: its configuration space reads all ones.
            "vanish egpu" => self.execute(
                "qom-set",
                &json!({ "path": "/machine/peripheral/egpu", "property": "realized", "value": false }),
            ),
            _ => bail!("unknown request {request:?}: hotunplug egpu, vanish egpu"),
        }
        .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_passed_over_and_errors_told() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let said = [
            r#"{"QMP": {"capabilities": []}}"#,
            r#"{"return": {}}"#,
            r#"{"event": "RTC_CHANGE", "data": {}}"#,
            r#"{"return": 5}"#,
            r#"{"error": {"class": "GenericError", "desc": "no such device"}}"#,
            "",
        ];
        theirs.write_all(said.join("\n").as_bytes()).unwrap();
        let mut qmp = Qmp::new(ours).unwrap();
        assert_eq!(qmp.execute("query", &json!({})).unwrap(), json!(5));
        let error = qmp.perform("hotunplug egpu").unwrap_err();
        assert_eq!(error.to_string(), "QEMU: device_del: no such device");
        assert!(qmp.perform("hotunplug moon").is_err());
    }
}
