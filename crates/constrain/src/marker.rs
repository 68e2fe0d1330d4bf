//! Finding a marker in text that comes in pieces, never letting part of one through.

/// Looks for one marker.
#[derive(Clone, Debug)]
pub(crate) struct MarkerScan {
    marker: &'static str,
    /// What was read of it: always a prefix of the marker.
    partial: String,
}

impl MarkerScan {
    pub(crate) fn new(marker: &'static str) -> Self {
        Self { marker, partial: String::new() }
    }

    /// Reads one character. What can no longer be part of the marker goes to `text`; says whether the
    /// marker is whole now, which is then forgotten.
    pub(crate) fn push(&mut self, c: char, text: &mut String) -> bool {
        self.partial.push(c);
        while !self.marker.starts_with(&self.partial) {
            text.push(self.partial.remove(0));
        }
        let whole = self.partial == self.marker;
        if whole {
            self.partial.clear();
        }
        whole
    }

    /// The text is at its end: what was read of a marker is text.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.partial)
    }
}

#[cfg(test)]
mod tests {
    use super::MarkerScan;

    #[test]
    fn a_beginning_that_fails_may_hold_another() {
        let mut scan = MarkerScan::new("<<a>");
        let mut text = String::new();
        let found: Vec<bool> = "x<<<a>y<".chars().map(|c| scan.push(c, &mut text)).collect();
        assert_eq!(found.iter().position(|&f| f), Some(5));
        assert_eq!((text.as_str(), scan.finish().as_str()), ("x<y", "<"));
    }
}
