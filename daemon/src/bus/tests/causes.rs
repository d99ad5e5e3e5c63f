//! `GetCause()`: a question that the shell answers, for the caller's user.

use dmashare_proto::message::Cause;
use nix::unistd::getuid;

use super::*;

#[tokio::test]
async fn the_question_comes_with_the_callers_user_and_the_answer_goes_back() {
    let Some(mut stage) = Stage::set().await else { return };
    let broker = zbus::Proxy::new(&stage.client, NAME, ROOT, NAME).await.unwrap();
    let ask = broker.call::<_, _, (String, i32, u64)>("GetCause", &(7_u64, 3_u64));
    let answer = async {
        let request = stage.face.causes.recv().await.unwrap();
        assert_eq!((request.object, request.point), (ObjectId(7), 3));
        assert_eq!(request.uid, getuid().as_raw());
        let ended = Ended { cause: Cause::Vanished, at_ns: 9 };
        request.answer.send(Some(ended)).unwrap();
    };
    let (told, ()) = within(async { tokio::join!(ask, answer) }).await;
    assert_eq!(told.unwrap(), ("vanished".to_owned(), 19, 9));
}

#[tokio::test]
async fn what_is_not_kept_is_an_error_with_a_name() {
    let Some(mut stage) = Stage::set().await else { return };
    let broker = zbus::Proxy::new(&stage.client, NAME, ROOT, NAME).await.unwrap();
    for (answered, name) in [(true, "UnknownObject"), (false, "Stopping")] {
        let ask = broker.call::<_, _, (String, i32, u64)>("GetCause", &(7_u64, 0_u64));
        let answer = async {
            let request = stage.face.causes.recv().await.unwrap();
            if answered {
                request.answer.send(None).unwrap();
            }
        };
        let (told, ()) = within(async { tokio::join!(ask, answer) }).await;
        match told {
            Err(zbus::Error::MethodError(error, _, _)) => {
                assert_eq!(error.as_str(), format!("org.dmashare.Error.{name}"));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn activity_is_asked_for_each_time() {
    let Some(mut stage) = Stage::set().await else { return };
    let broker = zbus::Proxy::new(&stage.client, NAME, ROOT, NAME).await.unwrap();
    for oldest_ns in [0, 7] {
        let call = broker.call::<_, _, String>("GetActivity", &());
        let answer = async {
            let wanted = Activity { device: 3, fences: 9, oldest_ns, ..Activity::default() };
            stage.face.activity.recv().await.unwrap().send(vec![wanted]).unwrap();
            wanted
        };
        let (told, wanted) = within(async { tokio::join!(call, answer) }).await;
        let told: Vec<Activity> = serde_json::from_str(&told.unwrap()).unwrap();
        assert_eq!(told, [wanted]);
    }
}

#[tokio::test]
async fn usage_is_asked_for_the_callers_user() {
    let Some(mut stage) = Stage::set().await else { return };
    let broker = zbus::Proxy::new(&stage.client, NAME, ROOT, NAME).await.unwrap();
    let call = broker.call::<_, _, String>("GetUsage", &());
    let answer = async {
        let request = stage.face.usage.recv().await.unwrap();
        assert_eq!(request.uid, getuid().as_raw());
        let user = dmashare_proto::usage::User { uid: request.uid, ..Default::default() };
        let usage = Usage { all: Vec::new(), users: vec![user] };
        request.answer.send(usage.clone()).unwrap();
        usage
    };
    let (told, wanted) = within(async { tokio::join!(call, answer) }).await;
    assert_eq!(serde_json::from_str::<Usage>(&told.unwrap()).unwrap(), wanted);
}
