//! How many rows of prompts a step takes while others are being answered.
//!
//! A step with `p` prompt rows beside decoding ones takes about `d + j + p * r`: `d` what the same
//! sequences take alone, `r` what a row of a large chunk costs, `j` what it costs that there are many
//! rows now (weights are unpacked for another kernel). Prompts get as many rows as make a step
//! [`STRETCH`] times as long, so that no stream stalls (Agrawal et al. 2024, "Taming
//! Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve", section 4.2, with the budget found
//! by measuring); but no fewer than cost as much as `j`, or a prompt would take for ever. Where many
//! prompts wait for few streams they get more, so that the batch fills up again: `STRETCH * (1 +
//! (prompts - 1) / streams)`, up to steps of [`MAX_GAP`].
//!
//! While prompts wait all the time no step would show what decoding alone takes, and whatever it takes
//! would be laid at the prompts' door. So once in [`PROBE`] steps prompts pause for one.

use scheduler::Budget;

/// How much longer a step may become through one prompt, as a multiple of what it takes without.
pub const STRETCH: f64 = 2.7;

/// Seconds of a step beyond which no number of waiting prompts stretches it.
pub const MAX_GAP: f64 = 0.35;

/// Steps after which what decoding alone takes is measured again.
const PROBE: u32 = 64;

/// Rows of a step, prompts' and decoding ones together, come in multiples of this: those of a tile,
/// which cost the same when some are missing.
const GRANULE: usize = 16;

/// What is known of steps that only decode.
#[derive(Clone, Copy, Debug, Default)]
struct Decode {
    seconds: Option<f64>,
    /// Steps with as many sequences since it was measured.
    age: u32,
}

/// Measures steps and sets the budget of the next.
#[derive(Debug)]
pub(crate) struct Pace {
    /// The most rows of a step.
    rows: usize,
    /// Seconds of a step that only decodes, by the sequences it decodes: 1, 2, 3..4, 5..8, ...
    decode: [Decode; 16],
    /// Seconds that one more prompt row costs, from steps of prompts alone.
    row: Option<f64>,
    /// Seconds that a step costs beyond its decoding and its prompt rows.
    join: Option<f64>,
}

impl Pace {
    pub(crate) fn new(rows: usize) -> Self {
        Self { rows: rows.max(1), decode: [Decode::default(); 16], row: None, join: None }
    }

    /// The budget of a step in which `decoding` sequences decode and `prompts` are to be computed.
    pub(crate) fn budget(&self, decoding: usize, prompts: usize) -> Budget {
        let decode = self.decode_seconds(decoding);
        let crowd = 1.0 + prompts.saturating_sub(1) as f64 / decoding.max(1) as f64;
        let here = &self.decode[class(decoding)];
        let prompt_rows = match (decode, self.row) {
            _ if decoding == 0 => self.rows,
            _ if here.seconds.is_none() || here.age >= PROBE => {
                return Budget { rows: self.rows.max(decoding + GRANULE), prompt_rows: 0 };
            }
            (Some(decode), Some(row)) => {
                let least = STRETCH * decode;
                let step = (least * crowd).min(MAX_GAP.max(least));
                let join = self.join.unwrap_or(0.0);
                ((step - decode - join).max(join) / row.max(1e-9)) as usize
            }
            // Nothing is known yet.
            _ => 4 * GRANULE,
        };
        let tiles = ((decoding + prompt_rows) / GRANULE).max(decoding / GRANULE + 1);
        let whole = tiles * GRANULE - decoding;
        Budget { rows: self.rows.max(decoding + GRANULE), prompt_rows: whole.min(self.rows) }
    }

    /// Notes that a step of so many rows took so long.
    pub(crate) fn took(&mut self, decoding: usize, prompt_rows: usize, seconds: f64) {
        let here = &mut self.decode[class(decoding)];
        if prompt_rows == 0 {
            if decoding > 0 {
                blend(&mut here.seconds, seconds);
                here.age = 0;
            }
            return;
        }
        here.age = here.age.saturating_add(1);
        if decoding == 0 {
            // A few rows tell more of what a step costs anyway than of what a row does.
            if prompt_rows >= 4 * GRANULE || self.row.is_none() {
                blend(&mut self.row, seconds / prompt_rows as f64);
            }
        } else if let (Some(decode), Some(row)) = (self.decode_seconds(decoding), self.row) {
            blend(&mut self.join, (seconds - decode - row * prompt_rows as f64).max(0.0));
        }
    }

