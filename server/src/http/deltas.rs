//! Less than whole NARs, for clients that have older ones: how each is made of one that they have,
//! and the frames that this takes.
//!
//! ```text
//!   POST /api/v1/plan     binary  these paths of these: how? (snowcache_core::delta)
//!   POST /api/v1/frames   JSON    these ranges of a `.nar.zst`, one after the other
//! ```
//! A plan that was cut off goes on with `plan?answer=<its ETag>&from=<bytes that came>` and the
//! same question, while it is kept; frames are asked for again, those that came left out.
//!
//! Guarantees: open as reading is, and tells of visible NARs only. Bounded: a plan is made once for
//! everyone who asks the same ([`super::plans`]), compares two recipes at a time in a place of the
//! readers, and what is beyond its budget or makes it too long is to be fetched whole. What is sent
//! of a NAR is never more than it.

use super::errors::Refusal;
use super::nar::current_name;
use super::plans::{Answer, Earlier, Found};
use super::{App, Shared, body};
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::Response;
use bytes::Bytes;
use serde::Deserialize;
use snowcache_core::delta::{
    self, Budget, Delta, MAX_ANSWER_BYTES, MAX_DELTA_BYTES, MAX_QUESTION_BYTES, Pair, patch,
};
use snowcache_core::swap::Swaps;
use snowcache_depot::patches::PatchFile;
use snowcache_depot::{Basis, CacheName, Depot, Error, NarReader};
use snowcache_nix::NarHash;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;
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

/// How a plan goes on that was cut off.
#[derive(Deserialize)]
pub struct Rest {
    /// What its `ETag` named.
    answer: Option<String>,
    /// How many of its bytes came.
    #[serde(default)]
    from: usize,
}

#[derive(Deserialize)]
struct AskedFrames {
    /// The file name of the NAR's encoding, as its narinfo has it, or of a patch.
    nar: String,
    /// Offset and length.
    ranges: Vec<(u64, u64)>,
}

/// What ranges are read of.
enum Source {
    Nar(Box<NarReader>),
    Patch(PatchFile),
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
    /// What the deltas so far rest on.
    bases: Vec<Basis>,
    /// The deltas of an earlier answer, of which some may still hold.
    earlier: Option<Unpacked>,
}

/// The deltas of an answer, and what each rests on.
type Unpacked = (Vec<Option<Bytes>>, Arc<[Basis]>);

/// `POST /api/v1/plan`
pub async fn plan(
    State(app): State<Shared>,
    Query(rest): Query<Rest>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let question = whole(&app, &headers, body, MAX_QUESTION_BYTES as u64).await?;
    let pairs = delta::asked(&question)
        .map_err(|error| Refusal::malformed(format!("the question: {error}")))?;
    let gone = || {
        Refusal::missing("this answer is not kept any more; ask the question again, from its start")
    };
    let answer = match &rest.answer {
        Some(id) => {
            let kept = app.plans.kept(&app.cache, &question);
            kept.filter(|it| it.id() == *id).ok_or_else(gone)?
        }
        None => match app.plans.find(&app.depot, &app.cache, &question)? {
            Found::Answer(answer) => answer,
            Found::ToMake(answer, earlier) => {
                let cache = app.cache.clone();
                let plan = Plan::new(app.depot.clone(), cache, pairs, earlier);
                tokio::spawn(make(app.clone(), answer.clone(), plan.map_err(unpacked)));
                answer
            }
        },
    };
    let (body, len) = answer.body(rest.from, &app.turns).ok_or_else(gone)?;
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, BINARY);
    headers.insert(header::ETAG, answer.etag());
    if let Some(len) = len {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
    }
    Ok(response)
}

/// Makes an answer to its end, whoever still waits for it.
async fn make(app: Shared, answer: Arc<Answer>, plan: Result<Plan, Refusal>) {
    let place = app.plans.place().await;
    let mut plan = plan;
    loop {
        let step = match plan {
            Ok(plan) => app.reads.run::<_, Refusal>(move || plan.step()).await,
            Err(refusal) => Err(refusal),
        };
        match step {
            Ok((bytes, Ok(more))) => {
                answer.grow(bytes);
                plan = Ok(more);
            }
            Ok((bytes, Err(bases))) => {
                answer.grow(bytes);
                answer.ends(Some(bases));
                break;
            }
            Err(_) => {
                answer.ends(None);
                break;
            }
        }
    }
    drop(place);
    app.plans.made();
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
        let (source, size_bytes) = named(&depot, &cache, &asked.nar)?;
        let count = checked(&asked.ranges, size_bytes)?;
        Ok::<_, Refusal>((source, asked.ranges, count))
    });
    let (source, ranges, count) = found.await?;
    let ranges = ranges.into_iter().map(|(at, len)| at..at + len);
    let chunks = ranges.flat_map(move |range| source.read(range));
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

