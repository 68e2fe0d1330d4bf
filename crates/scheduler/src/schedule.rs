//! The rows of a step: one for each sequence that decodes, then prompts.

use paged_kv::SeqId;

use crate::fairness::PROMPT_WEIGHT;
use crate::group::{Place, Slot};
use crate::{Budget, Scheduler, Step, Work};

impl Scheduler {
    /// Chooses the rows of the next step and gives them slots. A step that is still open counts as
    /// [`abandoned`](Self::abandoned).
    ///
    /// Without requests arriving or ending it allocates nothing, and takes time in the sequences and
    /// rows.
    pub fn schedule(&mut self, budget: Budget) -> &Step {
        self.abandoned();
        self.step.clear();
        self.steps += 1;
        self.open = true;
        let prompt_rows = self.serve_running(budget);
        // Blocks are short, or were taken from the very requests that would come next.
        if self.step.preempted.is_empty() {
            self.admit(prompt_rows);
        }
        &self.step
    }

    /// Gives rows to those who run, by rank, and returns how many prompt rows are left.
    ///
    /// Who comes later in rank has no row of this step yet when somebody needs its blocks, so that
    /// no row is ever taken back.
    fn serve_running(&mut self, budget: Budget) -> usize {
        let decoding = self.decoding();
        let all_decode = decoding <= budget.rows;
        if !all_decode {
            self.choose(budget.rows);
        }
        let beside = if decoding == 0 { usize::MAX } else { budget.prompt_rows };
        let mut prompt_rows = beside.min(budget.rows.saturating_sub(decoding));
        let mut rank = 0;
        while rank < self.running.len() {
            let slot = self.running[rank];
            prompt_rows -= self.restore(slot, rank, prompt_rows);
            for k in 0..self.served(slot) {
                let decodes = self.groups[slot].is_decoding(k);
                if !self.needs_rows(slot, k) {
                    continue;
                } else if !decodes {
                    prompt_rows -= self.grant(slot, k, rank, prompt_rows);
                } else if all_decode || self.groups[slot].sequences[k].chosen == self.steps {
                    self.grant(slot, k, rank, 1);
                }
            }
            rank += 1;
        }
        prompt_rows
    }

    /// Gives prompt rows to a request that has just been admitted, without taking blocks from others.
    pub(crate) fn serve_admitted(&mut self, slot: Slot, prompt_rows: usize) -> usize {
        let rank = self.running.len();
        let mut left = prompt_rows - self.restore(slot, rank, prompt_rows);
        for k in 0..self.served(slot) {
            if self.needs_rows(slot, k) {
                left -= self.grant(slot, k, rank, left);
            }
        }
        prompt_rows - left
    }

    /// Sequences of a request that get rows, the first ones.
    fn served(&self, slot: Slot) -> usize {
        let group = &self.groups[slot];
        group.sequences.len().min(group.limit)
    }

    /// Whether a sequence on the device has rows to be computed, and none in this step yet.
    fn needs_rows(&self, slot: Slot, k: usize) -> bool {
        let s = &self.groups[slot].sequences[k];
        s.place == Place::Device && s.pending() > 0 && s.last_step != self.steps
    }

    /// Marks those that decode in this step, of more than can: the ones that waited longest.
    fn choose(&mut self, rows: usize) {
        self.scratch.clear();
        for (rank, &slot) in self.running.iter().enumerate() {
            let group = &self.groups[slot];
            let decoding = (0..self.served(slot)).filter(|&k| group.is_decoding(k));
            // Who was chosen and found no block had its turn: others might free one.
            let turn = |k: usize| group.sequences[k].last_step.max(group.sequences[k].chosen);
            self.scratch.extend(decoding.map(|k| (turn(k), rank, k)));
        }
        self.scratch.sort_unstable();
        for &(_, rank, k) in &self.scratch[..rows] {
            self.groups[self.running[rank]].sequences[k].chosen = self.steps;
        }
    }

    /// Brings sequences without blocks back to the device, each with its first rows: from the prefix
    /// cache, or by forking a sibling. Returns how many rows they took.
    fn restore(&mut self, slot: Slot, rank: usize, rows: usize) -> usize {
        let mut left = rows;
        for k in 0..self.served(slot) {
            if left == 0 {
                break;
            }
            if self.groups[slot].sequences[k].place == Place::Nowhere {
                left -= match self.groups[slot].origin(k) {
                    None => self.create(slot, k, rank, left),
                    Some((from, common)) => self.fork_again(slot, k, from, common, rank, left),
                };
            }
        }
        rows - left
    }

