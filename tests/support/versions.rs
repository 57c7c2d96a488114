//! A cache with two versions of some programs, each of 8 MiB, of which one differs, or more.

use super::codec::Codec;
use super::nar::{Nar, Upload, hash_part};
use super::random::Random;
use super::server::Snowcached;

/// See the module.
pub struct Versions {
    pub server: Snowcached,
    /// Of the first program.
    pub uploads: [Upload; 2],
    /// Of the others.
    pub more: Vec<[Upload; 2]>,
}

impl Versions {
    /// Of one program.
    pub fn new() -> Versions {
        Versions::of(1)
    }

    /// Of so many.
    pub fn of(programs: u64) -> Versions {
        Versions::changed(programs, 1)
    }

    /// Of one program, of which so many MiB differ.
    pub fn changed_by(mib: usize) -> Versions {
        Versions::changed(1, mib)
    }

    fn changed(programs: u64, mib: usize) -> Versions {
        let server = Snowcached::start_with(super::folder_on_disk(), "warn", &[]);
        let mut more: Vec<[Upload; 2]> =
            (0..programs).map(|it| program(&server, it, mib)).collect();
        Versions {
            server,
            uploads: more.remove(0),
            more,
        }
    }

    /// Where the older and the newer one of the first program are in the store.
    pub fn paths(&self) -> [String; 2] {
        self.uploads.each_ref().map(|it| it.store_path.clone())
    }
}

fn program(server: &Snowcached, program: u64, mib: usize) -> [Upload; 2] {
    let mut random = Random::seeded(5 + program);
    let mut part = |mib: usize| random.bytes(mib << 20);
    let parts = [part(3), part(4), part(mib), part(mib)];
    let version = |number: u64, middle: usize| {
        let seed = 2 * program + number;
        let name = match program {
            0 => format!("program-1.{number}"),
            program => format!("program{program}-1.{number}"),
        };
        let own = format!("/nix/store/{}-{name}/bin", hash_part(seed));
        let content = [&parts[0], own.as_bytes(), &parts[middle], &parts[1]].concat();
        Upload::honest(seed, &name, &Nar::of_file(&content), Codec::named("none"))
    };
    let uploads = [version(1, 2), version(2, 3)];
    let (http, token) = (server.http(), server.push_token());
    for upload in &uploads {
        http.put(&upload.nar_path(), &token, &upload.body).is(200);
        let narinfo = upload.narinfo();
        http.put(&upload.narinfo_path(), &token, narinfo.as_bytes())
            .is(200);
    }
    uploads
}
