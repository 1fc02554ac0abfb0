//! What a guest sees, and that it is the same every time.

use std::fs;
use std::thread;

use swarm_protocol::Ending;

use crate::Run;

#[test]
fn standard_input_comes_out_again() {
    let finished = Run { stdin: b"one\ntwo\n", ..Run::of("echo") }.finish();
    assert_eq!(finished.ending, Ending::Exited(0));
    assert_eq!(finished.stdout, b"one\ntwo\n");
}

#[test]
fn arguments_begin_with_the_programs_name() {
    let finished = Run { args: &["--x", "3 4"], ..Run::of("prints_args") }.finish();
    assert_eq!(finished.stdout, b"prints_args\0--x\x003 4\0");
}

#[test]
fn the_environment_is_the_tasks_and_nothing_of_ours() {
    let finished = Run { env: &[("LEVEL", "warn"), ("SWARM_INDEX", "3")], ..Run::of("prints_environ") }.finish();
    assert_eq!(finished.stdout, b"LEVEL=warn\0SWARM_INDEX=3\0");
}

#[test]
fn an_input_is_read() {
    let input = tempfile::tempdir().unwrap();
    fs::write(input.path().join("data.txt"), "from outside").unwrap();
    let finished = Run { in_dir: Some(input.path()), ..Run::of("reads_in") }.finish();
    assert_eq!(finished.stdout, b"from outside");
}

#[test]
fn an_output_is_written() {
    let out = tempfile::tempdir().unwrap();
    let finished = Run { out_dir: Some(out.path()), ..Run::of("writes_out") }.finish();
    assert_eq!(finished.ending, Ending::Exited(0));
    assert_eq!(fs::read(out.path().join("data.txt")).unwrap(), b"hello");
}

#[test]
fn inputs_cannot_be_changed() {
    let dir = tempfile::tempdir().unwrap();
    let [input, out] = ["in", "out"].map(|name| dir.path().join(name));
    fs::create_dir(&input).unwrap();
    fs::create_dir(&out).unwrap();
    fs::write(input.join("data.txt"), "from outside").unwrap();
    for guest in ["changes_in", "links_in_to_out"] {
        let finished = Run { in_dir: Some(&input), out_dir: Some(&out), ..Run::of(guest) }.finish();
        assert!(matches!(finished.ending, Ending::Exited(code) if code != 0), "{guest}: {:?}", finished.ending);
    }
    assert_eq!(fs::read(input.join("data.txt")).unwrap(), b"from outside");
    assert!(!out.join("data.txt").exists());
}

#[test]
fn nothing_beside_the_inputs_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    fs::create_dir(&input).unwrap();
    fs::write(dir.path().join("secret.txt"), "secret").unwrap();
    let finished = Run { in_dir: Some(&input), ..Run::of("escapes_in") }.finish();
    assert!(matches!(finished.ending, Ending::Exited(code) if code != 0), "{:?}", finished.ending);
}

#[test]
fn without_directories_there_are_none() {
    assert_eq!(Run::of("reads_in").finish().ending, Ending::Exited(8), "a bad file descriptor");
}

#[test]
fn a_directory_looks_the_same_however_it_was_made() {
    let looks = [["data.txt", "zebra", "apple"], ["apple", "data.txt", "zebra"]].map(|names| {
        let input = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(input.path().join(name), name).unwrap();
        }
        let finished = Run { in_dir: Some(input.path()), ..Run::of("lists_in") }.finish();
        assert_eq!(finished.ending, Ending::Exited(0));
        finished.stdout
    });
    assert_eq!(looks[0], looks[1]);
    // After `.` and `..`, whose entries have 25 and 26 bytes.
    assert_eq!(&looks[0][25 + 26 + 24..][..5], b"apple");
}

#[test]
fn clocks_and_random_numbers_are_the_same_every_time() {
    let one = Run::of("tells_its_world").finish();
    let two = Run::of("tells_its_world").finish();
    assert_eq!(one.ending, Ending::Exited(0));
    assert_eq!(one.stdout, two.stdout);
}

#[test]
fn another_seed_gives_other_random_numbers_at_the_same_time() {
    let one = Run::of("tells_its_world").finish().stdout;
    let two = Run { seed: [1; 32], ..Run::of("tells_its_world") }.finish().stdout;
    assert_eq!(one[..32], two[..32]);
    assert_ne!(one[32..96], two[32..96]);
}

#[test]
fn time_goes_on_and_sleeping_takes_none() {
    let told = Run::of("tells_its_world").finish().stdout;
    let time = |number: usize| u64::from_le_bytes(told[number * 8..][..8].try_into().unwrap());
    assert!(time(0) < time(1));
    assert!(time(2) < time(3));
    assert!(time(12) >= time(3) + 9_000_000_000_000_000_000);
}

#[test]
fn a_run_finds_nothing_of_the_one_before() {
    for _ in 0..20 {
        assert_eq!(Run::of("remembers").finish().ending, Ending::Exited(0));
    }
}

#[test]
fn two_threads_run_guests_side_by_side() {
    thread::scope(|scope| {
        for stdin in [&b"left"[..], b"right"] {
            scope.spawn(move || {
                for _ in 0..200 {
                    assert_eq!(Run { stdin, ..Run::of("echo") }.finish().stdout, stdin);
                    assert_eq!(Run::of("remembers").finish().ending, Ending::Exited(0));
                }
            });
        }
    });
}
