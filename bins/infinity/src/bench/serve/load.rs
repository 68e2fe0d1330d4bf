//! The two loops.
//!
//! **Open**: requests are due at times that are drawn before the load begins. Each has a task of its
//! own, nothing waits for an answer, and latencies count from the time a request was due. So a server
//! that stalls is charged for all who would have come meanwhile (no *coordinated omission*), and what
//! the generator itself is late is in the latencies and told besides.
//!
//! **Closed**: each client sends when its last request has ended. The load adapts to the server, as
//! when a fixed number of workers share it; a request is due when its client is free.

use std::cell::Cell;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, sleep_until};
use workload::Request;

use super::client::{Client, Planned};
use super::options::{Load, Options};
use super::record::Record;

/// What is sent under the load of that number: `trace` with the texts that belong to it.
///
/// No two loads have a text in common, and prefixes are shared within a load only, so that each
/// meets a prefix cache that has seen nothing of it.
pub(super) fn plan(
    options: &Options,
    load: Load,
    number: usize,
    trace: &[Request],
) -> Vec<Planned> {
    // Streams of the generator: the load in the upper half, texts odd and prefixes even below; who
    // goes away is in those whose upper half is 0, so that the rest does not depend on it.
    let base = (number as u64 + 1) << 32;
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    rng.set_stream(u64::MAX - number as u64);
    let mut leaving = ChaCha8Rng::seed_from_u64(options.seed);
    leaving.set_stream(number as u64);
    // Clients come when they are free, whatever the trace says.
    let closed = matches!(load, Load::Closed { .. });
    let until = if closed { Duration::MAX } else { options.duration() };
    let planned = |(i, request): (usize, &Request)| {
        let shares = rng.random_bool(options.shared_fraction);
        let own = base + 2 * (i as u64 + 1);
        Planned {
            at: Duration::from_micros(request.arrival),
            prompt: request.prompt,
            output: request.output,
            text: own + 1,
            prefix: if shares { base } else { own },
            cancel_after: cancel_after(&mut leaving, options.cancel_fraction, request.output),
        }
    };
    trace.iter().enumerate().map(planned).take_while(|p| p.at < until).collect()
}

/// Where in an answer of `output` tokens its client goes away, if it is one of those who do. A quarter
/// of them do not wait for the first token.
fn cancel_after(rng: &mut ChaCha8Rng, fraction: f64, output: usize) -> Option<usize> {
    let leaves = rng.random_bool(fraction);
    let waits = rng.random_bool(0.75);
    let chunk = rng.random_range(1..output.max(2));
    leaves.then_some(if waits { chunk } else { 0 })
}

/// Sends what is planned; the records come back in the order of sending.
pub(super) async fn run(client: &Client<'_>, load: Load, plan: &[Planned]) -> Vec<Record> {
    let began = Instant::now();
    let mut records = match load {
        Load::Open { .. } | Load::Trace => open(client, plan, began).await,
        Load::Closed { clients } => closed(client, plan, clients, began).await,
    };
    records.sort_by_key(|r| r.request);
    records
}

async fn open(client: &Client<'_>, plan: &[Planned], began: Instant) -> Vec<Record> {
    let mut running = FuturesUnordered::new();
    let mut records = Vec::with_capacity(plan.len());
    for (number, &planned) in plan.iter().enumerate() {
        let due = began + planned.at;
        let wait = sleep_until(due);
        tokio::pin!(wait);
        loop {
            tokio::select! {
                // Sending comes before reading when both are possible.
                biased;
                () = &mut wait => break,
                Some(record) = running.next() => records.push(record),
            }
        }
        running.push(client.request(number, planned, due, began));
    }
    while let Some(record) = running.next().await {
        records.push(record);
    }
    records
}

async fn closed(
    client: &Client<'_>,
    plan: &[Planned],
    clients: usize,
    began: Instant,
) -> Vec<Record> {
    let next = Cell::new(0);
    let until = began.checked_add(client.options.duration());
    let one = async || {
        let mut records = Vec::new();
        loop {
            let number = next.get();
            let due = Instant::now();
            if number == plan.len() || until.is_some_and(|until| due >= until) {
                return records;
            }
            next.set(number + 1);
            records.push(client.request(number, plan[number], due, began).await);
        }
    };
    let all: FuturesUnordered<_> = (0..clients).map(|_| one()).collect();
    all.collect::<Vec<_>>().await.concat()
}
