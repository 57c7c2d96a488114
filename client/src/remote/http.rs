//! Requests: one connection pool, timeouts, retries and redirects, the token only where it belongs.
//!
//! ```text
//!   send -> attempt -> follow redirects -> answer           (statuses below 500 are answers)
//!             ^  '-- connection failed, 408, 429, 5xx
//!             '----- wait with jitter, at most 4 attempts
//! ```
//!
//! Guarantees: every wait ends; a token is sent to the cache's own address and nowhere else.

use super::connect::{Connector, proxy_authorization};
use super::elsewhere::{Elsewhere, Stalled};
use super::endpoint::Endpoint;
use super::error::{RemoteError, first_line};
use super::{retry, tls};
use crate::frame_spool::{FrameSpool, MAX_CHUNK_BYTES};
use crate::rate::Rate;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// Until the first byte of an answer: a plan or a large upload may keep a server busy for a while.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two pieces of a body.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// As many as Nix follows.
const MAX_REDIRECTS: usize = 10;
/// Of an error's body, only its first line is shown.
const MAX_ERROR_BYTES: usize = 16 << 10;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(super) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Makes requests to one cache.
#[derive(Clone)]
pub(super) struct Http {
    client: Client<tls::Over, Body>,
    pub(super) endpoint: Endpoint,
    authorization: Option<HeaderValue>,
    proxy_authorization: Option<HeaderValue>,
    /// What may come of it a second.
    pub(super) rate: Rate,
    /// What keeps what comes until it is imported.
    pub(super) spool: FrameSpool,
    /// How long the quickest answer took to begin.
    quickest_us: Arc<AtomicU64>,
    /// How often a request is made.
    pub(super) attempts: u32,
    /// Who may have what this cache is slow to give.
    pub(super) elsewhere: Option<Elsewhere>,
}

