//! What a new user does wrong, and what the command says: the cause first, the next thing to type last. The messages are a
//! snapshot, to be read as a whole.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;

use crate::support::{Dir, Finished, Node, eventually};

/// Mistakes that need no node.
const ALONE: [(&str, &str); 32] = [
    ("no node was started", "swarm ls"),
    ("a letter too many", "swarm sumbit job.toml"),
    ("no file was given", "swarm submit"),
    ("the file is somewhere else", "swarm submit jbo.toml --local"),
    ("a directory instead of a file", "swarm submit folder --local"),
    ("a module instead of a job file", "swarm submit hello.wasm --local"),
    ("a job file instead of a module", "swarm run job.toml --local"),
    ("a key is misspelled", "swarm validate key.toml"),
    ("the module is not where the job file says", "swarm validate lost.toml"),
    ("a text instead of a module", "swarm run text.wasm --local"),
    ("a source instead of a module", "swarm run hello.c --local"),
    ("arguments without two dashes", "swarm run echo.wasm --local hello"),
    ("a parameter that there is not", "swarm validate job.toml --set sise=3"),
    ("a time without a unit", "swarm wait @last --timeout 90"),
    ("an address as of a web server", "swarm start --bootstrap 192.0.2.7:4001"),
    ("a configuration with a slip", "swarm --config slip.toml ls"),
    ("two letters swapped", "swarm statsu"),
    ("a file instead of the data directory", "swarm ls --node job.toml"),
    ("a file instead of a new data directory", "swarm start --data job.toml"),
    ("memory without a unit", "swarm start --memory 5"),
    ("a swarm without a name", "swarm start --swarm ''"),
    ("a word instead of a number", "swarm ls --limit many"),
    ("more slots than a node can have", "swarm start --slots 5000"),
    ("a priority out of reach", "swarm submit job.toml --priority 1000"),
    ("an empty job file", "swarm validate empty.toml"),
    ("a name that a job cannot have", "swarm submit job.toml --local --name My_Job"),
    ("a range the wrong way round", "swarm run hello.wasm --local --range 5..1"),
    ("memory that nobody can read", "swarm run hello.wasm --local --memory lots"),
    ("an input that is not there", "swarm run hello.wasm --local --in nosuch.txt"),
    ("an item without an array", "swarm run echo.wasm --local -- '{{ item }}'"),
    ("a component instead of a module", "swarm run component.wasm --local"),
    ("pages of the manual into a file", "swarm man job.toml"),
];

/// Mistakes with a node that has run three jobs: `hello`, twice, and `bad`, which failed.
const WITH_A_NODE: [(&str, &str); 29] = [
    ("a second node in the same directory", "swarm start --listen /ip4/127.0.0.1/tcp/0"),
    ("a job that there is not", "swarm logs nope"),
    ("a name that two jobs have", "swarm show hello"),
    ("a stage that is misspelled", "swarm logs BAD/mian"),
    ("a task beyond the last", "swarm logs 'BAD/main[7]'"),
    ("brackets that were not closed", "swarm logs 'BAD/main[7'"),
    ("waiting for a job that failed", "swarm wait BAD"),
    ("the outputs of a job without any", "swarm get BAD"),
    ("something else where the outputs go", "swarm get FILES taken"),
    ("a file where the directory of outputs goes", "swarm get FILES job.toml"),
    ("a pattern that fits no output", "swarm get FILES none --include '*.png'"),
    ("a second task of a stage that has one", "swarm logs 'FILES/make[1]'"),
    ("neither a job nor a node", "swarm show carl"),
    ("a blob into a directory", "swarm blob get $(swarm blob put hello.wasm) folder"),
    ("a blob into a directory that there is not", "swarm blob get $(swarm blob put hello.wasm) nowhere/hello.wasm"),
    ("a directory to store", "swarm blob put folder"),
    ("a module file that is not there", "swarm module inspect hallo.wasm"),
    ("a variable that is not set", "swarm logs \"$NOTHING\""),
    ("a file to store that is not there", "swarm blob put hallo.wasm"),
    ("mending what did not fail", "swarm retry FILES --failed"),
    ("publishing without a manifest", "swarm module publish"),
    ("a module that nobody published", "swarm run sh.example.loudify@1"),
    ("a blob by half of its name", "swarm blob get blake3:0123"),
    ("a blob that there is not", "swarm blob get NOBLOB out"),
    ("a need that no node meets", "swarm plan never.toml"),
    ("more memory than there is", "swarm plan vast.toml"),
    ("a node that there is not", "swarm drain carl"),
    ("a module that needs what is not offered", "swarm run alien.wasm"),
    ("a task that fails", "swarm run seven.wasm"),
];

fn told(what: &str, line: &str, said: &Finished, known: &[(String, &str)]) -> String {
    let mut text = format!("## {what}\n$ {line}\n");
    let mut stderr = said.stderr.clone();
    for (found, shown) in known {
        stderr = stderr.replace(found, shown);
    }
    write!(text, "{}[exit {}]\n\n", stderr, said.code).unwrap();
    text
}

