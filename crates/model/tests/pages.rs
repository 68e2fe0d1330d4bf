//! A cache in pages, written outside the workspace's crates, gives the bits of one in one piece.

mod common;

use std::collections::HashMap;
use std::ops::Range;

use common::{all, fixture, ids, logits, open};
use model::{Batch, Row};
use tensor::DType;
use tensor::kv::{KvCache, KvError, KvLayout, KvRun, KvRunMut, SeqId};

const PAGE: usize = 3;

/// Sequences as lists of pages of three slots, which other sequences' pages lie between.
struct Pages {
    layout: KvLayout,
    /// Per layer and page, keys and values `[PAGE, width]`.
    layers: Vec<Vec<[Vec<f32>; 2]>>,
    free: Vec<usize>,
    seqs: HashMap<SeqId, (usize, Vec<usize>)>,
}

impl Pages {
    fn new(layout: KvLayout, pages: usize) -> Self {
        let page =
            || [vec![f32::NAN; PAGE * layout.width()], vec![f32::NAN; PAGE * layout.width()]];
        let layers = (0..layout.layers).map(|_| (0..pages).map(|_| page()).collect()).collect();
        // Taken in an order in which neighbours are apart.
        let free = (0..pages).map(|i| i * 7 % pages).collect();
        Self { layout, layers, free, seqs: HashMap::new() }
    }

    fn place(&self, seq: SeqId, slot: usize) -> (usize, Range<usize>) {
        let (page, at, width) = (slot / PAGE, slot % PAGE, self.layout.width());
        (self.seqs[&seq].1[page], at * width..(at + 1) * width)
    }
}

impl KvCache for Pages {
    fn layout(&self) -> &KvLayout {
        &self.layout
    }

    fn len(&self, seq: SeqId) -> usize {
        self.seqs.get(&seq).map_or(0, |s| s.0)
    }

    fn reserve(&mut self, seq: SeqId, slots: usize) -> Result<(), KvError> {
        let (len, pages) = self.seqs.entry(seq).or_default();
        let more = (*len + slots).div_ceil(PAGE).saturating_sub(pages.len());
        if more > self.free.len() {
            return Err(KvError::OutOfSpace { needed: slots, free: self.free.len() * PAGE });
        }
        pages.extend(self.free.drain(self.free.len() - more..));
        *len += slots;
        Ok(())
    }

    fn runs_mut(
        &mut self,
        layer: usize,
        seq: SeqId,
        slots: Range<usize>,
        each: &mut dyn FnMut(KvRunMut<'_>),
    ) -> Result<(), KvError> {
        for slot in slots {
            let (page, at) = self.place(seq, slot);
            let [keys, values] = &mut self.layers[layer][page];
            let keys = bytemuck::cast_slice_mut(&mut keys[at.clone()]);
            each(KvRunMut { keys, values: bytemuck::cast_slice_mut(&mut values[at]), len: 1 });
        }
        Ok(())
    }

    fn runs<'a>(
        &'a self,
        layer: usize,
        seq: SeqId,
        slots: Range<usize>,
        out: &mut Vec<KvRun<'a>>,
    ) -> Result<(), KvError> {
        for slot in slots {
            let (page, at) = self.place(seq, slot);
            let [keys, values] = &self.layers[layer][page];
            let bytes = |side: &'a [f32]| bytemuck::cast_slice(&side[at.clone()]);
            out.push(KvRun { keys: bytes(keys), values: bytes(values), len: 1 });
        }
        Ok(())
    }

    fn keep(&mut self, seq: SeqId, prefix: usize, kept: &[usize]) -> Result<(), KvError> {
        for (to, &from) in (prefix..).zip(kept) {
            let ((page, at), (to_page, to_at)) = (self.place(seq, from), self.place(seq, to));
            for pages in &mut self.layers {
                for side in [0, 1] {
                    let moved = pages[page][side][at.clone()].to_vec();
                    pages[to_page][side][to_at.clone()].copy_from_slice(&moved);
                }
            }
        }
        self.seqs.get_mut(&seq).expect("a sequence").0 = prefix + kept.len();
        Ok(())
    }

    fn remove(&mut self, seq: SeqId) {
        self.free.extend(self.seqs.remove(&seq).map_or(Vec::new(), |s| s.1));
    }
}

#[test]
fn pages_change_no_bit() {
    for name in ["arch/gemma3", "arch/mixtral", "arch/llama-yarn"] {
        let folder = fixture(name);
        let (model, ids) = (open(&folder), ids(&folder));
        let expected = logits(&model, &ids).into_vec().unwrap();
        let vocab = expected.len() / ids.len();
        let layout = model.decoder().unwrap().config.kv_layout(DType::F32);
        let mut cache = Pages::new(layout, 40);
        let (a, b) = (SeqId(0), SeqId(1));
        let mut got = Vec::new();
        for chunk in ids.chunks(11) {
            // The other sequence begins anew each time, and takes pages in between.
            cache.remove(b);
            let mut batch = Batch::new();
            batch.extend(b, &ids[5..9]);
            let rows = batch.len();
            batch.extend(a, chunk);
            let both = all(&model, &batch, &mut cache).logits;
            got.extend_from_slice(&both.as_f32().unwrap()[rows * vocab..]);
        }
        assert_eq!(got, expected, "{name}");

        // A draft that is wrong, one that is right and goes on, and the sequence with it.
        let at = 20;
        cache.keep(a, at, &[]).unwrap();
        let mut tree = Batch::new();
        let row = |token, parent| Row { token, seq: a, parent };
        tree.push(row(ids[at] ^ 1, None));
        let right = tree.push(row(ids[at], None));
        tree.push(row(ids[at + 1] ^ 1, Some(0)));
        tree.push(row(ids[at + 1], Some(right)));
        let got = all(&model, &tree, &mut cache).logits.into_vec().unwrap();
        assert_eq!(got[vocab..2 * vocab], expected[at * vocab..(at + 1) * vocab]);
        assert_eq!(got[3 * vocab..], expected[(at + 1) * vocab..(at + 2) * vocab]);
        cache.keep(a, at, &[at + 1, at + 3]).unwrap();
        let mut batch = Batch::new();
        batch.extend(a, &ids[at + 2..]);
        let got = all(&model, &batch, &mut cache).logits.into_vec().unwrap();
        assert_eq!(got, expected[(at + 2) * vocab..], "{name}");
    }
}
