//! `snowcache switch`, with systems that write down how they were configured in place of NixOS's:
//! only what is ready is switched to, and what fails is gone back from.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::thread;
use std::time::Duration;

use support::agent::Machine;
use support::fleet::Fleet;
use support::nix::{Nix, Ran};

/// Longer than it takes to reach a server that lives, on a busy machine.
const NO_MORE_S: u32 = 20;

#[test]
fn a_ready_system_is_switched_to_with_the_cache_dead() {
    for nix in Nix::both() {
        let mut fleet = Fleet::new(&nix);
        fleet.prefetch(&fleet.old);
        fleet.prefetch(&fleet.new);
        fleet.server.kill();
        fleet.switch(&fleet.old, "").ok();
        assert_eq!(fleet.profile(), fleet.old);
        let said = fleet.switch(&fleet.new, "--health true").ok();
        assert!(
            said.starts_with(&format!("switched to {}", fleet.new)),
            "{said}"
        );
        assert_eq!(fleet.profile(), fleet.new);
        assert_eq!(fleet.configured(), ["old switch", "new switch"]);

        fleet.switch(&fleet.old, "--mode test").ok();
        assert_eq!(fleet.profile(), fleet.new, "a test leaves the profile");
        fleet.switch(&fleet.old, "--mode boot").ok();
        assert_eq!(fleet.profile(), fleet.old);
        assert_eq!(fleet.configured(), ["old test", "old boot"]);
    }
}

#[test]
fn what_is_not_ready_is_not_touched() {
    let fleet = Fleet::new(&Nix::newer());
    let ran = fleet.switch(&fleet.new, "");
    assert_eq!(ran.code, 1);
    assert!(ran.fails().contains("was never made ready"));
    assert_eq!(fleet.configured(), Vec::<String>::new());
    assert!(
        !fleet
            .machine
            .node
            .outside("/nix/var/nix/profiles/system")
            .exists()
    );
}

#[test]
fn what_fails_is_gone_back_from() {
    for nix in Nix::both() {
        let fleet = Fleet::new(&nix);
        fleet.prefetch(&fleet.old);
        fleet.prefetch(&fleet.new);
        fleet.let_fail("new");
        let why = fleet.switch(&fleet.new, "").fails();
        assert!(why.contains("no generation before to go back to"), "{why}");
        fleet.configured();

        fleet.switch(&fleet.old, "").ok();
        let why = fleet.switch(&fleet.new, "").fails();
        assert!(why.contains("failed with exit code 1"), "{why}");
        assert!(why.contains("went back to generation 2"), "{why}");
        assert_eq!(fleet.profile(), fleet.old);
        assert_eq!(
            fleet.configured(),
            ["old switch", "new switch", "old switch"]
        );

        fs::remove_file(fleet.machine.user.home().join("fail-new")).expect("mended");
        for (health, says) in [
            ("false", "the health check failed with exit code 1"),
            ("'sleep 60' --health-timeout-s 1", "took more than 1 s"),
        ] {
            let ran = fleet.switch(&fleet.new, &format!("--health {health}"));
            assert_eq!(ran.code, 1);
            let why = ran.fails();
            assert!(why.contains(says) && why.contains("went back"), "{why}");
            assert_eq!(fleet.profile(), fleet.old);
            assert_eq!(fleet.configured(), ["new switch", "old switch"]);
        }
        fleet.let_fail("new");
        fleet.let_fail("old");
        let why = fleet.switch(&fleet.new, "").fails();
        assert!(why.contains("failed, too"), "{why}");
        assert_eq!(fleet.profile(), fleet.old);
    }
}

#[test]
fn another_kernel_needs_a_reboot() {
    let fleet = Fleet::new(&Nix::newer());
    fleet.prefetch(&fleet.old);
    fleet.prefetch(&fleet.new);
    let program = support::server::binary("snowcache");
    let switch = |root: &str| {
        let (program, old) = (program.display(), &fleet.old);
        let script = format!(
            "mount -t tmpfs none /run\nln -s {old} /run/booted-system\n{program} switch {root}"
        );
        fleet.machine.sh(&script).ok()
    };
    assert!(!switch(&fleet.old).contains("reboot"));
    let said = switch(&fleet.new);
    assert!(said.contains("reboot required: another kernel"), "{said}");
}

