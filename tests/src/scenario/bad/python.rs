//! The independent client in Python and the Rust library, one way and the other.

use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use dmashare::{Access, Grant, Grantee, Importer, Protection, Token};

use crate::hostile::Bystanders;
use crate::hostile::python::Python;
use crate::{Buffer, Role, World};

const SIDE: u32 = 16;
const BYTE: u8 = 0xa5;

pub(super) fn run(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Egpu)?;
    pair.meanwhile(|| {
        to_python(world).context("from Rust to Python")?;
        from_python(world).context("from Python to Rust")
    })?;
    pair.undisturbed(world)
}

fn to_python(world: &World) -> Result<()> {
    let connection = world.connect("rust")?;
    let buffer = Buffer::make(&world.egpu()?, SIDE, SIDE)?;
    buffer.fill(BYTE)?;
    let planes = [buffer.dma_buf.as_fd()];
    let exported = connection.export(buffer.node.as_fd(), &buffer.layout, &planes)?;
    let grant = Grant { to: Grantee::Anyone, ..Grant::default() };
    let token = connection.grant(&exported, grant)?.to_hex();
    let arguments = ["import", &token, "--read", "8"];
    let mut python = Python::start(&world.socket(), "python", &arguments, &[])?;
    let said = python.says()?;
    ensure!(said["bytes"] == "a5".repeat(8), "it read {said}");
    ensure!(said["usable"] == true, "the state page says otherwise: {said}");
    ensure!(said["buffer"] == exported.id().0, "another buffer: {said}");
    python.tell("release")?;
    ensure!(python.says()?["released"] == said["import"], "it could not release the import");
    ensure!(python.finish()?.success(), "it ended badly");
    exported.release()?;
    Ok(())
}

fn from_python(world: &World) -> Result<()> {
    let connection = world.connect("rust")?;
    let card = world.egpu()?;
    let node = card.primary().to_string_lossy().into_owned();
    let side = SIDE.to_string();
    let mut arguments = vec!["export", "--node", &node, "--width", &side, "--height", &side];
    let memory = if world.is_simulated() { Some(Buffer::make(&card, SIDE, SIDE)?) } else { None };
    let (number, stride);
    let mut fds = Vec::new();
    if let Some(buffer) = &memory {
        buffer.fill(BYTE)?;
        number = std::os::fd::AsRawFd::as_raw_fd(&buffer.dma_buf).to_string();
        stride = buffer.layout.planes[0].stride.to_string();
        arguments.extend(["--fd", &number, "--stride", &stride]);
        fds.push(buffer.dma_buf.as_fd());
    } else {
        arguments.extend(["--fill", "0xa5"]);
    }
    let mut python = Python::start(&world.socket(), "python", &arguments, &fds)?;
    let said = python.says()?;
    let token: Token = said["token"].as_str().context("no token")?.parse()?;
    let import = connection.import(token, Importer::Cpu)?;
    ensure!(said["buffer"] == import.buffer().0, "another buffer: {said}");
    ensure!(import.layout().width == SIDE, "the layout is {:?}", import.layout());
    let memory = import.map(0, Protection::Read)?;
    // The buffer may have room behind its last row.
    let mut bytes = vec![0; (SIDE * SIDE * 4) as usize];
    let bracket = memory.begin(Access::Read)?;
    memory.copy_to_slice(0, &mut bytes)?;
    bracket.end()?;
    ensure!(bytes.iter().all(|&byte| byte == BYTE), "it wrote {:?}", &bytes[..16]);
    python.tell("release")?;
    ensure!(python.says()?["released"] == said["buffer"], "it could not release the buffer");
    ensure!(python.finish()?.success(), "it ended badly");
    drop(memory);
    import.release()?;
    Ok(())
}
