//! The reader's end of a request.

use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};

use scheduler::RequestId;
use tokio::sync::mpsc;

use crate::GenerationError;
use crate::request::Event;
use crate::worker::Command;

/// Events of a request that the engine has taken. Dropping it cancels the request.
#[derive(Debug)]
pub struct Generation {
    pub(crate) id: RequestId,
    pub(crate) events: mpsc::Receiver<Event>,
    /// Why the events ended, where the last could not be sent.
    pub(crate) failure: Arc<OnceLock<GenerationError>>,
    pub(crate) commands: Sender<Command>,
    pub(crate) ended: bool,
}

impl Generation {
    /// The next event; `None` after [`Event::Done`] or [`Event::Failed`], one of which comes last.
    pub async fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = self.events.recv().await;
        let event = event.unwrap_or_else(|| {
            // The engine let go of the request without a word: with one left behind, or by a panic.
            let failure = self.failure.get().cloned();
            Event::Failed(failure.unwrap_or(GenerationError::WorkerPanicked))
        });
        self.ended = matches!(event, Event::Done(_) | Event::Failed(_));
        Some(event)
    }

    /// The engine's number for the request.
    pub fn id(&self) -> u64 {
        self.id.0
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.ended {
            // An engine that is gone has nothing to cancel.
            let _ = self.commands.send(Command::Cancel(self.id));
        }
    }
}
