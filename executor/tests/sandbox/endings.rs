//! Every way in which a run can end.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use swarm_executor::{Engine, Room};
use swarm_protocol::Ending;

use crate::{MIB, Run, config};

#[test]
fn a_guest_that_returns_has_exited_with_0() {
    let finished = Run::of("returns").finish();
    assert_eq!(finished.ending, Ending::Exited(0));
    assert!(finished.ending.is_success());
}

#[test]
fn an_exit_code_is_the_guests_own() {
    assert_eq!(Run::of("exits_7").finish().ending, Ending::Exited(7));
    assert_eq!(Run::of("exits_200").finish().ending, Ending::Exited(200));
}

#[test]
fn a_reactor_is_initialised_before_its_entry_is_called() {
    let finished = Run { entry: "work", ..Run::of("unusual_entry") }.finish();
    assert_eq!(finished.ending, Ending::Exited(9));
}

#[test]
fn an_entry_that_is_not_exported_is_rejected() {
    let finished = Run::of("unusual_entry").finish();
    assert_eq!(finished.ending, Ending::Rejected("the module does not export a function `_start`".into()));
}

#[test]
fn a_trap_is_told_in_words_without_addresses() {
    let unreachable = Ending::Trapped("wasm `unreachable` instruction executed".into());
    assert_eq!(Run::of("traps").finish().ending, unreachable);
    let out_of_bounds = Ending::Trapped("out of bounds memory access".into());
    assert_eq!(Run::of("reads_out_of_bounds").finish().ending, out_of_bounds);
}

#[test]
fn recursion_without_end_is_a_trap() {
    assert_eq!(Run::of("recurses").finish().ending, Ending::Trapped("call stack exhausted".into()));
}

#[test]
fn a_loop_ends_when_its_time_is_up() {
    let finished = Run { run_max: Duration::from_millis(30), ..Run::of("loops") }.finish();
    assert_eq!(finished.ending, Ending::TimedOut);
}

#[test]
fn a_loop_ends_when_its_fuel_is_used_up() {
    let mut run = Run::of("loops");
    run.limits.fuel_max = 100_000;
    let finished = run.finish();
    assert_eq!(finished.ending, Ending::OutOfFuel);
    assert_eq!(finished.fuel_used, 100_000);
}

#[test]
fn allocating_without_end_is_out_of_memory() {
    assert_eq!(Run::of("allocates").finish().ending, Ending::OutOfMemory);
}

#[test]
fn beginning_with_more_memory_than_the_limit_is_out_of_memory() {
    assert_eq!(Run::of("begins_large").finish().ending, Ending::OutOfMemory);
}

#[test]
fn a_task_that_asks_for_more_memory_than_the_node_has_is_rejected() {
    let mut run = Run::of("returns");
    run.limits.memory_bytes_max = 1024 * MIB;
    assert!(matches!(run.finish().ending, Ending::Rejected(_)));
}

#[test]
fn a_flood_ends_the_guest_and_what_fitted_is_kept() {
    for (guest, stream) in [("floods_stdout", "standard output"), ("floods_stderr", "standard error")] {
        let mut run = Run::of(guest);
        run.limits.stdout_bytes_max = 10_000;
        let finished = run.finish();
        assert_eq!(finished.ending, Ending::OutputTooLarge(stream.into()));
        assert_eq!(finished.stdout.len() + finished.stderr.len(), 10_000);
    }
}

#[test]
fn filling_the_disk_ends_the_guest() {
    let out = tempfile::tempdir().unwrap();
    let finished = Run { out_dir: Some(out.path()), ..Run::of("fills_out") }.finish();
    assert!(matches!(finished.ending, Ending::OutputTooLarge(_)), "{:?}", finished.ending);
    assert!(out.path().join("data.txt").metadata().unwrap().len() <= 5 * MIB);
}

#[test]
fn a_guest_for_which_the_disk_has_no_room_is_lost_to_this_node() {
    let out = tempfile::tempdir().unwrap();
    let looks = AtomicU32::new(0);
    let room = Room::new(move |_| looks.fetch_add(1, Ordering::Relaxed) < 2);
    let finished = Run { out_dir: Some(out.path()), room, ..Run::of("fills_out") }.finish();
    assert_eq!(finished.ending, Ending::Lost);
    assert!(out.path().join("data.txt").metadata().unwrap().len() < MIB);
}

#[test]
fn a_guest_that_makes_files_without_end_is_ended() {
    let out = tempfile::tempdir().unwrap();
    let finished = Run { out_dir: Some(out.path()), ..Run::of("makes_folders") }.finish();
    assert_eq!(finished.ending, Ending::OutputTooLarge("the number of files in /out".into()));
}

#[test]
fn what_a_guest_prints_can_be_seen_while_it_runs() {
    let run = Run::of("prints_and_loops");
    let (stop, [stdout, stderr]) = (run.stop.clone(), run.printed.clone());
    thread::scope(|scope| {
        let running = scope.spawn(|| run.finish());
        while stdout.after(0, 100).is_empty() {
            thread::yield_now();
        }
        assert_eq!([stdout.after(0, 3), stdout.after(4, 100), stdout.after(100, 1)], [&b"ali"[..], b"e\n", b""]);
        assert!(stderr.after(0, 100).is_empty());
        stop.stop();
        assert_eq!(running.join().unwrap().stdout, b"alive\n");
    });
    assert!(stdout.after(0, 100).is_empty());
}

#[test]
fn a_running_guest_is_stopped() {
    let run = Run::of("loops");
    let stop = run.stop.clone();
    let stopper = thread::spawn(move || stop.stop());
    assert_eq!(run.finish().ending, Ending::Cancelled);
    stopper.join().unwrap();
}

#[test]
fn a_guest_stopped_before_it_began_does_not_begin() {
    let run = Run::of("exits_7");
    run.stop.stop();
    assert_eq!(run.finish().ending, Ending::Cancelled);
}

#[test]
fn an_engine_may_be_dropped_by_a_tokio_task() {
    let engine = Engine::new(config()).unwrap();
    assert_eq!(Run::of("returns").finish_in(&engine).ending, Ending::Exited(0));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { drop(engine) });
}
