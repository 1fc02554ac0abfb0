//! Which jobs a load consists of, and what each must write.
//!
//! Always true: what is built in follows from the number of the job alone, so every byte can be checked by whoever knows
//! the number. Of a user's job file only this is known: all its runs must tell the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::client::Client;
use super::guest::{ROUNDS_PER_MS, expected, module};
use super::{ClusterError, DEADLINE};

/// Tasks of the built-in jobs: enough for two or three shards, few enough that jobs begin and end all the time.
const TASKS: std::ops::RangeInclusive<u32> = 50..=150;
/// Every so many jobs write long outputs, which are blobs and live on other nodes than the facts.
const LONG_EVERY: u64 = 10;
/// Tasks of these: each is fetched by its own at the end.
const LONG_TASKS: u32 = 20;
/// Their lines: 3,400 bytes, where outcomes hold 1,024 themselves.
const LONG_LINES: u32 = 200;

/// A load's jobs.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    dir: PathBuf,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    BuiltIn { rounds: u32 },
    File { path: PathBuf, tasks: u32 },
}

/// A job of the load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dish {
    pub(super) file: PathBuf,
    pub(super) tasks: u32,
}

impl Recipe {
    /// Built-in jobs, in `dir`, whose tasks compute for about `task_time` each.
    pub(super) fn built_in(dir: &Path, task_time: Duration) -> Result<Self, ClusterError> {
        fs::create_dir_all(dir).map_err(ClusterError::io("create", dir))?;
        let guest = dir.join("guest.wasm");
        fs::write(&guest, module()).map_err(ClusterError::io("write", &guest))?;
        let rounds = f64::from(ROUNDS_PER_MS) * task_time.as_secs_f64() * 1000.0;
        Ok(Self { dir: dir.into(), kind: Kind::BuiltIn { rounds: (rounds as u32).max(1) } })
    }

    /// One job file, over and over.
    pub(super) fn file(path: &Path, user: &Client) -> Result<Self, ClusterError> {
        #[derive(Deserialize)]
        struct Valid {
            items: Vec<Item>,
        }
        #[derive(Deserialize)]
        struct Item {
            tasks: u32,
        }
        let path = std::path::absolute(path).map_err(ClusterError::io("find", path))?;
        let args = ["validate".as_ref(), path.as_os_str(), "-o".as_ref(), "json".as_ref()];
        let valid: Valid = user.run(&args, DEADLINE)?.json()?;
        let tasks = valid.items.first().map_or(1, |item| item.tasks);
        Ok(Self { dir: PathBuf::new(), kind: Kind::File { path, tasks } })
    }

    /// Writes the job file of a number.
    pub(super) fn dish(&self, number: u64) -> Result<Dish, ClusterError> {
        let rounds = match &self.kind {
            Kind::File { path, tasks } => return Ok(Dish { file: path.clone(), tasks: *tasks }),
            Kind::BuiltIn { rounds } => *rounds,
        };
        let (tasks, lines) = (tasks(number), lines(number));
        let file = self.dir.join(format!("load-{number}.toml"));
        let text = format!(
            "name = \"load-{number}\"\n\
             [task.guest]\n\
             wasm = \"guest.wasm\"\n\
             args = [\"{number}\", \"{{{{ index }}}}\", \"{rounds}\", \"{lines}\"]\n\
             array = \"0..{tasks}\"\n\
             # A machine room in which everything is killed all the time is not the fault of any task.\n\
             retry = {{ lost_max = 100 }}\n"
        );
        fs::write(&file, text).map_err(ClusterError::io("write", &file))?;
        Ok(Dish { file, tasks })
    }

    /// What a task of a job must write to standard output, if that is known.
    pub(super) fn stdout(&self, number: u64, index: u32) -> Option<Vec<u8>> {
        let Kind::BuiltIn { rounds } = &self.kind else { return None };
        Some(expected(&[number.to_string(), index.to_string()], *rounds, lines(number)))
    }

    /// Tasks in a job, on average.
    pub(super) fn tasks_per_job(&self) -> f64 {
        match &self.kind {
            Kind::File { tasks, .. } => f64::from((*tasks).max(1)),
            Kind::BuiltIn { .. } => {
                let (long, short) = (f64::from(LONG_TASKS), f64::from(TASKS.start() + TASKS.end()) / 2.0);
                (long + short * (LONG_EVERY - 1) as f64) / LONG_EVERY as f64
            }
        }
    }
}

const fn is_long(number: u64) -> bool {
    number.is_multiple_of(LONG_EVERY)
}

fn tasks(number: u64) -> u32 {
    if is_long(number) { LONG_TASKS } else { fastrand::Rng::with_seed(number).u32(TASKS) }
}

const fn lines(number: u64) -> u32 {
    if is_long(number) { LONG_LINES } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_jobs_have_as_many_tasks_as_they_say() {
        let dir = tempfile::tempdir().unwrap();
        let recipe = Recipe::built_in(dir.path(), Duration::from_millis(5)).unwrap();
        let tasks: u32 = (0..500).map(|number| recipe.dish(number).unwrap().tasks).sum();
        let mean = f64::from(tasks) / 500.0;
        assert!((mean - recipe.tasks_per_job()).abs() < 3.0, "{mean}");
        let text = fs::read_to_string(recipe.dish(10).unwrap().file).unwrap();
        assert!(text.contains(r#"args = ["10", "{{ index }}", "3750000", "200"]"#), "{text}");
        assert_eq!(recipe.stdout(10, 0).unwrap().len(), 200 * 17);
    }
}