/// A node that can be booted: what the kernel calls the boot, and what it booted, are said by
/// files that lie over the real ones.
impl Fleet {
    /// As after so many boots, the last of which was into a system.
    fn in_boot(&self, boot: &str, booted: &str, command: &str) -> Ran {
        let id = self.machine.user.home().join(format!("boot-{boot}"));
        fs::write(&id, format!("{boot}\n")).expect("a file");
        let (id, program) = (id.display(), support::server::binary("snowcache"));
        self.machine.sh(&format!(
            "mount --bind {id} /proc/sys/kernel/random/boot_id\nmount -t tmpfs none /run\n\
             ln -s {booted} /run/booted-system\n{} {command}",
            program.display()
        ))
    }

    fn both_ready(nix: &Nix) -> Fleet {
        let fleet = Fleet::new(nix);
        fleet.prefetch(&fleet.old);
        fleet.prefetch(&fleet.new);
        let old = fleet.old.clone();
        fleet.in_boot("one", &old, &format!("switch {old}")).ok();
        fleet.configured();
        fleet
    }

    fn boot_switch(&self, more: &str) {
        let switch = format!("switch {} --mode boot {more}", self.new);
        let said = self.in_boot("one", &self.old, &switch).ok();
        assert!(said.starts_with("the next boot starts "), "{said}");
        assert!(said.contains("reboot required: another kernel"), "{said}");
        assert_eq!(self.configured(), ["new boot"]);
        // Before the reboot there is nothing to decide, and nothing to confirm.
        self.in_boot("one", &self.old, "confirm --decide").ok();
        let early = self.in_boot("one", &self.old, "confirm").fails();
        assert!(early.contains("after the reboot"), "{early}");
        assert_eq!(self.profile(), self.new);
    }
}

#[test]
fn after_the_reboot_health_decides() {
    for nix in Nix::both() {
        let fleet = Fleet::both_ready(&nix);
        let healthy = "--health '[ ! -e $HOME/ill ]'";
        fleet.boot_switch(healthy);
        let said = fleet.in_boot("two", &fleet.new, "confirm --decide").ok();
        assert_eq!(said, format!("confirmed {}", fleet.new));
        assert_eq!(fleet.profile(), fleet.new);
        assert_eq!(fleet.configured(), Vec::<String>::new());
        fleet.in_boot("two", &fleet.new, "confirm --decide").ok();

        // And back, as to a system that is ill when it runs.
        let old = fleet.old.clone();
        let back = format!("switch {old}");
        fleet.in_boot("two", &fleet.new, &back).ok();
        fleet.configured();
        fleet.boot_switch(healthy);
        fs::write(fleet.machine.user.home().join("ill"), "").expect("a flag");
        let why = fleet.in_boot("two", &fleet.new, "confirm --decide").fails();
        assert!(
            why.contains("the health check failed with exit code 1"),
            "{why}"
        );
        assert!(why.contains("went back to generation"), "{why}");
        assert!(why.contains("reboot required: another kernel"), "{why}");
        assert_eq!(fleet.profile(), fleet.old);
        assert_eq!(fleet.configured(), ["old switch"]);
        fleet.in_boot("two", &fleet.new, "confirm --decide").ok();
    }
}

#[test]
fn a_system_that_did_not_boot_is_gone_back_from() {
    let fleet = Fleet::both_ready(&Nix::newer());
    fleet.boot_switch("");
    // Its boot failed, and somebody, or the boot loader, chose the one before.
    let why = fleet.in_boot("two", &fleet.old, "confirm --decide").fails();
    let says = format!("{} was booted, not {}", fleet.old, fleet.new);
    assert!(why.contains(&says), "{why}");
    assert_eq!(fleet.profile(), fleet.old);
    assert_eq!(fleet.configured(), ["old switch"]);
}

#[test]
fn a_node_that_its_control_plane_cannot_reach_goes_back_by_itself() {
    let mut fleet = Fleet::both_ready(&Nix::newer());
    let (old, new, url) = (fleet.old.clone(), fleet.new.clone(), fleet.server.url());
    let reached = format!("switch {new} --control-plane {url} --confirm-within 100");
    let said = fleet.machine.snowcache(&reached).ok();
    assert!(said.starts_with("switched to "), "{said}");
    fleet.machine.snowcache(&format!("switch {old}")).ok();
    fleet.configured();

    fleet.server.kill();
    for place in [url.clone(), url.replace("http://", "tcp:")] {
        let cut = format!("switch {new} --control-plane {place} --confirm-within 1");
        let why = fleet.machine.snowcache(&cut).fails();
        let says = format!("the control plane ({place}) was not reached within 1 s");
        assert!(why.contains(&says) && why.contains("went back"), "{why}");
        assert_eq!(fleet.profile(), old);
        assert_eq!(fleet.configured(), ["new switch", "old switch"]);
    }
    // After a reboot as well.
    fleet.boot_switch(&format!("--control-plane {url} --confirm-within 1"));
    let why = fleet.in_boot("two", &new, "confirm --decide").fails();
    assert!(why.contains("was not reached within 1 s"), "{why}");
    assert_eq!(fleet.profile(), old);
    assert_eq!(fleet.configured(), ["old switch"]);
}

