//! What a step did, and how things stand after it.

use std::fmt;

use serde::Serialize;

/// An answer to a request, as it is shown: `2b` is the second answer to request 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// The request, from 1.
    pub request: usize,
    /// Which of its answers, from 0.
    pub answer: usize,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.request)?;
        // As in bijective base 26, so that there is no end: a to z, aa, ab.
        let (mut letters, mut rest) = (Vec::new(), self.answer + 1);
        while rest > 0 {
            letters.push(b'a' + ((rest - 1) % 26) as u8);
            rest = (rest - 1) / 26;
        }
        letters.iter().rev().try_for_each(|&l| write!(f, "{}", l as char))
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Something that happened in a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A request is in the queue.
    Arrives {
        /// The request.
        request: usize,
        /// Tokens of its prompt.
        prompt: usize,
        /// Answers it asks for.
        answers: usize,
    },
    /// A request left the queue.
    Starts {
        /// Its first answer.
        sequence: Name,
        /// Tokens of its prompt.
        prompt: usize,
        /// Of them, found in the prefix cache.
        cached: usize,
        /// The blocks that hold those.
        blocks: Vec<u32>,
    },
    /// A sequence lost its blocks to others.
    Preempted {
        /// The sequence.
        sequence: Name,
        /// The positions that it had.
        positions: usize,
    },
    /// It goes on.
    Resumes {
        /// The sequence.
        sequence: Name,
        /// Positions that it has without computing them again.
        kept: usize,
    },
    /// A block that others see was copied before a sequence wrote to it.
    CopyOnWrite {
        /// Who writes.
        sequence: Name,
        /// The block that others keep.
        from: u32,
        /// The copy.
        to: u32,
        /// Slots that were filled.
        slots: usize,
    },
    /// A sequence computed what another had computed already, and took the other's block.
    Merges {
        /// The sequence.
        sequence: Name,
        /// The block that it gave up.
        from: u32,
        /// The block that holds the same.
        to: u32,
    },
    /// An answer begins with all blocks of another.
    Forks {
        /// The other.
        parent: Name,
        /// The new one.
        child: Name,
        /// The blocks that both hold now.
        blocks: Vec<u32>,
    },
    /// Blocks whose content had been kept were taken for something new.
    Evicts {
        /// How many.
        blocks: u64,
    },
    /// An answer is complete.
    Ends {
        /// Which one.
        sequence: Name,
        /// Its tokens.
        tokens: usize,
        /// Blocks that are free now.
        freed: Vec<u32>,
        /// Blocks that nobody holds, and that can be found.
        kept: Vec<u32>,
        /// Blocks that others hold still.
        held: Vec<u32>,
    },
}

/// Rows that a step computed of a sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rows {
    /// The sequence.
    pub sequence: Name,
    /// The position of the first.
    pub first: usize,
    /// How many.
    pub rows: usize,
    /// Of them, rows of the prompt.
    pub prompt: usize,
    /// The token that was drawn from the last, as text.
    pub token: Option<String>,
}

/// What a sequence is doing after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In the queue, or preempted: it holds no blocks.
    Waiting,
    /// It holds blocks.
    Running,
    /// It is complete.
    Ended,
}

/// A sequence after a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SequenceFrame {
    /// Which one.
    pub name: Name,
    /// What it is doing.
    pub state: State,
    /// Tokens of its prompt.
    pub prompt: usize,
    /// Positions that it holds.
    pub positions: usize,
    /// Its block table: logical block `i` is physical block `table[i]`.
    pub table: Vec<u32>,
    /// Its answer so far.
    pub text: String,
}

/// A physical block after a step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BlockFrame {
    /// Tables that hold it.
    pub references: u32,
    /// Whether nobody holds it but its content can be found.
    pub idle: bool,
    /// Slots that hold a position.
    pub filled: usize,
}

/// The pool after a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PoolFrame {
    /// Blocks that somebody holds.
    pub used: usize,
    /// Of them, those that several hold.
    pub shared: usize,
    /// Blocks that nobody holds, with content.
    pub idle: usize,
    /// Blocks without content.
    pub free: usize,
    /// Entries of all tables: the blocks that would be used without sharing.
    pub entries: usize,
    /// The share of the used slots that holds no position.
    pub waste: f64,
}

/// A step, and how things stand after it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Frame {
    /// Its number, from 1.
    pub step: usize,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// What was computed.
    pub rows: Vec<Rows>,
    /// All sequences that have arrived.
    pub sequences: Vec<SequenceFrame>,
    /// All blocks.
    pub blocks: Vec<BlockFrame>,
    /// The pool.
    pub pool: PoolFrame,
}

/// A whole run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Forwards of the model.
    pub steps: usize,
    /// Rows of prompts that were computed.
    pub prompt_rows: usize,
    /// Tokens generated.
    pub generated: usize,
    /// Tokens of prompts that were looked up.
    pub prefix_queries: u64,
    /// Of them, found.
    pub prefix_hits: u64,
    /// The most blocks used after a step.
    pub peak_used: usize,
    /// The entries of all tables then.
    pub entries_at_peak: usize,
    /// Blocks copied on a write.
    pub copies: u64,
    /// Blocks freed because another held the same.
    pub merged: u64,
    /// Idle blocks whose content was given up.
    pub evictions: u64,
    /// Times that a sequence lost its blocks.
    pub preemptions: u64,
    /// The mean over the steps of the share of used slots that held no position.
    pub mean_waste: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_never_end() {
        let name = |answer| Name { request: 3, answer }.to_string();
        assert_eq!([0, 1, 25, 26, 27, 702].map(name), ["3a", "3b", "3z", "3aa", "3ab", "3aaa"]);
    }
}
