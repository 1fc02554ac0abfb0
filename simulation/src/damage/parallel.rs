//! Many cases on a few threads.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

/// Plays every case and hands over what comes of each, in the order of their ends. The first error ends it.
pub(crate) fn play_all<T: Send, E: Send>(
    cases: Range<u64>,
    threads: usize,
    play: impl Fn(u64) -> Result<T, E> + Sync,
    mut ended: impl FnMut(T),
) -> Result<(), E> {
    let next = AtomicU64::new(cases.start);
    let (results, played) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            let (results, next, play) = (results.clone(), &next, &play);
            scope.spawn(move || {
                let numbers = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
                for case in numbers.take_while(|case| *case < cases.end) {
                    // Whoever listens goes away at the first error.
                    if results.send(play(case)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(results);
        // By value: an error drops the receiver, and the threads end after the case that they are in.
        played.into_iter().try_for_each(|result| result.map(&mut ended))
    })
}