    /// Starts a sequence with what the prefix cache has of it.
    fn create(&mut self, slot: Slot, k: usize, rank: usize, rows: usize) -> usize {
        let group = &mut self.groups[slot];
        let sequence = &mut group.sequences[k];
        let tokens = match group.every_logit && group.prompt_seen < group.prompt {
            // Only rows whose logits were seen may be skipped; the last token is never looked up.
            true => &sequence.tokens[..=group.prompt_seen],
            false => &sequence.tokens[..],
        };
        let found =
            self.kv.create(sequence.id, group.salt, tokens).expect("ids are not used twice");
        sequence.place = Place::Device;
        sequence.computed = found;
        if group.cached.is_none() {
            group.cached = Some(found);
            self.step.started.push((group.request, sequence.id, found));
            self.counters.charge(group.tenant, group.prompt - found, PROMPT_WEIGHT);
        }
        group.prompt_seen = group.prompt_seen.max(found.min(group.prompt));
        self.grant(slot, k, rank, rows)
    }

    /// Forks a sequence again from a sibling, once that has the positions that they have in common.
    ///
    /// It is shortened to those and gets its next row at once, and with it a copy of a block that
    /// they would share in part: a sibling that ends first could leave that block to others, and a
    /// copy must not read what a swap of the same step writes.
    fn fork_again(
        &mut self,
        slot: Slot,
        k: usize,
        from: usize,
        common: usize,
        rank: usize,
        rows: usize,
    ) -> usize {
        let group = &self.groups[slot];
        let (sibling, seq) = (&group.sequences[from], group.sequences[k].id);
        let written = sibling.place == Place::Device
            && sibling.computed >= common
            && sibling.last_step != self.steps;
        if !written {
            return 0;
        }
        self.kv.fork(sibling.id, seq).expect("what the sibling has is committed");
        self.kv.truncate(seq, common).expect("the sibling is no shorter");
        self.set_place(slot, k, Place::Device, common);
        let granted = self.grant(slot, k, rank, rows);
        if granted == 0 {
            self.kv.free(seq).expect("forked just now");
            self.set_place(slot, k, Place::Nowhere, 0);
        }
        granted
    }

    fn set_place(&mut self, slot: Slot, k: usize, place: Place, computed: usize) {
        let sequence = &mut self.groups[slot].sequences[k];
        (sequence.place, sequence.computed) = (place, computed);
    }

    /// Gives a sequence up to `most` rows, as far as there are blocks, which are taken from those
    /// after `rank` if there is none. Returns how many rows it got.
    fn grant(&mut self, slot: Slot, k: usize, rank: usize, most: usize) -> usize {
        let sequence = &self.groups[slot].sequences[k];
        let (seq, first) = (sequence.id, sequence.computed);
        let mut rows = most.min(sequence.pending());
        if rows == 0 {
            return 0;
        }
        loop {
            let tokens = &self.groups[slot].sequences[k].tokens[first..first + rows];
            match self.kv.append(seq, tokens) {
                Ok(copy) => {
                    self.step.copies.extend(copy);
                    break;
                }
                Err(_) => match self.rows_that_fit(seq, rows) {
                    0 if !self.preempt_after(rank) => return 0,
                    0 => {}
                    fit => rows = fit,
                },
            }
        }
        let group = &mut self.groups[slot];
        let end = first + rows;
        let new = end.min(group.prompt).saturating_sub(first.max(group.prompt_seen));
        let sequence = &mut group.sequences[k];
        sequence.last_step = self.steps;
        let at = self.step.tokens.len();
        self.step.tokens.extend_from_slice(&sequence.tokens[first..end]);
        self.step.work.push(Work {
            request: group.request,
            seq,
            first,
            tokens: at..at + rows,
            samples: end == sequence.tokens.len() && !sequence.sampled,
            prompt_rows: new,
        });
        rows
    }

    /// How many of `rows` can be appended with the blocks that there are.
    fn rows_that_fit(&self, seq: SeqId, rows: usize) -> usize {
        let table = self.kv.table(seq).expect("it is on the device");
        let block_size = self.kv.config().block_size;
        let room = table.blocks().len() * block_size - table.len();
        let available = self.kv.pool().available();
        // Room can be used only after a copy if others see the block.
        let copies = match room {
            0 => 0,
            _ => self.kv.blocks_needed(seq, 1).expect("it is on the device"),
        };
        match available.checked_sub(copies) {
            Some(blocks) => rows.min(room + blocks * block_size),
            None => 0,
        }
    }
}
