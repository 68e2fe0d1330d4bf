//! What one row of logits says: the loss of the token that followed, and how far two rows are apart.
//!
//! - loss: `nll = ln(sum_j exp l_j) - l_target`
//! - divergence of the model q from the base p: `KL(p || q) = sum_i p_i (ln p_i - ln q_i)`
//!
//! Logits are `f32`, everything from the first exponential on is `f64`.

/// ln(sum_j exp l_j) and the first of the largest logits, or `None` where there is no distribution.
fn log_sum_exp(row: &[f32]) -> Option<(f64, usize)> {
    let mut best = 0;
    let mut nan = false;
    for (i, &l) in row.iter().enumerate() {
        nan |= l.is_nan();
        if l > row[best] {
            best = i;
        }
    }
    let max = f64::from(*row.get(best)?);
    if nan || !max.is_finite() {
        return None;
    }
    let sum: f64 = row.iter().map(|&l| (f64::from(l) - max).exp()).sum();
    Some((max + sum.ln(), best))
}

/// -ln p(target), or `None` where the row has no distribution.
pub(crate) fn nll(row: &[f32], target: u32) -> Option<f64> {
    let (lse, _) = log_sum_exp(row)?;
    Some(lse - f64::from(row[target as usize]))
}

/// Two rows that should be alike.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) base_nll: f64,
    pub(crate) model_nll: f64,
    /// KL(base || model); infinite where the model rules out what the base does not.
    pub(crate) kl: f64,
    /// Whether both would choose the same token, lowest id first among equals.
    pub(crate) same_top: bool,
}

pub(crate) fn pair(base: &[f32], model: &[f32], target: u32) -> Option<Pair> {
    let (base_lse, base_top) = log_sum_exp(base)?;
    let (model_lse, model_top) = log_sum_exp(model)?;
    let kl = base
        .iter()
        .zip(model)
        .filter(|&(&b, _)| b > f32::NEG_INFINITY)
        .map(|(&b, &m)| {
            let ln_p = f64::from(b) - base_lse;
            let p = ln_p.exp();
            if p == 0.0 { 0.0 } else { p * (ln_p - (f64::from(m) - model_lse)) }
        })
        .sum::<f64>();
    Some(Pair {
        base_nll: base_lse - f64::from(base[target as usize]),
        model_nll: model_lse - f64::from(model[target as usize]),
        // Equal rows may come out a rounding below zero.
        kl: kl.max(0.0),
        same_top: base_top == model_top,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let ln = |x: f64| x.ln() as f32;
        let (base, model) = ([ln(0.5), ln(0.25), ln(0.25)], [ln(0.25), ln(0.5), ln(0.25)]);
        assert!((nll(&base, 0).unwrap() - 2f64.ln()).abs() < 1e-7);
        let got = pair(&base, &model, 1).unwrap();
        // 0.5 ln 2 + 0.25 ln 0.5
        assert!((got.kl - 0.25 * 2f64.ln()).abs() < 1e-7);
        assert!((got.base_nll - 4f64.ln()).abs() < 1e-7);
        assert!((got.model_nll - 2f64.ln()).abs() < 1e-7);
        assert!(!got.same_top);
        let same = pair(&base, &base, 0).unwrap();
        assert!(same.kl < 1e-15 && same.same_top);
    }

    #[test]
    fn forbidden_tokens_and_bad_rows() {
        let inf = f32::INFINITY;
        assert_eq!(nll(&[0.0, -inf], 0), Some(0.0));
        assert_eq!(nll(&[0.0, -inf], 1), Some(f64::INFINITY));
        assert_eq!(pair(&[0.0, -inf], &[0.0, -inf], 0).unwrap().kl, 0.0);
        assert_eq!(pair(&[0.0, 0.0], &[0.0, -inf], 0).unwrap().kl, f64::INFINITY);
        for bad in [&[][..], &[f32::NAN], &[0.0, f32::NAN], &[0.0, inf], &[-inf, -inf]] {
            assert_eq!(log_sum_exp(bad), None, "{bad:?}");
        }
        // No overflow however large.
        assert_eq!(nll(&[f32::MAX, f32::MIN], 0), Some(0.0));
    }
}
