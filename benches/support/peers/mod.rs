//! The servers that are compared: started on free ports, filled with the same corpus, stopped when
//! they go out of scope.

pub mod attic;
pub mod certificate;
pub mod harmonia;
pub mod least;
pub mod nginx;
pub mod snowcache;

use super::engine::catalog::Catalog;
use super::engine::target::Target;
pub use super::harness::running::{Running, folder, free_port, tied};

/// The yardstick's name: ratios are to it.
pub const YARDSTICK: &str = "nginx";
/// Ours.
pub const OURS: &str = "snowcached";

/// A server that is asked, and what it has.
#[derive(Clone)]
pub struct Subject {
    pub name: String,
    pub pid: u32,
    /// NARs as its narinfos name them.
    pub packed: Served,
    /// Where it has uncompressed ones.
    pub plain: Option<Served>,
    /// Where it is asked for what it does not have.
    pub absent: Target,
}

/// One way to ask a server.
#[derive(Clone)]
pub struct Served {
    pub target: Target,
    /// What it has of each generation.
    pub generations: Vec<Catalog>,
}

impl Served {
    /// All narinfos of these generations, as the server serves them.
    pub fn read(target: Target, generations: &[Vec<String>]) -> Served {
        let read = |hashes: &Vec<String>| {
            let catalog = Catalog::read(&target, hashes);
            catalog.unwrap_or_else(|error| panic!("what should be there is not: {error}"))
        };
        Served {
            generations: generations.iter().map(read).collect(),
            target,
        }
    }
}
