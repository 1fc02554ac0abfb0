//! `swarm retry`: a finished job once more.

use super::args::{self, Global};
use super::submit::{Names, announce, load, upload};
use super::wait::or_give_up;
use crate::api::{Client, Failure};

/// `swarm retry`.
pub(super) async fn retry(client: &Client, global: &Global, args: &args::Retry) -> Result<(), Failure> {
    let plan = match &args.file {
        Some(file) => Some(load(file, None, args.set.clone(), Names::of(global, false)?).await?),
        None => None,
    };
    let work = async {
        if let Some(plan) = &plan {
            upload(client, plan).await?;
        }
        client.retry(&args.id, plan.as_ref().map(|plan| &plan.spec), args.failed).await
    };
    announce(global.output, &or_give_up(work).await?)
}
