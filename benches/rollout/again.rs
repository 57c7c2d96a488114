//! What it costs to hash again what receipts name: CPU of the agent and of the nix-daemon.

use std::fs;
use std::thread;
use std::time::Duration;

use super::rounds;
use super::support::harness::agent::{Machine, Service};
use super::support::harness::nix::Nix;
use super::support::harness::server::Snowcached;

/// One pass after the other, as fast as it goes.
const ALWAYS: &str = "[rehash]\nperiod_s = 1\nrate = \"unlimited\"\n";

/// CPU seconds of whole passes, a GB.
pub fn row(trusted: &str, server: &Snowcached, top: &str) {
    for nix in Nix::both() {
        let mut machine = Machine::new(&nix, trusted);
        let service = Service::start(&mut machine, &[server.url()], "", ALWAYS);
        machine.snowcache(&format!("prefetch {top}")).ok();
        let (mut each, mut gb) = (Vec::new(), 0.0);
        for _ in 0..rounds() {
            // What the daemon's child used is known when it has ended, as it has between passes.
            let before = cpu_seconds(&machine, &service);
            let began = last(&machine);
            let mut passed = began.clone();
            while passed["began_s"] == began["began_s"] {
                thread::sleep(Duration::from_millis(50));
                passed = last(&machine);
            }
            gb = passed["nar_size_bytes"].as_f64().expect("bytes") / 1e9;
            each.push((cpu_seconds(&machine, &service) - before) / gb);
        }
        each.sort_by(f64::total_cmp);
        let (least, middle, most) = (each[0], each[each.len() / 2], each[each.len() - 1]);
        println!(
            "hashed again, {gb:.2} GB, {}: {middle:.2} s of CPU a GB ({least:.2} to {most:.2})",
            nix.version
        );
    }
}

/// The last pass that came to its end.
fn last(machine: &Machine) -> serde_json::Value {
    loop {
        let status = machine.snowcache("status --json").json();
        let last = &status["rehash"]["last"];
        if last["paths"].as_u64().is_some_and(|paths| paths > 0) {
            return last.clone();
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Of both with all that they have started and seen the end of: fields 14 to 17 of proc(5)'s stat.
fn cpu_seconds(machine: &Machine, service: &Service) -> f64 {
    let of = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let behind_the_name = &stat[stat.rfind(')').expect("a name") + 1..];
        let fields = behind_the_name.split_whitespace().skip(11).take(4);
        fields
            .map(|it| it.parse::<f64>().expect("a number"))
            .sum::<f64>()
    };
    let ticks = of(machine.daemon.pid()) + of(service.pid());
    ticks / rustix::param::clock_ticks_per_second() as f64
}
