//! Nix's formats: base32, hashes, store paths, NARs, narinfos, fingerprints, keys, content
//! addresses, listings and realisations; and the protocol of its daemon.
//!
//! What this crate guarantees: whatever a parser here accepts writes itself again with the same
//! meaning, and byte for byte where the format has one canonical form (a NAR, a store path, a key);
//! every refusal says what was wrong and where (offset, line or key); memory is bounded by named
//! limits or by the input. What it never does: read a clock, a file, the network or randomness; run
//! anything; or trust a claim that it could compute.
//!
//! ```text
//!   NAR bytes --> nar::Parser --> Event* --> listing::Listing     (.ls)
//!       |                           '------> nar::Writer          (the same bytes again)
//!       '-------> ca::Verifier    (is this path what its content address says?)
//!
//!   narinfo text --> NarInfo<'_> --> PathInfo --> fingerprint --> SecretKey::sign
//! ```

pub mod base32;
pub mod ca;
pub mod daemon;
mod fingerprint;
pub mod hash;
pub mod key;
pub mod listing;
pub mod nar;
pub mod narinfo;
mod quote;
pub mod realisation;
pub mod store_path;

pub use base32::Base32Error;
pub use ca::{CaError, ContentAddress};
pub use fingerprint::fingerprint;
pub use hash::{Hash, HashAlgorithm, HashError, NarHash};
pub use key::{KeyError, PublicKey, SecretKey, Signature};
pub use listing::Listing;
pub use narinfo::{Compression, NarInfo, NarInfoError, PathInfo};
pub use realisation::{Realisation, RealisationError};
pub use store_path::{STORE_DIR, StoreHash, StorePath, StorePathError};
