//! One server's decisions, and several against an etcd whose answers are late or lost.

use proptest::prelude::*;

use super::*;
use crate::record::CandidateId;

const LASTS: Duration = Duration::from_secs(5);

fn record(number: u64) -> LeadRecord {
    LeadRecord { url: format!("http://{number}"), candidate: CandidateId(number) }
}

fn held_by(number: u64, lease: i64, term: i64) -> Option<Holder> {
    Some(Holder { record: record(number), lease: LeaseId(lease), term })
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// With a lease, about to look.
fn with_lease() -> Election {
    let mut election = Election::new(record(1), LASTS);
    assert_eq!(election.next(ms(0)), Action::Grant);
    election.granted(ms(0), LeaseId(7), LASTS);
    election
}

#[test]
fn the_first_to_create_the_key_leads_and_counts_from_when_it_asked() {
    let mut election = with_lease();
    assert_eq!(election.next(ms(10)), Action::Look { lease: LeaseId(7), campaign: true });
    election.seen(ms(900), held_by(1, 7, 40));
    assert_eq!(election.standing(), &Standing::Leading { term: 40 });
    assert_eq!(election.holds_until(), Some(ms(4500)));
    assert_eq!(election.next(ms(2000)), Action::Renew(LeaseId(7)));
    election.renewed(ms(2000), LASTS);
    assert_eq!(election.holds_until(), Some(ms(6500)));
}

#[test]
fn an_etcd_that_is_away_changes_nothing_but_how_long_the_lease_is_held() {
    let mut election = with_lease();
    election.seen(ms(10), held_by(1, 7, 40));
    for at in [1000, 2000, 30_000] {
        election.failed();
        assert_eq!(election.next(ms(at)), Action::Renew(LeaseId(7)), "etcd may have kept the lease");
    }
    assert_eq!(election.standing(), &Standing::Leading { term: 40 });
    assert_eq!(election.holds_until(), Some(ms(4500)));
    election.renewed(ms(31_000), LASTS);
    assert_eq!(election.next(ms(31_000)), Action::Look { lease: LeaseId(7), campaign: true });
}

#[test]
fn a_lead_that_comes_back_late_finds_who_has_taken_over() {
    let mut election = with_lease();
    election.seen(ms(10), held_by(1, 7, 40));
    election.renewed(ms(20_000), Duration::ZERO);
    assert_eq!(election.next(ms(20_000)), Action::Grant);
    assert_eq!(election.holds_until(), None);
    election.granted(ms(20_001), LeaseId(8), LASTS);
    assert_eq!(election.holds_until(), None, "the key lives by no lease of this server that it knows of");
    election.seen(ms(20_002), held_by(2, 3, 60));
    assert_eq!(election.standing(), &Standing::Following(record(2)));
}

#[test]
fn a_key_that_lives_by_a_lease_which_is_over_is_not_held() {
    let mut election = with_lease();
    election.seen(ms(10), held_by(1, 6, 40));
    assert_eq!((election.standing(), election.holds_until()), (&Standing::Vacant, None));
}

#[test]
fn a_server_whose_lead_lives_leaves_the_key_to_it_for_a_while() {
    let mut election = with_lease();
    election.seen(ms(10), held_by(2, 3, 40));
    election.link(true);
    let campaigns = |election: &Election, at| match election.next(ms(at)) {
        Action::Look { campaign, .. } => campaign,
        other => panic!("expected a look, found {other:?}"),
    };
    election.renewed(ms(1000), LASTS);
    assert!(!campaigns(&election, 1000));
    election.seen(ms(1000), None);
    election.renewed(ms(2250), LASTS);
    assert!(!campaigns(&election, 2250));
    election.seen(ms(2250), None);
    election.renewed(ms(3500), LASTS);
    assert!(campaigns(&election, 3500));
    election.link(false);
    assert!(campaigns(&election, 1001), "nobody to be courteous to");
}

/// etcd as it is meant to be: expires leases by its own clock, and keys with them.
#[derive(Default)]
struct Model {
    leases: Vec<(LeaseId, u64)>,
    key: Option<Holder>,
    revision: i64,
}

impl Model {
    fn pass(&mut self, now: u64) {
        self.leases.retain(|(_, until)| now < *until);
        let leases = &self.leases;
        self.key.take_if(|key| !leases.iter().any(|(id, _)| *id == key.lease));
    }

    fn ask(&mut self, now: u64, who: u64, action: Action) -> Answer {
        self.pass(now);
        self.revision += 1;
        let lasts = LASTS.as_millis() as u64;
        match action {
            Action::Grant => {
                self.leases.push((LeaseId(self.revision), now + lasts));
                Answer::Granted(LeaseId(self.revision))
            }
            Action::Renew(id) => match self.leases.iter_mut().find(|(known, _)| *known == id) {
                Some((_, until)) => {
                    *until = now + lasts;
                    Answer::Renewed(LASTS)
                }
                None => Answer::Renewed(Duration::ZERO),
            },
            Action::Look { lease, campaign } => {
                let has_lease = self.leases.iter().any(|(id, _)| *id == lease);
                if campaign && has_lease && self.key.is_none() {
                    self.key = held_by(who, lease.0, self.revision);
                }
                Answer::Seen(self.key.clone())
            }
        }
    }
}

#[derive(Clone)]
enum Answer {
    Granted(LeaseId),
    Renewed(Duration),
    Seen(Option<Holder>),
}

/// A request under way.
struct Asked {
    action: Action,
    asked_at: Duration,
    arrives: u64,
    answered: u64,
    is_lost: bool,
    answer: Option<Answer>,
}

struct Candidate {
    election: Election,
    /// Its clock's speed, in thousandths of etcd's.
    speed: u64,
    asked: Option<Asked>,
    next_at: Duration,
    /// It does nothing until then.
    stands_still_until: u64,
}

impl Candidate {
    fn clock(&self, now: u64) -> Duration {
        Duration::from_micros(now * self.speed)
    }

    fn holds(&self, now: u64) -> bool {
        self.election.holds_until().is_some_and(|until| self.clock(now) < until)
    }
}

/// Lets `draws` decide about delays, losses and stops. Gives how often some server came to lead.
fn run(draws: &[u16], speeds: [u64; 3]) -> usize {
    let mut draws = draws.iter().copied().cycle();
    let mut draw = |below: u64| u64::from(draws.next().unwrap_or_default()) % below;
    let mut etcd = Model::default();
    let candidate = |(number, speed): (usize, u64)| Candidate {
        election: Election::new(record(number as u64), LASTS),
        speed,
        asked: None,
        next_at: Duration::ZERO,
        stands_still_until: 0,
    };
    let mut candidates: Vec<Candidate> = speeds.into_iter().enumerate().map(candidate).collect();
    let mut terms = Vec::new();
    for now in (0..120_000).step_by(20) {
        etcd.pass(now);
        for (number, candidate) in candidates.iter_mut().enumerate() {
            // The network goes on without it.
            if let Some(asked) = candidate.asked.as_mut().filter(|asked| asked.answer.is_none() && now >= asked.arrives)
            {
                asked.answer = Some(etcd.ask(now, number as u64, asked.action));
            }
            if draw(2000) == 0 {
                candidate.stands_still_until = now + draw(15_000);
            }
            if now < candidate.stands_still_until {
                continue;
            }
            let clock = candidate.clock(now);
            match candidate.asked.take_if(|asked| now >= asked.answered) {
                Some(Asked { is_lost: true, .. }) => candidate.election.failed(),
                Some(Asked { answer: Some(answer), asked_at, .. }) => match answer {
                    Answer::Granted(id) => candidate.election.granted(asked_at, id, LASTS),
                    Answer::Renewed(lasts) => candidate.election.renewed(asked_at, lasts),
                    Answer::Seen(holder) => candidate.election.seen(clock, holder),
                },
                _ if candidate.asked.is_some() || clock < candidate.next_at => continue,
                _ => {
                    let action = candidate.election.next(clock);
                    let mut delay = || match draw(4) {
                        0 => draw(6000),
                        _ => draw(60),
                    };
                    let arrives = now + delay();
                    let answered = arrives + delay();
                    let is_lost = draw(10) == 0;
                    candidate.asked = Some(Asked { action, asked_at: clock, arrives, answered, is_lost, answer: None });
                    continue;
                }
            }
            candidate.next_at = clock + candidate.election.pause(clock);
            if let Standing::Leading { term } = candidate.election.standing()
                && !terms.contains(term)
            {
                terms.push(*term);
            }
        }
        let holding = candidates.iter().filter(|candidate| candidate.holds(now)).count();
        assert!(holding <= 1, "{holding} servers hold the lease at {now} ms");
    }
    terms.len()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_two_servers_hold_the_lease_at_once_however_late_etcd_answers(
        draws in proptest::collection::vec(any::<u16>(), 1000..4000),
        speeds in [910u64..1100, 910u64..1100, 910u64..1100],
    ) {
        run(&draws, speeds);
    }
}

#[test]
fn the_lead_changes_often_enough_in_that_test() {
    let draws: Vec<u16> = (0..9973u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u16).collect();
    let terms = run(&draws, [1000, 1000, 1000]);
    assert!(terms >= 5, "{terms} leads in two minutes");
}
