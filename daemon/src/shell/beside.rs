//! Work that takes its time, beside the main thread.

use std::io;

use tokio::sync::oneshot;

/// Has something done by a thread of its own, which tokio's pool would do too, but for one thing: that
/// one panics where no thread can be had.
///
/// # Errors
/// No thread can be had, or it has not come to an end.
pub(super) async fn beside<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    // Nobody listens any more where the service stops.
    let work = move || drop(done.send(work()));
    std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
    result.await.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn gives_what_the_thread_made() {
        let name = || std::thread::current().name().map(str::to_owned);
        assert_eq!(beside("a thread", name).await.unwrap().as_deref(), Some("a thread"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_thread_that_fails_is_an_error() {
        assert!(beside("panics", || panic!("on purpose")).await.is_err());
    }
}
