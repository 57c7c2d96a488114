//! Time passes: what goes, and what is compressed again.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::model::number_of;
use super::operations::DAY;
use super::*;

impl Life {
    pub fn wait(&mut self) {
        let noted = self.depot().write_uses();
        self.tell(format!("uses are noted: {noted:?}"));
        self.model.now += [10, 3600, DAY, 20 * DAY][self.random.below(4) as usize];
        self.clock.store(self.model.now, Ordering::Relaxed);
        self.tell(format!("it is {}", self.model.now - START));
    }

    pub fn recompress(&mut self) {
        let how = Recompress {
            level: [3, 19][self.random.below(2) as usize],
            min_idle_s: [0, DAY][self.random.below(2) as usize],
            rate_bytes_per_s: None,
        };
        let mut left = self.random.below(4);
        let answer = self.depot().recompress(&how, || {}, &mut |_| {
            left = left.saturating_sub(1);
            match left {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        self.tell(format!("recompress {how:?}: {answer:?}"));
    }

    pub fn collect_somehow(&mut self) {
        let ages = [0, 3600, 5 * DAY];
        let policy = Policy {
            grace_s: ages[self.random.below(3) as usize],
            max_age_s: self
                .random
                .chance(800)
                .then(|| ages[self.random.below(3) as usize]),
            sweep_grace_s: ages[self.random.below(2) as usize],
            max_garbage_percent: [0, 10, 100][self.random.below(3) as usize],
            caches: Default::default(),
        };
        let dry = self.random.chance(50);
        self.collect(&policy, dry);
    }

    /// Nothing stays but what is pinned.
    pub fn collect_strictly(&mut self) {
        self.collect(&strictest(), false);
        let visible: BTreeSet<u8> = self.model.paths.keys().copied().collect();
        assert_eq!(visible, self.model.pinned(), "only what is pinned stays");
    }

    fn collect(&mut self, policy: &Policy, dry: bool) {
        let mut gone = BTreeSet::new();
        let answer = self.depot().collect(policy, dry, &mut |finding| {
            if let Finding::Path { path, .. } = finding {
                gone.insert(number_of(&path));
            }
        });
        self.tell(format!(
            "collect {policy:?}, dry {dry}: {gone:?} {answer:?}"
        ));
        let stays = self.model.must_stay(policy);
        if dry {
            return;
        }
        let wrong: Vec<_> = gone.intersection(&stays).collect();
        assert!(wrong.is_empty(), "{wrong:?} had to stay");
        for number in &gone {
            self.model.paths.remove(number);
            self.model.maybe_gone.remove(number);
        }
        if answer.is_err() {
            let may = self
                .model
                .paths
                .keys()
                .filter(|number| !stays.contains(number));
            let may: Vec<u8> = may.copied().collect();
            self.model.maybe_gone.extend(may);
        }
    }
}

/// Everything that may go goes at once.
pub fn strictest() -> Policy {
    Policy {
        grace_s: 0,
        max_age_s: Some(0),
        sweep_grace_s: 0,
        max_garbage_percent: 10,
        caches: Default::default(),
    }
}
