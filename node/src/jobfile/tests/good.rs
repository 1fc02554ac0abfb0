//! What good job files become.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use swarm_protocol::{
    Elements, Hash, Input, InputSource, Item, OutputSpec, Resources, Retry, RetryOn, SameNeed, StageSpec, Stdin,
    TreeFile, codec,
};

use super::super::{BlobSource, LIST_BYTES_MAX, LoadOptions, Params, Plan, names, parse, render};
use super::{begins_as_a_module, files, folder, published, read};

fn plan(name: &str) -> Plan {
    let text = fs::read_to_string(folder("good").join(format!("{name}.toml"))).unwrap();
    read(&text, &folder("good"), name).unwrap_or_else(|error| panic!("{error}"))
}

fn stage<'a>(plan: &'a Plan, name: &str) -> &'a StageSpec {
    plan.spec.stages.iter().find(|stage| stage.name == name).unwrap()
}

fn bytes(plan: &Plan, hash: Hash) -> Vec<u8> {
    match plan.blobs.iter().find(|blob| blob.hash() == hash).unwrap() {
        BlobSource::Bytes { bytes, .. } => bytes.clone(),
        BlobSource::File { path, .. } => fs::read(path).unwrap(),
    }
}

fn args(stage: &StageSpec, index: u32, item: Option<&Item>) -> Vec<String> {
    let names = names(stage, index, item);
    stage.args.iter().map(|arg| render(arg, &names).unwrap()).collect()
}

#[test]
fn every_good_file_makes_a_valid_spec_whose_blobs_are_all_at_hand() {
    for (name, _) in files(&folder("good")) {
        let plan = plan(&name);
        plan.spec.check().unwrap();
        let listed: Vec<Hash> = codec::decode(&bytes(&plan, plan.spec.blobs), LIST_BYTES_MAX).unwrap();
        let mut listed: BTreeSet<Hash> = listed.into_iter().collect();
        assert!(listed.contains(&plan.spec.source.unwrap()), "{name}: the source is listed");
        assert!(plan.spec.stages.iter().all(|stage| listed.contains(&stage.wasm)), "{name}: modules are listed");
        assert!(listed.insert(plan.spec.blobs), "{name}: a list does not name itself");
        let sources: Vec<Hash> = plan.blobs.iter().map(BlobSource::hash).collect();
        assert_eq!(sources.iter().collect::<BTreeSet<_>>().len(), sources.len(), "{name}: each blob once");
        for hash in sources {
            assert!(listed.remove(&hash), "{name}: {hash} is listed");
            assert_eq!(Hash::of(&bytes(&plan, hash)), hash, "{name}: named by its content");
        }
        assert!(
            ["by-hash", "blob"].contains(&&*name) || listed.is_empty(),
            "{name}: nothing is listed that is not at hand"
        );
    }
}

#[test]
fn the_smallest_file_has_the_documented_defaults() {
    let plan = plan("smallest");
    let hello = stage(&plan, "hello");
    assert_eq!((plan.spec.name.as_str(), plan.spec.failures_max, hello.count), ("hello", 0, 1));
    assert_eq!((hello.entry.as_str(), &hello.stdin, &hello.elements), ("_start", &Stdin::Empty, &Elements::One));
    assert_eq!(hello.retry, Retry { max: 3, lost_max: 5, backoff_ms: 1000, backoff_ms_max: 60_000, on: Vec::new() });
    assert_eq!(hello.run_ms_max, 600_000);
    assert_eq!(hello.limits.memory_bytes_max, 256 << 20);
    assert_eq!(bytes(&plan, plan.spec.source.unwrap()), fs::read(folder("good/smallest.toml")).unwrap());
}

#[test]
fn a_matrix_runs_through_its_last_axis_fastest_and_its_tiles_are_gathered() {
    let plan = plan("full");
    let (tile, stitch) = (stage(&plan, "tile"), stage(&plan, "stitch"));
    assert_eq!((tile.count, plan.spec.failures_max), (256, 12));
    assert_eq!(args(tile, 17, None)[..4], ["--x", "1", "--y", "1"]);
    assert_eq!(names(tile, 16, None).environment().nth(1), Some(("SWARM_MATRIX_X", "1")));
    assert_eq!(stitch.needs, [0]);
    let from = InputSource::From { stage: 0, path: "tile.ppm".into(), name: "{{ x }}-{{ y }}.ppm".into() };
    assert_eq!(stitch.inputs, [Input { path: "tiles".into(), source: from }]);
    assert_eq!((tile.run_ms_max, stitch.run_ms_max), (120_000, 600_000));
}

