//! Where a name stands in a list: a hash table of positions, so that names are stored once.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Positions by name. The list itself is the caller's, who lends the names back.
#[derive(Clone, Debug, Default)]
pub(crate) struct NameIndex {
    table: HashTable<u32>,
    hasher: RandomState,
}

impl NameIndex {
    /// Where `name` stands.
    pub(crate) fn find<'a>(&self, name: &str, name_of: impl Fn(usize) -> &'a str) -> Option<usize> {
        let hash = self.hasher.hash_one(name);
        self.table.find(hash, |&i| name_of(i as usize) == name).map(|&i| i as usize)
    }

    /// Notes that `name` stands at `position`; false if it has a position already.
    pub(crate) fn insert<'a>(
        &mut self,
        name: &str,
        position: usize,
        name_of: impl Fn(usize) -> &'a str,
    ) -> bool {
        let position = u32::try_from(position).expect("a name takes bytes of a file");
        let same = |&i: &u32| name_of(i as usize) == name;
        let rehash = |&i: &u32| self.hasher.hash_one(name_of(i as usize));
        match self.table.entry(self.hasher.hash_one(name), same, rehash) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(position);
                true
            }
        }
    }
}
