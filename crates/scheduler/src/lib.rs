//! Continuous batching: which rows of which requests the next step computes.
//!
//! A step is one forward over a ragged batch. A request joins it when there is room and leaves it when
//! it is done, whatever the others do (iteration-level scheduling: Yu et al. 2022, "Orca", section 3);
//! prompts are cut into chunks that fit beside what decodes, so that none stalls the streams (Agrawal et
//! al. 2024, "Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve", section 4). The
//! [`Scheduler`] is the state machine behind it, over the blocks of a [`paged_kv::KvCacheManager`]: no
//! clock, thread, model or randomness inside. The same calls give the same steps.
//!
//! # Rules
//! **Rows.** Every sequence that decodes gets its row first. If there are more of them than
//! [`Budget::rows`], those go that waited longest. Prompts share what is left, at most
//! [`Budget::prompt_rows`] beside decoding ones, the oldest first; several may share a step.
//!
//! **Admission.** The lowest [`Request::priority`] first; in it, requests that were preempted; then the
//! tenant that was served least ([`Scheduler::served_tokens`], after Sheng et al. 2024, "Fairness in
//! Serving Large Language Models"); each tenant's requests in the order in which they came. Whoever is
//! next starts when there are blocks for its prompt, for what others still miss of theirs, and for one
//! more block of every sequence. Until then *nobody* starts: within a priority no request is
//! overtaken by one of the same tenant, and by others only as far as their tenants were served less.
//! So if the tenants of a priority all have requests waiting, none is served more than another by more
//! than `2 U`, `U` being what one tenant can be charged without leaving the queue again: its longest
//! prompt and the output of all that runs. A lower priority waits as long as a higher one has requests.
//!
//! **Preemption.** Those that run have a rank: priority, then first start. Who needs a block when
//! there is none takes all blocks of the last in rank, the whole request's, unless it is last itself;
//! then it waits. The first in rank therefore always goes on, [`Refusal::NeverFits`] makes sure that it
//! comes to its end, and then there is another first. A preempted request keeps its rank and resumes
//! where it was: swapped in, or computed again in chunks from whatever the prefix cache still has, its
//! sequences forked from each other again where they agree. Nothing is sampled twice.
//!
//! **Shared prefixes.** A request whose next block is being written in this very step by another waits
//! for the next step and finds it in the cache.
//!
//! ```
//! use paged_kv::{CacheSalt, KvCacheConfig};
//! use scheduler::{
//!     Budget, Preemption, Request, RequestId, Scheduler, SchedulerConfig, Step, TenantId,
//! };
//!
//! let mut scheduler = Scheduler::new(SchedulerConfig {
//!     kv: KvCacheConfig { block_size: 4, blocks: 16, ..Default::default() },
//!     max_sequences: 4,
//!     max_waiting: 8,
//!     max_model_len: 64,
//!     preemption: Preemption::Recompute,
//! })?;
//! let request = |id, prompt: &[u32]| Request {
//!     id: RequestId(id),
//!     tenant: TenantId(0),
//!     salt: CacheSalt(0),
//!     priority: 0,
//!     prompt: prompt.to_vec(),
//!     max_new_tokens: 8,
//!     sequences: 1,
//!     every_logit: false,
//! };
//! let budget = Budget { rows: 8, prompt_rows: 3 };
//! let rows = |step: &Step| {
//!     let of = |w: &scheduler::Work| (w.request.0, w.first, step.tokens(w).to_vec(), w.samples);
//!     step.work.iter().map(of).collect::<Vec<_>>()
//! };
//!
//! // A prompt of two tokens, computed at once. Its last row says what comes next.
//! scheduler.add(request(1, &[10, 11]))?;
//! assert_eq!(rows(scheduler.schedule(budget)), [(1, 0, vec![10, 11], true)]);
//! let stream = scheduler.requests().next().unwrap().sequences().next().unwrap().id();
//! scheduler.computed();
//! scheduler.push(stream, 12);
//!
//! // A longer one comes. The first goes on decoding, and the second has three rows beside it.
//! scheduler.add(request(2, &[20, 21, 22, 23, 24]))?;
//! let step = scheduler.schedule(budget);
//! assert_eq!(rows(step), [(1, 2, vec![12], true), (2, 0, vec![20, 21, 22], false)]);
//! scheduler.computed();
//! scheduler.push(stream, 13);
//!
//! let step = scheduler.schedule(budget);
//! assert_eq!(rows(step), [(1, 3, vec![13], true), (2, 3, vec![23, 24], true)]);
//! scheduler.computed();
//! // The first has ended, the second was cancelled: the blocks are back.
//! scheduler.finish(stream);
//! scheduler.cancel(RequestId(2));
//! assert!(scheduler.is_idle());
//! assert_eq!(scheduler.kv().pool().used(), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod admission;
mod fairness;
mod group;
mod queue;
mod request;
mod schedule;
mod scheduler;
mod step;
mod view;

pub use fairness::{OUTPUT_WEIGHT, PROMPT_WEIGHT};
pub use group::RequestState;
pub use request::{Refusal, Request, RequestId, TenantId};
pub use scheduler::{ForkError, Preemption, Scheduler, SchedulerConfig};
pub use step::{Budget, Step, Work};
pub use view::{Counts, RequestView, SequenceView};
