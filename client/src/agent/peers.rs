//! Who may command the agent: root, its own user, and the members of one group.
//!
//! Guarantees: it is the kernel that says who connected (SO_PEERCRED), and the machine's own
//! files that say who belongs to the group; both are asked anew for each connection.
//! Never: somebody let in because a file could not be read.

use std::fs;
use tokio::net::unix::UCred;

/// Lets in whom it may concern.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    group: String,
    own_uid: u32,
}

impl Peers {
    /// Besides root and this process' user the members of this group; of none if it is empty.
    pub(super) fn new(group: &str) -> Peers {
        Peers {
            group: group.to_owned(),
            own_uid: rustix::process::geteuid().as_raw(),
        }
    }

    /// Whether this one may.
    pub(super) fn admits(&self, who: &UCred) -> bool {
        if who.uid() == 0 || who.uid() == self.own_uid {
            return true;
        }
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        let (groups, users) = (read("/etc/group"), read("/etc/passwd"));
        is_member(&self.group, who.uid(), who.gid(), &groups, &users)
    }

    /// What is said to the others.
    pub(super) fn refusal(&self) -> String {
        let also = match self.group.is_empty() {
            true => "`group` of agent.toml can name a group whose members may, too".to_owned(),
            false => format!("the members of the group {} may, too", self.group),
        };
        format!("only root may command this agent; {also}\n")
    }
}

/// By the lines of /etc/group and /etc/passwd.
fn is_member(group: &str, uid: u32, gid: u32, groups: &str, users: &str) -> bool {
    let line = |text: &str, wanted: &dyn Fn(&[&str]) -> bool| -> Option<Vec<String>> {
        let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let found = lines.find(|fields| fields.len() >= 4 && wanted(fields))?;
        Some(found.into_iter().map(str::to_owned).collect())
    };
    if group.is_empty() {
        return false;
    }
    let Some(group) = line(groups, &|fields| fields[0] == group) else {
        return false;
    };
    if group[2].parse() == Ok(gid) {
        return true;
    }
    let user = line(users, &|fields| fields[2].parse() == Ok(uid));
    user.is_some_and(|user| group[3].split(',').any(|member| member == user[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: &str = "root:x:0:\nops:x:200:ann,bob\nopsx:x:201:eve\n";
    const USERS: &str = "root:x:0:0::/root:/bin/sh\nann:x:1001:1001::/:/bin/sh\n\
                         eve:x:1002:1002::/:/bin/sh\n";

    #[test]
    fn members_are_those_of_the_file_and_whose_own_group_it_is() {
        let member = |group, uid, gid| is_member(group, uid, gid, GROUPS, USERS);
        assert!(member("ops", 1001, 1001), "ann is in its line");
        assert!(member("ops", 4711, 200), "it is their own group");
        assert!(!member("ops", 1002, 1002), "eve is in another");
        assert!(!member("ops", 1003, 1003), "nobody knows them");
        assert!(!member("", 1001, 0), "no group was named");
        assert!(!member("nogroup", 1001, 1001), "there is no such group");
        assert!(!is_member("ops", 1001, 1001, "", ""), "nothing can be read");
    }
}