impl Fleet {
    /// Runs a command and goes on once the control plane was reached and is watched; what it says
    /// is in the file.
    fn until_watched(&self, command: &str) -> (Child, PathBuf) {
        let said = self.machine.user.home().join("said");
        fs::write(&said, "").expect("a file");
        let (program, shown) = (support::server::binary("snowcache"), said.display());
        let script = format!("exec {} {command} > {shown} 2>&1", program.display());
        let Machine { user, nix, .. } = &self.machine;
        let mut child = self.machine.node.command(user, nix, &script);
        let mut child = child.spawn().expect("setpriv runs");
        let text = || fs::read_to_string(&said).unwrap_or_default();
        while !text().contains("the control plane is reached; for ") {
            let ended = child.try_wait().expect("our own child");
            assert!(ended.is_none(), "{}", text());
            thread::sleep(Duration::from_millis(20));
        }
        (child, said)
    }

    /// Switches to the new system; the cache is the control plane.
    fn watched(&self, seconds: u32) -> (Child, PathBuf) {
        let place = format!(
            "--control-plane {} --watch-for {seconds}",
            self.server.url()
        );
        let within = format!("--confirm-within {NO_MORE_S}");
        self.until_watched(&format!("switch {} {place} {within}", self.new))
    }
}

/// How it ended, and what it said.
fn end((mut child, said): (Child, PathBuf)) -> (bool, String) {
    let status = child.wait().expect("our own child");
    (status.success(), fs::read_to_string(said).expect("text"))
}

#[test]
fn a_control_plane_that_is_reached_no_more_some_time_later_is_gone_back_for() {
    let mut fleet = Fleet::both_ready(&Nix::newer());
    let old = fleet.old.clone();
    // To the end; or until somebody reaches the node, for however long it was to be watched.
    for seconds in [2, 3_000] {
        let switching = fleet.watched(seconds);
        if seconds > 2 {
            fleet.machine.snowcache("confirm").ok();
        }
        let (well, said) = end(switching);
        assert!(well && said.contains("switched to "), "{said}");
        assert_eq!(fleet.profile(), fleet.new);
        fleet.switch(&old, "").ok();
    }
    fleet.configured();

    // Whoever switched is gone: who decides watches in their place.
    let (mut switching, _) = fleet.watched(3_000);
    switching.kill().expect("our own child");
    switching.wait().expect("our own child");
    let deciding = fleet.until_watched("confirm --decide");
    assert_eq!(fleet.profile(), fleet.new);
    fleet.server.kill();
    let (well, said) = end(deciding);
    assert!(!well, "{said}");
    let says = format!("was reached no more for {NO_MORE_S} s; went back to generation");
    assert!(said.contains(&says), "{said}");
    assert_eq!(fleet.profile(), old);
    assert_eq!(fleet.configured(), ["new switch", "old switch"]);
    fleet.machine.snowcache("confirm --decide").ok();
}

#[test]
fn the_control_planes_word_on_the_node_itself_counts() {
    let fleet = Fleet::both_ready(&Nix::newer());
    assert!(
        fleet
            .machine
            .snowcache("confirm")
            .fails()
            .contains("no switch waits")
    );
    let program = support::server::binary("snowcache");
    let (new, program) = (&fleet.new, program.display());
    let both = format!(
        "{program} switch {new} --confirm-within 60 & switch=$!\n\
         until {program} confirm 2>/dev/null; do sleep 0.05; done\nwait $switch"
    );
    let said = fleet.machine.sh(&both).ok();
    assert!(said.contains(&format!("confirmed {new}")), "{said}");
    assert!(said.contains(&format!("switched to {new}")), "{said}");
    assert_eq!(fleet.profile(), fleet.new);
}

