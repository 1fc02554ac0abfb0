//! The files that a stage and its tasks are given: its own, those of its elements, and what earlier stages left.
//!
//! Always true: of an earlier stage nothing is taken before all tasks that are needed of it have ended.
//!
//! Elsewhere: the directory that a task sees is `work::inputs`.

use std::collections::BTreeMap;
use std::path::Path;

use futures::{StreamExt, TryStreamExt, stream};
use swarm_protocol::codec;
use swarm_protocol::lattice::{End, Run};
use swarm_protocol::{Batch, Edge, Hash, InputSource, NodeId, Range, ShardId, StageSpec, Stdin, TreeFile};

use super::fetching::{AT_ONCE, Wanted};
use super::{Stage, Stages, Unready};
use crate::earlier::{EARLIER_BYTES_MAX, Earlier, substitute};
use crate::handle::blocking;
use crate::jobfile::{Params, names, render};
use crate::work::inputs::{Inputs, Link, plain_path};

/// Files that an input may take from an earlier stage: each is a link on this node's disk.
pub(super) const FROM_FILES_MAX: u32 = 1 << 17;

/// One output of an earlier stage, and where it goes.
#[derive(Clone, Copy)]
struct Output<'a> {
    stage: u16,
    path: &'a str,
    /// A template, evaluated with the earlier task's names.
    name: &'a str,
    below: &'a Path,
}

impl Stages {
    pub(super) async fn inputs(&self, batch: &Batch, stage: &StageSpec) -> Result<Inputs, Unready> {
        let (mut links, mut items, mut has_own) = (Vec::new(), Vec::new(), false);
        let mut wanted = Wanted::default();
        for input in &stage.inputs {
            let path = plain_path(&input.path)?;
            match &input.source {
                InputSource::File { hash, .. } => links.push(Link { path, hash: *hash }),
                InputSource::Tree(hash) => links.extend(self.tree(&path, *hash, &batch.sources).await?),
                InputSource::Item => items.push(path),
                InputSource::From { stage: earlier, .. } if !stage.needs_whole(*earlier) => has_own = true,
                InputSource::From { stage: earlier, path: output, name } => {
                    let source = Output { stage: *earlier, path: output, name, below: &path };
                    let whole = Range { first: 0, count: u32::MAX };
                    links.extend(self.outputs_of(batch, source, &[whole], &mut wanted).await?);
                }
            }
        }
        for link in &links {
            wanted.add(link.hash, &[]);
        }
        self.hold(wanted, &batch.sources).await?;
        let (declared, blobs, scratch) = (stage.inputs.len(), self.blobs.clone(), self.scratch.clone());
        if declared == 0 {
            return Ok(Inputs::None);
        }
        Ok(blocking(move || Inputs::new(declared, links, items, has_own, &blobs, &scratch)).await?)
    }

    async fn tree(&self, below: &Path, list: Hash, from: &[NodeId]) -> Result<Vec<Link>, Unready> {
        let files: Vec<TreeFile> = self.list(list, from).await?;
        let link = |file: TreeFile| Ok(Link { path: below.join(plain_path(&file.path)?), hash: file.hash });
        files.into_iter().map(link).collect()
    }

    /// One declared output of some tasks of an earlier stage.
    async fn outputs_of(
        &self,
        batch: &Batch,
        source: Output<'_>,
        tasks: &[Range],
        wanted: &mut Wanted,
    ) -> Result<Vec<Link>, Unready> {
        let Output { stage: position, path: output, name, below } = source;
        let stage = batch.spec.stages.get(usize::from(position)).ok_or(Unready::NoStage(position))?;
        let whole = Range { first: 0, count: stage.count };
        let tasks: Vec<Range> = tasks.iter().filter_map(|range| common(*range, whole)).collect();
        let count = tasks.iter().fold(0u32, |sum, range| sum.saturating_add(range.count));
        if count > FROM_FILES_MAX {
            return Err(Unready::TooManyFiles { stage: stage.name.clone(), count });
        }
        let items = self.items(stage, &batch.sources).await?;
        let params = Params::new(batch.spec.options.params.clone());
        let (mut links, mut known) = (Vec::new(), 0);
        for (part, run) in self.runs(batch, position, stage, &tasks).await? {
            let Some(End::Done(results)) = &run.state.end else { continue };
            let Some(done) = common(run.range, part) else { continue };
            known += done.count;
            // A task that need not leave it may be done without.
            let Some(file) = results.outcome().outputs.iter().find(|file| file.path == output) else { continue };
            let holders: Vec<_> = results.holders().collect();
            wanted.add(file.hash, &holders);
            for index in done.indexes() {
                let item = items.as_ref().and_then(|items| items.get(index as usize));
                let name = render(name, &names(stage, index, item).with_params(&params))?;
                links.push(Link { path: below.join(plain_path(&name)?), hash: file.hash });
            }
        }
        if known < count && !may_lack(batch, position) {
            return Err(Unready::Incomplete { stage: stage.name.clone(), path: output.into(), known, count });
        }
        Ok(links)
    }

