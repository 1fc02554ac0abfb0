//! Randomness: one seed, forked by purpose, so that one part throwing more dice does not change what another throws.

use std::ops::RangeInclusive;
use std::time::Duration;

use fastrand::Rng;

/// The dice of one purpose.
pub(crate) fn fork(seed: u64, purpose: &str) -> Rng {
    Rng::with_seed(purpose.bytes().fold(mix(seed), |state, byte| mix(state ^ u64::from(byte))))
}

/// Scatters the bits of a number (the finaliser of SplitMix64).
pub(crate) const fn mix(number: u64) -> u64 {
    let a = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let b = (a ^ (a >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let c = (b ^ (b >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    c ^ (c >> 31)
}

/// True `per_mille` times in a thousand.
pub(crate) fn chance(rng: &mut Rng, per_mille: u32) -> bool {
    per_mille > 0 && rng.u32(0..1000) < per_mille
}

/// A duration between two numbers of microseconds.
pub(crate) fn micros(rng: &mut Rng, between: RangeInclusive<u64>) -> Duration {
    Duration::from_micros(rng.u64(between))
}

/// A duration between two numbers of milliseconds.
pub(crate) fn millis(rng: &mut Rng, between: RangeInclusive<u64>) -> Duration {
    micros(rng, between.start() * 1000..=between.end() * 1000)
}

/// One of some things; `None` of nothing.
pub(crate) fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> Option<T> {
    (!from.is_empty()).then(|| from[rng.usize(..from.len())])
}