/// The visible NAR whose current encoding has this file name, or the patch, and its length.
fn named(depot: &Depot, cache: &CacheName, name: &str) -> Result<(Source, u64), Refusal> {
    if let Some((new, old)) = patch::named(name) {
        let found = depot.patch(cache, &new, &old)?;
        let found = found.map(|file| {
            let size_bytes = file.size_bytes();
            (Source::Patch(file), size_bytes)
        });
        return found.ok_or_else(|| {
            Refusal::missing(format!(
                "no patch {name} in this cache any more; ask for a new plan"
            ))
        });
    }
    let (hash, encoding) = name.split_once('-').unwrap_or((name, ""));
    let encoding = encoding.strip_suffix(".nar.zst").unwrap_or_default();
    let hash = NarHash::from_base32(hash)
        .map_err(|error| Refusal::malformed(format!("nar {name:?}: {error}")))?;
    let reader = depot.nar_as(cache, &hash, encoding)?;
    let current = reader.filter(|it| current_name(&hash, it.encoding()) == name);
    let current = current.map(|reader| {
        let size_bytes = reader.encoding().size_bytes;
        (Source::Nar(Box::new(reader)), size_bytes)
    });
    current.ok_or_else(|| {
        Refusal::missing(format!(
            "no NAR {name} in this cache, or not in this encoding any more; ask for its narinfo \
             again"
        ))
    })
}

/// Bytes of a depot, some at a time.
type Chunks = Box<dyn Iterator<Item = Result<Bytes, Error>> + Send>;

impl Source {
    fn read(&self, range: Range<u64>) -> Chunks {
        match self {
            Source::Nar(reader) => Box::new(reader.encoded(range)),
            Source::Patch(file) => Box::new(file.read(range)),
        }
    }
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

/// The next bytes of an answer, and the plan if there is more to come, or what its deltas rest on.
type Step = (Bytes, Result<Plan, Vec<Basis>>);

impl Plan {
    fn new(
        depot: Depot,
        cache: CacheName,
        pairs: Vec<Pair>,
        earlier: Option<Earlier>,
    ) -> io::Result<Plan> {
        let mut encoder = Encoder::new(Vec::new(), LEVEL)?;
        encoder.include_checksum(true)?;
        encoder.write_all(delta::MAGIC)?;
        Ok(Plan {
            depot,
            cache,
            swaps: delta::swaps(&pairs),
            earlier: earlier.and_then(|earlier| {
                let answer = Bytes::from(zstd::stream::decode_all(&*earlier.packed).ok()?);
                let deltas = delta::answered(&answer, pairs.len()).ok()?;
                (earlier.bases.len() == deltas.len()).then_some((deltas, earlier.bases))
            }),
            bases: Vec::with_capacity(pairs.len()),
            pairs: pairs.into_iter(),
            budget: Budget::PLAN,
            encoder,
            answer_bytes: delta::MAGIC.len(),
        })
    }

    fn step(mut self) -> Result<Step, Refusal> {
        for _ in 0..PAIRS_AT_ONCE {
            let Some(pair) = self.pairs.next() else { break };
            let (delta, basis) = self.delta(&pair)?;
            let mut answer = Vec::new();
            delta::put(delta.as_deref(), &mut answer);
            self.bases.push(basis);
            self.answer_bytes += answer.len();
            self.encoder.write_all(&answer).map_err(unpacked)?;
        }
        match self.pairs.len() {
            0 => Ok((
                self.encoder.finish().map_err(unpacked)?.into(),
                Err(self.bases),
            )),
            _ => {
                let bytes = std::mem::take(self.encoder.get_mut());
                Ok((bytes.into(), Ok(self)))
            }
        }
    }

    /// The delta of the next pair, encoded, if there is one that fits.
    fn delta(&mut self, pair: &Pair) -> Result<(Option<Bytes>, Basis), Refusal> {
        let number = self.bases.len();
        if let Some((deltas, bases)) = &self.earlier
            && self.depot.rests(&bases[number])
        {
            return Ok((deltas[number].clone(), bases[number]));
        }
        if self.answer_bytes > MAX_ANSWER_BYTES - 2 * MAX_DELTA_BYTES {
            return Ok((None, Basis::NONE));
        }
        let (cache, budget) = (&self.cache, &mut self.budget);
        let (delta, basis) = self.depot.delta(cache, pair, &self.swaps, budget)?;
        Ok((delta.as_ref().map(Delta::encode).map(Bytes::from), basis))
    }
}

fn unpacked(error: io::Error) -> Refusal {
    tracing::error!(%error, "a plan cannot be packed");
    Refusal::internal()
}
