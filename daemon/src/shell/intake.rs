//! A request's file descriptors are looked at here, before the core sees any of it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use dmashare_proto::limits::MAX_PLANES;
use dmashare_proto::message::{Importer, Request};
use dmashare_proto::{ClientId, ErrorCode, Token, WireError};
use dmashare_uapi::sync_file::Status;

use super::{Os, Shell};
use crate::core::{Checked, CheckedFence, CheckedPlane};

/// Turns a request into what the core takes. Descriptors that the core gets are taken out of `fds`;
/// what is left there is for the caller to close.
pub(super) fn check(
    shell: &mut Shell,
    client: ClientId,
    request: Request,
    fds: &mut Vec<OwnedFd>,
) -> Result<Checked<Os>, WireError> {
    let name = request.name();
    let count = fds.len();
    let expect = |wanted: std::ops::RangeInclusive<usize>| {
        if wanted.contains(&count) {
            return Ok(());
        }
        Err(WireError::new(
            ErrorCode::FD_COUNT,
            format!(
                "{name} takes {} to {} file descriptors, not {count}",
                wanted.start(),
                wanted.end()
            ),
        ))
    };
    match request {
        Request::Export(export) => {
            expect(2..=1 + MAX_PLANES)?;
            let node = shell.machine.node(fds[0].as_fd())?;
            let found = fds[1..]
                .iter()
                .map(|fd| shell.machine.dma_buf(fd.as_fd()))
                .collect::<Result<Vec<_>, _>>()?;
            let planes = fds
                .drain(1..)
                .zip(found)
                .map(|(fd, found)| CheckedPlane {
                    fd: Arc::new(fd),
                    inode: found.inode,
                    size: found.size,
                    exporter: found.exporter,
                })
                .collect();
            let grant = export.grant.map(|terms| new_token(shell).map(|token| (terms, token)));
            let grant = grant.transpose()?;
            Ok(Checked::Export { node, layout: export.layout, planes, grant })
        }
        Request::Import(import) => {
            let by = match import.by {
                Importer::Cpu => {
                    expect(0..=0)?;
                    None
                }
                Importer::Device => {
                    expect(1..=1)?;
                    Some(shell.machine.node(fds[0].as_fd())?)
                }
            };
            Ok(Checked::Import { token: import.token, by })
        }
        Request::ShareFence(options) => {
            expect(2..=2)?;
            let node = shell.machine.node(fds[0].as_fd())?;
            let status = shell.machine.source_fence(fds[1].as_fd())?;
            let plan = shell.broker.plan_fence(client, node, options.policy)?;
            let source = fds.remove(1);
            let source = match status {
                Status::Signalled => CheckedFence::Ended(Ok(())),
                Status::Error(errno) => CheckedFence::Ended(Err(errno)),
                Status::Pending if plan.guard => guarded(shell, source)?,
                Status::Pending => CheckedFence::Passed(Arc::new(source)),
            };
            let token = options.grant.map(|_| new_token(shell)).transpose()?;
            Ok(Checked::ShareFence { node, options, source, token })
        }
        Request::Hello(hello) => expect(0..=0).map(|()| Checked::Hello(hello)),
        Request::ListDevices(()) => expect(0..=0).map(|()| Checked::ListDevices),
        Request::Grant(grant) => {
            expect(0..=0)?;
            Ok(Checked::Grant(grant, new_token(shell)?))
        }
        Request::Release(object) => expect(0..=0).map(|()| Checked::Release(object)),
        Request::ImportFence(token) => expect(0..=0).map(|()| Checked::ImportFence(token)),
        Request::QueryFence(fence) => expect(0..=0).map(|()| Checked::QueryFence(fence)),
        Request::Acknowledge(device) => expect(0..=0).map(|()| Checked::Acknowledge(device)),
        Request::CreateTimeline(options) => {
            expect(1..=1)?;
            let node = shell.machine.node(fds[0].as_fd())?;
            let guard = shell.broker.plan_timeline(client, node, options.policy)?;
            Ok(Checked::CreateTimeline { node, options, made: shell.new_timeline(guard)? })
        }
        Request::PromisePoint(at) => expect(0..=0).map(|()| Checked::PromisePoint(at)),
        Request::SubmitPoint(submit) => {
            if count == 0 {
                return Ok(Checked::SubmitPoint { submit, source: None });
            }
            expect(2..=2)?;
            let node = shell.machine.node(fds[0].as_fd())?;
            // One that has ended is taken as it is: the reactor sees it at once.
            shell.machine.source_fence(fds[1].as_fd())?;
            let plan = shell.broker.plan_point(client, node, submit)?;
            let source = fds.remove(1);
            let source = if plan.guard && shell.backend.is_some() {
                guarded(shell, source)?
            } else {
                CheckedFence::Passed(Arc::new(source))
            };
            Ok(Checked::SubmitPoint { submit, source: Some((node, source)) })
        }
        Request::ImportTimeline(token) => expect(0..=0).map(|()| Checked::ImportTimeline(token)),
        Request::QueryPoint(at) => expect(0..=0).map(|()| Checked::QueryPoint(at)),
        Request::WaitPoint(at) => expect(0..=0).map(|()| Checked::WaitPoint(at)),
        Request::AttachFence(attach) => expect(0..=0).map(|()| Checked::AttachFence(attach)),
        Request::Allocate(wanted) => expect(0..=0).map(|()| Checked::Allocate(wanted)),
        Request::Declare(declare) => expect(0..=0).map(|()| Checked::Declare(declare)),
        Request::Inhibit(inhibit) => expect(0..=0).map(|()| Checked::Inhibit(inhibit)),
        _ => Err(WireError::new(ErrorCode::UNKNOWN_MESSAGE, format!("{name} is not served"))),
    }
}

fn new_token(shell: &mut Shell) -> Result<Token, WireError> {
    (shell.tokens.take())
        .map_err(|error| WireError::new(ErrorCode::INTERNAL, format!("no random bytes: {error}")))
}

fn guarded(shell: &Shell, source: OwnedFd) -> Result<CheckedFence<Os>, WireError> {
    let Some(backend) = &shell.backend else {
        return Err(WireError::new(ErrorCode::UNSUPPORTED, "no guard fence can be made here"));
    };
    let guard = backend.make().map_err(|error| {
        WireError::new(ErrorCode::INTERNAL, format!("a guard fence could not be made: {error}"))
            .errno(&error)
    })?;
    Ok(CheckedFence::Guarded {
        source: Arc::new(source),
        guard: Arc::new(guard.fence),
        ender: guard.ender,
        kind: backend.kind(),
    })
}
