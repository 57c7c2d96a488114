//! Less than whole NARs, for clients that have older ones: how each is made of one that they have,
//! and the frames that this takes.
//!
//! ```text
//!   POST /api/v1/plan     binary  these paths of these: how? (snowcache_core::delta)
//!   POST /api/v1/frames   JSON    these ranges of a `.nar.zst`, one after the other
//! ```
//! Guarantees: open as reading is, and tells of visible NARs only. Bounded: a plan compares two
//! recipes at a time in a place of the readers, and is made as it is taken; what is beyond its
//! budget or makes it too long is to be fetched whole. What is sent of a NAR is never more than it.

use super::errors::Refusal;
use super::nar::current_name;
use super::{App, Shared, body};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::Response;
use bytes::Bytes;
use serde::Deserialize;
use snowcache_core::delta::{
    self, Budget, MAX_ANSWER_BYTES, MAX_DELTA_BYTES, MAX_QUESTION_BYTES, Pair,
};
use snowcache_core::swap::Swaps;
use snowcache_depot::{CacheName, Depot, NarReader};
use snowcache_nix::NarHash;
use std::io::{self, Write};
use zstd::stream::write::Encoder;

/// Pairs compared in one place of the readers: some milliseconds for usual paths.
const PAIRS_AT_ONCE: usize = 16;
/// zstd's level: what is packed is literals and numbers, some KB.
const LEVEL: i32 = 9;
/// Ranges of one NAR: with 256 KiB of it between two of them, 4 GiB.
const MAX_RANGES: usize = 16_384;
/// 16,384 ranges with two numbers of up to 12 digits are 460 KB.
const MAX_RANGES_BYTES: u64 = 1 << 20;
const BINARY: HeaderValue = HeaderValue::from_static("application/octet-stream");

#[derive(Deserialize)]
struct AskedFrames {
    /// The file name of the NAR's encoding, as its narinfo has it.
    nar: String,
    /// Offset and length.
    ranges: Vec<(u64, u64)>,
}

/// One answer under way.
struct Plan {
    depot: Depot,
    cache: CacheName,
    pairs: std::vec::IntoIter<Pair>,
    swaps: Swaps,
    budget: Budget,
    encoder: Encoder<'static, Vec<u8>>,
    /// Length of the answer so far, not packed.
    answer_bytes: usize,
}

/// `POST /api/v1/plan`
pub async fn plan(
    State(app): State<Shared>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let question = whole(&app, &headers, body, MAX_QUESTION_BYTES as u64).await?;
    let pairs = delta::asked(&question)
        .map_err(|error| Refusal::malformed(format!("the question: {error}")))?;
    let plan = Plan::new(&app, pairs).map_err(unpacked)?;
    let pieces = futures::stream::unfold((app, Some(plan)), |(app, plan)| async {
        match piece(&app, plan?).await {
            Ok((bytes, plan)) => Some((Ok(bytes), (app, plan))),
            Err(_) => Some((Err("the depot failed; its log says why"), (app, None))),
        }
    });
    let mut response = Response::new(Body::from_stream(pieces));
    response.headers_mut().insert(header::CONTENT_TYPE, BINARY);
    Ok(response)
}

/// `POST /api/v1/frames`
pub async fn frames(
    State(app): State<Shared>,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let text = whole(&app, &headers, body, MAX_RANGES_BYTES).await?;
    let expected = r#"{"nar": "<name>.nar.zst", "ranges": [[offset, length], …]}"#;
    let asked: AskedFrames = body::parsed(&text, expected)?;
    let (depot, cache) = (app.depot.clone(), app.cache.clone());
    let found = app.reads.run(move || {
        let reader = named(&depot, &cache, &asked.nar)?;
        let count = checked(&asked.ranges, reader.encoding().size_bytes)?;
        Ok::<_, Refusal>((reader, asked.ranges, count))
    });
    let (reader, ranges, count) = found.await?;
    let ranges = ranges.into_iter().map(|(at, len)| at..at + len);
    let chunks = ranges.flat_map(move |range| reader.encoded(range));
    let body = match method == Method::HEAD {
        true => Body::empty(),
        false => body::streamed(&app.reads, chunks).await?,
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, BINARY);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(count));
    Ok(response)
}