    /// What is known of as many sequences, or else of the nearest number that is known.
    fn decode_seconds(&self, decoding: usize) -> Option<f64> {
        let at = class(decoding);
        let near =
            (0..self.decode.len()).filter_map(|c| Some((c.abs_diff(at), self.decode[c].seconds?)));
        near.min_by_key(|&(distance, _)| distance).map(|(_, seconds)| seconds)
    }
}

fn class(decoding: usize) -> usize {
    (decoding.max(1).next_power_of_two().trailing_zeros() as usize).min(15)
}

/// A running mean that forgets: the newest counts a fifth.
fn blend(mean: &mut Option<f64>, new: f64) {
    *mean = Some(mean.map_or(new, |old| old + 0.2 * (new - old)));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine on which decoding `n` takes `d` seconds, a prompt's row `r`, and both together `j`
    /// more.
    fn learnt(pace: &mut Pace, n: usize, [d, r, j]: [f64; 3]) {
        for _ in 0..50 {
            pace.took(0, 512, 512.0 * r);
            pace.took(n, 0, d);
            let rows = pace.budget(n, 1).prompt_rows;
            pace.took(n, rows, d + j + r * rows as f64);
        }
    }

    #[test]
    fn prompts_stretch_a_step_no_further_than_asked() {
        let mut pace = Pace::new(512);
        assert_eq!(pace.budget(0, 1).prompt_rows, 512);
        // What decoding takes is not known: this step tells.
        assert_eq!(pace.budget(8, 1).prompt_rows, 0);
        pace.took(8, 0, 0.050);
        // Nor what a row of a prompt does.
        assert_eq!(pace.budget(8, 1).prompt_rows, 56);
        learnt(&mut pace, 8, [0.050, 0.001, 0.0]);
        // (2.7 - 1) * 50 ms of rows of 1 ms each, in tiles that those that decode fill up.
        assert_eq!(pace.budget(8, 1).prompt_rows, 72);
        assert_eq!(pace.budget(5, 1).prompt_rows, 75);
        // Eight more that wait: 2.7 * (1 + 8 / 8) times 50 ms; a hundred: 350 ms.
        assert_eq!(pace.budget(8, 9).prompt_rows, 216);
        assert_eq!(pace.budget(8, 100).prompt_rows, 296);
    }

    #[test]
    fn a_chunk_is_worth_what_it_costs_to_have_one() {
        let mut pace = Pace::new(512);
        learnt(&mut pace, 8, [0.050, 0.001, 0.020]);
        // 65 ms are left of (2.7 - 1) * 50 ms.
        assert_eq!(pace.budget(8, 1).prompt_rows, 56);
        // Nothing is left, and yet a chunk costs no less than the 90 ms it needs anyway.
        learnt(&mut pace, 8, [0.050, 0.001, 0.090]);
        assert_eq!(pace.budget(8, 1).prompt_rows, 88);
        // A machine on which a row costs more than the streams can bear still makes progress.
        learnt(&mut pace, 8, [0.050, 1.0, 0.0]);
        assert_eq!(pace.budget(8, 1).prompt_rows, 8);
    }

    #[test]
    fn what_decoding_takes_is_measured_though_prompts_never_end() {
        let mut pace = Pace::new(512);
        learnt(&mut pace, 1, [0.025, 0.002, 0.0]);
        // Sixteen streams take 60 ms, of which nothing is known, and always a prompt waits.
        let (mut rows, mut probes) = (0, 0);
        for _ in 0..1000 {
            rows = pace.budget(16, 1).prompt_rows;
            probes += usize::from(rows == 0);
            pace.took(16, rows, 0.060 + 0.002 * rows as f64);
        }
        assert_eq!(rows, 48); // (2.7 - 1) * 60 ms of rows of 2 ms, in whole tiles
        assert!((10..=20).contains(&probes), "{probes}");
    }
}
