//! Who may give work to a device.
//!
//! Any thread may, at any time, but not while another captures a graph: its work would become part of the
//! graph, and would not be done. It waits until the capture is over.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Threads that give work just now.
    inside: usize,
    capturing: Option<ThreadId>,
}

/// The permission to give work.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    gate: &'a Gate,
    /// Whether this thread captures.
    pub(crate) capturing: bool,
}

/// The permission to capture; no other thread gives work meanwhile.
#[derive(Debug)]
pub(crate) struct Capturing<'a>(&'a Gate);

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(&self) -> Turn<'_> {
        let me = std::thread::current().id();
        let elsewhere = |state: &mut State| state.capturing.is_some_and(|thread| thread != me);
        let state = self.changed.wait_while(self.lock(), elsewhere);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.inside += 1;
        Turn { gate: self, capturing: state.capturing.is_some() }
    }

    /// Waits for others; `None` if this thread captures already.
    pub(crate) fn capture(&self) -> Option<Capturing<'_>> {
        let me = std::thread::current().id();
        if self.lock().capturing == Some(me) {
            return None;
        }
        let busy = |state: &mut State| state.inside > 0 || state.capturing.is_some();
        let state = self.changed.wait_while(self.lock(), busy);
        state.unwrap_or_else(PoisonError::into_inner).capturing = Some(me);
        Some(Capturing(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.inside -= 1;
        if state.inside == 0 {
            self.gate.changed.notify_all();
        }
    }
}

impl Drop for Capturing<'_> {
    fn drop(&mut self) {
        self.0.lock().capturing = None;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::Gate;

    #[test]
    fn others_wait_for_a_capture_and_it_for_them() {
        let gate = Gate::default();
        let captured = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let turn = gate.enter();
            scope.spawn(|| {
                let _capturing = gate.capture().unwrap();
                captured.store(true, Ordering::SeqCst);
            });
            std::thread::sleep(Duration::from_millis(20));
            assert!(!captured.load(Ordering::SeqCst));
            drop(turn);
        });
        assert!(captured.load(Ordering::SeqCst));
        let capturing = gate.capture().unwrap();
        assert!(gate.capture().is_none());
        assert!(gate.enter().capturing);
        let entered = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let turn = gate.enter();
                entered.store(!turn.capturing, Ordering::SeqCst);
            });
            std::thread::sleep(Duration::from_millis(20));
            assert!(!entered.load(Ordering::SeqCst));
            drop(capturing);
        });
        assert!(entered.load(Ordering::SeqCst));
    }
}
