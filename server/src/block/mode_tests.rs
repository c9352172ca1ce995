//! A block with a quorum, and one that takes pushes.

use super::tests::{bytes, contribution, default_rules, initialized};
use super::*;
use halflife_proto::job::Mode;
use proptest::prelude::*;

fn rules_of(consistency: Consistency) -> Arc<Rules> {
    let mut rules = default_rules();
    Arc::get_mut(&mut rules).expect("nobody else has them").consistency = consistency;
    rules
}

fn quorum_of(quorum: u32) -> Block {
    initialized(&rules_of(Consistency { quorum: Some(quorum), ..Consistency::default() }))
}

fn asynchronous() -> Block {
    initialized(&rules_of(Consistency { mode: Mode::Async, ..Consistency::default() }))
}

/// A push that was computed at version `read`; lr 0.5 and a mean over 4 slots make 8 a whole step of 1.
fn push(ticket: u64, read: u64, values: [f32; 2]) -> Contribution {
    let push = Some(Push { ticket: Ticket(ticket), sequence: 1 });
    Contribution { push, ..contribution(read, (0, 4), bytes(&values)) }
}

fn outcome(contributed: Result<Contributed, Refusal>) -> Outcome {
    match contributed.unwrap() {
        Contributed::Noted(outcome) | Contributed::Ready(outcome, _) => outcome,
        other => panic!("unexpected {other:?}"),
    }
}

fn run(block: &Block, update: Update) -> Version {
    block.install(update.run(&mut Summer::default()))
}

#[test]
fn a_quorum_sums_exactly_the_slots_it_is_closed_with() {
    let block = quorum_of(2);
    for slot in [3, 0, 1] {
        let value = 10.0f32.powi(slot as i32);
        assert_eq!(outcome(block.contribute(contribution(1, (slot, slot + 1), bytes(&[value, 4.0])))), Outcome::Added);
    }
    let Some(Contributed::Ready(_, update)) = block.close(Step(1), &[0, 3]).unwrap() else { panic!("not closed") };
    let late = contribution(1, (2, 3), bytes(&[9.0, 9.0]));
    assert_eq!(outcome(block.contribute(late.clone())), Outcome::AlreadyApplied, "its step is being computed");
    let version = run(&block, update);
    // The mean is over the two slots: (1 + 1000) / 2 and (4 + 4) / 2, lr 0.5.
    assert_eq!((version.step, version.values()), (Step(1), &[1.0 - 250.25, 0.0][..]));
    assert_eq!(outcome(block.contribute(late)), Outcome::AlreadyApplied);
    assert!(block.close(Step(1), &[0, 3]).unwrap().is_none(), "closed once");
    assert_eq!(block.gathered_bytes(), 0, "what did not count is let go of");
}

#[test]
fn a_step_that_is_closed_with_a_slot_that_is_not_here_is_an_error() {
    let block = quorum_of(2);
    block.contribute(contribution(1, (1, 2), bytes(&[0.0, 0.0]))).unwrap();
    let refusal = block.close(Step(1), &[1, 2]).unwrap_err();
    assert!(refusal.to_string().contains("expected all of [1, 2], found 1"), "{refusal}");
}

#[test]
fn a_quorum_takes_single_slots_and_a_full_one_takes_any_node() {
    let refusal = quorum_of(3).contribute(contribution(1, (0, 2), bytes(&[0.0, 0.0]))).unwrap_err();
    assert_eq!(refusal.cause, RefusalCause::MisalignedSlots);
    let whole = quorum_of(4).contribute(contribution(1, (0, 4), bytes(&[0.0, 0.0]))).unwrap();
    assert!(matches!(whole, Contributed::Ready(..)));
}

#[test]
fn a_nonfinite_slot_counts_only_if_it_is_among_those_that_do() {
    let block = quorum_of(1);
    block.contribute(contribution(1, (0, 1), Payload::Nonfinite)).unwrap();
    block.contribute(contribution(1, (1, 2), bytes(&[2.0, 2.0]))).unwrap();
    let Some(Contributed::Ready(_, update)) = block.close(Step(1), &[1]).unwrap() else { panic!("not closed") };
    assert_eq!(run(&block, update).values(), [0.0, 1.0]);
    block.contribute(contribution(2, (0, 1), Payload::Nonfinite)).unwrap();
    assert!(matches!(block.close(Step(2), &[0]).unwrap(), Some(Contributed::Halt(_))));
}

#[test]
fn pushes_are_applied_one_after_the_other_with_the_staleness_of_each() {
    let block = asynchronous();
    let Contributed::Ready(_, first) = block.contribute(push(3, 0, [8.0, 0.0])).unwrap() else { panic!("not ready") };
    assert_eq!(outcome(block.contribute(push(1, 0, [8.0, 8.0]))), Outcome::Added);
    assert_eq!(outcome(block.contribute(push(1, 0, [8.0, 8.0]))), Outcome::Duplicate);
    assert_eq!(outcome(block.contribute(push(3, 0, [8.0, 0.0]))), Outcome::Duplicate);
    assert!(block.gathered_bytes() > 0);
    assert_eq!(run(&block, first).values(), [0.0, 2.0]);
    assert_eq!(outcome(block.contribute(push(2, 1, [0.0, 8.0]))), Outcome::Added, "not before it is published");
    let (settled, second) = block.settle();
    assert_eq!(settled, Some(Settled { ticket: Ticket(3), staleness: 0 }));
    let version = run(&block, second.expect("ticket 1 waits"));
    assert_eq!((version.step, version.values()), (Step(2), &[-1.0, 1.0][..]));
    let (settled, third) = block.settle();
    assert_eq!(settled, Some(Settled { ticket: Ticket(1), staleness: 1 }));
    run(&block, third.expect("ticket 2 waits"));
    let (settled, none) = block.settle();
    assert!(settled == Some(Settled { ticket: Ticket(2), staleness: 1 }) && none.is_none());
    assert_eq!(outcome(block.contribute(push(1, 0, [8.0, 8.0]))), Outcome::AlreadyApplied);
    assert_eq!((block.current().unwrap().values(), block.gathered_bytes()), (&[-1.0, 0.0][..], 0));
}

