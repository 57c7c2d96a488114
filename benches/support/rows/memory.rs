//! P13: the server's own memory (RssAnon): idle, under full load, and while it takes in a NAR that
//! is too big for any buffer.

use super::super::engine::closed::{Closed, closed};
use super::super::engine::mix::{Kind, Mix, every_nar};
use super::super::engine::procs::{Watch, used};
use super::super::harness::big::{described, nar_of};
use super::super::harness::corpus::sha256;
use super::super::peers::{OURS, Subject, snowcache};
use super::super::report::{Limit, Row};
use super::{Findings, Stage};

const IDLE_AT_MOST_MB: f64 = 40.0;
const LOAD_AT_MOST_MB: f64 = 200.0;
const CONNECTIONS: usize = 256;

pub fn measure(stage: &mut Stage) -> Findings {
    let mut idle = Row::new(
        "P13",
        "idle, after a start",
        "MB",
        Limit::AtMost(IDLE_AT_MOST_MB),
    );
    let work = format!("full load: {CONNECTIONS} connections of narinfos, then of NARs");
    let mut load = Row::new("P13", work, "MB", Limit::AtMost(LOAD_AT_MOST_MB)).label("full load");
    stage.restart_ours();
    for subject in &stage.subjects {
        let own = used(subject.pid).map_or(f64::NAN, |used| megabytes(used.own_kib));
        idle.add(&subject.name, own);
    }
    for subject in &stage.subjects {
        let own = under_load(subject, stage.settings.seconds, &mut load);
        load.add(&subject.name, own);
    }
    Findings::rows([idle, load, ingest(stage)])
}

fn under_load(subject: &Subject, seconds: f64, row: &mut Row) -> f64 {
    let watch = Watch::begin(subject.pid);
    let served = &subject.packed;
    let narinfos = Mix::only(Kind::NarinfoHit).asks(&served.target, &served.generations[0], 3);
    let ways = [Some(served), subject.plain.as_ref()].into_iter().flatten();
    let nars = ways.map(|way| every_nar(&way.target, &way.generations[0]));
    for asks in [narinfos].into_iter().chain(nars) {
        let tally = closed(
            &served.target,
            &asks,
            Closed::seconds(CONNECTIONS, seconds, None),
        );
        row.remark(&subject.name, &tally);
    }
    megabytes(watch.most().0)
}

/// A server of its own takes in a NAR that is made while it is sent.
fn ingest(stage: &Stage) -> Row {
    let bytes = stage.settings.big_nar_bytes;
    let work = format!("ingesting a NAR of {:.1} GB", bytes as f64 / 1e9);
    let mut row = Row::new("P13", work, "MB", Limit::AtMost(LOAD_AT_MOST_MB));
    let server = snowcache::start(&[]);
    let (http, token) = (server.http(), server.push_token());
    let nar_hash = sha256(nar_of(bytes, 1).reader());
    let watch = Watch::begin(server.pid());
    let nar = nar_of(bytes, 1);
    let nar_size = nar.count();
    let put = http.request("PUT", "/push/nar/big.nar").bearer(&token);
    put.stream(Some(nar_size), nar.reader()).send().is(200);
    let upload = described(1, "big", &nar_hash, nar_size, "nar/big.nar");
    let narinfo = upload.narinfo();
    http.put(&upload.narinfo_path(), &token, narinfo.as_bytes())
        .is(200);
    row.add(OURS, megabytes(watch.most().0));
    row
}

pub fn megabytes(kib: u64) -> f64 {
    kib as f64 * 1024.0 / 1e6
}