/// A request that can be made again.
#[derive(Clone)]
pub(super) struct Ask {
    pub method: Method,
    pub url: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Ask {
    pub fn new(method: Method, url: String) -> Ask {
        Ask {
            method,
            url,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    pub fn get(url: String) -> Ask {
        Ask::new(Method::GET, url)
    }

    pub fn header(mut self, name: header::HeaderName, value: HeaderValue) -> Ask {
        self.headers.insert(name, value);
        self
    }
}

impl Http {
    pub fn new(endpoint: Endpoint, authorization: Option<HeaderValue>) -> Http {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .http1_max_buf_size(MAX_CHUNK_BYTES)
            .build(tls::Over::new(Connector::new(endpoint.socket().cloned())));
        Http {
            proxy_authorization: match endpoint.socket() {
                Some(_) => None,
                None => endpoint
                    .join("")
                    .parse()
                    .ok()
                    .as_ref()
                    .and_then(proxy_authorization),
            },
            client,
            endpoint,
            authorization,
            quickest_us: Arc::new(AtomicU64::new(u64::MAX)),
            rate: Rate::default(),
            spool: FrameSpool::default(),
            attempts: retry::MAX_ATTEMPTS,
            elsewhere: None,
        }
    }

    /// How long the quickest answer took to begin; very long as long as there was none.
    pub fn quickest(&self) -> Duration {
        Duration::from_micros(self.quickest_us.load(Ordering::Relaxed))
    }

    /// Whether requests bear a token.
    pub fn has_token(&self) -> bool {
        self.authorization.is_some()
    }

    /// The answer to a request, after as many attempts as it takes. A status that tells of success
    /// or of the caller's mistake is an answer.
    pub async fn send(&self, ask: &Ask) -> Result<Response<Incoming>, RemoteError> {
        let mut attempt = 1;
        loop {
            let asked = Elsewhere::or(self.elsewhere.as_ref(), self.follow(ask)).await;
            let answer = asked.unwrap_or_else(|Stalled| {
                let url = ask.url.clone();
                Err(RemoteError::Stalled { url })
            });
            let passing = match &answer {
                Ok(answer) => retry::is_passing(answer.status()),
                Err(RemoteError::Connection { .. } | RemoteError::TimedOut { .. }) => true,
                Err(_) => false,
            };
            if !passing || attempt >= self.attempts {
                return answer;
            }
            let headers = answer.as_ref().ok().map(Response::headers);
            sleep(retry::wait_after(attempt, headers, random())).await;
            attempt += 1;
        }
    }

    async fn follow(&self, ask: &Ask) -> Result<Response<Incoming>, RemoteError> {
        let mut ask = ask.clone();
        let asked = ask.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let body = Full::new(ask.body.clone())
                .map_err(|never| match never {})
                .boxed_unsync();
            let asked_at = Instant::now();
            let answer = self.once(&ask, body).await?;
            let took_us = asked_at.elapsed().as_micros() as u64;
            self.quickest_us.fetch_min(took_us, Ordering::Relaxed);
            if !answer.status().is_redirection() || answer.status() == StatusCode::NOT_MODIFIED {
                return Ok(answer);
            }
            let redirect = |problem| RemoteError::Redirect {
                url: asked.clone(),
                problem,
            };
            let location = answer
                .headers()
                .get(header::LOCATION)
                .and_then(|it| it.to_str().ok());
            let location = location.ok_or_else(|| redirect("without saying where"))?;
            ask.url = self
                .resolve(&ask.url, location)
                .ok_or_else(|| redirect("to where this client does not follow"))?;
        }
        Err(RemoteError::Redirect {
            url: asked,
            problem: "too often",
        })
    }

    /// Where a redirect leads: an absolute URL, or a path on the same server.
    fn resolve(&self, from: &str, location: &str) -> Option<String> {
        let from: Uri = from.parse().ok()?;
        let to: Uri = location.parse().ok()?;
        if to.authority().is_some() {
            // A socket in the file system leads to one server only.
            return (self.endpoint.socket().is_none() || self.endpoint.is_at(&to))
                .then(|| to.to_string());
        }
        let (scheme, authority) = (from.scheme_str()?, from.authority()?);
        location
            .starts_with('/')
            .then(|| format!("{scheme}://{authority}{location}"))
    }

    /// One attempt with a body that cannot be sent again.
    pub async fn once(&self, ask: &Ask, body: Body) -> Result<Response<Incoming>, RemoteError> {
        let url = || ask.url.clone();
        let seconds = ANSWER_TIMEOUT.as_secs();
        match timeout(ANSWER_TIMEOUT, self.streamed(ask, body)).await {
            Err(_) => Err(RemoteError::TimedOut {
                url: url(),
                seconds,
            }),
            Ok(answer) => answer,
        }
    }

    /// One attempt with a body whose sender sees to it that nothing is waited for too long.
    pub async fn streamed(&self, ask: &Ask, body: Body) -> Result<Response<Incoming>, RemoteError> {
        let url = || ask.url.clone();
        let request = Request::builder().method(ask.method.clone()).uri(&ask.url);
        let request = request.header(header::USER_AGENT, USER_AGENT).body(body);
        let mut request = request.map_err(|source| RemoteError::Request { url: url(), source })?;
        request.headers_mut().extend(ask.headers.clone());
        if let Some(token) = &self.authorization
            && self.endpoint.is_at(request.uri())
        {
            request
                .headers_mut()
                .insert(header::AUTHORIZATION, token.clone());
        }
        if let Some(authorization) = &self.proxy_authorization
            && self.endpoint.is_at(request.uri())
        {
            let name = header::PROXY_AUTHORIZATION;
            request.headers_mut().insert(name, authorization.clone());
        }
        let answer = self.client.request(request).await;
        answer.map_err(|source| RemoteError::Connection {
            url: url(),
            source: source.into(),
        })
    }

    /// A small body, whole.
    pub async fn small(
        &self,
        url: &str,
        answer: Response<Incoming>,
        limit_bytes: usize,
    ) -> Result<Bytes, RemoteError> {
        let url = || url.to_owned();
        let body = Limited::new(answer.into_body(), limit_bytes).collect();
        match timeout(ANSWER_TIMEOUT, body).await {
            Err(_) => Err(RemoteError::TimedOut {
                url: url(),
                seconds: ANSWER_TIMEOUT.as_secs(),
            }),
            Ok(Err(source)) if source.is::<LengthLimitError>() => Err(RemoteError::TooLong {
                url: url(),
                limit_bytes,
            }),
            Ok(Err(source)) => Err(RemoteError::BrokeOff {
                url: url(),
                read_bytes: 0,
                source,
            }),
            Ok(Ok(body)) => {
                let body = body.to_bytes();
                self.rate.spend(body.len()).await;
                Ok(body)
            }
        }
    }

    /// The answer if it tells of success; otherwise what the server had to say.
    pub async fn succeeded(
        &self,
        url: &str,
        answer: Response<Incoming>,
    ) -> Result<Response<Incoming>, RemoteError> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = self
            .small(url, answer, MAX_ERROR_BYTES)
            .await
            .unwrap_or_default();
        Err(RemoteError::Status {
            url: url.to_owned(),
            status,
            sentence: first_line(&body),
        })
    }

    /// A small text or JSON that may not be there.
    pub async fn fetch(&self, path: &str, limit: usize) -> Result<Option<Bytes>, RemoteError> {
        let url = self.endpoint.join(path);
        let answer = self.send(&Ask::get(url.clone())).await?;
        if is_absent(answer.status()) {
            return Ok(None);
        }
        let answer = self.succeeded(&url, answer).await?;
        self.small(&url, answer, limit).await.map(Some)
    }
}

const USER_AGENT: &str = concat!("snowcache/", env!("CARGO_PKG_VERSION"));

/// What Nix takes for "not there".
pub(super) fn is_absent(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::FORBIDDEN
    )
}

/// 128 bits that nobody guesses, in hexadecimal.
pub(super) fn random_key() -> Option<String> {
    let (one, other) = (getrandom::u64().ok()?, getrandom::u64().ok()?);
    Some(format!("{one:016x}{other:016x}"))
}

/// For jitter only. Without randomness the longest wait is a safe one.
pub(super) fn random() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX)
}