#[test]
fn an_array_counts_from_its_start() {
    let plan = plan("array");
    let count = stage(&plan, "count");
    assert_eq!((count.count, &count.elements), (1005, &Elements::Numbers { start: -5 }));
    assert_eq!(args(count, 7, None), ["7", "2", "75", "0007"]);
    let environment: Vec<(String, String)> =
        names(count, 7, None).environment().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert_eq!(environment, [("SWARM_INDEX".into(), "7".into()), ("SWARM_ITEM".into(), "2".into())]);
}

#[test]
fn each_line_and_each_file_is_an_item() {
    let lines = plan("each-line");
    let Elements::List(list) = stage(&lines, "greet").elements else { panic!("a list") };
    let items: Vec<Item> = codec::decode(&bytes(&lines, list), LIST_BYTES_MAX).unwrap();
    assert_eq!(items.iter().map(|item| item.text.as_str()).collect::<Vec<_>>(), ["ada", "grace", "edsger"]);
    let Stdin::Text(text) = &stage(&lines, "greet").stdin else { panic!("a text") };
    assert_eq!(render(text, &names(stage(&lines, "greet"), 0, items.first())).unwrap(), "hello ADA\n");

    let files = plan("each-file");
    let Elements::List(list) = stage(&files, "read").elements else { panic!("a list") };
    let items: Vec<Item> = codec::decode(&bytes(&files, list), LIST_BYTES_MAX).unwrap();
    assert_eq!(items[1].text, "in/b.txt");
    assert_eq!(items[1].file, Some((Hash::of(b"text b\n"), 7)));
    assert_eq!(args(stage(&files, "read"), 1, items.get(1)), ["b.out"]);
}

#[test]
fn a_relative_path_to_the_job_file_finds_the_same_files() {
    let text = fs::read_to_string(folder("good/each-file.toml")).unwrap();
    let whole = plan("each-file");
    // Tests run in the folder of their crate.
    for base in ["tests/jobfiles/good", "./tests/jobfiles/good", "tests/../tests/./jobfiles/good/"] {
        let relative = read(&text, Path::new(base), "job.toml").unwrap_or_else(|error| panic!("{base}: {error}"));
        assert_eq!(relative.spec, whole.spec, "{base}");
    }
}

#[test]
fn an_item_is_shown_as_the_pattern_was_written() {
    let shown = |pattern: &str| {
        let text = format!("name = \"a\"\n[task.a]\nwasm = \"hello.wasm\"\neach = {{ files = '{pattern}' }}");
        let plan = read(&text, &folder("good"), "job.toml").unwrap_or_else(|error| panic!("{error}"));
        let Elements::List(list) = stage(&plan, "a").elements else { panic!("a list") };
        codec::decode::<Vec<Item>>(&bytes(&plan, list), LIST_BYTES_MAX).unwrap().swap_remove(0).text
    };
    assert_eq!(shown("in/*.txt"), "in/a.txt");
    assert_eq!(shown("./in/*.txt"), "./in/a.txt");
    assert_eq!(shown("../good/in/*.txt"), "../good/in/a.txt");
    assert_eq!(shown("*/[ab].txt"), "in/a.txt");
    assert_eq!(shown("in/a.txt"), "in/a.txt");
    let absolute = folder("good/in").to_str().unwrap().to_owned();
    assert_eq!(shown(&format!("{absolute}/*.txt")), format!("{absolute}/a.txt"));
}

#[test]
fn a_glob_leaves_out_what_is_hidden_and_what_is_not_text() {
    let base = tempfile::tempdir().unwrap();
    let odd = OsStr::from_bytes(b"odd\xff.txt");
    for path in ["a.txt".as_ref(), ".b.txt".as_ref(), odd, "deep/c.txt".as_ref(), ".deep/d.txt".as_ref()] {
        let path = base.path().join("in").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "text").unwrap();
    }
    let matched = |pattern: &str| -> Vec<String> {
        let text = format!("name = \"a\"\n[task.a]\nwasm = \"blake3:{:064}\"\neach = {{ files = '{pattern}' }}", 0);
        let plan = read(&text, base.path(), "job.toml").unwrap_or_else(|error| panic!("{error}"));
        let Elements::List(list) = stage(&plan, "a").elements else { panic!("a list") };
        let items: Vec<Item> = codec::decode(&bytes(&plan, list), LIST_BYTES_MAX).unwrap();
        items.into_iter().map(|item| item.text).collect()
    };
    assert_eq!(matched("in/*"), ["in/a.txt"]);
    assert_eq!(matched("in/**/*.txt"), ["in/a.txt", "in/deep/c.txt"]);
    assert_eq!(matched("in/.*"), ["in/.b.txt"]);
    assert_eq!(matched("in/.deep/*"), ["in/.deep/d.txt"]);
}