fn prepare(dir: &Dir) {
    dir.write("job.toml", "name = \"hello\"\n[params]\nsize = { type = \"int\", default = 3 }\n[task.main]\nwasm = \"hello.wasm\"\narray = \"0..{{ params.size }}\"\n");
    dir.write("key.toml", "name = \"hello\"\n[task.main]\nwasm = \"hello.wasm\"\ntimeuot = \"5m\"\n");
    dir.write("lost.toml", "name = \"hello\"\n[task.main]\nwasm = \"target/hello.wasm\"\n");
    dir.write("empty.toml", "");
    fs::write(dir.path("component.wasm"), b"\0asm\x0d\0\x01\0").unwrap();
    dir.write("hello.c", "int main(void) { return 0; }\n");
    dir.write("slip.toml", "slots = 4\nmemroy = \"4GiB\"\n");
    dir.write("bad.toml", "name = \"bad\"\nmax_failures = 3\n[task.main]\nwasm = \"seven.wasm\"\narray = \"0..3\"\n");
    dir.write("files.toml", "name = \"files\"\n[task.make]\nwasm = \"file.wasm\"\noutputs = [\"made.txt\"]\n");
    dir.write(
        "never.toml",
        "name = \"never\"\n[task.main]\nwasm = \"hello.wasm\"\nwhere = { require = [\"label.gpu exists\"] }\n",
    );
    dir.write("vast.toml", "name = \"vast\"\n[task.main]\nwasm = \"hello.wasm\"\nresources = { memory = \"3GiB\" }\n");
    fs::create_dir_all(dir.path("folder")).unwrap();
    fs::create_dir_all(dir.path("taken/make")).unwrap();
    dir.write("taken/make/made.txt", "something else\n");
}

#[test]
fn what_is_wrong_without_a_node_is_said() {
    let dir = Dir::new();
    prepare(&dir);
    let known = [(dir.path("").display().to_string().trim_end_matches('/').to_owned(), "DIR")];
    let mut all = String::new();
    for (what, line) in ALONE {
        all.push_str(&told(what, line, &dir.shell(line).finish(), &known));
    }
    let held = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = held.local_addr().unwrap().port();
    let line = format!("swarm start --listen /ip4/127.0.0.1/tcp/{port}");
    let known = [known[0].clone(), (port.to_string(), "PORT")];
    let said = dir.shell(&line).finish();
    all.push_str(&told("a port that something else has", &line.replace(&port.to_string(), "PORT"), &said, &known));
    insta::assert_snapshot!("alone", all);
}

#[test]
fn what_is_wrong_with_a_node_is_said() {
    let dir = Dir::new();
    prepare(&dir);
    let node = Node::start_with(&dir, &["--slots", "2", "--memory", "1GiB", "--name", "anna"]);
    let run = |file: &str, code| {
        let said = dir.swarm(&["submit", file, "--wait"]).finish();
        assert_eq!(said.code, code, "{said:?}");
        said.stdout.trim().to_owned()
    };
    let hello = [run("job.toml", 0), run("job.toml", 0)];
    let (bad, files) = (run("bad.toml", 3), run("files.toml", 0));
    let full = |id: &str| dir.swarm(&["show", id, "-o", "json"]).finish().json()["job"].as_str().unwrap().to_owned();
    let nobody = format!("blake3:{}", "0".repeat(64));
    let mut known = vec![
        (dir.path("").display().to_string().trim_end_matches('/').to_owned(), "DIR"),
        (full(&hello[0]), "DIGITS"),
        (full(&hello[1]), "DIGITS"),
        (hello[0].clone(), "HELLO"),
        (hello[1].clone(), "HELLO"),
        (bad.clone(), "BAD"),
        (files.clone(), "FILES"),
        (nobody.clone(), "NOBLOB"),
        (node.id.clone(), "NODE"),
    ];
    let mut all = String::new();
    for (what, line) in WITH_A_NODE {
        let typed = line.replace("BAD", &bad).replace("FILES", &files).replace("NOBLOB", &nobody);
        let said = dir.shell(&typed).finish();
        if line.starts_with("swarm run seven") {
            known.push((dir.swarm(&["ls", "-o", "id", "--limit", "1"]).finish().stdout.trim().to_owned(), "SEVEN"));
        }
        all.push_str(&told(what, line, &said, &known));
    }
    let waits = dir.swarm(&["submit", "never.toml"]).finish();
    let never = waits.stdout.trim();
    known.push((never.to_owned(), "NEVER"));
    eventually("it is known why it waits", || dir.swarm(&["explain", never]).finish().stdout.contains("label.gpu"));
    let said = dir.swarm(&["wait", never, "--timeout", "1s"]).finish();
    all.push_str(&told("waiting for what can never run", "swarm wait NEVER --timeout 1s", &said, &known));
    insta::assert_snapshot!("with_a_node", all);
}
