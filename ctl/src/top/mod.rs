//! `dmasharectl top`: a screen of what the service has, as it changes.

mod keys;
mod model;
mod rates;
mod sort;
mod view;

use std::io::{IsTerminal as _, stdin, stdout};
use std::time::{Duration, Instant, SystemTime};

use crossterm::event::{Event as Input, EventStream, KeyEventKind};
use futures_util::StreamExt as _;
use ratatui::DefaultTerminal;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{MissedTickBehavior, interval};

pub use model::{Action, Answer, Model};
pub use view::draw;

use crate::bus::Bus;
use crate::failure::Failure;
use crate::live::{Caller, EjectOptions, Live, Start};
use crate::output::now_ns;

/// Between two looks at the clock: for rates, and for seconds that are left.
const TICK: Duration = Duration::from_secs(1);

/// Shows until the user or a signal ends it; gives the exit code.
///
/// # Errors
/// There is no terminal; the service cannot be reached, or the bus is gone.
pub async fn top(bus: &Bus, colour: bool) -> Result<u8, Failure> {
    if !stdin().is_terminal() || !stdout().is_terminal() {
        return Err(Failure::NoTerminal);
    }
    let live = Live::connect(bus, Start::Service).await?;
    let model = Model::new(live.caller().service().await?, colour);
    let signals = Signals::catch().map_err(Failure::Terminal)?;
    let terminal = ratatui::try_init().map_err(Failure::Terminal)?;
    let _restore = Restore;
    run(terminal, live, model, signals).await
}

/// Gives the terminal back, however the screen ends. A panic is met by ratatui's hook before its
/// message is printed.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// What would end the tool and leave the terminal as it is on the screen.
struct Signals([(Signal, u8); 4]);

impl Signals {
    fn catch() -> std::io::Result<Self> {
        let catch = |kind: SignalKind| {
            let number = u8::try_from(kind.as_raw_value()).unwrap_or(0);
            signal(kind).map(|signal| (signal, number))
        };
        Ok(Self([
            catch(SignalKind::terminate())?,
            catch(SignalKind::hangup())?,
            catch(SignalKind::interrupt())?,
            catch(SignalKind::quit())?,
        ]))
    }

    /// The number of the one that came.
    async fn came(&mut self) -> u8 {
        let [(a, one), (b, two), (c, three), (d, four)] = &mut self.0;
        tokio::select! {
            _ = a.recv() => *one,
            _ = b.recv() => *two,
            _ = c.recv() => *three,
            _ = d.recv() => *four,
        }
    }
}

async fn run(
    mut terminal: DefaultTerminal,
    mut live: Live,
    mut model: Model,
    mut signals: Signals,
) -> Result<u8, Failure> {
    let (answer, mut answers): (_, UnboundedReceiver<Answer>) = unbounded_channel();
    let mut keys = EventStream::new();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let began = Instant::now();
    model.see(live.world());
    loop {
        let (now, at) = (now_ns().unwrap_or(0), SystemTime::now());
        terminal.draw(|frame| draw(frame, &model, now, at)).map_err(Failure::Terminal)?;
        let action = tokio::select! {
            events = live.next() => {
                let events = events?;
                model.see(live.world());
                for event in events {
                    model.happened(event, SystemTime::now());
                }
                None
            }
            Some(answer) = answers.recv() => {
                model.answered(answer);
                None
            }
            input = keys.next() => match input {
                Some(Ok(Input::Key(key))) if key.kind != KeyEventKind::Release => model.key(key),
                Some(Ok(_)) => None,
                Some(Err(error)) => return Err(Failure::Terminal(error)),
                // The terminal is gone.
                None => return Ok(0),
            },
            number = signals.came() => return Ok(128 + number),
            _ = ticks.tick() => {
                watch(began, live.caller(), answer.clone());
                None
            }
        };
        match action {
            None => {}
            Some(Action::Quit) => return Ok(0),
            Some(action) => begin(action, live.caller(), answer.clone()),
        }
    }
}

/// Asks what goes on. A service that does not tell (an older one, or none at the moment) is no news.
fn watch(began: Instant, caller: Caller, answer: UnboundedSender<Answer>) {
    tokio::spawn(async move {
        if let Ok(activity) = caller.activity().await {
            // The screen may have ended.
            _ = answer.send(Answer::Activity(began.elapsed(), activity));
        }
    });
}

/// The screen goes on while the service is asked.
fn begin(action: Action, caller: Caller, answer: UnboundedSender<Answer>) {
    tokio::spawn(async move {
        let text = |failure: Failure| failure.to_string();
        let answered = match action {
            Action::Quit => return,
            Action::Inspect(device) => {
                Answer::Holders(device, caller.holders(device, false).await.map_err(text))
            }
            Action::Eject { device, force } => {
                let options = EjectOptions { force, ..EjectOptions::default() };
                Answer::Begun(caller.eject(device, &options).await.map_err(text))
            }
            Action::Cancel(job) => Answer::Cancelled(caller.cancel(job).await.map_err(text)),
        };
        // The screen may have ended.
        _ = answer.send(answered);
    });
}

#[cfg(test)]
mod tests;