    /// What is known of some tasks of a stage, once all of them have ended; each run with the tasks it was asked for.
    async fn runs(
        &self,
        batch: &Batch,
        position: u16,
        stage: &StageSpec,
        tasks: &[Range],
    ) -> Result<Vec<(Range, Run)>, Unready> {
        let job = batch.lease.shard.job;
        let parts: Vec<_> = tasks.iter().flat_map(|range| parts_by_shard(stage, *range)).collect();
        let parts = parts.into_iter().map(|(number, part)| {
            let runs = (self.sources.shard)((ShardId { job, stage: position, number }, part));
            async move { runs.await.map(|runs| (part, runs)) }
        });
        let parts: Vec<_> = stream::iter(parts).buffered(AT_ONCE).try_collect().await.map_err(Unready::Unfetched)?;
        let earlier = match batch.spec.options.earlier.filter(|_| !stage.options.skip.is_empty()) {
            Some(hash) => self.earlier(hash, &batch.sources).await?,
            None => Earlier::new(),
        };
        let mut all = Vec::new();
        for (part, runs) in parts {
            let runs = if earlier.is_empty() { runs } else { substitute(stage, position, part, runs, &earlier) };
            all.extend(runs.into_iter().map(|run| (part, run)));
        }
        Ok(all)
    }

    async fn earlier(&self, hash: Hash, from: &[NodeId]) -> Result<Earlier, Unready> {
        let bytes = self.read(hash, EARLIER_BYTES_MAX as u64, from).await?;
        Ok(blocking(move || codec::decode(&bytes, EARLIER_BYTES_MAX)).await?)
    }

    /// Brings here what elements of earlier stages left for the batch's own tasks.
    pub(super) async fn fetch_own(&self, stage: &Stage, batch: &Batch) -> Result<(), Unready> {
        let spec = stage.spec();
        let edges = Edge::of(&batch.spec, spec);
        let mut own: BTreeMap<u32, Vec<Link>> = BTreeMap::new();
        let mut wanted = Wanted::default();
        for input in &spec.inputs {
            let InputSource::From { stage: earlier, path, name } = &input.source else { continue };
            let Some(edge) = edges.iter().find(|edge| edge.stage == *earlier) else { continue };
            let below = plain_path(&input.path)?;
            for task in batch.tasks.iter().flat_map(|(range, _)| range.indexes()) {
                let source = Output { stage: *earlier, path, name, below: &below };
                let links = self.outputs_of(batch, source, &edge.needed(task), &mut wanted).await?;
                own.entry(task).or_default().extend(links);
            }
        }
        if own.is_empty() {
            return Ok(());
        }
        self.hold(wanted, &batch.sources).await?;
        if let Some(mut known) = stage.own() {
            known.append(&mut own);
        }
        Ok(())
    }

    /// Brings the files of the batch's own items here. One that is on no node concerns its own task alone.
    pub(super) async fn fetch_items(&self, stage: &Stage, batch: &Batch) {
        let spec = stage.spec();
        let uses_file = spec.stdin == Stdin::Item || matches!(stage.inputs, Inputs::Own { .. });
        let Some(items) = stage.items.as_ref().filter(|_| uses_file) else { return };
        let indexes = batch.tasks.iter().flat_map(|(range, _)| range.indexes());
        let files = indexes.filter_map(|index| items.get(index as usize)?.file);
        let mut wanted = Wanted::default();
        files.for_each(|(hash, _)| wanted.add(hash, &[]));
        if wanted.is_empty() {
            return;
        }
        // While the job lives, what its list names stays where the list is: a task may wait long for its turn.
        for wanted in [Wanted::one(batch.spec.blobs), wanted] {
            if let Err(error) = self.hold(wanted, &batch.sources).await {
                tracing::warn!(lease = ?batch.lease, %error, "not every item is here");
            }
        }
    }
}

/// Whether the batch's stage runs though tasks of the earlier one failed.
fn may_lack(batch: &Batch, position: u16) -> bool {
    let mine = batch.spec.stages.get(usize::from(batch.lease.shard.stage));
    mine.is_some_and(|mine| mine.options.needs_finished.contains(&position))
}

/// The parts of a range that lie in one shard each.
fn parts_by_shard(stage: &StageSpec, range: Range) -> Vec<(u32, Range)> {
    let shard = stage.shard_tasks.max(1);
    let numbers = range.first / shard..range.end().div_ceil(shard);
    numbers.filter_map(|number| Some((number, common(range, stage.shard_range(number))?))).collect()
}

fn common(a: Range, b: Range) -> Option<Range> {
    let (first, end) = (a.first.max(b.first), a.end().min(b.end()));
    (first < end).then(|| Range { first, count: end - first })
}
