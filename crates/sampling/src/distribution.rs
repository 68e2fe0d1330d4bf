//! A discrete distribution over part of the vocabulary.

/// The probabilities that a token is drawn with: sparse, in ascending order of token id.
///
/// Tokens that were cut away, or forbidden, are absent and have probability 0. The probabilities of the
/// others are positive and sum to 1 up to rounding in `f64`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Distribution {
    pub(crate) tokens: Vec<u32>,
    pub(crate) probabilities: Vec<f64>,
}

impl Distribution {
    /// The tokens with a positive probability, ascending.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The probabilities of [`tokens`](Self::tokens), in their order.
    pub fn probabilities(&self) -> &[f64] {
        &self.probabilities
    }

    /// The tokens with their probabilities, by ascending id.
    pub fn iter(&self) -> impl Iterator<Item = (u32, f64)> {
        self.tokens.iter().copied().zip(self.probabilities.iter().copied())
    }

    /// The probability of one token, 0 for any that cannot be drawn. Takes O(log n).
    pub fn probability(&self, token: u32) -> f64 {
        self.tokens.binary_search(&token).map_or(0.0, |i| self.probabilities[i])
    }

    /// The token at which the cumulative probability, by ascending id, passes `u` from [0, 1).
    ///
    /// # Panics
    /// On a distribution of no tokens, such as the default one.
    pub fn quantile(&self, u: f64) -> u32 {
        let mut cumulative = 0.0;
        for (token, p) in self.iter() {
            cumulative += p;
            if u < cumulative {
                return token;
            }
        }
        // The sum may round to a hair under 1, and u may lie in that hair.
        *self.tokens.last().expect("a distribution has a token")
    }

    /// Tokens in ascending order with weights of the sum `total`; those of weight 0 are left out.
    pub(crate) fn set(&mut self, weights: impl Iterator<Item = (u32, f64)>, total: f64) {
        self.tokens.clear();
        self.probabilities.clear();
        for (token, weight) in weights.filter(|&(_, weight)| weight > 0.0) {
            self.tokens.push(token);
            self.probabilities.push(weight / total);
        }
    }

    /// All mass on one token.
    pub(crate) fn set_certain(&mut self, token: u32) {
        self.tokens.clear();
        self.probabilities.clear();
        self.tokens.push(token);
        self.probabilities.push(1.0);
    }
}
