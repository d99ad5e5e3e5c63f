//! A bus that is late, goes, and comes back.

use zbus::fdo::DBusProxy;

use super::*;

/// Waits until the name has an owner on the bus that is there now.
async fn published(dir: &Path) -> Connection {
    let client = within(address(dir).connect()).await.unwrap();
    let bus = DBusProxy::new(&client).await.unwrap();
    let mut owners = within(bus.receive_name_owner_changed_with_args(&[(0, NAME)])).await.unwrap();
    while !within(bus.name_has_owner(NAME.try_into().unwrap())).await.unwrap() {
        within(futures_util::StreamExt::next(&mut owners)).await.unwrap();
    }
    client
}

async fn devices(client: &Connection) -> Vec<String> {
    let broker = zbus::Proxy::new(client, NAME, ROOT, NAME).await.unwrap();
    let paths: Vec<zbus::zvariant::OwnedObjectPath> =
        within(broker.get_property("Devices")).await.unwrap();
    paths.iter().map(|path| path.rsplit('/').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_bus_that_comes_late_gets_everything() {
    let dir = TempDir::new().unwrap();
    let later = dir.path().join("not/yet");
    let mut face = Face::start(&later);
    face.tell(BusUpdate::Device(device(1)));
    assert!(!within(face.bus.first_attempt()).await);
    face.tell(BusUpdate::Device(device(2)));
    let Some(_bus) = PrivateBus::start(&later) else { return };
    let client = published(&later).await;
    assert_eq!(devices(&client).await, ["d1", "d2"]);
}

#[tokio::test]
async fn a_bus_that_comes_back_gets_the_latest() {
    let Some(stage) = Stage::set().await else { return };
    stage.face.tell(BusUpdate::Device(device(1)));
    stage.face.tell(BusUpdate::Device(device(2)));
    // Once with the socket's file left behind, as by a crash, and once without.
    let Stage { face, mut bus, dir, .. } = stage;
    for round in 0..2_u64 {
        bus.kill();
        if round == 1 {
            fs::remove_file(socket(dir.path())).unwrap();
        }
        face.tell(BusUpdate::DeviceGone(DeviceId(1 + round)));
        face.tell(BusUpdate::Device(device(3 + round)));
        bus = PrivateBus::start(dir.path()).unwrap();
        let client = published(dir.path()).await;
        let expected = [["d2", "d3"], ["d3", "d4"]][round as usize];
        assert_eq!(devices(&client).await, expected);
    }
}

#[tokio::test]
async fn who_stops_gives_the_name_back() {
    let Some(stage) = Stage::set().await else { return };
    let Face { bus, updates, .. } = stage.face;
    drop(updates);
    within(bus.finished()).await;
    let bus = DBusProxy::new(&stage.client).await.unwrap();
    assert!(!within(bus.name_has_owner(NAME.try_into().unwrap())).await.unwrap());
}

#[tokio::test]
async fn one_can_stop_without_a_bus() {
    let dir = TempDir::new().unwrap();
    for address in [address(dir.path()), BusAddress::Address("nonsense".to_owned())] {
        let (updates, from) = mpsc::unbounded_channel();
        let facts = BusFacts {
            version: String::new(),
            backend: String::new(),
            heap: String::new(),
            probe_json: String::new(),
            counters: Arc::default(),
        };
        let (connects, causes) = (mpsc::unbounded_channel().0, mpsc::unbounded_channel().0);
        let (rehearsals, inhibits) = (mpsc::unbounded_channel().0, mpsc::unbounded_channel().0);
        let (ejects, activity) = (mpsc::unbounded_channel().0, mpsc::unbounded_channel().0);
        let usage = mpsc::unbounded_channel().0;
        let asks = Asks::new(connects, causes, rehearsals, inhibits, ejects, activity, usage);
        let mut bus = start(address, from, asks, facts);
        assert!(!within(bus.first_attempt()).await);
        drop(updates);
        within(bus.finished()).await;
    }
}

#[tokio::test]
async fn a_second_broker_waits_for_the_name() {
    let Some(stage) = Stage::set().await else { return };
    let mut second = Face::start(stage.dir.path());
    second.tell(BusUpdate::Device(device(5)));
    assert!(within(second.bus.first_attempt()).await);
    assert!(devices(&stage.client).await.is_empty(), "the first has the name");
    drop(stage.face.updates);
    within(stage.face.bus.finished()).await;
    assert_eq!(devices(&stage.client).await, ["d5"]);
}

/// Who calls in the moment in which the name appears is answered: its call is not dropped.
#[tokio::test]
async fn a_call_that_comes_with_the_name_is_answered() {
    for _ in 0..20 {
        let dir = TempDir::new().unwrap();
        let Some(_bus) = PrivateBus::start(dir.path()) else { return };
        let client = within(address(dir.path()).connect()).await.unwrap();
        let bus = DBusProxy::new(&client).await.unwrap();
        let args = [(0, NAME)];
        let mut owners = within(bus.receive_name_owner_changed_with_args(&args)).await.unwrap();
        let face = Face::start(dir.path());
        face.tell(BusUpdate::Device(device(1)));
        within(futures_util::StreamExt::next(&mut owners)).await.unwrap();
        let manager = "org.freedesktop.DBus.ObjectManager";
        let call = client.call_method(Some(NAME), ROOT, Some(manager), "GetManagedObjects", &());
        within(call).await.unwrap();
    }
}