#[test]
fn lr_follows_the_ticket_and_bias_correction_the_updates() {
    let config = "algorithm = \"adam\"\nlr = { kind = \"linear\", base = 1.0, end = 0.0 }";
    let config = halflife_proto::strict_toml::from_str(config).unwrap();
    let mut rules = rules_of(Consistency { mode: Mode::Async, ..Consistency::default() });
    Arc::get_mut(&mut rules).unwrap().optimizer = Optimizer::new(&config, 10).unwrap();
    let block = initialized(&rules);
    let Contributed::Ready(_, update) = block.contribute(push(6, 0, [4.0, 4.0])).unwrap() else { panic!("not ready") };
    let version = run(&block, update);
    assert_eq!((version.step, version.lr), (Step(1), 0.5), "the lr of step 6 of 10");
    // Adam's first update is the lr, whatever the gradient: its correction is that of one update.
    assert!((version.values()[0] - 0.5).abs() < 1e-6, "{:?}", version.values());
}

#[test]
fn pushes_that_do_not_fit_are_refused_by_cause_and_change_nothing() {
    let block = asynchronous();
    let good = push(1, 0, [1.0, 1.0]);
    let slots = SlotRange::new(0, 2).unwrap();
    for (bad, cause) in [
        (Contribution { push: None, step: Step(1), ..good.clone() }, RefusalCause::Malformed),
        (push(11, 0, [1.0, 1.0]), RefusalCause::StepAhead),
        (push(1, 1, [1.0, 1.0]), RefusalCause::StepAhead),
        (Contribution { slots, weight: 2.0, ..good.clone() }, RefusalCause::MisalignedSlots),
        (Contribution { payload: bytes(&[1.0]), ..good.clone() }, RefusalCause::WrongSize),
        (Contribution { weight: 3.0, ..good.clone() }, RefusalCause::InvalidWeight),
    ] {
        assert_eq!(block.contribute(bad.clone()).unwrap_err().cause, cause, "{bad:?}");
    }
    assert!(matches!(block.contribute(good.clone()).unwrap(), Contributed::Ready(..)));
    assert_eq!(initialized(&default_rules()).contribute(good).unwrap_err().cause, RefusalCause::Malformed);
    let nonfinite = Contribution { payload: Payload::Nonfinite, ..push(1, 0, [0.0, 0.0]) };
    assert!(matches!(asynchronous().contribute(nonfinite).unwrap(), Contributed::Halt(_)));
}

#[test]
fn a_void_ticket_is_taken_no_more_and_whether_it_was_is_told() {
    let block = asynchronous();
    assert!(!block.void(Ticket(4)));
    assert_eq!(outcome(block.contribute(push(4, 0, [8.0, 8.0]))), Outcome::AlreadyApplied);
    assert!(matches!(block.contribute(push(5, 0, [8.0, 8.0])).unwrap(), Contributed::Ready(..)));
    assert!(block.void(Ticket(5)), "it is being applied, and counts");
}

proptest! {
    /// Duplicated, reordered, queued while another is computed, voided in between: each counts once.
    #[test]
    fn every_push_counts_exactly_once(events in proptest::collection::vec((1u64..=10, 0u8..8), 0..150)) {
        let block = asynchronous();
        let (mut pending, mut taken, mut void) = (None, [false; 11], [false; 11]);
        let settle = |pending: &mut Option<Update>| {
            if let Some(update) = pending.take() {
                run(&block, update);
                let (settled, next) = block.settle();
                assert!(settled.is_some());
                *pending = next;
            }
        };
        for (ticket, kind) in events {
            match kind {
                0 => settle(&mut pending),
                1 => {
                    prop_assert_eq!(block.void(Ticket(ticket)), taken[ticket as usize] || void[ticket as usize]);
                    void[ticket as usize] |= !taken[ticket as usize];
                }
                _ => {
                    let read = block.current().unwrap().step.0.min(u64::from(kind));
                    let contributed = block.contribute(push(ticket, read, [8.0, 8.0 * ticket as f32])).unwrap();
                    let is_new = !taken[ticket as usize] && !void[ticket as usize];
                    taken[ticket as usize] |= is_new;
                    match contributed {
                        Contributed::Ready(Outcome::Added, update) => {
                            prop_assert!(is_new && pending.is_none());
                            pending = Some(update);
                        }
                        Contributed::Noted(Outcome::Added) => prop_assert!(is_new && pending.is_some()),
                        Contributed::Noted(_) => prop_assert!(!is_new),
                        other => panic!("unexpected {other:?}"),
                    }
                }
            }
        }
        while pending.is_some() {
            settle(&mut pending);
        }
        let counted: Vec<f32> = (1..=10).filter(|ticket| taken[*ticket]).map(|ticket| ticket as f32).collect();
        let version = block.current().unwrap();
        prop_assert_eq!(version.step.0 as usize, counted.len());
        prop_assert_eq!(version.values(), [1.0 - counted.len() as f32, 2.0 - counted.iter().sum::<f32>()]);
    }
}
