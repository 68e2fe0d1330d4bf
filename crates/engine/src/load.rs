//! How busy the engine is, and whether it takes one more request: asked without waiting for a step.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::SubmitError;

/// What is counted, by the handle that takes requests and the worker that serves them.
#[derive(Debug)]
pub(crate) struct Load {
    limits: QueueLimits,
    state: Mutex<State>,
}

/// How long the queue may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    pub(crate) max_waiting: usize,
    pub(crate) max_delay: Duration,
    pub(crate) max_sequences: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Requests taken and not begun, and the tokens of their prompts.
    waiting: usize,
    waiting_tokens: usize,
    waiting_sequences: usize,
    /// Requests begun and not ended, and their sequences.
    running: usize,
    running_sequences: usize,
    /// Calls that wait for vectors of texts.
    embedding: usize,
    /// Seconds from a request's beginning to its end.
    service: Mean,
    /// Seconds a prompt's row takes, decoding beside it included.
    row: Mean,
}

/// A running mean of all but the first measurement. The first steps read weights from the disk, and a GPU's kernels are
/// compiled in them: they may take a thousand times as long as all that follow.
#[derive(Debug, Default)]
struct Mean {
    measurements: u32,
    value: f64,
}

impl Mean {
    /// How many times the mean a measurement counts at most.
    const MOST: f64 = 8.0;

    fn add(&mut self, new: f64) {
        match self.measurements {
            0 => {}
            1 => self.value = new,
            n => {
                let share = (1.0 / f64::from(n)).max(0.1);
                self.value += share * (new.min(Self::MOST * self.value) - self.value);
            }
        }
        self.measurements = self.measurements.saturating_add(1);
    }

    fn get(&self) -> Option<f64> {
        (self.measurements > 1).then_some(self.value)
    }
}

impl State {
    /// Seconds until a request that is taken now would begin.
    fn delay(&self, sequences: usize, limits: &QueueLimits) -> f64 {
        let prompts = self.waiting_tokens as f64 * self.row.get().unwrap_or(0.0);
        // Beyond the sequences that run at once, somebody must end first.
        let wanted = self.running_sequences + self.waiting_sequences + sequences;
        let over = wanted.saturating_sub(limits.max_sequences) as f64;
        let turns = over / limits.max_sequences.max(1) as f64;
        prompts + turns * self.service.get().unwrap_or(0.0)
    }
}

/// What a request counts for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight {
    pub(crate) tokens: usize,
    pub(crate) sequences: usize,
}

impl Load {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self { limits, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request as waiting, if the queue has room and it would begin soon enough.
    pub(crate) fn admit(&self, weight: Weight) -> Result<(), SubmitError> {
        let mut s = self.state();
        let delay = s.delay(weight.sequences, &self.limits);
        let late = s.waiting > 0 && delay > self.limits.max_delay.as_secs_f64();
        if s.waiting >= self.limits.max_waiting || late {
            let over =
                (delay - self.limits.max_delay.as_secs_f64()).max(s.service.get().unwrap_or(1.0));
            let retry_after = Duration::from_secs_f64(over.clamp(1.0, 600.0).ceil());
            return Err(SubmitError::QueueFull { waiting: s.waiting, retry_after });
        }
        s.waiting += 1;
        s.waiting_tokens += weight.tokens;
        s.waiting_sequences += weight.sequences;
        Ok(())
    }

    /// A waiting request is waiting no more: it begins, or is gone.
    pub(crate) fn left_queue(&self, weight: Weight, begins: bool) {
        let mut s = self.state();
        s.waiting -= 1;
        s.waiting_tokens -= weight.tokens;
        s.waiting_sequences -= weight.sequences;
        if begins {
            s.running += 1;
            s.running_sequences += weight.sequences;
        }
    }

    /// A request that had begun is over; `served` if it came to its end.
    pub(crate) fn ended(&self, weight: Weight, began: Instant, served: bool) {
        let mut s = self.state();
        s.running -= 1;
        s.running_sequences -= weight.sequences;
        if served {
            s.service.add(began.elapsed().as_secs_f64());
        }
    }

