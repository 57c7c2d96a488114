//! Whether this node can take what is to come, before anything of it is begun.
//!
//! ```text
//!   before a prefetch   the clock   not from before this program was written
//!                       the store   on a file system that is writable, with room for the NARs
//!                                   and an inode for each path
//!   before a switch     /boot       with room for the kernel and initrd that it does not have
//! ```
//! Guarantees: what is refused here would have failed later, in the middle of it; the sentence says
//! where, how much, and what to do. Never: anything written; a guess: what a file system does not
//! tell is passed over.

use crate::show;
use crate::system::{INITRD, KERNEL};
use rustix::fs::statvfs;
use snowcache_core::error::{Blame, Error, Kind};
use snowcache_nix::STORE_DIR;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thiserror::Error;

/// 2024-01-01: when this program was not there yet.
const NOT_YET_WRITTEN: Duration = Duration::from_secs(1_704_067_200);

/// Where NixOS has it.
pub const BOOT: &str = "/boot";

/// Where nixpkgs' boot loaders have their copies of kernels and initrds, below /boot: systemd-boot,
/// GRUB, extlinux; and what they add to the name.
const COPIES: [(&str, &str); 3] = [("EFI/nixos", ".efi"), ("kernels", ""), ("nixos", "")];

/// Why this node cannot take it.
#[derive(Debug, Error)]
pub enum Unfit {
    /// Certificates would not be valid yet.
    #[error(
        "this node's clock says {}, when this program was not written yet: certificates and \
         deadlines would be judged wrongly; set it (timedatectl set-ntp true) and run the same \
         again", show::time(*.now_s)
    )]
    Clock {
        /// Seconds since 1970.
        now_s: u64,
    },
    /// Nothing can be imported.
    #[error(
        "the file system of {STORE_DIR}, mounted at {mounted}, is read-only, so nothing can be \
         imported; if nobody mounted it so, the kernel has found it damaged: see dmesg"
    )]
    ReadOnly {
        /// Where it is mounted.
        mounted: String,
    },
    /// Not enough bytes.
    #[error(
        "{STORE_DIR} has room for {} and {} are to be imported; make room \
         (nix-collect-garbage) and run the same again", show::size(*.free_bytes),
        show::size(*.needed_bytes)
    )]
    NoRoom {
        /// What is free.
        free_bytes: u64,
        /// What is to come.
        needed_bytes: u64,
    },
    /// Not enough inodes.
    #[error(
        "{STORE_DIR} has {} inodes left and {} are to be imported, each of which takes one at \
         least; make room (nix-collect-garbage gives inodes back, too; df -i shows them) and run \
         the same again", show::count(*.free), show::paths(*.paths)
    )]
    NoInodes {
        /// What is free.
        free: u64,
        /// What is to come.
        paths: usize,
    },
    /// The boot loader could not be given its entry.
    #[error(
        "{boot} has room for {} and {parts} of {system} take {} there; remove old generations \
         (nix-env --profile /nix/var/nix/profiles/system --delete-generations +3) and let the boot \
         loader forget them (/run/current-system/bin/switch-to-configuration boot), or do without \
         this check by --boot none", show::size(*.free_bytes), show::size(*.needed_bytes)
    )]
    NoBoot {
        /// Where it is mounted.
        boot: String,
        /// What is free.
        free_bytes: u64,
        /// What is to be copied there.
        parts: String,
        /// Of which system.
        system: String,
        /// How much that is.
        needed_bytes: u64,
    },
}

impl From<Unfit> for Error {
    fn from(unfit: Unfit) -> Error {
        let kind = match &unfit {
            Unfit::Clock { .. } | Unfit::ReadOnly { .. } => Kind::Invalid,
            Unfit::NoRoom { .. } | Unfit::NoInodes { .. } | Unfit::NoBoot { .. } => Kind::TooMuch,
        };
        Error::new(kind, Blame::Client, unfit)
    }
}

/// Whether anything can come to this node at all.
///
/// # Errors
/// With why not.
pub fn node() -> Result<(), Unfit> {
    clock(SystemTime::now())?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    match mount_of(&mounts, STORE_DIR) {
        Some((mounted, true)) => Err(Unfit::ReadOnly {
            mounted: mounted.to_owned(),
        }),
        _ => Ok(()),
    }
}

fn clock(now: SystemTime) -> Result<(), Unfit> {
    // Before 1970 counts as then.
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    match now < NOT_YET_WRITTEN {
        true => Err(Unfit::Clock {
            now_s: now.as_secs(),
        }),
        false => Ok(()),
    }
}

