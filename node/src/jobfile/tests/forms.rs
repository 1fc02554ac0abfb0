//! The JSON Schema and the reader are of one mind.

use std::fs;

use serde_json::{Value, json};

use super::super::{FaultCode, JobFileError, schema};
use super::{files, folder, read};

/// A job file as the schema sees it; nothing when it is no TOML.
fn document(text: &str) -> Option<Value> {
    let table: toml::Table = toml::from_str(text).ok()?;
    Some(plain(&toml::Value::Table(table)))
}

/// A date is nothing that any key takes, so it must not be mistaken for a string.
fn plain(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => json!(text),
        toml::Value::Integer(integer) => json!(integer),
        toml::Value::Float(float) => json!(float),
        toml::Value::Boolean(boolean) => json!(boolean),
        toml::Value::Datetime(date) => json!({ "date": date.to_string() }),
        toml::Value::Array(items) => items.iter().map(plain).collect(),
        toml::Value::Table(table) => {
            Value::Object(table.iter().map(|(key, value)| (key.clone(), plain(value))).collect())
        }
    }
}

fn validator() -> jsonschema::Validator {
    jsonschema::validator_for(&serde_json::to_value(schema()).unwrap()).unwrap()
}

#[test]
fn every_good_file_is_good_for_both() {
    let validator = validator();
    for (name, text) in files(&folder("good")) {
        let document = document(&text).unwrap();
        let errors: Vec<String> = validator.iter_errors(&document).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
    }
}

#[test]
fn what_the_form_shows_is_bad_for_both_and_the_rest_for_the_reader() {
    let validator = validator();
    let mut seen = 0;
    for (name, text) in files(&folder("bad")) {
        let Err(JobFileError::Invalid(problem)) = read(&text, &folder("bad"), &name) else { panic!("{name} is bad") };
        let accepted = document(&text).is_some_and(|document| validator.is_valid(&document));
        assert!(!(problem.code().is_of_form() && accepted), "{name}: the schema accepts it, the reader says {problem}");
        seen += 1;
        // A name or number outside its limits is refused by the schema where a pattern can say it.
        let of_meaning =
            [FaultCode::Reference, FaultCode::Cycle, FaultCode::File, FaultCode::Template, FaultCode::Parameter];
        assert!(
            accepted || !of_meaning.contains(&problem.code()),
            "{name}: only the reader can know, but the schema refuses it"
        );
    }
    assert!(seen >= 150, "{seen}");
}

#[test]
fn every_example_of_the_repository_is_good_for_both() {
    let validator = validator();
    let root = folder("good").ancestors().nth(4).unwrap().to_owned();
    for example in ["hello", "wordcount", "fractal"] {
        let text = fs::read_to_string(root.join("examples").join(example).join("job.toml")).unwrap();
        assert!(validator.is_valid(&document(&text).unwrap()), "{example}");
    }
    let guide = fs::read_to_string(root.join("docs/job-file.md")).unwrap();
    let blocks: Vec<&str> = guide.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        let errors: Vec<String> =
            validator.iter_errors(&document(block).unwrap()).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?} in {block}");
        read(block, &folder("docs"), "docs/job-file.md").unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn the_schema_is_kept() {
    insta::assert_snapshot!("job-schema", serde_json::to_string_pretty(&schema()).unwrap());
}
