//! From the text of a token to its id, without a second copy of the texts.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

/// A hash table of ids whose keys stay where they are: every look-up is given the texts.
///
/// The hash is keyed at random, so that no file can choose its collisions.
#[derive(Default)]
pub(crate) struct TextIndex {
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl TextIndex {
    /// Indexes the texts of `ids`; of equal texts the last one counts, as in llama.cpp.
    pub(crate) fn new<T: AsRef<[u8]>>(texts: &[T], ids: impl Iterator<Item = u32>) -> Self {
        let mut index = TextIndex::default();
        index.table.reserve(ids.size_hint().0, |_| 0);
        for id in ids {
            let text = texts[id as usize].as_ref();
            let hash = index.hasher.hash_one(text);
            let hasher = &index.hasher;
            let entry = index.table.entry(
                hash,
                |&other| texts[other as usize].as_ref() == text,
                |&other| hasher.hash_one(texts[other as usize].as_ref()),
            );
            match entry {
                hashbrown::hash_table::Entry::Occupied(mut e) => *e.get_mut() = id,
                hashbrown::hash_table::Entry::Vacant(e) => {
                    e.insert(id);
                }
            }
        }
        index
    }

    /// The id of `text`.
    pub(crate) fn get<T: AsRef<[u8]>>(&self, texts: &[T], text: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(text);
        self.table.find(hash, |&id| texts[id as usize].as_ref() == text).copied()
    }
}
