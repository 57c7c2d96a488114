//! P17: narinfos and NARs over TLS, both servers with the same certificate; connections stand
//! before it is measured.

use std::fs;

use super::super::engine::closed::{Closed, Until, closed};
use super::super::engine::mix::{Kind, Mix, every_nar};
use super::super::engine::target::Target;
use super::super::harness::folder_on_disk;
use super::super::harness::server::Snowcached;
use super::super::peers::certificate::Certificate;
use super::super::peers::nginx::Nginx;
use super::super::peers::{OURS, Served, Subject, YARDSTICK, snowcache};
use super::super::report::{Limit, Row};
use super::{Findings, Stage, interleaved};

const AT_MOST: f64 = 1.3;
const WORK: &str = "narinfos and NARs over TLS";
const CONNECTIONS: usize = 16;

pub fn measure(stage: &mut Stage) -> Findings {
    let untold = |why: String| Findings::rows([Row::untold("P17", WORK, why)]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let certificate = match Certificate::make(folder.path()) {
        Ok(certificate) => certificate,
        Err(why) => return untold(why),
    };
    let config = folder.path().join("snowcached.toml");
    let server = match ours(stage, &config, &certificate) {
        Ok(server) => server,
        Err(why) => return untold(format!("snowcached does not speak TLS: {why}")),
    };
    let nginx = match Nginx::start(&stage.corpus.folder, Some(&certificate)) {
        Ok(nginx) => nginx,
        Err(why) => return untold(why),
    };
    let parts = [stage.corpus.added(0)];
    let subject = |name: &str, pid: u32, url: String| {
        let target = Target::parse(&url, Some(&certificate.certificate));
        let target = target.expect("a URL of ours");
        Subject {
            name: name.to_owned(),
            pid,
            absent: target.clone(),
            packed: Served::read(target, &parts),
            plain: None,
        }
    };
    let address = server.address();
    let nginx_url = nginx
        .tls_url()
        .expect("invariant: started with a certificate");
    let subjects = [
        subject(OURS, server.pid(), format!("https://{address}")),
        subject(YARDSTICK, nginx.pid(), format!("{nginx_url}/zst")),
    ];
    Findings::rows(rows(stage, &subjects))
}

fn rows(stage: &Stage, subjects: &[Subject]) -> [Row; 2] {
    let limit = Limit::RatioAtMost(AT_MOST);
    let mut narinfo = Row::new("P17", "narinfo hit over TLS", "CPU us", limit);
    let mut nars = Row::new("P17", "NARs over TLS, .nar.zst", "CPU s per NAR GB", limit);
    interleaved(subjects, stage.settings.rounds, |subject| {
        let served = &subject.packed;
        let asks = Mix::only(Kind::NarinfoHit).asks(&served.target, &served.generations[0], 5);
        let plan = Closed::seconds(CONNECTIONS, stage.settings.seconds, Some(subject.pid));
        let tally = closed(&served.target, &asks, plan);
        narinfo.remark(&subject.name, &tally);
        if let Some(us) = tally
            .server_us_per_answer()
            .filter(|_| tally.flaw().is_none())
        {
            narinfo.add(&subject.name, us);
        }
        let asks = every_nar(&served.target, &served.generations[0]);
        let bytes = served.generations[0].nar_bytes();
        // Enough for the clock of CPU time, whatever the corpus: a GB or so.
        let passes = (1_000_000_000 / bytes.max(1)).clamp(1, 20);
        let plan = Closed {
            until: Until::Requests(asks.len() as u64 * passes),
            ..Closed::once(CONNECTIONS, &asks, Some(subject.pid))
        };
        let tally = closed(&served.target, &asks, plan);
        nars.remark(&subject.name, &tally);
        if let Some(server) = tally.server.filter(|_| tally.flaw().is_none()) {
            nars.add(
                &subject.name,
                server.cpu_seconds / (bytes * passes) as f64 * 1e9,
            );
        }
    });
    [narinfo, nars]
}

/// Filled in plain, then started again with a certificate.
fn ours(
    stage: &Stage,
    config: &std::path::Path,
    certificate: &Certificate,
) -> Result<Snowcached, String> {
    let write = |text: &str| fs::write(config, text).map_err(|error| error.to_string());
    write("")?;
    let arguments = ["--config", &config.to_string_lossy()];
    let mut server = Snowcached::start_with(folder_on_disk(), "info", &arguments);
    snowcache::push(&server, &stage.corpus.zst(), &stage.corpus.added(0))?;
    server.stop();
    write(&format!(
        "[tls]\ncertificate_file = {:?}\nkey_file = {:?}\n",
        certificate.certificate, certificate.key
    ))?;
    let said = server.try_start(&[]);
    said.map_err(|log| log.lines().last().unwrap_or("no word of why").to_owned())?;
    Ok(server)
}
