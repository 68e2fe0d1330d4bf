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
    /// Steps with rows of prompts so far, and when the last of [`WARM_UP`] ended.
    prompt_steps: u32,
    warm_since: Option<Instant>,
    /// Seconds a prompt's row takes, decoding beside it included: until it is warm the least, then a running mean.
    row: Option<f64>,
    /// Seconds from a request's beginning to its end: a running mean of those that began when it was warm.
    service: Option<f64>,
}

/// Steps with prompts before their times are believed: weights are read from the disk in them, and a GPU's kernels are
/// compiled, which may take a thousand times as long as all that follows.
const WARM_UP: u32 = 4;

/// A step counts for at most so many times the mean: kernels that are met later are compiled later.
const MOST: f64 = 8.0;

fn blend(mean: f64, new: f64) -> f64 {
    mean + 0.1 * (new - mean)
}

impl State {
    /// Seconds until a request that is taken now would begin.
    fn delay(&self, sequences: usize, limits: &QueueLimits) -> f64 {
        if self.warm_since.is_none() {
            return 0.0;
        }
        let prompts = self.waiting_tokens as f64 * self.row.unwrap_or(0.0);
        // Beyond the sequences that run at once, somebody must end first.
        let wanted = self.running_sequences + self.waiting_sequences + sequences;
        let over = wanted.saturating_sub(limits.max_sequences) as f64;
        let turns = over / limits.max_sequences.max(1) as f64;
        prompts + turns * self.service.unwrap_or(0.0)
    }

    /// A request that began then has been served.
    fn served(&mut self, began: Instant, seconds: f64) {
        if self.warm_since.is_some_and(|warm| began >= warm) {
            self.service = Some(self.service.map_or(seconds, |mean| blend(mean, seconds)));
        }
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
            let over = (delay - self.limits.max_delay.as_secs_f64()).max(s.service.unwrap_or(1.0));
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
            s.served(began, began.elapsed().as_secs_f64());
        }
    }

    /// A step with rows of prompts took so long.
    pub(crate) fn step(&self, prompt_rows: usize, seconds: f64) {
        if prompt_rows == 0 {
            return;
        }
        let mut s = self.state();
        let new = seconds / prompt_rows as f64;
        s.row = Some(match s.row {
            None => new,
            Some(least) if s.warm_since.is_none() => least.min(new),
            Some(mean) => blend(mean, new.min(MOST * mean)),
        });
        s.prompt_steps = s.prompt_steps.saturating_add(1);
        if s.prompt_steps == WARM_UP {
            s.warm_since = Some(Instant::now());
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
        Duration::from_secs_f64(self.state().service.unwrap_or(1.0).clamp(1.0, 60.0).ceil())
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
        // Ten seconds for a thousand rows: a prompt of 100 takes one. The first steps took longer.
        for seconds in [1000.0, 200.0, 10.0, 50.0] {
            load.step(1000, seconds);
        }
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
        for _ in 0..WARM_UP {
            load.step(1, 1000.0);
        }
        load.admit(ONE).unwrap();
        assert!(load.admit(ONE).is_err());
    }

    /// Whether somebody is taken while a prompt of a hundred tokens waits.
    fn second_is_taken(load: &Load) -> bool {
        load.admit(ONE).unwrap();
        let taken = load.admit(ONE).is_ok();
        for _ in 0..load.counts().0 {
            load.left_queue(ONE, false);
        }
        taken
    }

    #[test]
    fn few_steps_that_are_unlike_the_others_refuse_nobody() {
        let load = load(100, 100);
        for slow in [true, true, false, true] {
            load.step(1000, if slow { 10_000.0 } else { 10.0 });
            assert!(second_is_taken(&load), "while it is warming up, and from what it then knows");
        }
        for _ in 0..4 {
            load.step(1000, 10.0);
            load.step(1000, 10.0);
            load.step(1, 1000.0);
            assert!(second_is_taken(&load));
        }
        for _ in 0..30 {
            load.step(1, 1000.0);
        }
        assert!(!second_is_taken(&load), "it has become slow");
    }

    #[test]
    fn requests_count_as_long_as_they_took_once_it_is_warm() {
        let mut s = State::default();
        let cold = Instant::now();
        s.served(cold, 1000.0);
        s.warm_since = Some(cold + Duration::from_secs(1));
        s.served(cold, 1000.0);
        assert_eq!(s.service, None, "it began before");
        // Most are probes, a tenth takes a minute: six seconds on average.
        for i in 0..300 {
            s.served(cold + Duration::from_secs(2), if i % 10 == 0 { 60.0 } else { 0.01 });
        }
        let mean = s.service.unwrap();
        assert!((3.0..9.0).contains(&mean), "{mean}");
    }
}
