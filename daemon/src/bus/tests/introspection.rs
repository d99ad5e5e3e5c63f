//! What is served is what the checked-in XML says.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::view::JobView;

const XML: &str = include_str!("../../../dbus/org.dmashare.Broker1.xml");

/// Each member of each interface as one line: kind, name, arguments or type, and how it changes.
type Interfaces = BTreeMap<String, BTreeSet<String>>;

/// The tags of an introspection document. It is machine-made or checked in, so this reads no more of
/// XML than those use: elements and attributes in double quotes.
fn interfaces(xml: &str) -> Interfaces {
    let mut text = xml.to_owned();
    while let Some(start) = text.find("<!--") {
        let len = text[start..].find("-->").expect("an unclosed comment") + 3;
        text.replace_range(start..start + len, "");
    }
    let mut found = Interfaces::new();
    let (mut interface, mut member) = (String::new(), String::new());
    for tag in text.split('<').skip(1) {
        let tag = tag.split('>').next().unwrap();
        let attribute = |name: &str| {
            let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
            rest.split('"').next().map(str::to_owned)
        };
        let element = tag.split([' ', '/', '\n']).find(|word| !word.is_empty()).unwrap();
        if tag.starts_with('/') {
            if ["method", "signal", "property"].contains(&element) {
                found.get_mut(&interface).unwrap().insert(std::mem::take(&mut member));
            }
            continue;
        }
        match element {
            "interface" => {
                interface = attribute("name").unwrap();
                found.insert(interface.clone(), BTreeSet::new());
            }
            "method" | "signal" => member = format!("{element} {}", attribute("name").unwrap()),
            "property" => {
                member = ["name", "type", "access"]
                    .iter()
                    .fold(element.to_owned(), |text, name| text + " " + &attribute(name).unwrap());
            }
            "arg" => {
                let direction = match attribute("direction") {
                    Some(direction) => direction,
                    None if member.starts_with("signal") => "out".to_owned(),
                    None => "in".to_owned(),
                };
                let (name, kind) =
                    (attribute("name").unwrap_or_default(), attribute("type").unwrap());
                member += &format!(" {direction} {name}:{kind}");
            }
            // That a change is signalled is what no annotation means.
            "annotation" if attribute("value").as_deref() != Some("true") => {
                let name = attribute("name").unwrap();
                let name = name.rsplit('.').next().unwrap();
                member += &format!(" {name}={}", attribute("value").unwrap());
            }
            _ => {}
        }
        if tag.ends_with('/') && ["method", "signal", "property"].contains(&element) {
            found.get_mut(&interface).unwrap().insert(std::mem::take(&mut member));
        }
    }
    found.retain(|name, _| name.starts_with("org.dmashare."));
    found
}

#[tokio::test]
async fn the_checked_in_xml_is_what_is_served() {
    let Some(stage) = Stage::set().await else { return };
    let mut signals = stage.signals().await;
    stage.face.tell(BusUpdate::Device(device(1)));
    stage.face.tell(BusUpdate::Client(client(2)));
    stage.face.tell(BusUpdate::Job(Box::new(JobView { id: 3, ..JobView::default() })));
    for _ in 0..6 {
        signals.next().await;
    }
    let mut served = Interfaces::new();
    for path in ["", "/device/d1", "/client/c2", "/job/j3"] {
        let path = format!("{ROOT}{path}");
        let object = zbus::Proxy::new(&stage.client, NAME, path, NAME).await.unwrap();
        served.extend(interfaces(&within(object.introspect()).await.unwrap()));
    }
    let written = interfaces(XML);
    assert_eq!(written.len(), 5);
    for (name, members) in &written {
        assert_eq!(served.get(name), Some(members), "{name}");
    }
    assert_eq!(served.len(), written.len());
}

#[test]
fn documents_are_read() {
    let read = interfaces(
        "<!-- <method name=\"No\"/> --><node><interface name=\"org.dmashare.A\">\
         <method name=\"M\"><arg name=\"a\" type=\"s\"/>\
         <arg name=\"b\" type=\"h\" direction=\"out\"/></method><signal name=\"S\"/>\
         <property name=\"P\" type=\"u\" access=\"read\"><annotation name=\"x.E\" value=\"const\"/>\
         </property><property name=\"Q\" type=\"u\" access=\"read\"/></interface></node>",
    );
    let members: Vec<_> = read["org.dmashare.A"].iter().map(String::as_str).collect();
    assert_eq!(
        members,
        ["method M in a:s out b:h", "property P u read E=const", "property Q u read", "signal S"]
    );
}
