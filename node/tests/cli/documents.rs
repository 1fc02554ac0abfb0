//! Every command that prints data, with `-o json` and `-o jsonl`, against a real swarm: each document is of the schema that it
//! names, and each line an item of it. Nothing is printed that the schema does not have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::{Value, json};

use crate::support::{DEADLINE, Dir, Node, eventually};

/// Schemas as the command prints them, and which were needed.
struct Schemas<'a> {
    dir: &'a Dir,
    known: BTreeMap<String, Value>,
}

impl Schemas<'_> {
    /// The schema of a document, which accepts nothing that it does not describe.
    fn strict(&mut self, name: &str) -> &Value {
        let dir = self.dir;
        self.known.entry(name.to_owned()).or_insert_with(|| {
            let printed = dir.swarm(&["schema", name]).finish();
            assert_eq!(printed.code, 0, "{printed:?}");
            let mut schema = printed.json();
            close(&mut schema);
            schema
        })
    }

    fn check(&mut self, line: &[&str], document: &Value) -> String {
        let name =
            document["schema"].as_str().unwrap_or_else(|| panic!("{line:?} names no schema: {document}")).to_owned();
        let schema = self.strict(&name);
        valid(line, schema, document);
        name
    }

    /// A line is an item of the document.
    fn check_line(&mut self, command: &[&str], name: &str, line: &Value) {
        let schema = self.strict(name);
        let parts = ["items", "reasons", "stages"];
        let Some(part) = parts.iter().find(|part| !schema["properties"][part].is_null()) else {
            return valid(command, schema, line);
        };
        // A job has stages, too, and is one line.
        if *part != "items" && line["schema"] == name {
            return valid(command, schema, line);
        }
        let mut item = schema["properties"][part]["items"].clone();
        item["$defs"] = schema["$defs"].clone();
        valid(command, &item, line);
    }
}

fn valid(line: &[&str], schema: &Value, document: &Value) {
    let validator = jsonschema::validator_for(schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(document).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{line:?}: {errors:?}\n{document}");
}

/// Refuses every field that an object does not describe.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.contains_key("properties") && !object.contains_key("additionalProperties") {
                object.insert("additionalProperties".into(), json!(false));
            }
            object.iter_mut().filter(|(key, _)| *key != "const").for_each(|(_, inner)| close(inner));
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

