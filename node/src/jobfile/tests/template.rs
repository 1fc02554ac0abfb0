//! What templates give, and what they cannot be made to do.

use swarm_protocol::{Axis, Elements, Hash, Item, Limits, Retry, StageOptions, StageSpec, Stdin};

use super::super::{Names, RenderError, STRING_BYTES_MAX, names, render};

fn stage(elements: Elements) -> StageSpec {
    StageSpec {
        name: "a".into(),
        wasm: Hash::of(b""),
        entry: "_start".into(),
        args: Vec::new(),
        env: Vec::new(),
        stdin: Stdin::Empty,
        count: 100,
        shard_tasks: 64,
        elements,
        inputs: Vec::new(),
        outputs: Vec::new(),
        needs: Vec::new(),
        retry: Retry { max: 0, lost_max: 0, backoff_ms: 0, backoff_ms_max: 0, on: Vec::new() },
        run_ms_max: 1,
        queue_ms_max: None,
        limits: Limits { memory_bytes_max: 1, fuel_max: 1, stdout_bytes_max: 1, outputs_bytes_max: 1 },
        options: StageOptions::default(),
    }
}

fn of_item(text: &str) -> Names {
    names(&stage(Elements::List(Hash::of(b""))), 3, Some(&Item { text: text.into(), file: None }))
}

#[test]
fn expressions_give_what_jinja_gives() {
    let names = of_item("in/photo 1.png");
    let given = |template: &str| render(template, &names).unwrap();
    assert_eq!(given("no braces { } }} here"), "no braces { } }} here");
    assert_eq!(given("{{index}}/{{ item }}"), "3/in/photo 1.png");
    assert_eq!(given("{{ item|split('/')|last|replace(' ', '_')|upper }}"), "PHOTO_1.PNG");
    assert_eq!(given("{{ '%03d-%s'|format(index, item[:2]) }}"), "003-in");
    assert_eq!(given("{{ ['a', 'b', 'c'][index % 3] }}"), "a");
    assert_eq!(given("{{ (index * 2.5)|round|int }}"), "8");
    assert_eq!(given("{{ '}}' ~ \"{{\" }}{{ {'k': 'v'}['k'] }}"), "}}{{v");
    assert_eq!(given("{{ 'even' if index % 2 == 0 else 'odd' }}"), "odd");
}

#[test]
fn numbers_written_as_text_multiply_and_words_do_not() {
    assert_eq!(render("{{ item * 10 }}", &of_item("12")).unwrap(), "120");
    assert!(matches!(render("{{ item * 10 }}", &of_item("ab")), Err(RenderError::NotANumber { .. })));
}

#[test]
fn a_value_with_leading_zeros_stays_text() {
    let axis = Axis { name: "x".into(), values: vec!["007".into(), "7".into()] };
    let stage = stage(Elements::Matrix(vec![axis]));
    assert_eq!(render("{{ x ~ '' }}", &names(&stage, 0, None)).unwrap(), "007");
    assert_eq!(render("{{ x + 1 }}", &names(&stage, 1, None)).unwrap(), "8");
}

#[test]
fn a_name_in_a_branch_not_taken_is_unknown_too() {
    let error = render("{{ index if true else nobody }}", &of_item("a")).unwrap_err();
    assert!(matches!(error, RenderError::UnknownName { name, .. } if name == "nobody"));
}

#[test]
fn nothing_grows_without_bound() {
    let names = of_item(&"long ".repeat(2000));
    let too_much = [
        "{{ 'a' * 100000000 }}".to_owned(),
        "{{ item * 100000000 }}".to_owned(),
        "{{ [[1] * 100000] * 100000 }}".to_owned(),
        "{{ (1, 2) * 100000000 }}".to_owned(),
        "{{ index|upper * 100000000 }}".to_owned(),
        "{{ item|replace('', item) }}".to_owned(),
        "{{ '%999999999d'|format(index) }}".to_owned(),
        "{{ '%*d'|format(99999999, index) }}".to_owned(),
        "{{ item ~ item ~ item ~ item ~ item ~ item ~ item }}".to_owned(),
        "{{ range(100000) }}".to_owned(),
        "{{ index".repeat(1000),
        format!("{{{{ {}index{} }}}}", "(".repeat(500), ")".repeat(500)),
        format!("{{{{ {}1{} }}}}", "[".repeat(400), "]".repeat(400)),
        format!("{{{{ index{} }}}}", "**9".repeat(300)),
        "{{ item }}".repeat(STRING_BYTES_MAX / 10),
        "x".repeat(STRING_BYTES_MAX + 1),
    ];
    for template in too_much {
        let given = render(&template, &names);
        assert!(given.is_err(), "{template:.60} gave {given:.100?}");
    }
}

#[test]
fn long_chains_of_operators_end() {
    for chain in ["-", "not ", "1+", "1 if 1 else ", "1 and ", "''~", "index|abs - "] {
        let template = format!("{{{{ {}1 }}}}", chain.repeat(1000 / chain.len()));
        let _ = render(&template, &of_item("a"));
    }
}

#[test]
fn an_impossible_stage_from_a_peer_gives_empty_names() {
    let axis =
        |values: &[&str]| Axis { name: "x".into(), values: values.iter().map(|&value| value.to_owned()).collect() };
    let impossible = stage(Elements::Matrix(vec![axis(&["a"]), axis(&[])]));
    let given = names(&impossible, u32::MAX, None);
    assert_eq!(given.iter().collect::<Vec<_>>(), ["index", "x", "x"]);
    assert_eq!(names(&stage(Elements::Numbers { start: i64::MAX }), 9, None).get("item"), Some("9223372036854775807"));
}
