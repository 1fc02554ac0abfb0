//! News: what a task prints while it runs, told to a node whose user follows it. One question a stream.
//!
//! ```text
//! who follows   job (32 bytes), stage (2), task (4), bytes seen of standard output (8), of standard error (8)
//! who runs it   RUNS_HERE, and of each output a length (4) and so many bytes; or ELSEWHERE
//! ```
//!
//! Numbers are big-endian. Always true: an answer comes within a second, or the stream is given up; no more is taken than
//! [`NEWS_BYTES_MAX`] of each output.
//!
//! Elsewhere: what is printed is on the `board`; who runs a task is known to its arbiter (`swarm_protocol`).

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::Stream;
use swarm_protocol::JobId;

use super::blobs::{FetchError, within};
use crate::board::{Board, NEWS_BYTES_MAX, News, NewsQuestion};

/// Questions being answered at once; each waits half a second for something new.
pub(super) const QUESTIONS_MAX: usize = 128;
const QUESTION_BYTES: usize = 32 + 2 + 4 + 8 + 8;

const RUNS_HERE: u8 = 0;
const ELSEWHERE: u8 = 1;

/// Asks, on a stream that was opened for it.
pub(super) async fn ask(mut stream: Stream, question: &NewsQuestion) -> Result<Option<News>, FetchError> {
    within(stream.write_all(&encode(question))).await?;
    within(stream.flush()).await?;
    match read::<1>(&mut stream).await? {
        [RUNS_HERE] => Ok(Some([read_bytes(&mut stream).await?, read_bytes(&mut stream).await?])),
        [ELSEWHERE] => Ok(None),
        _ => Err(FetchError::Damaged),
    }
}

/// Answers a peer.
pub(super) async fn serve(mut stream: Stream, board: Board) {
    if let Err(error) = answer(&mut stream, &board).await {
        tracing::debug!(cause = std::error::Error::source(&error).map(ToString::to_string), "news ended: {error}");
    }
}

async fn answer(stream: &mut Stream, board: &Board) -> Result<(), FetchError> {
    let question = decode(&read(stream).await?);
    let answer = match board.news(&question).await {
        None => vec![ELSEWHERE],
        Some(news) => {
            let part = |bytes: &Vec<u8>| [&(bytes.len() as u32).to_be_bytes(), &bytes[..]].concat();
            [vec![RUNS_HERE], part(&news[0]), part(&news[1])].concat()
        }
    };
    within(stream.write_all(&answer)).await?;
    within(stream.close()).await
}

async fn read<const BYTES: usize>(stream: &mut Stream) -> Result<[u8; BYTES], FetchError> {
    let mut bytes = [0; BYTES];
    within(stream.read_exact(&mut bytes)).await?;
    Ok(bytes)
}

async fn read_bytes(stream: &mut Stream) -> Result<Vec<u8>, FetchError> {
    let len = u32::from_be_bytes(read(stream).await?) as usize;
    if len > NEWS_BYTES_MAX {
        return Err(FetchError::TooMuch);
    }
    let mut bytes = vec![0; len];
    within(stream.read_exact(&mut bytes)).await?;
    Ok(bytes)
}

fn encode(NewsQuestion { task: (job, stage, task), seen: [stdout, stderr] }: &NewsQuestion) -> Vec<u8> {
    let numbers = [&stage.to_be_bytes()[..], &task.to_be_bytes(), &stdout.to_be_bytes(), &stderr.to_be_bytes()];
    [job.as_bytes(), &numbers.concat()[..]].concat()
}

fn decode(bytes: &[u8; QUESTION_BYTES]) -> NewsQuestion {
    let (job, rest) = bytes.split_first_chunk().expect("there are 54 bytes");
    let (stage, rest) = rest.split_first_chunk().expect("22 are left");
    let (task, rest) = rest.split_first_chunk().expect("20 are left");
    let (stdout, rest) = rest.split_first_chunk().expect("16 are left");
    let stderr = rest.first_chunk().expect("8 are left");
    let task = (JobId::from_bytes(*job), u16::from_be_bytes(*stage), u32::from_be_bytes(*task));
    NewsQuestion { task, seen: [u64::from_be_bytes(*stdout), u64::from_be_bytes(*stderr)] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_back() {
        let question = NewsQuestion { task: (JobId::from_bytes([7; 32]), 3, 1 << 30), seen: [5, u64::MAX] };
        let bytes = encode(&question);
        assert_eq!(decode(bytes.as_slice().try_into().unwrap()), question);
    }
}
