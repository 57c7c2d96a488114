//! Which kind of URL was asked: a fixed list, whatever clients ask for.

use crate::http::batch;

macro_rules! routes {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// A kind of URL.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "their names say it")]
        pub enum Route { $($variant),* }

        impl Route {
            /// All of them, in order.
            pub const ALL: &[Route] = &[$(Route::$variant),*];

            /// The label.
            pub fn name(self) -> &'static str {
                match self { $(Route::$variant => $name),* }
            }
        }
    };
}

routes! {
    CacheInfo = "cache_info",
    Narinfo = "narinfo",
    Listing = "listing",
    Nar = "nar",
    Document = "document",
    PushCacheInfo = "push_cache_info",
    PushNarinfo = "push_narinfo",
    PushListing = "push_listing",
    PushNar = "push_nar",
    PushDocument = "push_document",
    Missing = "missing",
    Upstreams = "upstreams",
    Uploads = "uploads",
    Paths = "paths",
    Cost = "cost",
    Plan = "plan",
    Frames = "frames",
    Stats = "stats",
    Pins = "pins",
    Events = "events",
    Gc = "gc",
    Recompress = "recompress",
    Scrub = "scrub",
    Remove = "remove",
    Tokens = "tokens",
    Caches = "caches",
    Query = "query",
    Health = "health",
    Metrics = "metrics",
    About = "about",
    Other = "other",
}

impl Route {
    /// Whether a request of it waits for its turn: all but what fleets ask for by the thousand,
    /// which is small or sent as it lies, and what tells whether the server lives.
    pub fn asks_much(self) -> bool {
        use Route::{CacheInfo, Health, Listing, Metrics, Nar, Narinfo};
        !matches!(self, CacheInfo | Narinfo | Listing | Nar | Health | Metrics)
    }

    /// The route of a URL's path.
    pub fn of(path: &str) -> Route {
        if let Some(path) = path.strip_prefix("/api/v1/") {
            return native(path);
        }
        match path.strip_prefix("/push/") {
            Some(path) => match stock(path) {
                Route::CacheInfo => Route::PushCacheInfo,
                Route::Narinfo => Route::PushNarinfo,
                Route::Listing => Route::PushListing,
                Route::Nar => Route::PushNar,
                Route::Document => Route::PushDocument,
                Route::Query => Route::Query,
                _ => Route::Other,
            },
            None => stock(path.strip_prefix('/').unwrap_or(path)),
        }
    }
}

fn native(path: &str) -> Route {
    match path.split('/').next().unwrap_or(path) {
        "missing" => Route::Missing,
        "upstreams" => Route::Upstreams,
        "uploads" => Route::Uploads,
        "paths" => Route::Paths,
        "cost" => Route::Cost,
        "plan" => Route::Plan,
        "frames" => Route::Frames,
        "stats" => Route::Stats,
        "pins" => Route::Pins,
        "events" => Route::Events,
        "gc" => Route::Gc,
        "recompress" => Route::Recompress,
        "scrub" => Route::Scrub,
        "remove" => Route::Remove,
        "tokens" => Route::Tokens,
        "caches" => Route::Caches,
        _ => Route::Other,
    }
}

fn stock(path: &str) -> Route {
    match path.split_once('/') {
        Some(("nar", _)) => Route::Nar,
        Some(("log" | "realisations" | "build-trace-v2" | "debuginfo", _)) => Route::Document,
        Some(_) => Route::Other,
        None if path.ends_with(".narinfo") => Route::Narinfo,
        None if path.ends_with(".ls") => Route::Listing,
        None => match path {
            "" => Route::About,
            "nix-cache-info" => Route::CacheInfo,
            "healthz" | "readyz" => Route::Health,
            "metrics" => Route::Metrics,
            batch::NAME => Route::Query,
            _ => Route::Other,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::Route;

    #[test]
    fn urls_have_routes_and_inventions_have_one_for_all() {
        for (path, name) in [
            ("/", "about"),
            ("/nix-cache-info", "cache_info"),
            ("/00000000000000000000000000000000.narinfo", "narinfo"),
            ("/00000000000000000000000000000000.ls", "listing"),
            ("/nar/x.nar.zst", "nar"),
            ("/log/x.drv", "document"),
            ("/build-trace-v2/x/out.doi", "document"),
            ("/push/x.narinfo", "push_narinfo"),
            ("/push/nar/x.nar.xz", "push_nar"),
            ("/push/nix-cache-info", "push_cache_info"),
            ("/push/realisations/x.doi", "push_document"),
            ("/api/v1/missing", "missing"),
            ("/api/v1/pins/web/rollback", "pins"),
            ("/api/v1/events", "events"),
            ("/api/v1/tokens/0123456789abcdef", "tokens"),
            ("/api/v1/caches/team-a", "caches"),
            ("/get-narinfos-v1", "query"),
            ("/push/get-narinfos-v1", "query"),
            ("/readyz", "health"),
            ("/metrics", "metrics"),
            ("/push/", "other"),
            ("/a/b/c.narinfo", "other"),
            ("/wp-login.php", "other"),
            ("/api/v2/x", "other"),
            ("", "about"),
        ] {
            assert_eq!(Route::of(path).name(), name, "{path}");
        }
    }
}