#[test]
fn a_glob_keeps_the_folders_below_its_first_wildcard() {
    let plan = plan("inputs");
    let all = stage(&plan, "all");
    let tree = all.inputs.iter().find(|input| input.path == "tree").unwrap();
    let InputSource::Tree(list) = tree.source else { panic!("a tree") };
    let files: Vec<TreeFile> = codec::decode(&bytes(&plan, list), LIST_BYTES_MAX).unwrap();
    assert_eq!(files.iter().map(|file| &*file.path).collect::<Vec<_>>(), ["a.txt", "b.txt", "c.txt", "deep/d.txt"]);
    let one = Hash::of(b"text a\n");
    assert_eq!(plan.blobs.iter().filter(|blob| blob.hash() == one).count(), 1);
}

#[test]
fn outputs_are_a_list_or_tables_that_merge() {
    let plan = plan("outputs");
    let declared = |name: &str| -> Vec<_> {
        let outputs = stage(&plan, name).outputs.iter();
        outputs.map(|output| (output.path.as_str(), output.required, output.bytes_max)).collect()
    };
    assert_eq!(declared("same"), [("log.txt", false, None), ("out.bin", true, None)]);
    assert_eq!(declared("table"), [("log.txt", false, None), ("out.bin", true, Some(1 << 30)), ("more", true, None)]);
    assert_eq!(declared("list"), [("only", true, None)]);
}

#[test]
fn tasks_run_in_an_order_that_gives_each_what_it_needs() {
    let plan = plan("order");
    let order: Vec<&str> = plan.spec.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(order, ["first", "second", "last", "apart"]);
    assert_eq!(stage(&plan, "last").needs, [0, 1]);
    let InputSource::From { name, .. } = &stage(&plan, "second").inputs[0].source else { panic!("from a task") };
    assert_eq!(name, "{{ index }}-out.txt");
}

#[test]
fn tables_of_the_defaults_merge_and_lists_are_replaced() {
    let plan = plan("defaults");
    let (same, changed) = (stage(&plan, "as-they-are"), stage(&plan, "changed"));
    let on = [RetryOn::Trap, RetryOn::AnyExit, RetryOn::Exit(75), RetryOn::Timeout];
    assert_eq!((same.retry.max, same.retry.backoff_ms, same.retry.on.as_slice()), (7, 250, &on[..]));
    assert_eq!((same.args.as_slice(), same.run_ms_max), (&["default".to_owned()][..], 5_400_000));

    let env: Vec<(&str, &str)> = changed.env.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(env, [("A", "default"), ("B", "own"), ("C", "own")]);
    assert_eq!(changed.args, ["own"]);
    assert_eq!((changed.retry.max, changed.retry.backoff_ms), (2, 250));
    assert_eq!(changed.retry.on, [RetryOn::Trap, RetryOn::AnyExit, RetryOn::Timeout]);
    assert_eq!((changed.limits.fuel_max, changed.limits.stdout_bytes_max), (5, 2 << 20));
    assert_eq!((changed.run_ms_max, changed.limits.memory_bytes_max), (86_400_000, 1 << 30));
    assert_eq!(changed.inputs.iter().map(|input| &*input.path).collect::<Vec<_>>(), ["more.txt", "scene.json"]);
}

#[test]
fn every_key_becomes_what_it_says() {
    let plan = plan("everything");
    let options = &plan.spec.options;
    assert_eq!(
        (options.namespace.as_str(), options.priority, options.parallel_max),
        ("org.example.demo", -10, Some(64))
    );
    assert_eq!((options.labels["team"].as_str(), options.keep_ms), ("art", 7 * 24 * 3600 * 1000));
    let (tile, check, after) = (stage(&plan, "tile"), stage(&plan, "check"), stage(&plan, "after"));
    assert_eq!((tile.limits.memory_bytes_max, tile.options.slots), (1 << 30, 2));
    assert_eq!(tile.options.alternatives, [Resources { memory_bytes_max: 256 << 20, slots: 1 }]);
    assert_eq!((tile.queue_ms_max, tile.options.total_ms_max), (Some(3_600_000), Some(21_600_000)));
    assert_eq!(tile.outputs[1], OutputSpec { path: "notes.txt".into(), required: false, bytes_max: None });
    let conditions: Vec<String> = tile.options.place.require.iter().map(ToString::to_string).collect();
    assert_eq!(conditions, ["label.zone in (a, b)", "label.os not in (windows)", "node != anna"]);
    assert_eq!(check.options.place.require[1].to_string(), "memory >= 4294967296");
    assert_eq!(check.options.needs_same, [SameNeed { stage: 0, names: vec!["x".into()] }]);
    assert_eq!(after.options.needs_finished.len(), 1);
    assert_eq!((after.options.slots, after.options.alternatives.len(), after.run_ms_max), (0, 0, 600_000));
}

