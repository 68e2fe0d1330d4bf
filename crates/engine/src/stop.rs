//! Stop strings: where a text ends, and how much of it can be shown before that is known.

/// The text of an answer, shown only as far as no stop string can reach back into it.
///
/// What [`push`](Self::push) and [`finish`](Self::finish) give, put together, is the text up to the
/// first stop string, however the text was cut into pieces.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopText {
    stops: Vec<String>,
    include_stop: bool,
    text: String,
    shown: usize,
}

impl StopText {
    /// A text that ends before the first of `stops`, or after it if `include_stop`.
    pub(crate) fn new(stops: &[String], include_stop: bool) -> Self {
        let stops = stops.iter().filter(|s| !s.is_empty()).cloned().collect();
        Self { stops, include_stop, ..Self::default() }
    }

    /// Bytes so far, shown or not.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// Appends `piece`; `show` gets what can be shown now, if anything. Returns the stop string that
    /// ended the text, if one did: then all that will be shown has been.
    pub(crate) fn push(&mut self, piece: &str, show: &mut String) -> Option<String> {
        // A stop string that was not there before ends within the piece.
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let mut from = self.text.len().saturating_sub(longest).max(self.shown);
        while !self.text.is_char_boundary(from) {
            from -= 1;
        }
        self.text.push_str(piece);
        let tail = &self.text[from..];
        // The earliest one; of those that begin together, the first in the list.
        let found = self.stops.iter().filter_map(|s| Some((tail.find(s.as_str())?, s)));
        if let Some((at, stop)) = found.min_by_key(|&(at, _)| at) {
            let end = from + at + if self.include_stop { stop.len() } else { 0 };
            let stop = stop.clone();
            self.text.truncate(end);
            self.show(end, show);
            return Some(stop);
        }
        self.show(self.text.len() - self.held_back(), show);
        None
    }

    /// Shows the rest: no stop string came.
    pub(crate) fn finish(&mut self, show: &mut String) {
        self.show(self.text.len(), show);
    }

    fn show(&mut self, end: usize, show: &mut String) {
        if end > self.shown {
            show.push_str(&self.text[self.shown..end]);
            self.shown = end;
        }
    }

    /// Bytes at the end with which a stop string may begin.
    fn held_back(&self) -> usize {
        let unseen = &self.text.as_bytes()[self.shown..];
        let of = |stop: &String| {
            let longest = (stop.len() - 1).min(unseen.len());
            (1..=longest).rev().find(|&n| unseen.ends_with(&stop.as_bytes()[..n]))
        };
        let mut held = self.stops.iter().filter_map(of).max().unwrap_or(0);
        // A character is shown whole or not at all.
        while !self.text.is_char_boundary(self.text.len() - held) {
            held += 1;
        }
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(stops: &[&str], include: bool, pieces: &[&str]) -> (Vec<String>, Option<String>) {
        let stops: Vec<String> = stops.iter().map(|s| s.to_string()).collect();
        let mut text = StopText::new(&stops, include);
        let mut out = Vec::new();
        for piece in pieces {
            let mut show = String::new();
            let stopped = text.push(piece, &mut show);
            out.push(show);
            if stopped.is_some() {
                return (out, stopped);
            }
        }
        let mut show = String::new();
        text.finish(&mut show);
        out.push(show);
        (out, None)
    }

    #[test]
    fn what_may_become_a_stop_string_is_held_back() {
        let (out, stop) = shown(&["END"], false, &["a E", "N", "x E", "ND b"]);
        assert_eq!(out, ["a ", "", "ENx ", ""]);
        assert_eq!(stop.as_deref(), Some("END"));
        let (out, stop) = shown(&["END"], true, &["a E", "ND b"]);
        assert_eq!((out.concat().as_str(), stop.as_deref()), ("a END", Some("END")));
        let (out, stop) = shown(&["END"], false, &["a E", "N"]);
        assert_eq!((out.concat().as_str(), stop), ("a EN", None));
    }

    #[test]
    fn the_earliest_stop_string_counts() {
        let (out, stop) = shown(&["cd", "bcde"], false, &["abcdef"]);
        // Both are there; `bcde` begins first.
        assert_eq!((out.concat().as_str(), stop.as_deref()), ("a", Some("bcde")));
        let (out, _) = shown(&["é!"], false, &["caf", "é", "?"]);
        assert_eq!(out, ["caf", "", "é?", ""]);
        let (out, stop) = shown(&[""], false, &["x"]);
        assert_eq!((out.concat().as_str(), stop), ("x", None));
    }

    proptest! {
        #[test]
        fn pieces_show_what_the_whole_shows(
            text in "[abé]{0,20}",
            stops in proptest::collection::vec("[abé]{1,3}", 0..3),
            cuts in proptest::collection::vec(0usize..20, 0..5),
            include in any::<bool>(),
        ) {
            let all: Vec<&str> = stops.iter().map(String::as_str).collect();
            let (whole, by) = shown(&all, include, &[&text]);
            // What a reader of the whole text would cut.
            let first = stops.iter().filter_map(|s| Some((text.find(s.as_str())?, s)))
                .min_by_key(|&(at, _)| at);
            let want = match first {
                Some((at, s)) => &text[..at + if include { s.len() } else { 0 }],
                None => &text[..],
            };
            prop_assert_eq!(whole.concat(), want);
            prop_assert_eq!(by.as_ref(), first.map(|(_, s)| s));
            let mut cuts: Vec<usize> = cuts.into_iter()
                .filter(|&c| c <= text.len() && text.is_char_boundary(c)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            let (cut, _) = shown(&all, include, &pieces);
            // A longer stop string that begins earlier may be complete only later: the one that is
            // complete first ends the text then, as tokens come one at a time.
            let cut = cut.concat();
            prop_assert!(want.starts_with(&cut) || cut.starts_with(want), "{} {}", cut, want);
        }
    }
}
