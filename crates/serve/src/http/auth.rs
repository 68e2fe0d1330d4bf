//! Who asks, and how often they may.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use openai_api::ApiError;
use subtle::{Choice, ConstantTimeEq};

use super::config::{ApiKey, Rate};

/// The keys that are let in.
#[derive(Debug)]
pub(crate) struct Keys(Vec<ApiKey>);

impl Keys {
    pub(crate) fn new(keys: Vec<ApiKey>) -> Self {
        Self(keys)
    }

    /// Whether anybody may ask.
    pub(crate) fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// Whose key the header `Authorization` holds; `None` where no key is needed.
    ///
    /// All keys are compared, in a time that does not depend on where they differ.
    pub(crate) fn tenant(&self, authorization: Option<&[u8]>) -> Result<Option<&str>, ApiError> {
        if self.is_open() {
            return Ok(None);
        }
        let given = authorization.and_then(bearer).unwrap_or_default();
        let mut found = None;
        for key in &self.0 {
            let same: Choice = key.key.as_bytes().ct_eq(given);
            if bool::from(same) {
                found = Some(key.tenant.as_str());
            }
        }
        found.map(Some).ok_or(ApiError::Unauthorized)
    }
}

fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = header.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

/// A token bucket for each client.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    rate: Option<Rate>,
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

/// Clients that are remembered. Beyond it those whose bucket is full again are forgotten, which
/// makes no difference to them.
const MAX_CLIENTS: usize = 10_000;

impl RateLimiter {
    pub(crate) fn new(rate: Option<Rate>) -> Self {
        let rate = rate.map(|r| Rate {
            per_second: r.per_second.max(f64::MIN_POSITIVE),
            burst: r.burst.max(1.0),
        });
        Self { rate, buckets: Mutex::default() }
    }

    /// Counts a request of `client`, or says when it may come again.
    pub(crate) fn take(&self, client: &str, now: Instant) -> Result<(), ApiError> {
        let Some(rate) = self.rate else { return Ok(()) };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_CLIENTS && !buckets.contains_key(client) {
            buckets.retain(|_, b| b.at(now, rate) < rate.burst);
            if buckets.len() >= MAX_CLIENTS {
                // More clients at once than are told apart wait for each other.
                return Err(ApiError::RateLimited { retry_after: Duration::from_secs(1) });
            }
        }
        let full = Bucket { tokens: rate.burst, filled: now };
        let bucket = buckets.entry(client.to_owned()).or_insert(full);
        let tokens = bucket.at(now, rate);
        if tokens >= 1.0 {
            *bucket = Bucket { tokens: tokens - 1.0, filled: now };
            return Ok(());
        }
        let seconds = ((1.0 - tokens) / rate.per_second).min(3600.0);
        Err(ApiError::RateLimited { retry_after: Duration::from_secs_f64(seconds) })
    }
}

impl Bucket {
    fn at(&self, now: Instant, rate: Rate) -> f64 {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        (self.tokens + elapsed * rate.per_second).min(rate.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_compared_whole() {
        let key = |tenant: &str, key: &str| ApiKey { tenant: tenant.into(), key: key.into() };
        let keys = Keys::new(vec![key("ann", "secret"), key("bob", "other")]);
        assert_eq!(keys.tenant(Some(b"Bearer secret")), Ok(Some("ann")));
        assert_eq!(keys.tenant(Some(b"bearer  other ")), Ok(Some("bob")));
        for wrong in [&b"Bearer secre"[..], b"Bearer secrets", b"secret", b"Basic secret", b""] {
            assert_eq!(keys.tenant(Some(wrong)), Err(ApiError::Unauthorized));
        }
        assert_eq!(keys.tenant(None), Err(ApiError::Unauthorized));
        assert_eq!(Keys::new(vec![]).tenant(None), Ok(None));
        assert!(!format!("{keys:?}").contains("secret"));
    }

    #[test]
    fn a_bucket_empties_and_fills() {
        let limiter = RateLimiter::new(Some(Rate { per_second: 2.0, burst: 3.0 }));
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        for _ in 0..3 {
            assert_eq!(limiter.take("a", at(0)), Ok(()));
        }
        let refused = limiter.take("a", at(0)).unwrap_err();
        assert_eq!(refused.retry_after(), Some(Duration::from_millis(500)));
        assert_eq!(limiter.take("b", at(0)), Ok(()), "others have a bucket of their own");
        assert_eq!(limiter.take("a", at(500)), Ok(()));
        assert!(limiter.take("a", at(999)).is_err());
        for _ in 0..3 {
            assert_eq!(limiter.take("a", at(60_000)), Ok(()));
        }
        assert!(limiter.take("a", at(60_000)).is_err());
    }

    #[test]
    fn many_clients_take_bounded_memory() {
        let limiter = RateLimiter::new(Some(Rate { per_second: 1.0, burst: 1.0 }));
        let now = Instant::now();
        for i in 0..2 * MAX_CLIENTS {
            let _ = limiter.take(&i.to_string(), now);
        }
        assert_eq!(limiter.buckets.lock().unwrap().len(), MAX_CLIENTS);
        assert_eq!(limiter.take("later", now + Duration::from_secs(2)), Ok(()));
    }
}
