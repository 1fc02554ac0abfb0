//! The guest of the built-in load, and what it writes.
//!
//! Always true: [`expected`] says what the guest writes for the same words, in no time, however many rounds it computes.

use std::fmt::Write as _;

/// The guest as text.
const TEXT: &str = include_str!("guest.wat");
/// FNV-1a, 64 bits.
const FNV: (u64, u64) = (0xcbf2_9ce4_8422_2325, 0x100_0000_01b3);
/// Knuth's generator: next = state * MULTIPLIER + INCREMENT.
const MULTIPLIER: u64 = 6_364_136_223_846_793_005;
const INCREMENT: u64 = 1_442_695_040_888_963_407;
/// Steps a millisecond in the sandbox on one core of 2026, about.
pub(super) const ROUNDS_PER_MS: u32 = 750_000;

/// The module.
pub(super) fn module() -> Vec<u8> {
    wat::parse_str(TEXT).expect("the guest is part of this program and tested")
}

/// What `guest WORD… ROUNDS LINES` writes to standard output.
pub(super) fn expected(words: &[String], rounds: u32, lines: u32) -> Vec<u8> {
    let mut state = steps(hash(words, rounds, lines), rounds);
    let mut text = String::new();
    for _ in 0..lines {
        writeln!(text, "{state:016x}").expect("a String takes every write");
        state = step(state);
    }
    text.into_bytes()
}

fn hash(words: &[String], rounds: u32, lines: u32) -> u64 {
    let words = words.iter().cloned().chain([rounds.to_string(), lines.to_string()]);
    let bytes = words.flat_map(|word| word.into_bytes().into_iter().chain([0]));
    bytes.fold(FNV.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV.1))
}

const fn step(state: u64) -> u64 {
    state.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT)
}

/// Many steps at once: the composition of `x → a x + b` with itself is of the same form.
fn steps(state: u64, mut count: u32) -> u64 {
    let (mut factor, mut summand) = (MULTIPLIER, INCREMENT);
    let mut result = state;
    while count > 0 {
        if count % 2 == 1 {
            result = result.wrapping_mul(factor).wrapping_add(summand);
        }
        summand = summand.wrapping_mul(factor).wrapping_add(summand);
        factor = factor.wrapping_mul(factor);
        count /= 2;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_steps_at_once_are_as_many_steps() {
        let mut state = 17;
        for count in 0..200 {
            assert_eq!(steps(17, count), state);
            state = step(state);
        }
    }

    #[test]
    fn the_guest_is_a_module_and_its_lines_differ() {
        assert!(module().starts_with(b"\0asm"));
        let text = String::from_utf8(expected(&["1".into()], 10, 3)).unwrap();
        let lines: std::collections::BTreeSet<_> = text.lines().collect();
        assert_eq!((lines.len(), text.len()), (3, 3 * 17));
        assert_ne!(expected(&["1".into()], 10, 3), expected(&["2".into()], 10, 3));
    }
}
