//! Reading what Redis keeps of channels.

use redis::{Cmd, RedisError, RedisResult, Value};
use skywave_proto::{ChannelName, Epoch, Publication, StreamPosition};

use super::{
    frame,
    keys::{self, Keys},
    line::{self, Line, Place},
    link::{Link, PIPELINE},
    publish::millis,
};
use crate::{HistoryError, HistoryPage, HistoryPolicy, HistoryQuery, Unreadable};

/// What a frame may have besides its payload, for the limit that is told to Redis: the exact one is ours.
const ENVELOPE_BYTES: u64 = 1024;

/// What Redis answered for one channel.
pub(super) struct Page {
    /// `None`: it has no line.
    pub(super) line: Option<Line>,
    /// Ascending. Without those that cannot be read.
    pub(super) publications: Vec<Publication>,
}

/// Asks for publications from an offset on; -1: the newest.
pub(super) fn request(link: &Link, keys: &Keys, channel: &ChannelName, first: i64, limit: u32, bytes: u64) -> Cmd {
    let mut call = link.scripts().page.call(&[&keys.meta(channel), &keys.list(channel)]);
    call.arg(first).arg(limit).arg(bytes.min(1 << 40));
    call
}

/// Reads the answer to [`request`], or to the `line` script.
pub(super) fn read(channel: &ChannelName, answer: Value) -> RedisResult<Page> {
    let mut fields = match answer.extract_error()? {
        Value::Array(fields) => fields.into_iter(),
        _ => return Err(malformed()),
    };
    let Some(epoch) = fields.next() else { return Ok(Page { line: None, publications: Vec::new() }) };
    let mut next = || fields.next().ok_or_else(malformed);
    let (offset, boundaries, length, frames) = (next()?, next()?, next()?, next());
    let (epoch, offset): (Vec<u8>, Vec<u8>) = (redis::from_redis_value(epoch)?, redis::from_redis_value(offset)?);
    let top = line::read_position(&epoch, &offset).ok_or_else(malformed)?;
    let boundaries: String = redis::from_redis_value(boundaries)?;
    let boundaries = line::read_boundaries(&boundaries).ok_or_else(malformed)?;
    let length: u64 = redis::from_redis_value(length)?;
    let line = Line { top, oldest: (top.offset + 1).saturating_sub(length).max(1), boundaries };
    let frames = match frames {
        Ok(frames) => redis::from_redis_value::<Vec<Vec<u8>>>(frames)?,
        Err(_) => Vec::new(),
    };
    let read = |frame: Vec<u8>| {
        let publication = frame::read(frame.into());
        publication.inspect_err(|error| Unreadable::History.tell(channel, error)).ok()
    };
    Ok(Page { line: Some(line), publications: frames.into_iter().filter_map(read).collect() })
}

fn malformed() -> RedisError {
    (redis::ErrorKind::UnexpectedReturnType, "redis holds something else there than a line of offsets").into()
}

/// See [`crate::Backplane::history`].
pub(super) async fn history(
    link: &Link,
    keys: &Keys,
    channel: &ChannelName,
    query: HistoryQuery,
) -> Result<HistoryPage, HistoryError> {
    let bytes = u64::from(query.limit).saturating_mul(ENVELOPE_BYTES).saturating_add(query.bytes as u64).max(1);
    let first = query.since.map_or(-1, |since| i64::try_from(since.offset).unwrap_or(i64::MAX).saturating_add(1));
    let mut page = ask_one(link, channel, request(link, keys, channel, first, query.limit, bytes)).await?;
    if let (Some(line), Some(since)) = (&page.line, query.since)
        && line.place(since) != Place::Within
        && query.limit > 0
    {
        page = ask_one(link, channel, request(link, keys, channel, 0, query.limit, bytes)).await?;
    }
    let Some(line) = page.line else {
        return Ok(HistoryPage { top: None, publications: Vec::new(), complete: query.since.is_none(), more: false });
    };
    let (start, complete) = line.page_start(&query);
    // Something in the list that cannot be read is a hole: nothing before it is joined to anything behind it, and if nothing
    // of what there is can be read, all of it is missing.
    let nothing_readable = page.publications.is_empty() && query.limit > 0 && start <= line.top.offset;
    let found = page.publications.first().and_then(|first| first.position).map_or(start, |first| first.offset);
    let (start, complete) = if found > start { (found, false) } else { (start, complete && !nothing_readable) };
    let mut publications = Vec::new();
    let mut size = 0;
    for (publication, offset) in page.publications.into_iter().zip(start..) {
        size += publication.payload.data().len();
        let is_next = publication.position.is_some_and(|position| position.offset == offset);
        if !is_next || (size > query.bytes && !publications.is_empty()) {
            break;
        }
        publications.push(publication);
    }
    let page = line.page(start, complete, publications);
    Ok(HistoryPage { more: page.more && !nothing_readable, ..page })
}