#[test]
fn every_document_is_of_the_schema_that_it_names() {
    let (here, there) = (Dir::new(), Dir::new());
    let mut schemas = Schemas { dir: &here, known: BTreeMap::new() };
    let mut started = there.swarm(&["start", "--listen", "/ip4/127.0.0.1/tcp/0", "--name", "ben", "-o", "json"]);
    let greeting = started.stdout.take().unwrap();
    let greeting: Value = serde_json::from_str(&greeting.recv_timeout(DEADLINE).unwrap()).unwrap();
    let mut seen = BTreeSet::from([schemas.check(&["start"], &greeting)]);
    let bootstrap = greeting["addresses"][0].as_str().unwrap().to_owned();
    let _node = Node::join(&here, &bootstrap);
    let away = Dir::new();
    let carl = Node::greeted(
        away.swarm(&["start", "--listen", "/ip4/127.0.0.1/tcp/0", "--name", "carl", "--bootstrap", &bootstrap]),
        &away,
    );
    eventually("three nodes are alive", || here.swarm(&["status", "-o", "json"]).finish().json()["alive"] == 3);
    let drained = here.swarm(&["drain", "carl", "-o", "json"]).finish();
    assert_eq!(drained.code, 0, "{drained:?}");
    seen.insert(schemas.check(&["drain"], &drained.json()));
    carl.leaves_in_order();

    here.write(
        "job.toml",
        "name = \"mixed\"\nmax_failures = 2\nlabels = { team = \"art\" }\n[task.hello]\nwasm = \"hello.wasm\"\narray = \"0..3\"\n\
         [task.make]\nwasm = \"file.wasm\"\noutputs = [\"made.txt\"]\n[task.bad]\nwasm = \"seven.wasm\"\n\
         [task.after]\nwasm = \"hello.wasm\"\nneeds = [{ task = \"make\", when = \"finished\" }]\n",
    );
    here.write("wrong.toml", "name = \"wrong\"\n[task.x]\nwsam = 1\n");
    here.write(
        "never.toml",
        "name = \"never\"\n[task.x]\nwasm = \"hello.wasm\"\nwhere = { require = [\"label.zone = moon\"] }\n",
    );
    here.write(
        "module.toml",
        "name = \"loudify\"\nnamespace = \"sh.example\"\nversion = \"1.0.0\"\nbinary = \"hello.wasm\"\npermissions = [\"stdout\"]\n",
    );
    let node: &str = greeting["node"].as_str().unwrap();
    let hello = format!("blake3:{}", blake3::hash(&fs::read(here.path("hello.wasm")).unwrap()));
    // Each with the exit code that it has.
    let commands: [(&[&str], i32); 38] = [
        (&["version"], 0),
        (&["validate", "job.toml", "wrong.toml"], 10),
        (&["plan", "job.toml"], 0),
        (&["plan", "job.toml", "--offline"], 0),
        (&["plan", "never.toml"], 9),
        (&["submit", "job.toml"], 0),
        (&["wait", "@last"], 3),
        (&["show", "@last"], 0),
        (&["show", "@last", "--tasks"], 0),
        (&["show", "@last/hello[1]"], 0),
        (&["show", "ben"], 0),
        (&["show", &node[..12]], 0),
        (&["ls"], 0),
        (&["ls", "--all", "--label", "team=art"], 0),
        (&["logs", "@last"], 0),
        (&["logs", "@last/hello", "--stdout"], 0),
        (&["logs", "@last", "--failed", "--follow"], 0),
        (&["explain", "@last"], 0),
        (&["explain", "@last/bad"], 0),
        (&["get", "@last", "got"], 0),
        (&["get", "@last", "got"], 0),
        (&["retry", "@last", "--failed"], 0),
        (&["cancel", "@last"], 0),
        (&["events"], 0),
        (&["status"], 0),
        (&["nodes"], 0),
        (&["blob", "put", "hello.wasm", "job.toml"], 0),
        (&["blob", "ls"], 0),
        (&["blob", "stat", &hello], 0),
        (&["blob", "verify", &hello], 0),
        (&["blob", "gc"], 0),
        (&["module", "publish"], 0),
        (&["module", "ls"], 0),
        (&["module", "show", "sh.example.loudify@1"], 0),
        (&["module", "inspect", "alien.wasm"], 0),
        (&["module", "yank", "sh.example.loudify@1.0.0"], 0),
        (&["doctor"], 0),
        (&["config", "show", "--label", "zone=a", "--disk", "1GiB"], 0),
    ];
    for (line, code) in commands {
        let said = here.swarm(&[line, &["-o", "json"]].concat()).finish();
        assert_eq!(said.code, code, "{line:?}: {said:?}");
        let name = schemas.check(line, &said.json());
        if !["retry", "cancel", "submit", "wait"].contains(&line[0]) && line[..2.min(line.len())] != ["module", "yank"]
        {
            let lines = here.swarm(&[line, &["-o", "jsonl"]].concat()).finish();
            assert_eq!(lines.code, code, "{line:?}: {lines:?}");
            for text in lines.stdout.lines() {
                schemas.check_line(line, &name, &serde_json::from_str(text).unwrap());
            }
            let ids = here.swarm(&[line, &["-o", "id"]].concat()).finish();
            assert!(ids.code == code && !ids.stdout.contains('{'), "{line:?}: {ids:?}");
        }
        seen.insert(name);
    }
    // No schema is left that nothing was seen of.
    let refused = here.swarm(&["schema", "nonsense"]).finish();
    assert_eq!(refused.code, 2, "{refused:?}");
    let known = refused.stderr.split("[possible values: ").nth(1).unwrap().split(']').next().unwrap();
    let known: BTreeSet<String> =
        known.split(',').map(|name| name.trim().to_owned()).filter(|name| name != "job").collect();
    assert_eq!(known, seen);
}

#[test]
fn logs_for_programs_have_every_byte_and_every_task() {
    let dir = Dir::new();
    let _node = Node::start(&dir);
    let job = "name = \"echo\"\n[task.say]\nwasm = \"echo.wasm\"\nargs = [\"{{ index }}\"]\narray = \"0..20\"\n\
               [task.flood]\nwasm = \"flood.wasm\"\nlimits = { stdout = \"300KiB\" }\n";
    let done = dir.swarm(&["submit", "-", "--wait"]).stdin(job).finish();
    assert_eq!(done.code, 3, "{done:?}");
    let lines = dir.swarm(&["logs", "@last/say", "-o", "jsonl"]).finish().stdout;
    let items: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((items.len(), &items[7]["task"], &items[7]["stdout"]["text"]), (20, &"say[7]".into(), &"7\n".into()));
    let whole = dir.swarm(&["logs", "@last/flood", "-o", "json"]).finish().json();
    let flood = &whole["items"][0];
    assert_eq!((&flood["ended"], flood["stdout"]["text"].as_str().unwrap().len()), (&"failed".into(), 300 << 10));
    assert_eq!(dir.swarm(&["logs", "@last", "-o", "jsonl", "--prefix"]).finish().code, 2);
    assert_eq!(dir.swarm(&["logs", "@last", "--failed", "-o", "id"]).finish().stdout, "flood\n");
}
