use super::*;
use crate::render::picture::Tone;
use crate::render::sample::report;
use crate::render::text::micros;

fn parsed(svg: &str) -> roxmltree::Document<'_> {
    roxmltree::Document::parse(svg).unwrap_or_else(|error| panic!("{error}\n{svg}"))
}

fn text_of(node: &roxmltree::Node<'_, '_>) -> String {
    node.descendants().filter(|child| child.is_text()).filter_map(|child| child.text()).collect()
}

/// What the demo makes of it.
fn full() -> TimelinePicture {
    let mut picture = TimelinePicture::from_report(&report());
    picture.lanes.push(
        Lane::new("producer")
            .mark(-16_600.0, "frame 89", Tone::Plain)
            .mark(-120.0, "frame 90 submitted", Tone::Plain)
            .mark(410.0, "told: device lost", Tone::Bad),
    );
    picture.lanes.push(
        Lane::new("consumer")
            .span(-9_000.0, 131.0, "waits on the guard fence", Tone::Plain)
            .mark(131.0, "fence: ENODEV", Tone::Bad)
            .mark(180.0, "mapping is zeros", Tone::Good)
            .mark(260.0, "acknowledged", Tone::Good),
    );
    picture
}

#[test]
fn it_is_well_formed_and_shows_every_mark() {
    let picture = full();
    let svg = timeline_svg(&picture);
    let document = parsed(&svg);
    let texts: Vec<String> = document
        .descendants()
        .filter(|node| node.has_tag_name("text"))
        .map(|node| text_of(&node))
        .collect();
    for mark in picture.lanes.iter().flat_map(|lane| &lane.marks) {
        let expected = format!("{} {}", mark.label, micros(mark.at_us));
        assert!(texts.contains(&expected), "{expected:?} is not in {texts:?}");
    }
    if let Some(path) = std::env::var_os("DMASHARE_SVG_OUT") {
        std::fs::write(path, &svg).unwrap();
    }
}

#[test]
fn it_refers_to_nothing_outside() {
    let svg = timeline_svg(&full());
    assert!(!svg.contains("href") && !svg.contains("url(") && !svg.contains("@import"));
    assert_eq!(svg.matches("http").count(), 1, "only the namespace");
}

#[test]
fn hostile_names_are_text() {
    let evil = "<script>alert(1)</script>\"'&\0\x1b[31m\u{202e}\u{fffe}]]>";
    let mut report = report();
    report.name = evil.to_owned();
    report.driver = evil.to_owned();
    report.implicit[0].timeline = evil.to_owned();
    let mut picture = TimelinePicture::from_report(&report);
    picture.subtitle = evil.to_owned();
    picture.lanes.push(Lane::new(evil).mark(3.0, evil, Tone::Bad).span(0.0, 9.0, evil, Tone::Warn));
    let svg = timeline_svg(&picture);
    let document = parsed(&svg);
    assert!(!document.descendants().any(|node| node.has_tag_name("script")));
    assert!(svg.chars().all(|ch| ch == '\n' || !ch.is_control()));
}

#[test]
fn every_text_is_inside_the_picture() {
    let long = "an uncommonly long label that somebody wrote without thinking of pictures";
    let mut picture = full();
    picture.lanes.push(
        Lane::new(long).mark(61_204.0, long, Tone::Plain).mark(61_204.0, long, Tone::Plain).span(
            60_000.0,
            61_000.0,
            long,
            Tone::Plain,
        ),
    );
    let svg = timeline_svg(&picture);
    for node in parsed(&svg).descendants().filter(|node| node.has_tag_name("text")) {
        let text: String = text_of(&node);
        let x: f64 = node.attribute("x").unwrap().parse().unwrap();
        if node.attribute("text-anchor").is_none() && node.attribute("class") != Some("soft") {
            assert!(x + text_width(&text) <= WIDTH, "{text:?} ends at {}", x + text_width(&text));
        }
    }
}

#[test]
fn odd_pictures_are_drawn() {
    for picture in [
        TimelinePicture::default(),
        TimelinePicture {
            lanes: vec![Lane::new("x").mark(f64::NAN, "a", Tone::Bad).span(
                f64::INFINITY,
                f64::NEG_INFINITY,
                "b",
                Tone::Good,
            )],
            ..TimelinePicture::default()
        },
    ] {
        let svg = timeline_svg(&picture);
        parsed(&svg);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
