//! A remote cache, over a small server of the test's own: the contract, and a network that fails.

mod support;

use futures::TryStreamExt;
use snowcache::remote::Remote;
use snowcache_core::cache::{Cache, CacheExt};
use snowcache_core::contract::{self, Sample, sample};
use snowcache_core::error::Kind;
use snowcache_nix::Compression;
use std::sync::{Arc, Mutex};
use support::{Behaviour, Fault, Server};

async fn connected(behaviour: Behaviour) -> (Arc<Server>, Remote) {
    let server = Server::new(behaviour);
    let url = server.listen().await;
    (server, remote(&url))
}

fn remote(url: &str) -> Remote {
    Remote::new(url.parse().expect("a URL"), None).expect("no token is a good token")
}

async fn held(server: &Server) -> Sample {
    let path = sample("held", &[b'x'; 400_000], &[]);
    server
        .memory
        .put(path.claimed(), path.stream())
        .await
        .expect("taken");
    path
}

#[tokio::test]
async fn the_contract_holds_over_http() {
    contract::suite(|| async { connected(Behaviour::default()).await.1 }).await;
}

#[tokio::test]
async fn the_contract_holds_for_a_cache_without_our_api_that_packs() {
    for codec in [Compression::Zstd, Compression::Xz] {
        contract::suite(|| async move {
            let compression = Some(codec);
            connected(Behaviour {
                no_api: true,
                compression,
                ..Behaviour::default()
            })
            .await
            .1
        })
        .await;
    }
}

#[tokio::test]
async fn the_contract_holds_over_a_socket_in_the_file_system() {
    let folder = tempfile::tempdir().expect("a folder");
    let number = std::sync::atomic::AtomicUsize::new(0);
    contract::suite(|| async {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let socket = folder.path().join(number.to_string());
        remote(&Server::new(Behaviour::default()).listen_unix(&socket))
    })
    .await;
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_broke() {
    let faults = [
        Fault::Busy,
        Fault::CutAfter(100_000),
        Fault::CutAfter(1),
        Fault::CutAfter(0),
    ];
    let behaviour = Behaviour {
        ranges: true,
        ..with_faults(&faults)
    };
    let (server, remote) = connected(behaviour).await;
    let path = held(&server).await;
    let narinfo = remote
        .narinfo(path.info.store_path.hash())
        .await
        .expect("asked")
        .expect("held");
    let nar = remote
        .nar_bytes(&narinfo, 1 << 20)
        .await
        .expect("whole in the end");
    assert!(nar == path.nar);
    let log = server.behaviour.log.lock().expect("log");
    assert_eq!(
        log.iter().filter(|line| line.contains("/nar/")).count(),
        5,
        "{log:?}"
    );
}

#[tokio::test]
async fn without_ranges_a_broken_download_is_an_error_that_says_how_far_it_came() {
    let (server, remote) = connected(with_faults(&[Fault::CutAfter(100_000)])).await;
    let path = held(&server).await;
    let narinfo = remote
        .narinfo(path.info.store_path.hash())
        .await
        .expect("asked")
        .expect("held");
    let read = remote.nar_bytes(&narinfo, 1 << 20).await;
    let error = read.map(|nar| nar.len()).expect_err("cut");
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("broke off after"), "{error}");
}

#[tokio::test]
async fn damage_on_the_way_is_found_by_reading() {
    let (server, remote) = connected(with_faults(&[Fault::Damage(200_000)])).await;
    let path = held(&server).await;
    let narinfo = remote
        .narinfo(path.info.store_path.hash())
        .await
        .expect("asked")
        .expect("held");
    let nar = remote.nar(&narinfo).await.expect("answers");
    let error = nar.try_collect::<Vec<_>>().await.expect_err("damaged");
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(
        error.to_string().contains("but its bytes are sha256:"),
        "{error}"
    );
}

#[tokio::test]
async fn a_cache_that_is_not_there_is_unreachable_and_says_so() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let absent = sample("absent", b"", &[]).info.store_path.hash();
    for url in [url.as_str(), "unix:/nonexistent/socket"] {
        let error = remote(url).narinfo(absent).await.expect_err("nobody there");
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(
            error.to_string().contains("cannot reach http://"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_narinfo_of_another_path_is_not_believed() {
    let (server, _) = connected(Behaviour::default()).await;
    let path = held(&server).await;
    let mut liar = Behaviour::default();
    liar.narinfo_suffix.push_str("NarSize: 1\n");
    let (server, remote) = connected(liar).await;
    server
        .memory
        .put(path.claimed(), path.stream())
        .await
        .expect("taken");
    let error = remote
        .narinfo(path.info.store_path.hash())
        .await
        .expect_err("two sizes");
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(
        error
            .to_string()
            .contains("NarSize stands here a second time"),
        "{error}"
    );
}

fn with_faults(faults: &[Fault]) -> Behaviour {
    let nar_faults = Mutex::new(faults.iter().copied().collect());
    Behaviour {
        nar_faults,
        ..Behaviour::default()
    }
}
