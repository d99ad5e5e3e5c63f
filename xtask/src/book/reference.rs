//! References, each made of what it describes: the example of the configuration, the tool's own help, the D-Bus XML, the
//! journal's catalogue, the counters.

use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{cargo, paths};

/// The chapters.
pub const NAMES: &[&str] = &["configuration.md", "commands.md", "dbus.md", "messages.md"];

/// Each with its text.
pub fn all() -> Result<Vec<(&'static str, String)>> {
    let read = |path: &str| {
        fs::read_to_string(paths::root().join(path)).with_context(|| format!("no {path}"))
    };
    let texts = [
        configuration(&read("daemon/src/config/example.toml")?),
        commands()?,
        dbus(&read("daemon/dbus/org.dmashare.Broker1.xml")?)?,
        messages(&read("systemd/dmashare.catalog")?)?,
    ];
    Ok(NAMES.iter().copied().zip(texts).collect())
}

/// It is its own reference: every key with its default and what it means.
fn configuration(example: &str) -> String {
    format!(
        "# Configuration\n\nThis is `example.toml`, which comes with the package: every key there is, with its default. The same is in \
         the manual, dmashared.toml(5).\n\n```toml\n{example}```\n"
    )
}

/// What the tool says of itself.
fn commands() -> Result<String> {
    cargo::build(&["build", "--quiet", "-p", "dmasharectl"])?;
    let help = |arguments: &[&str]| -> Result<String> {
        let output = Command::new(paths::debug()?.join("dmasharectl"))
            .args(arguments)
            .arg("--help")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .context("cannot start dmasharectl")?;
        if !output.status.success() {
            bail!("dmasharectl {} --help: {}", arguments.join(" "), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let whole = help(&[])?;
    let mut text = format!("# Commands\n\n```text\n{whole}```\n");
    let listed = whole.split("\nCommands:\n").nth(1).context("no commands in the help")?;
    let names = listed.lines().take_while(|line| !line.is_empty()).filter_map(|line| {
        // What goes on from the line above is further in.
        let name = line.strip_prefix("  ")?.split(' ').next()?;
        (!name.is_empty() && name != "help").then_some(name)
    });
    for name in names {
        write!(text, "\n## {name}\n\n```text\n{}```\n", help(&[name])?)?;
    }
    Ok(text)
}

/// The interfaces with what their comments say.
fn dbus(xml: &str) -> Result<String> {
    let mut text = String::from(
        "# D-Bus\n\nThe name is `org.dmashare.Broker1`, on the system bus. This is made of the XML that is installed in \
         `/usr/share/dbus-1/interfaces`.\n",
    );
    let (mut said, mut member) = (String::new(), None::<String>);
    let mut rest = xml.split_once("?>").map_or(xml, |(_, rest)| rest);
    while let Some(at) = rest.find('<') {
        rest = &rest[at..];
        if let Some(comment) = rest.strip_prefix("<!--") {
            let (comment, behind) = comment.split_once("-->").context("an open comment")?;
            said = paragraphs(comment);
            rest = behind;
            continue;
        }
        let (tag, behind) = rest.split_once('>').context("an open tag")?;
        rest = behind;
        let attribute = |name: &str| {
            let (_, value) = tag.split_once(&format!(" {name}=\""))?;
            value.split('"').next()
        };
        let word = tag.trim_start_matches('<').split([' ', '/']).next().unwrap_or_default();
        match word {
            "node" => write!(text, "\n{}\n", std::mem::take(&mut said))?,
            "interface" => {
                let name = attribute("name").context("an interface without a name")?;
                write!(text, "\n## {name}\n\n{}\n", std::mem::take(&mut said))?;
            }
            "method" | "signal" | "property" => {
                let name = attribute("name").context("a member without a name")?;
                let of = attribute("type").map(|of| format!(": `{of}`")).unwrap_or_default();
                write!(text, "\n### {name}\n\n*{word}*{of}\n")?;
                member = Some(std::mem::take(&mut said));
            }
            "arg" => {
                let (name, of) =
                    (attribute("name").unwrap_or("–"), attribute("type").unwrap_or("?"));
                let way = attribute("direction").unwrap_or("out");
                write!(text, "\n- {way} `{name}`: `{of}`")?;
            }
            _ => {}
        }
        // Its arguments come first, then what is said of it.
        let ends = ["method", "signal", "property"].contains(&word) && tag.ends_with('/');
        if (ends
            || tag.starts_with("</method")
            || tag.starts_with("</signal")
            || tag.starts_with("</property"))
            && let Some(said) = member.take()
        {
            write!(text, "\n\n{said}\n")?;
        }
    }
    Ok(text)
}

/// As it is set in the XML: names of arguments become code, the rest flows.
fn paragraphs(comment: &str) -> String {
    let mut text = String::new();
    for line in comment.lines().map(str::trim) {
        match line.strip_prefix('@').and_then(|line| line.split_once(':')) {
            Some((name, says)) => text += &format!("\n\n`{name}`:{says}"),
            None if line.is_empty() => text += "\n\n",
            // A table.
            None if line.contains("   ") => text += &format!("\n\n    {line}\n\n"),
            None => {
                text.push(' ');
                text += line;
            }
        }
    }
    // Angle brackets would be taken for HTML.
    text.trim().replace('<', "&lt;")
}

/// The catalogue's entries, by what they are about.
fn messages(catalogue: &str) -> Result<String> {
    let mut text = String::from(
        "# Journal messages\n\nWhat the service tells the journal that somebody may have to act on, by its MESSAGE_ID. `journalctl -x -u \
         dmashared` shows the same beside each line, with what it is about in the place of the words in capitals;\n`journalctl \
         MESSAGE_ID=…` finds all of one kind.\n",
    );
    for entry in catalogue.split("\n-- ").skip(1) {
        let (id, rest) = entry.split_once('\n').context("an entry without a head")?;
        let (head, body) = rest.split_once("\n\n").context("an entry without a text")?;
        let subject = head.lines().find_map(|line| line.strip_prefix("Subject: "));
        let field = |text: &str| text.replace("@DMASHARE_", "").replace('@', "");
        write!(
            text,
            "\n## {}\n\n`{id}`\n\n{}\n",
            field(subject.context("an entry without a subject")?),
            field(body).trim_end()
        )?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_shown_with_its_comments() {
        let xml = "<node><!-- Of it. --><interface name=\"a.B1\"><!-- Do: does.\n @what: which. --><method name=\"Do\">\
                   <arg name=\"what\" type=\"s\" direction=\"in\"/></method><!-- Its age. -->\
                   <property name=\"Age\" type=\"u\" access=\"read\"/></interface></node>";
        let text = dbus(xml).unwrap();
        for part in [
            "## a.B1\n\nOf it.",
            "### Do\n\n*method*\n\n- in `what`: `s`\n\nDo: does.\n\n`what`: which.",
            "### Age\n\n*property*: `u`\n\n\nIts age.",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn every_entry_of_the_catalogue_is_shown() {
        let catalogue = include_str!("../../../systemd/dmashare.catalog");
        let text = messages(catalogue).unwrap();
        assert_eq!(text.matches("\n## ").count(), catalogue.matches("\n-- ").count());
        assert!(!text.contains('@'));
    }
}
