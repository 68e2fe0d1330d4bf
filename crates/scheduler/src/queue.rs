//! Who goes next.

use std::collections::{BTreeMap, VecDeque};

use crate::TenantId;
use crate::fairness::TokenCounters;
use crate::group::{Group, RequestState, Slot};

/// Requests that wait for blocks. The lowest priority goes first; in it, those that were preempted,
/// in the order in which they first started; then the tenant that was served least, each tenant's in
/// the order in which they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    classes: BTreeMap<i32, Class>,
    waiting: usize,
    preempted: usize,
}

#[derive(Clone, Debug, Default)]
struct Class {
    /// By the number of their start.
    preempted: BTreeMap<u64, Slot>,
    /// With the numbers of their arrival.
    tenants: BTreeMap<TenantId, VecDeque<(u64, Slot)>>,
}

impl Queue {
    /// Requests that were never started.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Requests that were.
    pub(crate) fn preempted(&self) -> usize {
        self.preempted
    }

    /// Tenants of requests that were never started, each once a priority.
    pub(crate) fn tenants(&self) -> impl Iterator<Item = TenantId> + '_ {
        self.classes.values().flat_map(|c| c.tenants.keys().copied())
    }

    /// Takes a new request, or one that was preempted; `arrival` orders the new ones.
    pub(crate) fn push(&mut self, group: &Group, slot: Slot, arrival: u64) {
        let class = self.classes.entry(group.priority).or_default();
        match group.started {
            Some(started) => {
                class.preempted.insert(started, slot);
                self.preempted += 1;
            }
            None => {
                class.tenants.entry(group.tenant).or_default().push_back((arrival, slot));
                self.waiting += 1;
            }
        }
    }

    /// Who goes next.
    pub(crate) fn next(&self, counters: &TokenCounters) -> Option<Slot> {
        let class = self.classes.values().next()?;
        if let Some(&slot) = class.preempted.values().next() {
            return Some(slot);
        }
        let heads = class.tenants.iter().filter_map(|(&tenant, queue)| {
            let &(arrival, slot) = queue.front()?;
            Some((counters.served(tenant), arrival, slot))
        });
        heads.min_by_key(|&(served, arrival, _)| (served, arrival)).map(|(_, _, slot)| slot)
    }

    /// Takes out a request wherever it is.
    pub(crate) fn remove(&mut self, group: &Group, slot: Slot) {
        let Some(class) = self.classes.get_mut(&group.priority) else { return };
        match (group.state, group.started) {
            (RequestState::Preempted, Some(started)) => {
                self.preempted -= usize::from(class.preempted.remove(&started).is_some());
            }
            _ => {
                let Some(queue) = class.tenants.get_mut(&group.tenant) else { return };
                let Some(at) = queue.iter().position(|&(_, s)| s == slot) else { return };
                queue.remove(at);
                self.waiting -= 1;
                if queue.is_empty() {
                    class.tenants.remove(&group.tenant);
                }
            }
        }
        if class.preempted.is_empty() && class.tenants.is_empty() {
            self.classes.remove(&group.priority);
        }
    }

    /// All, by priority; of each the preempted ones, then the others in the order in which they came.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.classes.values().flat_map(|class| {
            let mut new: Vec<_> = class.tenants.values().flatten().collect();
            new.sort_unstable_by_key(|&&(arrival, _)| arrival);
            class.preempted.values().copied().chain(new.into_iter().map(|&(_, slot)| slot))
        })
    }
}
