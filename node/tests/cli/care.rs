//! `swarm doctor` and `swarm config show`, and configuration files.

use std::fs;

use serde_json::Value;

use crate::support::{Dir, Node, eventually};

/// What the doctor says: state, finding and next command of each check.
fn looked(dir: &Dir, words: &[&str]) -> (i32, Vec<Value>) {
    let said = dir.swarm(&[&["doctor", "-o", "json"], words].concat()).finish();
    let document = said.json();
    assert_eq!(document["schema"], "swarm.checks/1");
    (said.code, document["items"].as_array().unwrap().clone())
}

fn check<'a>(checks: &'a [Value], name: &str) -> &'a Value {
    checks.iter().find(|check| check["check"] == name).unwrap_or_else(|| panic!("{name} in {checks:?}"))
}

#[test]
fn the_doctor_says_what_to_type_before_there_is_a_node_and_while_it_runs() {
    let (here, there) = (Dir::new(), Dir::new());
    let (code, checks) = looked(&here, &[]);
    assert_eq!(code, 0, "{checks:?}");
    let missing = check(&checks, "data directory");
    assert_eq!(missing["state"], "warning");
    assert!(missing["next"].as_str().unwrap().starts_with("swarm start --data "), "{missing}");

    let first = Node::start(&here);
    let second = Node::join(&there, &first.listen[0]);
    eventually("two nodes are alive", || here.swarm(&["status", "-o", "json"]).finish().json()["alive"] == 2);
    let (code, checks) = looked(&here, &[]);
    assert_eq!(code, 0, "{checks:?}");
    for name in ["data directory", "key", "lock", "node", "version", "room", "other nodes", "versions", "clock"] {
        assert_eq!(check(&checks, name)["state"], "ok", "{checks:?}");
    }
    let pid = format!("held by process {}, which lives", first.running.child.id());
    assert_eq!(check(&checks, "lock")["found"], pid.as_str());
    assert_eq!(check(&checks, "addresses")["state"], "warning", "it listens on loopback alone");

    second.signal(rustix::process::Signal::KILL);
    drop(second);
    eventually("the other is gone", || {
        let (code, checks) = looked(&here, &[]);
        code == 1 && check(&checks, "other nodes")["state"] == "problem"
    });
    let said = here.swarm(&["doctor"]).finish();
    assert!(said.stderr.ends_with("swarm start --bootstrap MULTIADDR\n"), "{said:?}");
}

#[test]
fn the_doctor_repairs_what_a_killed_node_left() {
    let dir = Dir::new();
    let node = Node::start(&dir);
    node.signal(rustix::process::Signal::KILL);
    drop(node);
    fs::write(dir.data().join("scratch").join("in-1"), "half").unwrap();
    let (code, checks) = looked(&dir, &[]);
    let left = check(&checks, "leftovers");
    assert_eq!((code, &left["state"]), (0, &"warning".into()), "{checks:?}");
    assert!(left["found"].as_str().unwrap().contains("api.sock"), "{left}");
    let (code, checks) = looked(&dir, &["--fix"]);
    assert_eq!((code, &check(&checks, "leftovers")["state"]), (0, &"fixed".into()), "{checks:?}");
    assert!(!dir.data().join("api.sock").exists());
    assert_eq!(check(&looked(&dir, &[]).1, "leftovers")["state"], "ok");
    let _again = Node::start(&dir);
    assert_eq!(looked(&dir, &["--fix"]).0, 0);
    assert_eq!(dir.swarm(&["status"]).finish().code, 0, "the doctor left the node alone");
}

#[test]
fn a_port_that_is_taken_is_found_before_the_start() {
    let dir = Dir::new();
    let held = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", held.local_addr().unwrap().port());
    let (code, checks) = looked(&dir, &["--listen", &address]);
    assert_eq!((code, &check(&checks, "ports")["state"]), (1, &"problem".into()), "{checks:?}");
}

#[test]
fn a_setting_comes_from_the_nearest_place() {
    let dir = Dir::new();
    fs::create_dir_all(dir.data()).unwrap();
    fs::create_dir_all(dir.path("home/swarm")).unwrap();
    dir.write("data/config.toml", "slots = 3\nname = \"anna\"\n");
    dir.write("home/swarm/config.toml", "# the user's own\nslots = 5\ngc_grace = \"30m\"\nlabel = { zone = \"a\" }\n");
    let ask = |words: &[&str], variables: &[(&str, &str)]| {
        let said = dir.swarm_in(&[&["config", "show", "-o", "json"], words].concat(), variables).finish();
        assert_eq!(said.code, 0, "{said:?}");
        said.json()["items"].as_array().unwrap().clone()
    };
    let of = |settings: &[Value], key: &str| {
        let setting = settings.iter().find(|setting| setting["key"] == key).unwrap();
        (setting["value"].clone(), setting["from"].as_str().unwrap().to_owned(), setting["origin"].clone())
    };
    let home = dir.path("home");
    let home = ("XDG_CONFIG_HOME", home.to_str().unwrap());
    let said = ask(&[], &[home]);
    let own = dir.data().join("config.toml");
    assert_eq!(of(&said, "slots"), (3.into(), "file".into(), format!("{}:1", own.display()).into()));
    assert_eq!(of(&said, "gc_grace").0, "30m");
    assert_eq!(of(&said, "label").0[0], "zone=a");
    assert_eq!(of(&said, "lan"), (false.into(), "default".into(), Value::Null));
    let said = ask(&[], &[home, ("SWARM_SLOTS", "7")]);
    assert_eq!(of(&said, "slots"), (7.into(), "environment".into(), "SWARM_SLOTS".into()));
    let said = ask(&["--slots", "8"], &[home, ("SWARM_SLOTS", "7")]);
    assert_eq!(of(&said, "slots"), (8.into(), "flag".into(), "--slots".into()));

    dir.write("other.toml", "slots = 1\noutput = \"id\"\n");
    let said = ask(&["--config", "other.toml"], &[home]);
    assert_eq!(of(&said, "slots").0, 1);
    assert_eq!(of(&said, "gc_grace").1, "default");
    // A node is what its files say.
    let _node = Node::start_with(&dir, &[]);
    let seen = dir.swarm(&["nodes", "-o", "json"]).finish().json();
    assert_eq!((&seen["items"][0]["slots"], &seen["items"][0]["name"]), (&3.into(), &"anna".into()));
    assert!(dir.swarm(&["nodes", "--config", "other.toml"]).finish().stdout.trim().len() == 64, "ids alone");

    dir.write("data/config.toml", "name = \"anna\"\nsolts = 3\n");
    let refused = dir.swarm(&["ls"]).finish();
    assert_eq!(refused.code, 10, "{refused:?}");
    assert!(
        refused.stderr.contains("did you mean `slots`?") && refused.stderr.contains("config.toml:2:1"),
        "{refused:?}"
    );
    let missing = dir.swarm(&["ls", "--config", "nowhere.toml"]).finish();
    assert_eq!(missing.code, 5, "{missing:?}");
}
