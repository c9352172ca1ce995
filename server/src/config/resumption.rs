//! What a resumed job may change of its settings, and what it may not.

use halflife_optim::{OptimizerConfig, WeightDecayConfig};

use super::JobSpec;

impl JobSpec {
    /// What differs in `other` that a resumed job cannot change, as lines; empty when nothing does. lr, its schedules, the
    /// value and schedule of weight decay, the length, the number of servers, leases and the keeping of checkpoints can be
    /// changed: they are functions of the step, or of how the job is run.
    #[must_use]
    pub fn differences_for_good(&self, other: &JobSpec) -> String {
        let (stored, given) = (self.unchangeable(), other.unchangeable());
        if stored == given { String::new() } else { stored.differences(&given) }
    }

    /// Whether `other` trains otherwise from here on, in what may be changed.
    #[must_use]
    pub fn trains_otherwise(&self, other: &JobSpec) -> bool {
        self.optimizer != other.optimizer || self.job.steps != other.job.steps
    }

    /// The lines of two job files that differ: `expected {..}, found {..}`.
    #[must_use]
    pub fn differences(&self, found: &JobSpec) -> String {
        let (expected, found) = (self.to_toml(), found.to_toml());
        let only = |these: &str, those: &str| {
            let those: Vec<&str> = those.lines().collect();
            these.lines().filter(|line| !those.contains(line)).collect::<Vec<_>>().join(", ")
        };
        format!("expected {{{}}}, found {{{}}}", only(&expected, &found), only(&found, &expected))
    }

    /// Only what a resumed job must leave as it is.
    fn unchangeable(&self) -> JobSpec {
        let mut spec = self.clone();
        (spec.job.steps, spec.job.servers, spec.job.init_from) = (1, 1, None);
        (spec.membership, spec.checkpoint) = (super::MembershipSection::default(), None);
        let OptimizerConfig { lr, weight_decay, groups, .. } = &mut spec.optimizer;
        *lr = Default::default();
        groups.iter_mut().for_each(|group| group.lr = None);
        if let Some(decay) = weight_decay {
            (decay.value, decay.half_life, decay.timescale, decay.schedule) = (None, None, None, None);
        }
        // A table that said only those says nothing now.
        weight_decay.take_if(|decay| *decay == WeightDecayConfig::default());
        spec
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(settings: &str, optimizer: &str) -> JobSpec {
        let text = format!("[job]\nname = \"j\"\n{settings}\n[optimizer]\npreset = \"pytorch-adamw\"\n{optimizer}\n");
        JobSpec::parse("a job", &text, &[]).unwrap()
    }

    #[test]
    fn lr_decay_length_and_servers_may_change_and_the_rest_may_not() {
        let stored = job("steps = 9\nslots = 4", "lr = 0.1");
        for (settings, optimizer, trains_otherwise) in [
            ("steps = 9\nslots = 4\nservers = 3", "lr = 0.1", false),
            ("steps = 90\nslots = 4", "lr = 0.1", true),
            ("steps = 9\nslots = 4", "lr = { kind = \"cosine\", base = 0.2 }", true),
            ("steps = 9\nslots = 4", "lr = 0.1\nweight_decay = { value = 0.5 }", true),
        ] {
            let given = job(settings, optimizer);
            assert_eq!(stored.trains_otherwise(&given), trains_otherwise, "{settings} {optimizer}");
        }
        let otherwise = job("steps = 8\nslots = 4", "lr = 0.2\nweight_decay = { value = 0.5 }");
        assert_eq!(stored.differences_for_good(&otherwise), "");
        for (settings, optimizer, line) in [
            ("steps = 9\nslots = 8", "lr = 0.1", "slots = 8"),
            ("steps = 9\nslots = 4\nseed = 7", "lr = 0.1", "seed = 7"),
            ("steps = 9\nslots = 4", "lr = 0.1\nbetas = [0.8, 0.9]", "betas = [0.8, 0.9]"),
            ("steps = 9\nslots = 4", "lr = 0.1\nweight_decay = { mode = \"l2\", value = 0.1 }", "mode = \"l2\""),
        ] {
            let found = stored.differences_for_good(&job(settings, optimizer));
            assert!(found.contains(line), "{line}: {found}");
        }
    }
}