async fn whole(
    app: &App,
    headers: &HeaderMap,
    body: Body,
    limit_bytes: u64,
) -> Result<Vec<u8>, Refusal> {
    let stall_s = app.config.uploads.stall_timeout_s;
    let what = "the question";
    body::whole(headers, body, limit_bytes, stall_s, &app.reads, what).await
}

/// The visible NAR with this file name, in the encoding that it names.
fn named(depot: &Depot, cache: &CacheName, name: &str) -> Result<NarReader, Refusal> {
    let (hash, encoding) = name.split_once('-').unwrap_or((name, ""));
    let encoding = encoding.strip_suffix(".nar.zst").unwrap_or_default();
    let hash = NarHash::from_base32(hash)
        .map_err(|error| Refusal::malformed(format!("nar {name:?}: {error}")))?;
    let reader = depot.nar_as(cache, &hash, encoding)?;
    let current = reader.filter(|it| current_name(&hash, it.encoding()) == name);
    current.ok_or_else(|| {
        Refusal::missing(format!(
            "no NAR {name} in this cache, or not in this encoding any more; ask for its narinfo \
             again"
        ))
    })
}

/// The sum of the ranges' lengths, if they rise and lie in the NAR.
fn checked(ranges: &[(u64, u64)], size_bytes: u64) -> Result<u64, Refusal> {
    if ranges.len() > MAX_RANGES {
        return Err(Refusal::too_large(format!(
            "ask for at most {MAX_RANGES} ranges at once"
        )));
    }
    let (mut end, mut sum) = (0, 0);
    for (number, (at, len)) in ranges.iter().enumerate() {
        let next = at.checked_add(*len).filter(|next| *next <= size_bytes);
        match next {
            Some(next) if *at >= end && *len > 0 => (end, sum) = (next, sum + len),
            _ => {
                return Err(Refusal::malformed(format!(
                    "range {}: [{at}, {len}] is empty, before the end of the last, or not within \
                     the {size_bytes} bytes of this NAR",
                    number + 1
                )));
            }
        }
    }
    Ok(sum)
}

/// The next piece of an answer, and the plan if there is more to come.
async fn piece(app: &App, mut plan: Plan) -> Result<(Bytes, Option<Plan>), Refusal> {
    let work = move || {
        for pair in plan.pairs.by_ref().take(PAIRS_AT_ONCE) {
            let fits = plan.answer_bytes <= MAX_ANSWER_BYTES - 2 * MAX_DELTA_BYTES;
            let delta = match fits {
                true => {
                    let (cache, budget) = (&plan.cache, &mut plan.budget);
                    plan.depot.delta(cache, &pair, &plan.swaps, budget)?
                }
                false => None,
            };
            let mut answer = Vec::new();
            delta::put(delta.as_ref(), &mut answer);
            plan.answer_bytes += answer.len();
            plan.encoder.write_all(&answer).map_err(unpacked)?;
        }
        match plan.pairs.len() {
            0 => Ok((plan.encoder.finish().map_err(unpacked)?.into(), None)),
            _ => Ok((std::mem::take(plan.encoder.get_mut()).into(), Some(plan))),
        }
    };
    app.reads.run::<_, Refusal>(work).await
}

impl Plan {
    fn new(app: &App, pairs: Vec<Pair>) -> io::Result<Plan> {
        let mut encoder = Encoder::new(Vec::new(), LEVEL)?;
        encoder.include_checksum(true)?;
        encoder.write_all(delta::MAGIC)?;
        Ok(Plan {
            depot: app.depot.clone(),
            cache: app.cache.clone(),
            swaps: delta::swaps(&pairs),
            pairs: pairs.into_iter(),
            budget: Budget::PLAN,
            encoder,
            answer_bytes: delta::MAGIC.len(),
        })
    }
}

fn unpacked(error: io::Error) -> Refusal {
    tracing::error!(%error, "a plan cannot be packed");
    Refusal::internal()
}