async fn ask_one(link: &Link, channel: &ChannelName, request: Cmd) -> Result<Page, HistoryError> {
    let mut pipeline = redis::pipe();
    pipeline.add_command(request);
    let answer = link.ask(&pipeline).await.map_err(unavailable)?.pop().unwrap_or_default();
    read(channel, answer).map_err(unavailable)
}

pub(super) fn unavailable(error: RedisError) -> HistoryError {
    HistoryError::Unavailable(Some(std::sync::Arc::new(error)))
}

/// Where channels stand. One result for each: one bad key is not everybody's.
pub(super) async fn positions(
    link: &Link,
    keys: &Keys,
    channels: &[ChannelName],
) -> RedisResult<Vec<RedisResult<Option<StreamPosition>>>> {
    let mut positions = Vec::with_capacity(channels.len());
    for chunk in channels.chunks(PIPELINE) {
        let mut pipeline = redis::pipe();
        for channel in chunk {
            pipeline.cmd("HMGET").arg(keys.meta(channel)).arg("e").arg("o");
        }
        positions.extend(link.ask(&pipeline).await?.into_iter().map(read_standing));
    }
    Ok(positions)
}

/// Reads the answer to `HMGET meta e o`.
pub(super) fn read_standing(answer: Value) -> RedisResult<Option<StreamPosition>> {
    let (epoch, offset): (Option<Vec<u8>>, Option<Vec<u8>>) = redis::from_redis_value(answer.extract_error()?)?;
    Ok(epoch.zip(offset).and_then(|(epoch, offset)| line::read_position(&epoch, &offset)))
}

/// The lines of channels with history, begun where there is none. One result for each.
pub(super) async fn lines(
    link: &Link,
    keys: &Keys,
    channels: &[(ChannelName, HistoryPolicy)],
) -> RedisResult<Vec<RedisResult<Line>>> {
    let mut lines = Vec::with_capacity(channels.len());
    for chunk in channels.chunks(PIPELINE) {
        let mut pipeline = redis::pipe();
        for (channel, _) in chunk {
            // First a read, which Redis answers even while it refuses writes.
            pipeline.add_command(request(link, keys, channel, 0, 0, 1));
        }
        let pages =
            link.ask(&pipeline).await?.into_iter().zip(chunk).map(|(answer, (channel, _))| read(channel, answer));
        let mut found: Vec<_> = pages.map(|page| page.map(|page| page.line)).collect();
        let missing: Vec<_> = (0..found.len()).filter(|index| matches!(found[*index], Ok(None))).collect();
        if !missing.is_empty() {
            let mut pipeline = redis::pipe();
            for index in &missing {
                pipeline.add_command(begin(link, keys, &chunk[*index]));
            }
            for (index, answer) in missing.into_iter().zip(link.ask(&pipeline).await?) {
                found[index] = read(&chunk[index].0, answer).map(|page| page.line);
            }
        }
        lines.extend(found.into_iter().map(|line| line.and_then(|line| line.ok_or_else(malformed))));
    }
    Ok(lines)
}

fn begin(link: &Link, keys: &Keys, (channel, policy): &(ChannelName, HistoryPolicy)) -> Cmd {
    let mut call = link.scripts().line.call(&[&keys.meta(channel), &keys.list(channel)]);
    call.arg(link.generation(keys::partition(channel)))
        .arg(Epoch::random().as_bytes())
        .arg(millis(policy.meta_ttl.max(policy.ttl)));
    call
}

/// See [`crate::Backplane::forget`]. What is idempotent stays so.
pub(super) async fn forget(link: &Link, keys: &Keys, channel: &ChannelName) -> RedisResult<()> {
    let mut call = link.scripts().forget.call(&[&keys.meta(channel), &keys.list(channel), &keys.channel(channel)]);
    call.arg(link.generation(keys::partition(channel))).arg(Epoch::random().as_bytes());
    let mut pipeline = redis::pipe();
    pipeline.add_command(call);
    for answer in link.ask(&pipeline).await? {
        answer.extract_error()?;
    }
    Ok(())
}

/// Lets the lines of these channels live on: somebody is subscribed to them.
pub(super) async fn touch(link: &Link, keys: &Keys, channels: &[(ChannelName, HistoryPolicy)]) -> RedisResult<()> {
    for chunk in channels.chunks(PIPELINE) {
        let mut pipeline = redis::pipe();
        for (channel, policy) in chunk {
            let lives = millis(policy.meta_ttl.max(policy.ttl));
            pipeline.cmd("PEXPIRE").arg(keys.meta(channel)).arg(lives).arg("GT");
        }
        link.ask(&pipeline).await?;
    }
    Ok(())
}
