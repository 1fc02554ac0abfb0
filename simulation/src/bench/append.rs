//! Limit: what it takes to append a little to a file and have it on the disk.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use super::{Bench, BenchError, Row};

/// About one small record.
const BYTES: [u8; 100] = [b'x'; 100];
/// Appends a round.
const APPENDS: usize = 500;

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let mut medians = Vec::new();
    for _ in 0..bench.rounds(5) {
        let mut times = appends()?;
        times.sort_unstable();
        medians.push(times[APPENDS / 2]);
    }
    let row = Row::time("append", "100 bytes appended to a file and synced, p50", &medians);
    bench.limits.append = Some(Duration::from_secs_f64(row.value));
    bench.add(row);
    Ok(())
}

fn appends() -> Result<Vec<Duration>, BenchError> {
    let mut file = file()?;
    (0..APPENDS).map(|_| time(&mut file)).collect()
}

/// A file where nodes have their data, too.
pub(super) fn file() -> Result<File, BenchError> {
    let dir = std::env::temp_dir();
    tempfile::tempfile_in(&dir).map_err(BenchError::io("create a file in", dir))
}

/// How long one takes.
pub(super) fn time(file: &mut File) -> Result<Duration, BenchError> {
    let began = Instant::now();
    let appended = file.write_all(&BYTES).and_then(|()| file.sync_data());
    appended.map_err(BenchError::io("append to a file in", std::env::temp_dir()))?;
    Ok(began.elapsed())
}
