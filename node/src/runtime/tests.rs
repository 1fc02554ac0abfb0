use std::time::Duration;

use swarm_protocol::lattice::End;
use swarm_protocol::{
    Content, Elements, Ending, Hash, JobId, JobOptions, JobSpec, JobState, Limits, Retry, ShardId, StageOptions,
    StageSpec, Stdin, codec,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::*;
use crate::api::{Client, SOCKET_NAME};

const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_swarm_of_one_runs_a_job() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let job = submit(node.handle(), 100).await;
    assert_eq!(finished(node.handle(), job).await, JobState::Done);
    assert_eq!(stdouts(node.handle(), job).await, vec![(100, "hello\n".to_owned())]);
    node.shutdown().await;
}

#[tokio::test]
async fn one_question_waits_for_the_end_of_a_job_and_has_its_results() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let job = submit(node.handle(), 100).await.to_hex();
    let mut socket = UnixStream::connect(dir.path().join(SOCKET_NAME)).await.unwrap();
    let asked = format!("GET /v1/jobs/{job}/tasks?wait_ms=50000 HTTP/1.1\r\nhost: swarm\r\nconnection: close\r\n\r\n");
    socket.write_all(asked.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(socket.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.contains(r#""ended":"done""#) && !answer.contains(r#""ended":null"#), "{answer}");
    node.shutdown().await;
}

#[tokio::test]
async fn a_job_survives_the_death_of_the_core() {
    let dir = tempfile::tempdir().unwrap();
    let (node, plant) = start_fragile(dir.path()).await;
    let before = submit(node.handle(), 10).await;
    finished(node.handle(), before).await;
    plant.notify_one();
    let after = until_submitted(node.handle(), 10).await;
    assert_eq!(finished(node.handle(), before).await, JobState::Done);
    assert_eq!(finished(node.handle(), after).await, JobState::Done);
    node.shutdown().await;
}

#[tokio::test]
async fn a_directory_has_one_node() {
    let dir = tempfile::tempdir().unwrap();
    let first = start(dir.path()).await;
    let second = Runtime::start(RuntimeOptions::embedded(dir.path())).await;
    assert!(matches!(second, Err(StartError::Locked { dir: locked }) if locked == dir.path()));
    first.shutdown().await;
    start(dir.path()).await.shutdown().await;
}

#[tokio::test]
async fn a_node_is_the_same_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = start(dir.path()).await;
    let node = first.handle().node();
    let job = submit(first.handle(), 3).await;
    finished(first.handle(), job).await;
    first.shutdown().await;

    let again = start(dir.path()).await;
    assert_eq!(again.handle().node(), node);
    assert_eq!(finished(again.handle(), job).await, JobState::Done);
    assert_eq!(stdouts(again.handle(), job).await, vec![(3, "hello\n".to_owned())]);
    again.shutdown().await;
}

#[tokio::test]
async fn a_job_whose_blobs_are_not_here_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let absent = Hash::of(b"absent");
    let list = node.handle().put_blob(codec::encode(&vec![absent])).await.unwrap();
    let refused = node.handle().submit(spec(absent, list, 1)).await;
    assert!(
        matches!(refused, Err(crate::commands::CommandError::Fetch(crate::artifacts::Unfetched::Nowhere { hash })) if hash == absent)
    );
    node.shutdown().await;
}

#[tokio::test]
async fn a_file_in_place_of_the_data_directory_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let refused = Runtime::start(RuntimeOptions::embedded(file.path())).await;
    assert!(matches!(refused, Err(StartError::DataDir { .. })));
}

#[tokio::test]
async fn two_nodes_share_a_job_and_either_gives_its_results() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = start(dirs[0].path()).await;
    let bootstrap = within(first.handle().listening()).await;
    let second = Runtime::start(RuntimeOptions { bootstrap, ..options(dirs[1].path()) }).await.unwrap();
    within(first.handle().watch_members().wait_for(|members| members.len() == 2)).await.unwrap();
    let job = submit(first.handle(), 300).await;
    for node in [&first, &second] {
        assert_eq!(finished(node.handle(), job).await, JobState::Done);
        assert_eq!(stdouts(node.handle(), job).await.iter().map(|(count, _)| count).sum::<u32>(), 300);
    }
    second.shutdown().await;
    first.shutdown().await;
}

#[tokio::test]
async fn a_node_that_cannot_run_tasks_any_more_stops() {
    let dir = tempfile::tempdir().unwrap();
    let parts = Parts::assemble(options(dir.path())).await.unwrap();
    let work = parts.driver.work.clone();
    let mut node = parts.start().await.unwrap();
    work.close();
    assert_eq!(within(node.crashed()).await.child, "executor");
    node.shutdown().await;
}

