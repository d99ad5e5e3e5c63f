//! The same as a picture.

use dmashare_proto::report::Step;
use dmasharectl::render::{Lane, TimelinePicture, Tone, timeline_svg};

use super::measured::Measured;
use super::story::moments;

/// The whole SVG document.
#[must_use]
pub fn svg(of: &Measured) -> String {
    let mut picture = TimelinePicture::from_report(&of.report);
    // The two processes say more of themselves than the broker can of its clients.
    picture.lanes.retain(|lane| lane.name != "clients");
    for who in ["producer", "consumer"] {
        // What lasts is a bar.
        let begins = of.sharing.since_ns;
        let seen = moments(of).into_iter().filter(|it| it.who == who && it.at_ns != begins);
        let lane = seen.fold(Lane::new(who), |lane, moment| {
            lane.mark(of.us(moment.at_ns), moment.what, moment.tone)
        });
        picture.lanes.push(lane);
    }
    let acknowledged = of.report.at(Step::Acknowledged);
    if let Some(consumer) = picture.lanes.last_mut() {
        let us = |at_ns| of.us(at_ns);
        let wait = format!("waits on the guard of frame {}", of.sharing.waits_for);
        let shown = format!("its screen shows frame {}", of.sharing.good);
        *consumer = std::mem::take(consumer)
            .span(us(of.sharing.since_ns), us(of.consumer.awake_ns), wait, Tone::Bad)
            .mark(acknowledged.map_or(0.0, us), "acknowledged", Tone::Good)
            .span(us(of.sharing.last_ns), us(of.consumer.screen.refused_ns), shown, Tone::Good);
    }
    let bystander = &of.bystander;
    let (since, gave_up) = (of.us(bystander.since_ns), of.us(bystander.gave_up_ns));
    let end = if bystander.pending { "still pending" } else { "ended" };
    let wait = format!("waits on the fence of frame {} itself: {end}", of.sharing.waits_for);
    let lane = Lane::new("without dmashare").span(since, gave_up, wait, Tone::Bad);
    picture.lanes.push(lane.mark(gave_up, "gives up; told nothing", Tone::Bad));
    timeline_svg(&picture)
}
