//! The `swarm` command from the outside: the real binary, with an embedded swarm or a node of its own on loopback.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod care;
mod documents;
mod guests;
mod mistakes;
mod support;

use std::fs;
use std::time::Instant;

use serde_json::Value;

use self::support::{DEADLINE, Dir, Node, eventually, signal};

// ---- without a node

#[test]
fn a_bad_job_file_is_refused_with_its_place() {
    let dir = Dir::new();
    for (text, reason) in [
        ("name = \"a\"\nnmae = 1\n[task.x]\nwasm = \"hello.wasm\"\n", "nmae"),
        ("name = \"a\"\n[task.x]\nwasm = 7\n", "wasm"),
        (
            "name = \"a\"\n[task.x]\nwasm = \"hello.wasm\"\nneeds = [\"y\"]\n[task.y]\nwasm = \"hello.wasm\"\nneeds = [\"x\"]\n",
            "x",
        ),
        ("name = \"a\"\n[task.x]\nwasm = \"nowhere.wasm\"\n", "nowhere.wasm"),
        ("name = \"a\"\n[task.x]\nwasm = \"hello.wasm\"\narray = \"5..5\"\n", "5..5"),
        ("name = \"a\"\n", "task"),
        ("name = ", "line"),
        ("name = \"a\"\n[task.x]\nwasm = \"text.wasm\"\n", "text.wasm"),
        ("name = \"a\"\n[task.x]\nwasm = \"truncated.wasm\"\n", "truncated.wasm"),
        ("name = \"a\"\n[task.x]\nwasm = \"alien.wasm\"\n", "alien"),
        ("name = \"a\"\n[task.x]\nwasm = \"huge.wasm\"\n", "huge.wasm"),
    ] {
        dir.write("bad.toml", text);
        let refused = dir.swarm(&["validate", "bad.toml"]).finish();
        assert_eq!(refused.code, 10, "{text}\n{refused:?}");
        assert!(refused.stderr.contains(reason) || reason == "line", "{text}\n{}", refused.stderr);
        assert!(refused.stderr.contains("bad.toml:") || refused.stderr.contains("bad.toml`"), "{}", refused.stderr);
        assert!(!refused.stderr.contains("panicked") && !refused.stderr.contains("backtrace"), "{}", refused.stderr);
    }
}

#[test]
fn ten_million_tasks_are_no_trouble_until_they_run() {
    let dir = Dir::new();
    dir.write("sweep.toml", "name = \"sweep\"\n[task.x]\nwasm = \"hello.wasm\"\narray = \"0..10000000\"\n");
    let valid = dir.swarm(&["validate", "-o", "json", "sweep.toml"]).finish();
    assert_eq!(valid.code, 0, "{valid:?}");
    assert_eq!(valid.json()["items"][0]["tasks"], 10_000_000);
}

#[test]
fn without_a_node_every_command_says_how_to_start_one() {
    let dir = Dir::new();
    dir.write("hello.toml", "name = \"hello\"\n[task.hello]\nwasm = \"hello.wasm\"\n");
    for line in [&["ls"][..], &["status"], &["nodes"], &["submit", "hello.toml"], &["logs", "@last"], &["drain"]] {
        let refused = dir.swarm(line).finish();
        assert_eq!(refused.code, 6, "{line:?} {refused:?}");
        let expected = format!("no node is running at {}; start one with `swarm start`", dir.data().display());
        assert!(refused.stderr.contains(&expected), "{}", refused.stderr);
        assert_eq!(refused.stdout, "", "{line:?}");
    }
}

#[test]
fn nonsense_on_the_command_line_is_usage() {
    let dir = Dir::new();
    let refused = dir.swarm(&["start", "--bootstrap", "nonsense"]).finish();
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("nonsense") && refused.stderr.contains("/ip4/"), "{}", refused.stderr);
    for line in
        [&["submit"][..], &["fly"], &["wait", "x", "--timeout", "soon"], &["start", "--slots", "0"], &["ls", "-o", "x"]]
    {
        assert_eq!(dir.swarm(line).finish().code, 2, "{line:?}");
    }
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    let dir = Dir::new();
    dir.write("file", "in the way");
    let data = dir.path("file").join("data");
    let refused = dir.swarm(&["start", "--data", data.to_str().unwrap()]).finish();
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains(data.to_str().unwrap()), "{}", refused.stderr);
}

// ---- with an embedded swarm

#[test]
fn a_module_runs_as_if_it_were_a_command() {
    let dir = Dir::new();
    let hello = dir.swarm(&["run", "--local", "hello.wasm"]).finish();
    assert_eq!((hello.code, hello.stdout.as_str()), (0, "hello\n"), "{hello:?}");
    let seven = dir.swarm(&["run", "--local", "seven.wasm"]).finish();
    assert_eq!(seven.code, 3, "{seven:?}");
    assert!(seven.stderr.contains("exited 7"), "{}", seven.stderr);
}

#[test]
fn each_line_of_a_file_is_a_task_and_the_output_is_in_their_order() {
    let dir = Dir::new();
    dir.write("lines.txt", "one\ntwo\nthree\n");
    let line = ["run", "--local", "echo.wasm", "--each-line", "lines.txt", "--", "{{ item }}"];
    let echoed = dir.swarm(&line).finish();
    assert_eq!((echoed.code, echoed.stdout.as_str()), (0, "one\ntwo\nthree\n"), "{echoed:?}");
}

#[test]
fn a_local_job_prints_its_output_and_leaves_its_files() {
    let dir = Dir::new();
    let job = "name = \"files\"\n[task.make]\nwasm = \"file.wasm\"\narray = \"0..3\"\noutputs = [\"made.txt\"]\n\
               [task.say]\nwasm = \"hello.wasm\"\nneeds = [\"make\"]\n";
    let made = dir.swarm(&["submit", "--local", "--get", "got", "-"]).stdin(job).finish();
    assert_eq!((made.code, made.stdout.as_str()), (0, "hello\n"), "{made:?}");
    for index in 0..3 {
        assert_eq!(dir.read(&format!("got/make/{index}/made.txt")), "made\n");
    }
}

// ---- with a node