#[tokio::test]
async fn the_api_is_served_again_after_a_failure_and_its_socket_goes_with_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let client = Client::new(dir.path());
    assert!(within(client.status()).await.is_ok());
    let again = tokio::spawn(node.api().clone().run());
    within(async { while client.status().await.is_err() {} }).await;
    node.shutdown().await;
    within(again).await.unwrap().unwrap();
    assert!(!dir.path().join(SOCKET_NAME).exists());
}

fn options(dir: &Path) -> RuntimeOptions {
    RuntimeOptions { slots: 2, ..RuntimeOptions::embedded(dir) }
}

async fn start(dir: &Path) -> Runtime {
    Runtime::start(options(dir)).await.unwrap()
}

/// A node whose driver panics once, when it is told to.
async fn start_fragile(dir: &Path) -> (Runtime, Arc<Notify>) {
    let parts = Parts::assemble(options(dir)).await.unwrap();
    let plant = Arc::new(Notify::new());
    let (driver, planted) = (parts.driver.clone(), Arc::clone(&plant));
    let fragile = Service::new("driver", OnFailure::Restart, move || {
        let (driver, planted) = (driver.clone(), Arc::clone(&planted));
        async move {
            tokio::select! {
                ended = driver.run() => ended,
                () = planted.notified() => panic!("planted by the test"),
            }
        }
    });
    (parts.start_with(fragile).await.unwrap(), plant)
}

async fn submit(handle: &Handle, count: u32) -> JobId {
    let (module, list) = put_guest(handle).await;
    within(handle.submit(spec(module, list, count))).await.unwrap()
}

/// Submits again while the core is being rebuilt.
async fn until_submitted(handle: &Handle, count: u32) -> JobId {
    let (module, list) = put_guest(handle).await;
    loop {
        if let Ok(job) = within(handle.submit(spec(module, list, count))).await {
            return job;
        }
    }
}

async fn put_guest(handle: &Handle) -> (Hash, Hash) {
    let module = handle.put_blob(wat::parse_str(GUEST).unwrap()).await.unwrap();
    let list = handle.put_blob(codec::encode(&vec![module])).await.unwrap();
    (module, list)
}

async fn finished(handle: &Handle, job: JobId) -> JobState {
    within(async {
        loop {
            // A core that is being rebuilt, or has not met the others yet, does not know the job at once.
            if let Ok(status) = handle.wait(job).await {
                return status.state();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

async fn stdouts(handle: &Handle, job: JobId) -> Vec<(u32, String)> {
    let (spec, _) = handle.job(job).await.unwrap();
    let mut all = Vec::new();
    for number in 0..spec.stages[0].shards() {
        for run in within(handle.shard_runs(ShardId { job, stage: 0, number })).await.unwrap() {
            let Some(End::Done(results)) = run.state.end else { panic!("the tasks are done") };
            assert_eq!(results.outcome().ending, Ending::Exited(0));
            let Content::Inline(stdout) = results.outcome().stdout.clone() else { panic!("the output is short") };
            all.push((run.range.count, String::from_utf8(stdout).unwrap()));
        }
    }
    all.chunk_by(|a, b| a.1 == b.1).map(|same| (same.iter().map(|(count, _)| count).sum(), same[0].1.clone())).collect()
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.expect("it takes too long")
}

fn spec(module: Hash, list: Hash, count: u32) -> JobSpec {
    let stage = StageSpec {
        name: "hello".into(),
        wasm: module,
        entry: "_start".into(),
        args: Vec::new(),
        env: Vec::new(),
        stdin: Stdin::Empty,
        count,
        shard_tasks: 64,
        elements: Elements::Numbers { start: 0 },
        inputs: Vec::new(),
        outputs: Vec::new(),
        needs: Vec::new(),
        retry: Retry { max: 0, lost_max: 5, backoff_ms: 10, backoff_ms_max: 100, on: Vec::new() },
        run_ms_max: 10_000,
        queue_ms_max: None,
        limits: Limits {
            memory_bytes_max: 16 << 20,
            fuel_max: 1_000_000_000,
            stdout_bytes_max: 1 << 20,
            outputs_bytes_max: 1 << 20,
        },
        options: StageOptions::default(),
    };
    JobSpec {
        version: 0,
        name: "hello".into(),
        description: String::new(),
        submitter: NodeId::from_bytes([0; 32]),
        submitted_unix_ms: 0,
        nonce: 0,
        source: None,
        blobs: list,
        failures_max: 0,
        stages: vec![stage],
        options: JobOptions::default(),
    }
}

const GUEST: &str = r#"
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\08\00\00\00\06\00\00\00hello\n")
  (func (export "_start")
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20)))))
"#;
