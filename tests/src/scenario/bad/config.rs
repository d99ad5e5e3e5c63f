//! A configuration that is wrong: the service says file, line and key, and does not start.

use std::fs;

use anyhow::{Context, Result, ensure};
use dmashare_proto::ErrorCode;

use crate::Role;
use crate::World;
use crate::hostile::service::Service;
use crate::hostile::{Bystanders, Raw, expect};
use crate::scenario::figures::show;

/// EX_CONFIG of sysexits.h.
const EX_CONFIG: i32 = 78;
const NO_BUS: &str = "unix:path=/nonexistent/bus";

struct Wrong {
    what: &'static str,
    text: &'static str,
    line: u32,
    words: &'static [&'static str],
}

const WRONG: &[Wrong] = &[
    Wrong {
        what: "an unknown key",
        text: "[broker]\nack_timeout_ms = 100\nover_due = \"kill\"\n",
        line: 3,
        words: &["broker.over_due", "no such key", "overdue"],
    },
    Wrong {
        what: "an unknown section",
        text: "# nothing\n\n[brooker]\n",
        line: 3,
        words: &["brooker", "no such section"],
    },
    Wrong {
        what: "text for a number",
        text: "[limits]\nclients = \"many\"\n",
        line: 2,
        words: &["limits.clients"],
    },
    Wrong {
        what: "a number for text",
        text: "[broker]\noverdue = 3\n",
        line: 2,
        words: &["broker.overdue"],
    },
    Wrong {
        what: "another word",
        text: "[broker]\n\noverdue = \"forgive\"\n",
        line: 3,
        words: &["broker.overdue", "report", "disconnect", "kill"],
    },
    Wrong {
        what: "too little",
        text: "[limits]\nclients_per_uid = 0\n",
        line: 2,
        words: &["limits.clients_per_uid"],
    },
    Wrong {
        what: "too much",
        text: "[broker]\nack_timeout_ms = 999999999\n",
        line: 2,
        words: &["broker.ack_timeout_ms"],
    },
    Wrong {
        what: "less than nothing",
        text: "[fence]\ndeadline_ms = -1\n",
        line: 2,
        words: &["fence.deadline_ms"],
    },
    Wrong { what: "no TOML", text: "[broker]\nsocket = \n", line: 2, words: &[] },
    Wrong {
        what: "a key twice",
        text: "[log]\nlevel = \"info\"\nlevel = \"warn\"\n",
        line: 3,
        words: &[],
    },
    Wrong {
        what: "a device without a name",
        text: "[[device]]\nremovable = true\n",
        line: 1,
        words: &["device.match", "missing"],
    },
];

pub(super) fn run(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Egpu)?;
    pair.meanwhile(|| {
        for wrong in WRONG {
            for name in ["dmashared.toml", "dmashared.conf.d/50-wrong.toml"] {
                refused(world, name, wrong).with_context(|| format!("{} in {name}", wrong.what))?;
            }
        }
        show(format_args!("{} mistakes, each in two places", WRONG.len()));
        missing(world)?;
        drop_in(world)
    })?;
    pair.undisturbed(world)
}

fn refused(world: &World, name: &str, wrong: &Wrong) -> Result<()> {
    let mut service = Service::new(world, world.is_simulated())?;
    fs::create_dir_all(service.path("dmashared.conf.d"))?;
    let file = service.path(name);
    fs::write(&file, wrong.text)?;
    let status = service.run(NO_BUS)?;
    let log = service.log();
    ensure!(status.code() == Some(EX_CONFIG), "it ended with {status}:\n{log}");
    let place = format!("{}:{}: ", file.display(), wrong.line);
    for word in wrong.words.iter().chain([&place.as_str()]) {
        ensure!(log.contains(word), "it does not say {word:?}:\n{log}");
    }
    ensure!(!service.socket().exists(), "it has made its socket");
    Ok(())
}

/// A file that was named and is not there.
fn missing(world: &World) -> Result<()> {
    let mut service = Service::new(world, world.is_simulated())?;
    fs::remove_file(service.path("dmashared.toml"))?;
    let status = service.run(NO_BUS)?;
    ensure!(status.code() == Some(EX_CONFIG), "it ended with {status}");
    ensure!(service.log().contains("dmashared.toml"), "it does not say which:\n{}", service.log());
    Ok(())
}

/// A good drop-in is honoured, and the last one wins.
fn drop_in(world: &World) -> Result<()> {
    let mut service = Service::new(world, world.is_simulated())?;
    let folder = service.path("dmashared.conf.d");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("10-a.toml"), "[limits]\nclients_per_uid = 1\n")?;
    fs::write(folder.join("20-b.toml"), "[limits]\nclients_per_uid = 2\n")?;
    fs::write(folder.join("30-c.ini"), "[limits]\nclients_per_uid = 3\n")?;
    service.start(NO_BUS)?;
    let kept = [Raw::hello(&service.socket(), "one")?, Raw::hello(&service.socket(), "two")?];
    let error = Raw::connect(&service.socket())?.end()?.context("refused without a word")?;
    expect(&error, ErrorCode::OVER_QUOTA, &["limits.clients_per_uid = 2"])?;
    drop(kept);
    service.stop()
}