#[test]
fn a_job_is_submitted_watched_and_fetched() {
    let dir = Dir::new();
    let node = Node::start(&dir);
    dir.write(
        "echo.toml",
        "name = \"echo\"\n[task.say]\nwasm = \"echo.wasm\"\nargs = [\"{{ index }}\"]\narray = \"0..100\"\n\
         [task.make]\nwasm = \"file.wasm\"\noutputs = [\"made.txt\"]\nneeds = [\"say\"]\n",
    );
    let submitted = dir.swarm(&["submit", "echo.toml", "-o", "id"]).finish();
    assert_eq!(submitted.code, 0, "{submitted:?}");
    let id = submitted.stdout.trim();
    assert!(id.starts_with("echo-") && id.len() == 11, "{id}");

    assert_eq!(dir.swarm(&["wait", id]).finish().code, 0);
    let shown = dir.swarm(&["show", "@last", "--tasks", "-o", "json"]).finish().json();
    assert_eq!((&shown["id"], &shown["state"], &shown["done"]), (&id.into(), &"done".into(), &101.into()));
    assert_eq!(shown["stages"][0]["name"], "say");
    assert_eq!(shown["outcomes"][3]["task"], "say[3]");
    assert_eq!(shown["outcomes"][3]["ending"], "exited 0");
    assert_eq!(shown["outcomes"].as_array().unwrap().len(), 101);

    let expected: String = (0..100).map(|index| format!("{index}\n")).collect();
    assert_eq!(dir.swarm(&["logs", id]).finish().stdout, expected);
    assert_eq!(dir.swarm(&["logs", "echo/say[7]", "--prefix"]).finish().stdout, "say[7] | 7\n");
    let mut followed: Vec<String> =
        dir.swarm(&["logs", id, "--follow"]).finish().stdout.lines().map(Into::into).collect();
    followed.sort_by_key(|line| line.parse::<u32>().unwrap());
    assert_eq!(followed.join("\n") + "\n", expected);

    let got = dir.swarm(&["get", id]).finish();
    assert_eq!((got.code, got.stdout.trim()), (0, id), "{got:?}");
    assert_eq!(dir.read(&format!("{id}/make/made.txt")), "made\n");
    let again = dir.swarm(&["get", id]).finish();
    assert!(again.code == 0 && again.stderr.contains("0 files, 0B (1 more were there already)"), "{again:?}");
    dir.write(&format!("{id}/make/made.txt"), "mine");
    let refused = dir.swarm(&["get", id]).finish();
    assert!(refused.code == 2 && refused.stderr.contains("make/made.txt` is there already"), "{refused:?}");
    assert_eq!(dir.read(&format!("{id}/make/made.txt")), "mine");
    assert_eq!(dir.swarm(&["get", id, "--include", "make/*.ppm"]).finish().code, 5);
    assert_eq!(dir.swarm(&["get", id, "--force"]).finish().code, 0);
    assert_eq!(dir.read(&format!("{id}/make/made.txt")), "made\n");

    let listed = dir.swarm(&["ls", "-o", "json"]).finish().json();
    assert_eq!((&listed["items"][0]["id"], &listed["schema"]), (&id.into(), &"swarm.jobs/1".into()));
    assert_eq!(dir.swarm(&["show", id, "--spec"]).finish().stdout, dir.read("echo.toml"));
    let nodes = dir.swarm(&["nodes", "-o", "json"]).finish().json();
    assert_eq!((&nodes["items"][0]["id"], &nodes["items"][0]["state"]), (&node.id.as_str().into(), &"alive".into()));
    let status = dir.swarm(&["status", "-o", "json"]).finish().json();
    assert_eq!((&status["node"], &status["slots"], &status["alive"]), (&node.id.as_str().into(), &2.into(), &1.into()));
}

#[test]
fn guests_that_misbehave_fail_alone_and_say_why() {
    let dir = Dir::new();
    let _node = Node::start(&dir);
    for (guest, settings, reason) in [
        ("loop", "timeout = \"500ms\"", "timed out"),
        ("greedy", "resources = { memory = \"16MiB\" }", "memory"),
        ("flood", "limits = { stdout = \"64KiB\" }", "output too large"),
        ("trap", "", "trapped"),
        ("seven", "", "exited 7"),
    ] {
        let job = format!("name = \"bad\"\n[task.x]\nwasm = \"{guest}.wasm\"\nretry = 0\n{settings}\n");
        let failed = dir.swarm(&["submit", "--wait", "-"]).stdin(&job).finish();
        assert_eq!(failed.code, 3, "{guest}: {failed:?}");
        assert!(failed.stdout.starts_with("bad-"), "{guest}: {failed:?}");
        assert!(failed.stderr.contains(reason), "{guest}: {}", failed.stderr);
        let last = failed.stderr.trim_end().lines().last().unwrap();
        assert_eq!(last, format!("swarm logs {} --failed", failed.stdout.trim()));
    }
    let good = dir.swarm(&["run", "hello.wasm"]).finish();
    assert_eq!((good.code, good.stdout.as_str()), (0, "hello\n"), "{good:?}");
}

#[test]
fn a_job_that_takes_too_long_is_left_and_can_be_cancelled() {
    let dir = Dir::new();
    let _node = Node::start(&dir);
    let job = "name = \"endless\"\n[task.x]\nwasm = \"loop.wasm\"\ntimeout = \"10m\"\n";
    let id = dir.swarm(&["submit", "-"]).stdin(job).finish().stdout.trim().to_owned();
    let left = dir.swarm(&["wait", &id, "--timeout", "200ms"]).finish();
    assert_eq!(left.code, 7, "{left:?}");
    assert!(left.stderr.ends_with(&format!("swarm wait {id}\n")), "{}", left.stderr);
    let waiting = dir.swarm(&["wait", &id]);
    assert_eq!(dir.swarm(&["cancel", &id]).finish().code, 0);
    assert_eq!(waiting.finish().code, 3);
    assert_eq!(dir.swarm(&["show", &id, "-o", "json"]).finish().json()["state"], "cancelled");
}