/// Where the file system of a path is mounted, and whether it is read-only itself: a mount may be,
/// as that of /nix/store is on NixOS, where the daemon has another one. (A line has the mount point
/// in its fifth field, and the options of the file system three after a lone "-": proc(5).)
fn mount_of<'a>(mountinfo: &'a str, path: &str) -> Option<(&'a str, bool)> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        let options = file_system.split(' ').nth(2)?;
        Path::new(path).starts_with(point).then_some(())?;
        Some((point, options.split(',').any(|option| option == "ro")))
    });
    // The last of several over one another is the one that is seen.
    mounts.max_by_key(|(point, _)| point.len())
}

/// Whether the store has room: a path takes its NAR's size, near enough, and one inode at least.
///
/// # Errors
/// When what is to come is certain not to fit.
pub fn room(needed_bytes: u64, paths: usize) -> Result<(), Unfit> {
    let Ok(disk) = statvfs(STORE_DIR) else {
        return Ok(());
    };
    let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    if needed_bytes > free_bytes {
        return Err(Unfit::NoRoom {
            free_bytes,
            needed_bytes,
        });
    }
    // A file system that makes them as they are needed has none to count.
    let counts = disk.f_files > 0;
    match counts && disk.f_favail < paths as u64 {
        true => Err(Unfit::NoInodes {
            free: disk.f_favail,
            paths,
        }),
        false => Ok(()),
    }
}

/// Whether the boot loader's folder has room for what it copies of a system. Where it is of the
/// store's file system nothing is copied, and what is no system has nothing to copy.
///
/// # Errors
/// When it has not.
pub fn boot(system: &Path, boot: &Path) -> Result<(), Unfit> {
    let device = |path: &Path| fs::metadata(path).ok().map(|it| it.dev());
    let (Ok(disk), Some(of_boot)) = (statvfs(boot), device(boot)) else {
        return Ok(());
    };
    if device(system) == Some(of_boot) {
        return Ok(());
    }
    let parts = [KERNEL, INITRD].into_iter().filter_map(|part| {
        let file = fs::canonicalize(system.join(part)).ok()?;
        let size_bytes = fs::metadata(&file).ok()?.len();
        (!is_copied(&file, boot)).then_some((part, size_bytes))
    });
    let (names, sizes): (Vec<&str>, Vec<u64>) = parts.unzip();
    let needed_bytes = sizes.into_iter().fold(0, u64::saturating_add);
    let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    match needed_bytes <= free_bytes {
        true => Ok(()),
        false => Err(Unfit::NoBoot {
            boot: boot.display().to_string(),
            free_bytes,
            parts: names.join(" and "),
            system: system.display().to_string(),
            needed_bytes,
        }),
    }
}

/// What is to be said of a system that is ready here, and could not be switched to all the same.
pub fn careful(root: &str) -> Option<String> {
    let unfit = boot(Path::new(root), Path::new(BOOT)).err()?;
    Some(format!("a switch would be refused: {unfit}"))
}

/// Whether a boot loader has a file of the store already, under the name that all of them give it:
/// its path below the store with dashes for slashes.
fn is_copied(file: &Path, boot: &Path) -> bool {
    let Ok(below) = file.strip_prefix(STORE_DIR) else {
        return false;
    };
    let name = below.to_string_lossy().replace('/', "-");
    let copy = |(folder, ending): (&str, &str)| boot.join(folder).join(format!("{name}{ending}"));
    COPIES.into_iter().any(|place| copy(place).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_stands_at_its_beginning_is_told() {
        assert!(clock(SystemTime::now()).is_ok());
        let lost = clock(UNIX_EPOCH + Duration::from_secs(951_782_400));
        let why = lost.expect_err("in 2000").to_string();
        assert!(why.contains("clock says 2000-02-29 00:00 UTC"), "{why}");
        assert!(clock(UNIX_EPOCH - Duration::from_secs(1)).is_err());
        assert!(clock(UNIX_EPOCH + NOT_YET_WRITTEN).is_ok());
    }

    #[test]
    fn the_file_system_counts_and_not_how_it_is_mounted_here() {
        let mounts = "\
            22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n\
            30 22 8:2 / /nix rw - ext4 /dev/sda2 ro\n\
            31 30 8:2 /store /nix/store ro,nosuid shared:2 master:1 - ext4 /dev/sda2 rw\n\
            32 22 8:3 / /nix/storehouse rw - ext4 /dev/sda3 ro\n";
        assert_eq!(mount_of(mounts, "/nix/store"), Some(("/nix/store", false)));
        assert_eq!(mount_of(mounts, "/nix/var"), Some(("/nix", true)));
        assert_eq!(mount_of(mounts, "/home"), Some(("/", false)));
        let over = format!("{mounts}33 31 8:4 / /nix/store rw - xfs /dev/sdb ro,attr2\n");
        assert_eq!(mount_of(&over, "/nix/store"), Some(("/nix/store", true)));
        assert_eq!(mount_of("nonsense", "/nix/store"), None);
    }
}
