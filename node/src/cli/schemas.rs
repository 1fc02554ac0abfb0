//! `swarm schema`: the forms of job files, and of every document that a command prints with `-o json`.
//!
//! Always true: a document names its schema, and the schema of that name describes it; a line of `-o jsonl` is an item of such a
//! list. Fields are added to a schema and never taken away, so whoever reads a document passes over what they do not know.
//!
//! Elsewhere: what a job file may hold is `jobfile::schema`; the documents are `api::view` and those of each command.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use super::config::{SETTINGS, Setting};
use super::doctor::{CHECKS, Check};
use super::get::{GOT, GotDocument};
use super::log_items::{LOGS, LogItem};
use super::modules::{INSPECTION, InspectionItem, MODULE};
use super::output::{Document, Shown, print};
use super::plan::{PLAN, Planned};
use super::start::{STARTED, Started};
use super::submit::{SUBMITTED, VALIDITY, Validity};
use super::{VERSION, Version, args};
use crate::api::view::{
    self, BlobItem, BlobStat, CollectedBlobs, Drained, EventItem, Explanation, JobItem, List, ModuleItem, NodeItem,
    NodeStatus, Stored, Submitted,
};
use crate::api::{Code, Failure};
use crate::jobfile;

/// The name of the schema of job files.
pub(super) const JOB_FILE: &str = "job";

/// Makes the schema of a document of a name.
type Make = fn(&str) -> Schema;

/// Every document.
const DOCUMENTS: [(&str, Make); 25] = [
    (view::BLOB, document::<List<BlobStat>>),
    (view::BLOBS, document::<List<BlobItem>>),
    (CHECKS, document::<List<Check>>),
    (view::COLLECTED, document::<CollectedBlobs>),
    (view::DRAINED, document::<Drained>),
    (view::EVENTS, document::<List<EventItem>>),
    (view::EXPLANATION, document::<Explanation>),
    (GOT, document::<GotDocument<'static>>),
    (view::JOB, document::<Shown<'static>>),
    (view::JOBS, document::<List<JobItem>>),
    (LOGS, document::<List<LogItem>>),
    (MODULE, document::<Document<'static, ModuleItem>>),
    (INSPECTION, document::<InspectionItem>),
    (view::MODULES, document::<List<ModuleItem>>),
    (view::NODE, document::<Document<'static, NodeItem>>),
    (view::NODES, document::<List<NodeItem>>),
    (PLAN, document::<Planned>),
    (SETTINGS, document::<List<Setting>>),
    (STARTED, document::<Started>),
    (view::STATUS, document::<NodeStatus>),
    (view::STORED, document::<List<Stored>>),
    (SUBMITTED, document::<Document<'static, Submitted>>),
    (VALIDITY, document::<List<Validity>>),
    (view::VERIFIED, document::<List<Stored>>),
    (VERSION, document::<Version>),
];

/// What there are schemas of.
pub(super) fn names() -> Vec<&'static str> {
    std::iter::once(JOB_FILE).chain(DOCUMENTS.iter().map(|(name, _)| *name)).collect()
}

/// `swarm schema`.
pub(super) fn schema(args: &args::Schema) -> Result<(), Failure> {
    let document = DOCUMENTS.iter().find(|(name, _)| *name == args.of);
    let schema = document.map_or_else(jobfile::schema, |(name, make)| make(name));
    let text = serde_json::to_string_pretty(&schema);
    print(&(text.map_err(|error| Failure::caused(Code::Bug, "cannot write JSON", &error))? + "\n"))
}

/// The schema of a document as it is written, which says its name.
fn document<T: JsonSchema>(name: &str) -> Schema {
    let mut schema = SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<T>();
    schema.insert("$id".into(), format!("https://swarm.invalid/schema/{name}.json").into());
    schema.insert("title".into(), name.into());
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.insert("schema".into(), json!({ "const": name }));
    }
    schema
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_schema_is_one_and_wants_its_name() {
        let names: BTreeSet<_> = names().into_iter().collect();
        assert_eq!(names.len(), DOCUMENTS.len() + 1);
        for (name, make) in DOCUMENTS {
            let schema = make(name).to_value();
            assert!(jsonschema::meta::is_valid(&schema), "{name}");
            assert_eq!(schema["properties"]["schema"]["const"], name);
            assert!(schema["required"].as_array().unwrap().contains(&"schema".into()), "{name}");
        }
    }
}