/// Five nodes: of those that ask, one keeps nothing of the job and runs nothing of it.
#[test]
fn any_node_says_why_a_job_waits() {
    use swarm_protocol::placement::{Key, View};
    use swarm_protocol::{JobId, NodeId, ShardId};
    let dirs: Vec<Dir> = (0..5).map(|_| Dir::new()).collect();
    let loopback = ["start", "--listen", "/ip4/127.0.0.1/tcp/0", "--slots", "1"];
    let first = Node::greeted(dirs[0].swarm(&[&loopback[..], &["--label", "zone=a"]].concat()), &dirs[0]);
    let join = |dir| Node::join(dir, &first.listen[0]);
    let others: Vec<Node> = dirs[1..].iter().map(join).collect();
    for dir in &dirs {
        eventually("five nodes are alive", || dir.swarm(&["status", "-o", "json"]).finish().json()["alive"] == 5);
    }
    let job = "name = \"poster\"\n[task.tile]\nwasm = \"loop.wasm\"\narray = \"0..3\"\ntimeout = \"10m\"\n\
               where = { require = [\"label.zone = a\"] }\n[task.stitch]\nwasm = \"hello.wasm\"\nneeds = [\"tile\"]\n\
               [task.lost]\nwasm = \"hello.wasm\"\nwhere = { require = [\"label.zone in (b, c)\"] }\n";
    let id = dirs[1].swarm(&["submit", "-"]).stdin(job).finish().stdout.trim().to_owned();
    let full = dirs[1].swarm(&["show", &id, "-o", "json"]).finish().json()["job"].as_str().unwrap().to_owned();
    let ids: Vec<NodeId> =
        std::iter::once(&first).chain(&others).map(|node| NodeId::from_hex(&node.id).unwrap()).collect();
    let tile = ShardId { job: JobId::from_hex(&full).unwrap(), stage: 0, number: 0 };
    let keep = View::of(ids.iter().copied()).custodians(Key::of_shard(tile));
    let outside = (1..5).find(|at| !keep.contains(&ids[*at])).unwrap();
    let ask = |target: &str| dirs[outside].swarm(&["explain", target, "-o", "json"]).finish().json();
    eventually("one tile runs", || {
        let said = ask(&id);
        let causes: Vec<&str> =
            said["reasons"].as_array().unwrap().iter().map(|it| it["cause"].as_str().unwrap()).collect();
        causes == ["no_node", "busy", "running", "waits_for_stage"]
    });
    let said = ask(&id);
    assert_eq!((&said["schema"], &said["next"]), (&"swarm.explanation/1".into(), &"swarm nodes".into()));
    let texts: Vec<&str> = said["reasons"].as_array().unwrap().iter().map(|it| it["text"].as_str().unwrap()).collect();
    assert_eq!(texts[0], "lost: no node satisfies `label.zone in (b, c)` (4 nodes: no label; 1 node: zone = a)");
    assert!(texts[1].starts_with("tile (2 tasks, first tile["), "{texts:?}");
    assert!(texts[1].contains("]): the only suitable node is busy"), "{texts:?}");
    assert_eq!(texts[3], "stitch: waits for `tile` (3 of 3 left)");
    assert_eq!(ask(&format!("{id}/stitch"))["reasons"][0]["cause"], "waits_for_stage");
    // A node that stood still for long has lost its task, and runs another now.
    eventually("each tile has its own reason", || {
        let mut each: Vec<String> = (0..3)
            .map(|index| ask(&format!("{id}/tile[{index}]"))["reasons"][0]["cause"].as_str().unwrap().to_owned())
            .collect();
        each.sort();
        each == ["busy", "busy", "running"]
    });
    let spoken = dirs[outside].swarm(&["explain", &id]).finish();
    assert!(spoken.stdout.ends_with("\nswarm nodes\n"), "{spoken:?}");
    assert_eq!(dirs[outside].swarm(&["cancel", &id]).finish().code, 0);
    eventually("it is cancelled", || ask(&id)["reasons"][0]["cause"] == "cancelled");
    assert_eq!(dirs[outside].swarm(&["explain", "nope"]).finish().code, 5);
}

#[test]
fn what_nobody_knows_is_not_found() {
    let dir = Dir::new();
    let _node = Node::start(&dir);
    let nobody = "0".repeat(64);
    for line in [
        &["get", "nope-123456"][..],
        &["get", &nobody],
        &["logs", "nope"],
        &["show", "@last"],
        &["wait", "nope/../.."],
        &["cancel", "%2e%2e"],
    ] {
        let refused = dir.swarm(line).finish();
        assert_eq!(refused.code, 5, "{line:?} {refused:?}");
        assert!(refused.stderr.ends_with("swarm ls\n"), "{}", refused.stderr);
    }
}

#[test]
fn one_data_directory_has_one_node() {
    let dir = Dir::new();
    let node = Node::start(&dir);
    let second = dir.swarm(&["start", "--listen", "/ip4/127.0.0.1/tcp/0"]).finish();
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.stderr.contains("another node is running"), "{}", second.stderr);
    // The first one is none the worse.
    assert_eq!(dir.swarm(&["status", "-o", "id"]).finish().stdout.trim(), node.id);
}

#[test]
fn a_node_greets_and_leaves_when_told_to() {
    let dir = Dir::new();
    let node = Node::start(&dir);
    assert_eq!(node.id.len(), 64);
    assert!(node.listen.iter().all(|address| address.contains("/p2p/")), "{:?}", node.listen);
    assert!(!node.listen.is_empty());
    node.signal(rustix::process::Signal::TERM);
    node.leaves_in_order();
    assert_eq!(dir.swarm(&["status"]).finish().code, 6);

    let again = Node::start(&dir);
    assert_eq!(dir.swarm(&["drain"]).finish().code, 0);
    again.leaves_in_order();
}