#[test]
fn parameters_are_filled_in_where_strings_are_and_calculated_with_where_tasks_are() {
    let text = fs::read_to_string(folder("good/everything.toml")).unwrap();
    let set = |pairs: &[(&str, &str)]| {
        let set = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let options = LoadOptions { name: None, set, nodes: 3, validate: &begins_as_a_module, resolve: &published };
        parse(&text, &folder("good"), "everything.toml", &options)
    };
    let args = |plan: &Plan, index| {
        let tile = stage(plan, "tile");
        let names = names(tile, index, None).with_params(&Params::new(plan.spec.options.params.clone()));
        tile.args.iter().map(|arg| render(arg, &names).unwrap()).collect::<Vec<_>>()
    };
    let usual = set(&[]).unwrap();
    assert_eq!(args(&usual, 2), ["--x", "1", "--size", "4096", "4096", "", "fast-1"]);
    let small = set(&[("size", "256"), ("rows", "3"), ("mode", "exact")]);
    // `check` has 16 columns, and only three are left.
    assert!(
        small.unwrap_err().to_string().contains("`tile` has no element with `x` = 10"),
        "the first that is missing"
    );
    for (name, value, why) in [
        ("siez", "1", "did you mean `size`?"),
        ("size", "many", "must be an integer"),
        ("size", "1", "must be at least 256"),
        ("mode", "slow", "must be one of `fast` and `exact`"),
        ("debug", "yes", "must be true or false"),
    ] {
        let refused = set(&[(name, value)]).unwrap_err().to_string();
        assert!(refused.contains(why), "{name}={value}: {refused}");
    }
}

#[test]
fn a_matrix_with_exceptions_is_what_github_makes_of_it() {
    let plan = plan("everything");
    let tile = stage(&plan, "tile");
    // 48 combinations without 0-3 and 1-2; the last element is of its own.
    assert_eq!(tile.count, 47);
    let of = |index| {
        let names = names(tile, index, None);
        ["x", "y", "quality"].map(|name| names.get(name).unwrap().to_owned()).join("/")
    };
    assert_eq!([of(0), of(1), of(2), of(3), of(4)], ["0/1/", "0/2/", "1/1/", "1/3/", "2/1/high"]);
    assert_eq!([of(45), of(46)], ["15/3/", "99/1/low"]);
}

#[test]
fn values_of_a_json_file_have_their_fields() {
    let plan = plan("everything");
    let each = stage(&plan, "each");
    let Elements::Json(list) = each.elements else { panic!("JSON") };
    let items: Vec<Item> = codec::decode(&bytes(&plan, list), LIST_BYTES_MAX).unwrap();
    assert_eq!(args(each, 0, items.first()), ["a", "2", "t"]);
    assert_eq!(args(each, 1, items.get(1)), ["b", "5.0", "u"]);
    assert_eq!(names(each, 1, items.get(1)).get("item"), Some(r#"{"name":"b","tags":["u","v"],"x":2.5}"#));
    let scalars = self::plan("each-json-scalars");
    let Elements::Json(list) = stage(&scalars, "hello").elements else { panic!("JSON") };
    let items: Vec<Item> = codec::decode(&bytes(&scalars, list), LIST_BYTES_MAX).unwrap();
    assert_eq!(items.iter().map(|item| item.text.as_str()).collect::<Vec<_>>(), ["word", "7", "1.5", "true"]);
}

#[test]
fn failures_that_a_later_task_waits_for_are_allowed() {
    let failures_max = |max: &str| {
        let tasks = "[task.a]\nwasm = \"hello.wasm\"\narray = \"0..7\"\n[task.b]\nwasm = \"hello.wasm\"\n\
                     needs = [{ task = \"a\", when = \"finished\" }]\n";
        let text = format!("name = \"a\"\n{max}{tasks}");
        read(&text, &folder("good"), "job.toml").unwrap_or_else(|error| panic!("{error}")).spec.failures_max
    };
    assert_eq!((failures_max(""), failures_max("max_failures = 2\n")), (7, 2));
}

#[test]
fn ten_million_tasks_make_a_small_spec() {
    let (sweep, grid) = (plan("ten-million"), plan("ten-million-points"));
    assert_eq!((sweep.spec.tasks(), grid.spec.tasks()), (10_000_000, 10_000_001));
    assert!(codec::encode(&sweep.spec).len() < 1024);
    assert_eq!(args(stage(&grid, "point"), 9_999_999, None), ["2499", "3999"]);
    let cut = plan("ten-million-cut");
    assert_eq!(cut.spec.tasks(), 3999 * 2500 - 1);
    assert_eq!(names(stage(&cut, "hello"), 9_997_498, None).get("y"), Some("2500"));
}