#[test]
fn a_switch_that_was_killed_is_gone_back_from_by_whoever_comes_after() {
    let fleet = Fleet::both_ready(&Nix::newer());
    let program = support::server::binary("snowcache");
    let (new, program) = (&fleet.new, program.display());
    // While it waits to be confirmed, whoever decides waits for it; killed, they wait in its place.
    let killed = format!(
        "{program} switch {new} --confirm-within 60 & switch=$!\n\
         until grep -qs switched $SNOWCACHE_STATE/trial.json; do sleep 0.02; done\n\
         timeout 1 {program} confirm --decide && exit 9\n\
         kill -KILL $switch\n\
         {program} confirm"
    );
    let said = fleet.machine.sh(&killed).ok();
    assert_eq!(said, format!("confirmed {new}"));
    assert_eq!(fleet.profile(), fleet.new);
    fleet.configured();

    let old = &fleet.old;
    let killed = format!(
        "{program} switch {old} --health 'exec sleep 60 >/dev/null 2>&1' & switch=$!\n\
         until grep -qs 'old switch' $HOME/configured; do sleep 0.02; done\n\
         kill -KILL $switch\n\
         {program} confirm --decide"
    );
    let why = fleet.machine.sh(&killed).fails();
    assert!(
        why.contains("was broken off; went back to generation"),
        "{why}"
    );
    assert_eq!(fleet.profile(), fleet.new);
    assert_eq!(fleet.configured(), ["old switch", "new switch"]);
}

#[test]
fn what_a_killed_switch_has_started_is_waited_for_before_anybody_goes_back() {
    let fleet = Fleet::both_ready(&Nix::newer());
    let program = support::server::binary("snowcache");
    let (new, program) = (&fleet.new, program.display());
    let killed = format!(
        "touch $HOME/hold-new\n\
         {program} switch {new} & switch=$!\n\
         until [ -e $HOME/began-new ]; do sleep 0.02; done\n\
         kill -KILL $switch\n\
         {program} confirm --decide 2> $HOME/decided & decide=$!\n\
         sleep 1\n[ ! -s $HOME/decided ]\n\
         rm $HOME/hold-new\n\
         wait $decide && exit 9\n\
         cat $HOME/decided"
    );
    let why = fleet.machine.sh(&killed).ok();
    assert!(why.contains("was broken off; went back to"), "{why}");
    assert_eq!(fleet.profile(), fleet.old);
    // One after the other, though nobody was left to see to it.
    assert_eq!(fleet.configured(), ["new switch", "old switch"]);
    // What went well lets go of it, whatever it has left running.
    fleet.switch(new, "").ok();
}

#[test]
fn a_boot_folder_without_room_is_told_before_anything_is_touched() {
    let fleet = Fleet::both_ready(&Nix::newer());
    let (old, new) = (&fleet.old, &fleet.new);
    let program = support::server::binary("snowcache");
    let program = program.display();
    let switch = format!("{program} switch {new} --boot $HOME/boot");
    let disk = "mkdir -p $HOME/boot\nmount -t tmpfs -o size=64k none $HOME/boot";
    let why = fleet.machine.sh(&format!("{disk}\n{switch}")).fails();
    let says = format!("/boot has room for 64.0 KiB and kernel and initrd of {new} take 97.");
    assert!(why.contains(&says), "{why}");
    assert!(why.contains("remove old generations"), "{why}");
    assert_eq!(&fleet.profile(), old);
    assert_eq!(fleet.configured(), Vec::<String>::new());
    // Nothing is copied for a test.
    let test = format!("{disk}\n{switch} --mode test");
    fleet.machine.sh(&test).ok();
    assert_eq!(fleet.configured(), ["new test"]);

    // The kernel is there already, as the boot loader of each kind calls it.
    let name = format!("{}-kernel", &new["/nix/store/".len()..]);
    for copy in [
        format!("EFI/nixos/{name}.efi"),
        format!("kernels/{name}"),
        format!("nixos/{name}"),
    ] {
        let there = format!("{disk}\nmkdir -p $HOME/boot/EFI/nixos $HOME/boot/kernels");
        let there = format!("{there} $HOME/boot/nixos\ntouch $HOME/boot/{copy}\n{switch}");
        fleet.machine.sh(&there).ok();
        assert_eq!(&fleet.profile(), new);
        fleet.switch(old, "").ok();
    }
    let unlooked = format!("{disk}\n{program} switch {new} --boot none");
    fleet.machine.sh(&unlooked).ok();
    assert_eq!(&fleet.profile(), new);
    if fs::metadata("/boot").is_ok() {
        let disk = "mount -t tmpfs -o size=64k none /boot";
        let said = fleet.machine.sh(&format!("{disk}\n{program} why {old}"));
        let said = said.ok();
        assert!(said.starts_with("ready: "), "{said}");
        let says = "careful: a switch would be refused: /boot has room for";
        assert!(said.contains(says), "{said}");
    }
}