/// A node that is told to leave by another finishes what runs and gives the rest away.
#[test]
fn a_busy_node_that_leaves_finishes_what_runs_and_nothing_runs_twice() {
    let (here, there) = (Dir::new(), Dir::new());
    let first = Node::start(&here);
    let words = ["start", "--listen", "/ip4/127.0.0.1/tcp/0", "--slots", "2", "--name", "ben", "--bootstrap"];
    let second = Node::greeted(there.swarm(&[&words[..], &[&first.listen[0]]].concat()), &there);
    eventually("two nodes are alive", || here.swarm(&["status", "-o", "json"]).finish().json()["alive"] == 2);
    let job = "name = \"spin\"\n[task.x]\nwasm = \"spin.wasm\"\narray = \"0..24\"\n";
    let id = here.swarm(&["submit", "-"]).stdin(job).finish().stdout.trim().to_owned();
    eventually("ben runs some", || there.swarm(&["status", "-o", "json"]).finish().json()["slots_busy"] != 0);
    let drained = here.swarm(&["drain", "ben", "-o", "json"]).finish();
    assert_eq!((drained.code, &drained.json()["name"]), (0, &"ben".into()), "{drained:?}");
    let left = second.running.finish();
    assert!(left.code == 0 && left.stderr.contains("draining"), "{left:?}");
    assert!(!left.stderr.contains("not everything"), "{left:?}");
    let over = here.swarm(&["wait", &id]).finish();
    assert_eq!(over.code, 0, "{over:?}");
    let shown = here.swarm(&["show", &id, "--tasks", "-o", "json"]).finish().json();
    let outcomes = shown["outcomes"].as_array().unwrap();
    assert!(outcomes.len() == 24 && outcomes.iter().all(|it| it["attempts"] == 1), "{shown}");
}

/// A link so young is not trusted with the only copy of an output, so the node leaves with something owed: it has left all
/// the same.
#[test]
fn whoever_asks_a_node_to_leave_hears_that_it_has_left_whatever_it_owes() {
    let (here, there) = (Dir::new(), Dir::new());
    let first = Node::start_with(&there, &["--name", "ben"]);
    let _second = Node::join(&here, &first.listen[0]);
    eventually("two nodes are alive", || here.swarm(&["status", "-o", "json"]).finish().json()["alive"] == 2);
    let job = "name = \"files\"\n[task.make]\nwasm = \"file.wasm\"\noutputs = [\"made.txt\"]\n";
    assert_eq!(here.swarm(&["submit", "--wait", "-"]).stdin(job).finish().code, 0);
    let drained = here.swarm(&["drain", "ben"]).finish();
    assert_eq!(drained.code, 0, "{drained:?}");
    first.leaves_in_order();
}

#[test]
fn a_reader_of_events_goes_on_where_it_was_after_the_node_was_killed() {
    let dir = Dir::new();
    let first = Node::start(&dir);
    let job = "name = \"echo\"\n[task.x]\nwasm = \"hello.wasm\"\narray = \"0..200\"\n";
    let id = dir.swarm(&["submit", "-"]).stdin(job).finish().stdout.trim().to_owned();
    assert_eq!(dir.swarm(&["wait", &id]).finish().code, 0);
    let read = |words: &[&str]| -> Vec<Value> {
        let all = dir.swarm(&[&["events", "-o", "jsonl"], words].concat()).finish();
        assert_eq!(all.code, 0, "{all:?}");
        all.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    eventually("the end is told", || read(&[]).iter().any(|event| event["kind"] == "job_over"));
    let all = read(&["--job", &id]);
    let done = all.iter().filter(|event| event["kind"] == "tasks_done");
    let ranges = done.flat_map(|event| event["tasks"].as_array().unwrap().clone());
    assert_eq!(ranges.map(|range| range["count"].as_u64().unwrap()).sum::<u64>(), 200);
    let all = read(&[]);
    let numbers: Vec<u64> = all.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next) && all[0]["kind"] == "node_started", "{all:?}");
    let last = numbers.last().unwrap().to_string();
    assert_eq!(read(&["--since", &last]).len(), 0);

    first.signal(rustix::process::Signal::KILL);
    drop(first);
    let _again = Node::start(&dir);
    let mut following = dir.swarm(&["events", "-o", "jsonl", "--follow", "--since", &last]);
    let told = following.stdout.take().unwrap();
    let next: Value = serde_json::from_str(&told.recv_timeout(DEADLINE).unwrap()).unwrap();
    assert_eq!(next["kind"], "node_started", "nothing between was lost, and no number is used twice");
    assert!(next["seq"].as_u64() > numbers.last().copied());
    let gap = read(&["--since", "1000000000000"]);
    assert_eq!(gap[0]["kind"], "gap", "that is another log");
}

/// A task that never ends is given to another node, and that is no failed attempt.
#[test]
fn what_does_not_finish_in_time_is_released_and_the_node_leaves() {
    let (here, there) = (Dir::new(), Dir::new());
    let first = Node::start(&here);
    let words = ["start", "--listen", "/ip4/127.0.0.1/tcp/0", "--slots", "2", "--name", "ben", "--bootstrap"];
    let more = ["--drain-timeout", "4s", "--label", "zone=b"];
    let second = Node::greeted(there.swarm(&[&words[..], &[&first.listen[0]], &more[..]].concat()), &there);
    eventually("two nodes are alive", || here.swarm(&["status", "-o", "json"]).finish().json()["alive"] == 2);
    let job = "name = \"endless\"\n[task.x]\nwasm = \"loop.wasm\"\ntimeout = \"10m\"\nretry = 0\n\
               where = { prefer = [\"label.zone = b\"] }\n";
    let id = here.swarm(&["submit", "-"]).stdin(job).finish().stdout.trim().to_owned();
    eventually("ben runs it", || there.swarm(&["status", "-o", "json"]).finish().json()["slots_busy"] == 1);
    let told = Instant::now();
    second.signal(rustix::process::Signal::TERM);
    let left = second.running.finish();
    assert_eq!(left.code, 0, "{left:?}");
    assert!(told.elapsed() < DEADLINE / 2, "it has left in a fraction of what the task takes");
    eventually("the other runs it", || here.swarm(&["status", "-o", "json"]).finish().json()["slots_busy"] == 1);
    let shown = here.swarm(&["show", &id, "--tasks", "-o", "json"]).finish().json();
    assert_eq!((&shown["state"], &shown["outcomes"][0]["attempts"]), (&"running".into(), &0.into()), "{shown}");
    assert_eq!(here.swarm(&["cancel", &id]).finish().code, 0);
}

