//! The stored layout on one screen: one RocksDB column family for each [`Table`], under its name. The keys and values
//! are described at `Table`'s variants and written by the core.
//!
//! Memory is bounded for a small node: write buffers and block cache together stay under 24 MiB, whatever is stored.

use rocksdb::{BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, LogLevel, Options};
use swarm_protocol::Table;

/// The stored format that this program writes, under `format` in [`Table::Meta`], as 4 bytes, big-endian. Raise it
/// when an older program could misread what is stored, and say here how each older one is read.
/// 1: the first.
pub const FORMAT: u32 = 1;
/// The key of the stored format in [`Table::Meta`].
pub(crate) const FORMAT_KEY: &[u8] = b"format";

const MIB: usize = 1 << 20;
/// Per table. A batch of outcomes is some 100 KiB, so a flush is worth its file.
const WRITE_BUFFER_BYTES: usize = 4 * MIB;
/// All tables together: the fullest is flushed when they reach it.
const WRITE_BUFFERS_BYTES: usize = 12 * MIB;
/// Blocks of all tables with their indexes and filters. Reads are rare after the start: the core has its own memory.
const CACHE_BYTES: usize = 8 * MIB;
/// Write buffers grow in steps of this; six quiet tables hold one step each.
const ARENA_BLOCK_BYTES: usize = 64 << 10;
/// The log is replayed at start, about a quarter second for this much; older entries are flushed into tables.
const WAL_BYTES_MAX: u64 = 32 * MIB as u64;
/// Each open table file costs its footer and a descriptor; a node has tens of files.
const OPEN_FILES_MAX: i32 = 128;
/// One flush and one compaction at a time leave the cores to the guests.
const BACKGROUND_JOBS: i32 = 2;
/// RocksDB's own diary, for a person who looks for a fault: two files of this size.
const LOG_BYTES_MAX: usize = MIB;

pub(crate) fn database() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    // Every acknowledged write was synced, so only the very end of a log can be torn, and what is torn was never
    // acknowledged: this mode forgives exactly that. Damage further in means acknowledged writes are gone; this mode then
    // refuses to open, where RocksDB's default (point in time) would open without them and say nothing. What it forgives
    // and should not (an end that was acknowledged) is noticed by the mark.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true); // a log that vanished is noticed, too
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_db_write_buffer_size(WRITE_BUFFERS_BYTES);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_file_opening_threads(1);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_log_level(LogLevel::Warn);
    options.set_max_log_file_size(LOG_BYTES_MAX);
    options.set_keep_log_file_num(2);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

/// The database as it is looked at before it is opened: up to the first change that is missing, where
/// [`database`] would go on behind a hole of zeroes.
pub(crate) fn looked_at() -> Options {
    let mut options = database();
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options
}

/// Every table of this program, and tables of a newer one, which RocksDB insists on opening.
pub(crate) fn tables(stored: Vec<String>) -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(CACHE_BYTES);
    let known = Table::ALL.iter().map(|table| table.name());
    let mut names: Vec<String> = known.chain(["default"]).map(String::from).chain(stored).collect();
    names.sort();
    names.dedup();
    names.into_iter().map(|name| ColumnFamilyDescriptor::new(name, table(&cache))).collect()
}

fn table(cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_arena_block_size(ARENA_BLOCK_BYTES);
    options.set_compression_type(DBCompressionType::Lz4);
    options
}
