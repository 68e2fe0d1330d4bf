//! The engine's state for the live view.

use std::collections::HashMap;
use std::time::Instant;

use paged_kv::SeqId;
use scheduler::{RequestId, RequestState, Scheduler};

use crate::active::Active;
use crate::snapshot::{
    BlockMap, MAX_SEQUENCES, MAX_TABLE_RUNS, PrefixCounts, SequenceState, SequenceView, Snapshot,
    TokenCounts, table_runs,
};

/// What the worker counts beside what the scheduler does.
#[derive(Debug)]
pub(crate) struct Totals {
    pub(crate) began: Instant,
    pub(crate) steps: u64,
    pub(crate) tokens: TokenCounts,
}

impl Default for Totals {
    fn default() -> Self {
        Self { began: Instant::now(), steps: 0, tokens: TokenCounts::default() }
    }
}

/// The state of a scheduler at this moment, and of those whom it serves.
pub(crate) fn snapshot(
    model: &str,
    scheduler: &Scheduler,
    totals: &Totals,
    requests: &HashMap<RequestId, Active<'_>>,
) -> Snapshot {
    let (kv, counts) = (scheduler.kv(), scheduler.counts());
    let stats = kv.stats();
    let mut left = MAX_TABLE_RUNS;
    let mut sequences = Vec::new();
    'all: for request in scheduler.requests() {
        let age = requests.get(&request.id()).map_or(0, |a| a.submitted.elapsed().as_millis());
        let prompt = request.prompt_tokens();
        for sequence in request.sequences() {
            if sequences.len() == MAX_SEQUENCES {
                break 'all;
            }
            let state = match request.state() {
                RequestState::Waiting => SequenceState::Waiting,
                RequestState::Preempted => SequenceState::Preempted,
                RequestState::Running if sequence.computed() < prompt => SequenceState::Prefill,
                RequestState::Running => SequenceState::Decode,
            };
            let table = kv.table(SeqId(sequence.id().0)).map(|table| table.blocks());
            sequences.push(SequenceView {
                id: sequence.id().0,
                request: request.id().0,
                state,
                prompt,
                cached: request.cached_tokens(),
                computed: sequence.computed(),
                generated: sequence.generated(),
                max_tokens: request.max_new_tokens(),
                age_ms: age as u64,
                table: table_runs(table.unwrap_or_default(), &mut left),
            });
        }
    }
    Snapshot {
        model: model.to_owned(),
        time_ms: totals.began.elapsed().as_millis() as u64,
        steps: totals.steps,
        blocks: BlockMap::of(kv.pool(), kv.config().block_size),
        sequences,
        running: counts.running_sequences,
        waiting: counts.waiting + counts.preempted,
        tokens: totals.tokens,
        prefix: PrefixCounts { queries: stats.prefix_queries, hits: stats.prefix_hits },
        preemptions: counts.preemptions,
        waste: stats.waste(),
        speculation: None,
    }
}