#[test]
fn a_second_node_joins_and_gives_the_results_of_the_first() {
    let (here, there) = (Dir::new(), Dir::new());
    let first = Node::start(&here);
    let _second = Node::join(&there, &first.listen[0]);
    let job = "name = \"echo\"\n[task.say]\nwasm = \"echo.wasm\"\nargs = [\"{{ index }}\"]\narray = \"0..10\"\n";
    eventually("two nodes are alive", || {
        let alive = |dir: &Dir| dir.swarm(&["status", "-o", "json"]).finish().json()["alive"] == 2;
        alive(&here) && alive(&there)
    });
    let submitted = here.swarm(&["submit", "--wait", "-"]).stdin(job).finish();
    assert_eq!(submitted.code, 0, "{submitted:?}");
    let logs = there.swarm(&["logs", submitted.stdout.trim()]).finish();
    assert_eq!((logs.code, logs.stdout.as_str()), (0, "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"), "{logs:?}");
}

#[test]
fn outputs_are_on_two_nodes_before_their_task_is_done_and_a_cut_off_get_goes_on() {
    let (here, there) = (Dir::new(), Dir::new());
    let first = Node::start(&here);
    let _second = Node::join(&there, &first.listen[0]);
    eventually("two nodes are alive", || here.swarm(&["status", "-o", "json"]).finish().json()["alive"] == 2);
    let job = "name = \"files\"\n[task.make]\nwasm = \"file.wasm\"\narray = \"0..20\"\noutputs = [\"made.txt\"]\n";
    let made = here.swarm(&["submit", "--wait", "-"]).stdin(job).finish();
    assert_eq!(made.code, 0, "{made:?}");
    let id = made.stdout.trim();
    let shown = there.swarm(&["show", id, "--tasks", "-o", "json"]).finish();
    assert_eq!(shown.code, 0, "{shown:?}");
    // The name of `made\n`; where a blob is on the disk is the store's, so it is asked for by name.
    let hash = blake3::hash(b"made\n").to_hex();
    drop(first);
    let got = there.swarm(&["get", id, "out"]).finish();
    assert_eq!(got.code, 0, "{hash}: {got:?}");
    for index in 0..20 {
        assert_eq!(there.read(&format!("out/make/{index}/made.txt")), "made\n");
    }
    // What a `get` that was cut off leaves: the beginning of a file, under a name of its own.
    fs::remove_file(there.path("out/make/3/made.txt")).unwrap();
    let part = blake3::hash(&[blake3::hash(b"made\n").as_bytes(), &b"made.txt"[..]].concat()).to_hex();
    for beginning in ["ma", "xx", "far too long"] {
        there.write(&format!("out/make/3/.swarm-{}.part", &part[..16]), beginning);
        let got = there.swarm(&["get", id, "out"]).finish();
        assert!(got.code == 0 && got.stderr.contains("1 file, 5B (19 more"), "{beginning}: {got:?}");
        assert_eq!(there.read("out/make/3/made.txt"), "made\n");
        assert_eq!(fs::read_dir(there.path("out/make/3")).unwrap().count(), 1);
        fs::remove_file(there.path("out/make/3/made.txt")).unwrap();
    }
}

#[test]
fn a_module_is_published_at_one_node_and_used_at_another() {
    let (here, there) = (Dir::new(), Dir::new());
    let first = Node::start(&here);
    let _second = Node::join(&there, &first.listen[0]);
    eventually("two nodes are alive", || here.swarm(&["status", "-o", "json"]).finish().json()["alive"] == 2);
    let manifest = |version: &str, binary: &str| {
        format!(
            "name = \"loudify\"\nnamespace = \"sh.example\"\nversion = \"{version}\"\nbinary = \"{binary}\"\n\
             description = \"Says what it is told.\"\npermissions = [\"stdout\"]\n"
        )
    };
    here.write("module.toml", &manifest("1.0.0", "hello.wasm"));
    let published = here.swarm(&["module", "publish"]).finish();
    assert_eq!((published.code, published.stdout.trim()), (0, "sh.example.loudify@1.0.0"), "{published:?}");
    here.write("module.toml", &manifest("1.1.0", "echo.wasm"));
    assert_eq!(here.swarm(&["module", "publish", "module.toml"]).finish().code, 0);

    // A version never changes.
    here.write("changed.toml", &manifest("1.0.0", "echo.wasm"));
    let refused = here.swarm(&["module", "publish", "changed.toml"]).finish();
    assert!(refused.code == 10 && refused.stderr.contains("a version never changes"), "{refused:?}");

    let listed = there.swarm(&["module", "ls", "-o", "json"]).finish().json();
    let versions: Vec<_> = listed["items"].as_array().unwrap().iter().map(|item| &item["version"]).collect();
    assert_eq!(versions, ["1.0.0", "1.1.0"]);
    let shown = there.swarm(&["module", "show", "sh.example.loudify@1", "-o", "json"]).finish().json();
    assert_eq!((&shown["version"], &shown["permissions"][0]), (&"1.1.0".into(), &"stdout".into()));

    let run = there.swarm(&["run", "sh.example.loudify@1", "--", "aloud"]).finish();
    assert_eq!((run.code, run.stdout.as_str()), (0, "aloud\n"), "{run:?}");
    let run = there.swarm(&["run", "sh.example.loudify", "--", "again"]).finish();
    assert_eq!((run.code, run.stdout.as_str()), (0, "again\n"), "{run:?}");
    let job = "name = \"named\"\n[task.say]\nwasm = \"sh.example.loudify@1.0.0\"\n";
    let named = there.swarm(&["submit", "-", "--follow"]).stdin(job).finish();
    assert!(named.code == 0 && named.stdout.ends_with("hello\n"), "{named:?}");
    let unknown = there.swarm(&["run", "sh.example.quieten@1"]).finish();
    assert!(unknown.code == 10 && unknown.stderr.contains("no module `sh.example.quieten`"), "{unknown:?}");

    // Another key, the same name: shown, and not chosen.
    there.write("module.toml", &manifest("1.2.0", "seven.wasm"));
    let theirs = there.swarm(&["module", "publish"]).finish();
    assert!(theirs.code == 0 && theirs.stderr.contains("others published"), "{theirs:?}");
    let disputed = here.swarm(&["run", "sh.example.loudify@1"]).finish();
    assert!(disputed.code == 10 && disputed.stderr.contains("was published with 2 keys"), "{disputed:?}");
    let mine = format!("sh.example.loudify@1#{}", &first.id[..8]);
    let run = here.swarm(&["run", &mine, "--", "mine"]).finish();
    assert_eq!((run.code, run.stdout.as_str()), (0, "mine\n"), "{run:?}");

    // Taken back: not chosen any more, and only by its own publisher.
    assert_eq!(here.swarm(&["module", "yank", "sh.example.loudify@1.2.0"]).finish().code, 4);
    assert_eq!(here.swarm(&["module", "yank", "sh.example.loudify@9.0.0"]).finish().code, 5);
    assert_eq!(here.swarm(&["module", "yank", "sh.example.loudify@1.1.0"]).finish().code, 0);
    eventually("the other node has heard", || {
        let shown = there.swarm(&["module", "show", &mine, "-o", "json"]).finish();
        shown.code == 0 && shown.json()["version"] == "1.0.0"
    });

    // Without the publisher it is still there.
    drop(first);
    let inspected = there.swarm(&["module", "inspect", &mine, "-o", "json"]).finish();
    assert_eq!(inspected.code, 0, "{inspected:?}");
    assert_eq!(inspected.json()["imports"][0]["module"], "wasi_snapshot_preview1");
}