    /// A step with rows of prompts took so long.
    pub(crate) fn step(&self, prompt_rows: usize, seconds: f64) {
        if prompt_rows > 0 {
            self.state().row.add(seconds / prompt_rows as f64);
        }
    }

    /// Requests waiting and running.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let s = self.state();
        (s.waiting, s.running)
    }

    /// Counts a call that waits for vectors, until what comes back is dropped.
    pub(crate) fn embedding(&self) -> Embedding<'_> {
        self.state().embedding += 1;
        Embedding(self)
    }

    /// Whether nobody waits for anything.
    pub(crate) fn is_idle(&self) -> bool {
        let s = self.state();
        (s.waiting, s.running, s.embedding) == (0, 0, 0)
    }

    /// When somebody who is refused for another reason may try again.
    pub(crate) fn retry_after(&self) -> Duration {
        Duration::from_secs_f64(self.state().service.get().unwrap_or(1.0).clamp(1.0, 60.0).ceil())
    }
}

/// A call that waits for vectors; one that is given up is dropped.
pub(crate) struct Embedding<'a>(&'a Load);

impl Drop for Embedding<'_> {
    fn drop(&mut self) {
        self.0.state().embedding -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Weight = Weight { tokens: 100, sequences: 1 };

    fn load(max_waiting: usize, max_delay: u64) -> Load {
        let max_delay = Duration::from_secs(max_delay);
        Load::new(QueueLimits { max_waiting, max_delay, max_sequences: 2 })
    }

    #[test]
    fn the_queue_is_bounded_by_number() {
        let load = load(2, 1000);
        load.admit(ONE).unwrap();
        load.admit(ONE).unwrap();
        let refused = load.admit(ONE).unwrap_err();
        assert!(matches!(refused, SubmitError::QueueFull { waiting: 2, .. }), "{refused}");
        load.left_queue(ONE, true);
        assert_eq!(load.counts(), (1, 1));
        load.admit(ONE).unwrap();
        load.left_queue(ONE, false);
        load.ended(ONE, Instant::now(), true);
        assert_eq!(load.counts(), (1, 0));
    }

    #[test]
    fn the_queue_is_bounded_by_the_time_it_would_take() {
        let load = load(100, 3);
        // Ten seconds for a thousand rows: a prompt of 100 takes one. The first step took longer.
        load.step(10, 100.0);
        load.step(1000, 10.0);
        for waiting in 0..4 {
            assert_eq!(load.counts().0, waiting);
            load.admit(ONE).unwrap();
        }
        // The next would begin in four seconds.
        let Err(SubmitError::QueueFull { waiting: 4, retry_after }) = load.admit(ONE) else {
            panic!("taken");
        };
        assert!(retry_after >= Duration::from_secs(1));
    }

    #[test]
    fn whoever_comes_first_is_taken_however_slow_the_engine() {
        let load = load(100, 3);
        load.step(1, 1000.0);
        load.step(1, 1000.0);
        load.admit(ONE).unwrap();
        assert!(load.admit(ONE).is_err());
    }

    #[test]
    fn few_steps_that_are_unlike_the_others_are_not_counted() {
        let load = load(100, 100);
        let second_is_taken = || {
            load.admit(ONE).unwrap();
            let taken = load.admit(ONE).is_ok();
            for _ in 0..load.counts().0 {
                load.left_queue(ONE, false);
            }
            taken
        };
        load.step(1, 1000.0);
        assert!(second_is_taken(), "nothing is known of a single step");
        for _ in 0..4 {
            load.step(1000, 10.0);
            load.step(1000, 10.0);
            load.step(1, 1000.0);
            assert!(second_is_taken());
        }
        for _ in 0..30 {
            load.step(1, 1000.0);
        }
        assert!(!second_is_taken(), "it has become slow");
    }
}
