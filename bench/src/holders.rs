//! A look at who holds a node, beside lsof over the same node, on a crowd of processes with a mixed lot of
//! open files. Both are whole programs, from their start to their end.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use dmashare_proto::holders::{Holders, Look, LookFor, Node, Request};
use nix::sys::eventfd::EventFd;
use tempfile::TempDir;

use crate::report::{Finding, Goal, Section};
use crate::turns::{Contestant, take};

/// Processes of the crowd.
const PROCESSES: usize = 500;
/// Open files of each.
const FILES: usize = 100;
/// Files that they have open of those on a disk.
const ON_DISK: usize = 50;
/// One of so many has the node.
const HOLDER: usize = 100;
/// Stands for a card's node: hardly anybody else has it open.
const NODE: &str = "/dev/full";
const NODE_NUMBER: (u64, u64) = (1, 7);

/// One of the crowd: opens what it is to have, a quarter of each kind, says so, and stays until nobody
/// holds its input.
pub fn stand(folder: &Path, with_node: bool) -> Result<()> {
    let mut held = Vec::<OwnedFd>::new();
    if with_node {
        held.push(File::open(NODE)?.into());
    }
    // Its standard descriptors are three.
    for turn in 0.. {
        if held.len() + 3 >= FILES {
            break;
        }
        match turn % 6 {
            0 => held.extend(<[UnixStream; 2]>::from(UnixStream::pair()?).map(OwnedFd::from)),
            1 => {
                let (reader, writer) = io::pipe()?;
                held.extend([OwnedFd::from(reader), OwnedFd::from(writer)]);
            }
            2 | 3 => held.push(EventFd::new()?.into()),
            _ => held.push(File::open(folder.join((turn % ON_DISK).to_string()))?.into()),
        }
    }
    io::stdout().write_all(b".")?;
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// All of them. They end with this value.
struct Crowd {
    _input: io::PipeWriter,
    _folder: TempDir,
    all: Vec<Child>,
    /// Those with the node.
    holders: BTreeSet<i32>,
}

impl Crowd {
    fn gather() -> Result<Self> {
        let folder = TempDir::new()?;
        for file in 0..ON_DISK {
            fs::write(folder.path().join(file.to_string()), "x")?;
        }
        // One pipe for each direction, for all of them.
        let (input, write_input) = io::pipe()?;
        let (mut output, write_output) = io::pipe()?;
        let mut crowd = Self {
            _input: write_input,
            _folder: folder,
            all: Vec::new(),
            holders: BTreeSet::new(),
        };
        for place in 0..PROCESSES {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("stand").arg(crowd._folder.path());
            let with_node = place % HOLDER == 0;
            if with_node {
                command.arg("--with-node");
            }
            let child =
                command.stdin(input.try_clone()?).stdout(write_output.try_clone()?).spawn()?;
            if with_node {
                crowd.holders.insert(child.id().cast_signed());
            }
            crowd.all.push(child);
        }
        drop((input, write_output));
        output.read_exact(&mut vec![0; PROCESSES]).context("one of the crowd has ended")?;
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.all {
            // It fails where one has ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

pub fn measure(rounds: usize) -> Result<Section> {
    let crowd = Crowd::gather()?;
    let request = request()?;
    let found = look(&request)?;
    let pids = found.processes.iter().map(|holder| holder.pid).collect();
    ensure!(crowd.holders.is_subset(&pids), "the look found {pids:?}, and not {:?}", crowd.holders);
    let listed = lsof(&["-nPwt"])?;
    ensure!(listed == pids, "the look found {pids:?}, and lsof {listed:?}");
    let note = format!(
        "{} processes with {} descriptors are looked through; {} have {NODE}.",
        found.looked.processes,
        found.looked.fds,
        pids.len()
    );
    let all = vec![
        Contestant {
            name: "dmashare-holders",
            batch: 1,
            run: Box::new(|_| drop(look(&request).expect("a look"))),
        },
        Contestant {
            name: "lsof -nPwt, the least that it can do",
            batch: 1,
            run: Box::new(|_| drop(lsof(&["-nPwt"]).expect("a list"))),
        },
        Contestant {
            name: "lsof, as it is called",
            batch: 1,
            run: Box::new(|_| drop(lsof(&[]).expect("a list"))),
        },
    ];
    let times = take("Who holds a node", rounds, all);
    let least = times.ratio(1, 0).min(times.ratio(2, 0));
    let finding = Finding::times(
        "a look at who holds a node (as fast)",
        "lsof on the same node",
        least,
        Goal::AtLeast(10.0),
    );
    let plots = vec![times.plot("holders.svg")];
    Ok(Section { tables: vec![times.table()], findings: vec![finding], plots, notes: vec![note] })
}

fn request() -> Result<Vec<u8>> {
    let node = Node { path: NODE.to_owned(), major: NODE_NUMBER.0, minor: NODE_NUMBER.1 };
    let device = LookFor { nodes: vec![node], ..LookFor::default() };
    let mut line = serde_json::to_vec(&Request::Look(Look { device, others: Vec::new() }))?;
    line.push(b'\n');
    Ok(line)
}

/// The program from the same build.
fn program() -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("dmashare-holders"))
}

fn look(request: &[u8]) -> Result<Holders> {
    let program = program()?;
    let mut child = Command::new(&program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| program.display().to_string())?;
    child.stdin.take().context("its input")?.write_all(request)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{}: {}", program.display(), output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The processes that it names, where it is told to name nothing else.
fn lsof(options: &[&str]) -> Result<BTreeSet<i32>> {
    let output = Command::new("lsof").args(options).arg(NODE).stderr(Stdio::null()).output();
    let output = match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("there is no lsof to be measured beside: install the package lsof")
        }
        output => output?,
    };
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(lines.lines().filter_map(|line| line.parse().ok()).collect())
}