#[test]
fn a_file_is_inspected_without_a_node() {
    let dir = Dir::new();
    let inspected = dir.swarm(&["module", "inspect", "alien.wasm"]).finish();
    assert_eq!(inspected.code, 0, "{inspected:?}");
    for part in ["blake3:", "memory", "verdict", "cannot run as a task", "(not offered)"] {
        assert!(inspected.stdout.contains(part), "{part} in {}", inspected.stdout);
    }
    let refused = dir.swarm(&["module", "inspect", "text.wasm"]).finish();
    assert!(refused.code == 10 && refused.stderr.contains("not a WebAssembly module"), "{refused:?}");
}

#[test]
fn collecting_under_load_removes_what_is_not_in_use_and_nothing_else() {
    let (here, there) = (Dir::new(), Dir::new());
    let first = Node::start(&here);
    let _second = Node::join(&there, &first.listen[0]);
    eventually("two nodes are alive", || here.swarm(&["status", "-o", "json"]).finish().json()["alive"] == 2);
    let collect = |dir: &Dir| {
        let collected = dir.swarm(&["blob", "gc", "--grace", "1s", "-o", "json"]).finish();
        assert_eq!(collected.code, 0, "{collected:?}");
        collected.json()["removed"].as_u64().unwrap()
    };
    let mut jobs = Vec::new();
    for round in 0..6 {
        let items: Vec<String> = (0..20).map(|item| format!("item-{round}-{item}.txt")).collect();
        items.iter().for_each(|item| here.write(item, &format!("{item}\n")));
        let job = format!(
            "name = \"load\"\n[task.copy]\nwasm = \"copy.wasm\"\neach = {{ files = \"item-{round}-*.txt\" }}\n\
             stdin = {{ item = true }}\noutputs = [\"made.txt\"]\n"
        );
        here.write("load.toml", &job);
        let submitted = if round % 2 == 0 { &here } else { &there };
        let file = here.path("load.toml");
        let done = submitted.swarm(&["submit", file.to_str().unwrap()]).finish();
        assert_eq!(done.code, 0, "{done:?}");
        jobs.push((done.stdout.trim().to_owned(), items));
        collect(&here);
        collect(&there);
    }
    for (id, items) in &jobs {
        assert_eq!(there.swarm(&["wait", id]).finish().code, 0);
        collect(&here);
        collect(&there);
        for dir in [&here, &there] {
            let got = dir.swarm(&["get", id, &format!("got-{id}")]).finish();
            assert_eq!(got.code, 0, "{got:?}");
            let mut names = items.clone();
            names.sort();
            for (index, item) in names.iter().enumerate() {
                assert_eq!(dir.read(&format!("got-{id}/copy/{index}/made.txt")), format!("{item}\n"));
            }
        }
    }

    // A blob that nothing names goes; one that is pinned stays.
    let hash = jobs_module(&here);
    assert_eq!(there.swarm(&["blob", "pin", &hash]).finish().code, 0);
    let kept = there.swarm(&["blob", "ls", "-o", "json"]).finish().json();
    let pinned: Vec<_> = kept["items"].as_array().unwrap().iter().filter(|item| item["pinned"] == true).collect();
    assert_eq!(pinned.len(), 1, "{kept}");
    assert_eq!(there.swarm(&["blob", "unpin", &hash]).finish().code, 0);
    assert_eq!(there.swarm(&["blob", "unpin", &hash]).finish().code, 5);
    assert_eq!(here.swarm(&["blob", "gc", "--grace", "1ms"]).finish().code, 2);
}

/// The name of the module that every job of the load used.
fn jobs_module(dir: &Dir) -> String {
    let inspected = dir.swarm(&["module", "inspect", "copy.wasm", "-o", "id"]).finish();
    inspected.stdout.trim().to_owned()
}

#[test]
fn a_blob_is_stored_on_one_node_fetched_through_another_and_checked() {
    let (here, there) = (Dir::new(), Dir::new());
    let first = Node::start(&here);
    let _second = Node::join(&there, &first.listen[0]);
    eventually("two nodes are alive", || {
        here.swarm(&["status", "-o", "json"]).finish().json()["alive"] == 2
            && there.swarm(&["status", "-o", "json"]).finish().json()["alive"] == 2
    });
    here.write("text", &"all that there is to say, again and again\n".repeat(100_000));
    let put = here.swarm(&["blob", "put", "text"]).finish();
    assert_eq!(put.code, 0, "{put:?}");
    let name = put.stdout.trim();
    assert_eq!(name, format!("blake3:{}", blake3::hash(here.read("text").as_bytes())));
    let again = here.swarm(&["blob", "put", "-"]).stdin(&here.read("text")).finish();
    assert_eq!(again.stdout, put.stdout, "{again:?}");

    let stat =
        |dir: &Dir| dir.swarm(&["blob", "stat", name, "-o", "json"]).finish().json()["items"][0]["state"].clone();
    assert_eq!((stat(&here), stat(&there)), ("here".into(), "missing".into()));
    let got = there.swarm(&["blob", "get", name, "copy"]).finish();
    assert_eq!((got.code, there.read("copy")), (0, here.read("text")), "{got:?}");
    assert_eq!(there.swarm(&["blob", "get", name, "copy"]).finish().code, 2);
    assert_eq!(there.swarm(&["blob", "get", name]).finish().stdout, here.read("text"));
    assert_eq!(stat(&there), "here");

    // What is damaged on one disk is noticed, and comes again from the other.
    assert_eq!(there.swarm(&["blob", "verify", name]).finish().code, 0);
    let hex = name.strip_prefix("blake3:").unwrap();
    fs::write(there.data().join("blobs").join(&hex[..2]).join(hex), "damaged").unwrap();
    assert_eq!(there.swarm(&["blob", "verify", name]).finish().code, 11);
    assert_eq!(there.swarm(&["blob", "verify", name]).finish().code, 5);
    assert_eq!(there.swarm(&["blob", "get", name]).finish().stdout, here.read("text"));
    assert_eq!(there.swarm(&["blob", "get", "nonsense"]).finish().code, 2);
}

