//! Virtual token counters (Sheng et al. 2024, "Fairness in Serving Large Language Models", algorithm
//! 2): what each tenant was served, in weighted tokens.
//!
//! The tenant of the least counter goes next. A prompt is charged when it starts, less what was found
//! in the prefix cache; a generated token when it is sampled. A tenant that waited for nothing has no
//! claim on the time that passed: when it comes back, its counter is lifted to the least of those that
//! wait, or, if nobody does, to that of the last who left the queue.

use std::collections::BTreeMap;

use crate::TenantId;

/// What a token of a prompt costs.
pub const PROMPT_WEIGHT: u64 = 1;
/// What a generated token costs: it takes a step of its own.
pub const OUTPUT_WEIGHT: u64 = 2;

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    served: u64,
    /// Requests that have not ended.
    requests: usize,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct TokenCounters {
    counters: BTreeMap<TenantId, Counter>,
    /// Who left the queue last, and its counter.
    last: Option<TenantId>,
    last_served: u64,
    /// Tenants at which those are forgotten whom a lift would not change.
    sweep_at: usize,
}

impl TokenCounters {
    /// Where a tenant begins that waited for nothing, when those that do are `waiting`.
    pub(crate) fn lift(&self, waiting: impl Iterator<Item = TenantId>) -> u64 {
        waiting.map(|t| self.served(t)).min().unwrap_or(self.last_served)
    }

    /// A request came; `lift` if it is the only one of its tenant that waits.
    pub(crate) fn arrived(&mut self, tenant: TenantId, lift: Option<u64>) {
        if let Some(lift) = lift
            && self.counters.len() >= self.sweep_at
        {
            self.counters.retain(|_, c| c.requests > 0 || c.served > lift);
            self.sweep_at = 64.max(2 * self.counters.len());
        }
        let counter = self.counters.entry(tenant).or_default();
        counter.served = counter.served.max(lift.unwrap_or(0));
        counter.requests += 1;
    }

    /// A request of the tenant is to start.
    pub(crate) fn left_queue(&mut self, tenant: TenantId) {
        self.last = Some(tenant);
        self.last_served = self.served(tenant);
    }

    pub(crate) fn charge(&mut self, tenant: TenantId, tokens: usize, weight: u64) {
        self.change(tenant, |served| served.saturating_add(tokens as u64 * weight));
    }

    /// Takes back what was charged and will not be served.
    pub(crate) fn refund(&mut self, tenant: TenantId, tokens: usize, weight: u64) {
        self.change(tenant, |served| served.saturating_sub(tokens as u64 * weight));
    }

    pub(crate) fn ended(&mut self, tenant: TenantId) {
        if let Some(counter) = self.counters.get_mut(&tenant) {
            counter.requests -= 1;
        }
    }

    pub(crate) fn served(&self, tenant: TenantId) -> u64 {
        self.counters.get(&tenant).map_or(0, |c| c.served)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (TenantId, u64)> + '_ {
        self.counters.iter().map(|(&tenant, counter)| (tenant, counter.served))
    }

    fn change(&mut self, tenant: TenantId, to: impl Fn(u64) -> u64) {
        if let Some(counter) = self.counters.get_mut(&tenant) {
            counter.served = to(counter.served);
            if self.last == Some(tenant) {
                self.last_served = counter.served;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tenant comes while others wait.
    fn arrive(counters: &mut TokenCounters, tenant: TenantId, waiting: &[TenantId]) {
        let lift = counters.lift(waiting.iter().copied());
        counters.arrived(tenant, Some(lift));
    }

    #[test]
    fn idle_time_earns_nothing() {
        let (a, b, c) = (TenantId(1), TenantId(2), TenantId(3));
        let mut counters = TokenCounters::default();
        arrive(&mut counters, a, &[]);
        counters.left_queue(a);
        counters.charge(a, 100, PROMPT_WEIGHT);
        // Nobody waits: b begins where a, the last that did, is by now.
        counters.charge(a, 10, OUTPUT_WEIGHT);
        arrive(&mut counters, b, &[]);
        assert_eq!(counters.served(b), 120);
        counters.charge(a, 10, OUTPUT_WEIGHT);
        // b waits: c begins where b is.
        arrive(&mut counters, c, &[b]);
        assert_eq!(counters.served(c), 120);
        // Who is ahead stays ahead.
        arrive(&mut counters, a, &[b, c]);
        assert_eq!(counters.served(a), 140);
    }

    #[test]
    fn tenants_who_are_behind_are_forgotten() {
        let mut counters = TokenCounters::default();
        for i in 0..10_000 {
            let tenant = TenantId(i);
            arrive(&mut counters, tenant, &[]);
            counters.left_queue(tenant);
            counters.charge(tenant, 10, PROMPT_WEIGHT);
            counters.ended(tenant);
        }
        let known = counters.iter().count();
        assert!(known <= 64, "{known}");
        // They come back no richer.
        arrive(&mut counters, TenantId(0), &[]);
        assert_eq!(counters.served(TenantId(0)), 100_000);
    }
}
