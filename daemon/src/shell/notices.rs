//! What the reactor tells, for the core.

use super::Shell;
use crate::clock::monotonic_ns;
use crate::reactor::Notice;

impl Shell {
    /// `true` when the reactor has ended and the service has to.
    pub(super) fn notice(&mut self, notice: Notice) -> bool {
        match notice {
            Notice::Ended(fence, state) => {
                self.counters.ended(&state);
                self.event(|broker, out| broker.fence_ended(fence, state, out));
            }
            Notice::Lost(device, sweep) => {
                let now_ns = monotonic_ns();
                // Everyone is told before what there was is noted: that takes the longer the more it was.
                self.event(|broker, out| broker.tell_lost(now_ns, device, &sweep, out));
                self.event(|broker, out| broker.sweep_lost(device, out));
                self.lanes.hurry();
                self.keeper_lost(device);
            }
            Notice::ParentRemoved(device, at_ns) => {
                self.event(|broker, _| broker.parent_removed(device, at_ns));
            }
            Notice::RemovalRequested(device, why) => {
                self.event(|broker, out| broker.removal_requested(device, why, out));
            }
            Notice::Wedged(device, wedge) => {
                self.event(|broker, out| broker.device_wedged(device, &wedge, out));
            }
            Notice::CauseAsked(request) => {
                let ended = self.broker.cause_of(request.uid, request.object, request.point);
                if request.answer.send(ended).is_err() {
                    tracing::debug!("who asked for a cause is gone");
                }
            }
            Notice::ImplicitEnded(device, buffer, at_ns) => {
                self.event(|broker, _| broker.implicit_ended(device, buffer, at_ns));
            }
            Notice::Probed { fence, client, id } => {
                self.event(|broker, out| broker.probed(fence, client, id, out));
            }
            Notice::PromisesEnded(timeline, errno, at_ns) => {
                self.event(|broker, out| broker.promises_ended(timeline, errno, at_ns, out));
            }
            Notice::LineSignalled(timeline, point) => {
                let now_ns = monotonic_ns();
                self.event(|broker, out| broker.point_signalled(now_ns, timeline, point, out));
            }
            Notice::PointProbed { timeline, point, signalled, client, id } => {
                let now_ns = monotonic_ns();
                self.event(|broker, out| {
                    broker.point_probed(now_ns, timeline, point, signalled, (client, id), out);
                });
            }
            Notice::Stopped(result) => {
                match result {
                    Ok(guards) => tracing::info!(guards, "the fence reactor has stopped"),
                    Err(error) => tracing::error!(%error, "the fence reactor has failed"),
                }
                return true;
            }
        }
        false
    }
}