#[test]
fn a_node_above_the_mark_of_its_budget_refuses_new_blobs_and_says_so() {
    let dir = Dir::new();
    let _node = Node::greeted(dir.swarm(&["start", "--listen", "/ip4/127.0.0.1/tcp/0", "--disk", "1MB"]), &dir);
    dir.write("small", &"s".repeat(500_000));
    dir.write("large", &"l".repeat(500_000));
    assert_eq!(dir.swarm(&["blob", "put", "small"]).finish().code, 0);
    let refused = dir.swarm(&["blob", "put", "large"]).finish();
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""), "{refused:?}");
    assert!(refused.stderr.contains("no room for more blobs") && refused.stderr.contains("--disk"), "{refused:?}");
    // What is smaller still fits.
    dir.write("fits", &"f".repeat(300_000));
    assert_eq!(dir.swarm(&["blob", "put", "fits"]).finish().code, 0);
    let status = dir.swarm(&["status"]).finish().stdout;
    assert!(status.contains("new blobs:"), "{status}");
}

#[test]
fn ctrl_c_while_waiting_leaves_the_job_alone() {
    let dir = Dir::new();
    let _node = Node::start(&dir);
    let job = "name = \"endless\"\n[task.x]\nwasm = \"loop.wasm\"\ntimeout = \"10m\"\n";
    let id = dir.swarm(&["submit", "-"]).stdin(job).finish().stdout.trim().to_owned();
    let waiting = dir.swarm(&["wait", &id]);
    // Its first plain line shows that it waits by now.
    let (waiting, line) = waiting.first_stderr_line();
    assert!(line.starts_with(&id), "{line}");
    signal(&waiting.child, rustix::process::Signal::INT);
    let detached = waiting.finish();
    assert_eq!(detached.code, 130, "{detached:?}");
    assert!(detached.stderr.ends_with(&format!("swarm wait {id}\n")), "{}", detached.stderr);
    assert_eq!(dir.swarm(&["show", &id, "-o", "json"]).finish().json()["state"], "running");
    assert_eq!(dir.swarm(&["cancel", &id]).finish().code, 0);
}

#[test]
fn every_example_of_the_help_works() {
    let dir = Dir::new();
    dir.write("lines.txt", "one\ntwo\n");
    dir.write(
        "job.toml",
        "name = \"example\"\n[params]\nsize = { type = \"int\", default = 3 }\n[task.hello]\nwasm = \"hello.wasm\"\n\
         array = \"0..{{ params.size }}\"\n[task.make]\nwasm = \"file.wasm\"\noutputs = [\"made.txt\"]\n",
    );
    dir.write(
        "module.toml",
        "name = \"loudify\"\nnamespace = \"sh.example\"\nversion = \"1.2.0\"\nbinary = \"hello.wasm\"\n",
    );
    dir.write("bad.toml", "name = \"bad\"\n[task.main]\nwasm = \"seven.wasm\"\n");
    let examples = examples_of(&dir, &[]);
    // A node of its own for what starts one; what ends the node comes last.
    let (start, others): (Vec<_>, Vec<_>) = examples.into_iter().partition(|line| line.contains("swarm start"));
    for line in start {
        let elsewhere = Dir::new();
        // Nothing leaves this machine.
        let line = line.replace("192.0.2.7", "127.0.0.1");
        let words: Vec<&str> = line.split_whitespace().skip(2).collect();
        Node::start_with(&elsewhere, &words).leaves_in_order_when_told();
    }
    let (drain, others): (Vec<_>, Vec<_>) = others.into_iter().partition(|line| line.contains("swarm drain"));
    for line in drain {
        let node = Node::start_with(&dir, &["--name", "anna"]);
        let done = dir.shell(line.trim()).finish();
        assert_eq!(done.code, 0, "{line}: {done:?}");
        node.leaves_in_order();
    }
    let _node = Node::start(&dir);
    for line in &others {
        // Before it, a job that is over and has outputs is the last one.
        if line.contains("retry @last --failed") {
            assert_eq!(dir.swarm(&["submit", "bad.toml", "--wait"]).finish().code, 3);
        } else if line.contains("@last") {
            assert_eq!(dir.swarm(&["submit", "job.toml", "--wait"]).finish().code, 0);
        }
        let done = dir.shell(line.trim()).finish();
        assert_eq!(done.code, 0, "{line}: {done:?}");
    }
}

/// The examples of every command below one, in the order of its help.
fn examples_of(dir: &Dir, path: &[&str]) -> Vec<String> {
    let help = dir.swarm(&[path, &["--help"]].concat()).finish().stdout;
    let below = |title: &str| -> Vec<&str> {
        help.lines().skip_while(|line| *line != title).skip(1).take_while(|line| !line.is_empty()).collect()
    };
    // A long description goes on in lines that are set in further.
    let names = below("Commands:").into_iter().filter(|line| !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    let mut examples: Vec<String> = below("Examples:").into_iter().map(str::to_owned).collect();
    assert!(path.is_empty() || !examples.is_empty(), "{path:?} shows no example");
    for name in names {
        examples.extend(examples_of(dir, &[path, &[name]].concat()));
    }
    examples
}

#[test]
fn a_plan_says_where_tasks_would_run_and_what_never_can() {
    let dir = Dir::new();
    let job = |place: &str| {
        format!(
            "name = \"planned\"\n[task.make]\nwasm = \"file.wasm\"\narray = \"0..10\"\noutputs = [\"made.txt\"]\n{place}\n\
             [task.after]\nwasm = \"hello.wasm\"\narray = \"0..10\"\nneeds = [{{ task = \"make\", same = [\"index\"] }}]\n"
        )
    };
    dir.write("job.toml", &job(""));
    dir.write("never.toml", &job("where = { require = [\"label.zone = moon\"] }"));
    let offline = dir.swarm(&["plan", "never.toml", "--offline"]).finish();
    assert_eq!(offline.code, 0, "{offline:?}");
    let _node = Node::start_with(&dir, &["--label", "zone=a", "--name", "anna"]);
    let planned = dir.swarm(&["plan", "job.toml"]).finish();
    assert_eq!(planned.code, 0, "{planned:?}");
    assert!(planned.stdout.contains("└─ make: 10 tasks → anna 10\n"), "{}", planned.stdout);
    assert!(
        planned.stdout.contains("   └─ after: 10 tasks, needs make of the same index → anna 10\n"),
        "{}",
        planned.stdout
    );
    let never = dir.swarm(&["plan", "never.toml", "-o", "json"]).finish();
    assert_eq!(never.code, 9, "{never:?}");
    assert_eq!(never.json()["stages"][0]["never"], "no node satisfies `label.zone = moon` (1 node: zone = a)");
    assert!(never.stderr.contains("swarm nodes -o json"), "{}", never.stderr);
    // It is as the plan says.
    let left = dir.swarm(&["submit", "never.toml", "-o", "id"]).finish();
    assert_eq!(dir.swarm(&["wait", left.stdout.trim(), "--timeout", "1s"]).finish().code, 7);
}

#[test]
fn elements_flow_through_stages_and_take_their_own_files_along() {
    let dir = Dir::new();
    let _node = Node::start(&dir);
    dir.write(
        "flow.toml",
        "name = \"flow\"\n[task.make]\nwasm = \"file.wasm\"\nmatrix = { x = [\"a\", \"b\"], y = [1, 2] }\noutputs = [\"made.txt\"]\n\
         [task.use]\nwasm = \"cat.wasm\"\nmatrix = { x = [\"a\", \"b\"] }\nneeds = [{ task = \"make\", same = [\"x\"] }]\n\
         inputs.in = { from = \"make\", path = \"made.txt\", as = \"{{ y }}\" }\n",
    );
    let done = dir.swarm(&["submit", "flow.toml", "--wait"]).finish();
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(dir.swarm(&["logs", "@last/use"]).finish().stdout, "made\nmade\n");
}

#[test]
fn only_what_failed_runs_again() {
    let dir = Dir::new();
    let _node = Node::start(&dir);
    for index in 0..10 {
        let text = if index % 4 == 3 { "" } else { "fine\n" };
        fs::create_dir_all(dir.path("in")).unwrap();
        dir.write(&format!("in/{index}.txt"), text);
    }
    dir.write(
        "job.toml",
        "name = \"mended\"\nmax_failures = 5\n[task.copy]\nwasm = \"strict.wasm\"\neach = { files = \"in/*.txt\" }\nstdin = { item = true }\n",
    );
    let failed = dir.swarm(&["submit", "job.toml", "--wait"]).finish();
    assert_eq!(failed.code, 3, "{failed:?}");
    let running = dir.swarm(&["retry", "@last", "--failed", "-o", "id"]).finish();
    assert_eq!(running.code, 0, "{running:?}");
    assert_eq!(dir.swarm(&["wait", "@last"]).finish().code, 3, "nothing was mended");
    dir.write("in/3.txt", "mended\n");
    dir.write("in/7.txt", "mended\n");
    let again = dir.swarm(&["retry", failed.stdout.trim(), "--failed", "job.toml", "-o", "id"]).finish();
    assert_eq!(again.code, 0, "{again:?}");
    let id = again.stdout.trim();
    assert_eq!(dir.swarm(&["wait", id]).finish().code, 0);
    let logs = dir.swarm(&["logs", id, "--prefix"]).finish().stdout;
    let lines: Vec<&str> = logs.lines().collect();
    assert_eq!((lines.len(), lines[3], lines[4]), (10, "copy[3] | mended", "copy[4] | fine"), "{logs}");
    let shown = dir.swarm(&["show", id, "-o", "json"]).finish().json();
    assert_eq!((&shown["done"], &shown["tasks"]), (&10.into(), &10.into()));
    let nothing = dir.swarm(&["retry", id, "--failed"]).finish();
    assert_eq!(nothing.code, 2, "{nothing:?}");
}

#[test]
fn lists_are_filtered_by_state_and_label() {
    let dir = Dir::new();
    let _node = Node::start(&dir);
    dir.write("hello.toml", "name = \"hello\"\nlabels = { team = \"art\" }\n[task.hello]\nwasm = \"hello.wasm\"\n");
    assert_eq!(dir.swarm(&["submit", "hello.toml", "--wait", "--label", "run=1"]).finish().code, 0);
    assert_eq!(dir.swarm(&["submit", "hello.toml", "--wait", "--name", "other"]).finish().code, 0);
    let ids = |line: &[&str]| {
        let listed = dir.swarm(&[&["ls", "-o", "id"], line].concat()).finish();
        assert_eq!(listed.code, 0, "{listed:?}");
        listed.stdout.lines().count()
    };
    assert_eq!(
        [ids(&[]), ids(&["--label", "team=art"]), ids(&["--label", "run"]), ids(&["--limit", "1"])],
        [2, 2, 1, 1]
    );
    assert_eq!([ids(&["--state", "done"]), ids(&["--state", "failed"]), ids(&["--label", "team=music"])], [2, 0, 0]);
}

#[test]
fn shells_and_editors_get_what_they_need() {
    let dir = Dir::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = dir.swarm(&["completions", shell]).finish();
        assert_eq!(script.code, 0, "{script:?}");
        assert!(script.stdout.contains("SWARM_COMPLETE"), "{}", script.stdout);
    }
    let schema = dir.swarm(&["schema", "job"]).finish().json();
    assert_eq!(schema["properties"]["name"]["pattern"], "^[a-z0-9-]{1,63}$");
    assert!(dir.swarm(&["man"]).finish().stdout.contains(".TH swarm 1"));
    assert_eq!(dir.swarm(&["man", "pages"]).finish().code, 0);
    assert!(dir.read("pages/swarm-submit.1").contains("submit"));
}
