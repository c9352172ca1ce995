//! A block's answers to whatever may come, and the bits of its steps.

use super::*;
use halflife_optim::OptimizerConfig;
use halflife_proto::ids::{Generation, TensorIndex};
use halflife_proto::tensor_codec::{Dtype, Encoded};

const ID: BlockId = BlockId { tensor: TensorIndex(0), index: 0 };

fn rules(combine: Combine, nonfinite: NonfinitePolicy) -> Arc<Rules> {
    rules_of("algorithm = \"sgd\"\nlr = 0.5", combine, nonfinite)
}

pub(super) fn rules_of(optimizer: &str, combine: Combine, nonfinite: NonfinitePolicy) -> Arc<Rules> {
    let config: OptimizerConfig = halflife_proto::strict_toml::from_str(optimizer).expect("a valid optimizer");
    Arc::new(Rules {
        optimizer: Optimizer::new(&config, 10).expect("a valid optimizer"),
        slots: SlotTree::new(4).unwrap(),
        combine,
        nonfinite,
        steps: Step(10),
        wire: Wire::default(),
        consistency: Consistency::default(),
    })
}

pub(super) fn block(rules: &Arc<Rules>) -> Block {
    let rule = Arc::new(rules.optimizer.tensor("w", &[2]));
    Block::new(ID, 2, &[2], Change::Optimized(rule), rules.clone())
}

pub(super) fn bytes(values: &[f32]) -> Payload {
    Payload::Dense(Encoded::f32(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>()))
}

pub(super) fn contribution(step: u64, slots: (u32, u32), payload: Payload) -> Contribution {
    let slots = SlotRange::new(slots.0, slots.1).unwrap();
    let (generation, weight) = (Generation(1), f64::from(slots.count()));
    Contribution { block: ID, generation, step: Step(step), slots, weight, payload, push: None }
}

pub(super) fn initialized(rules: &Arc<Rules>) -> Block {
    let block = block(rules);
    let first = block.contribute(contribution(0, (0, 1), bytes(&[1.0, 2.0]))).unwrap();
    assert!(matches!(first, Contributed::Initialized));
    block
}

/// Contributes, and computes and installs the step if that makes it whole.
fn contribute(block: &Block, contribution: Contribution) -> Result<Option<Version>, Refusal> {
    match block.contribute(contribution)? {
        Contributed::Ready(_, update) => Ok(Some(block.install(update.run(&mut Summer::default())))),
        _ => Ok(None),
    }
}

pub(super) fn default_rules() -> Arc<Rules> {
    rules(Combine::Mean, NonfinitePolicy::Stop)
}

#[test]
fn a_step_is_applied_once_when_the_last_slot_is_in() {
    let block = initialized(&default_rules());
    assert!(contribute(&block, contribution(1, (0, 2), bytes(&[2.0, 4.0]))).unwrap().is_none());
    assert!(contribute(&block, contribution(1, (0, 1), bytes(&[9.0, 9.0]))).unwrap().is_none());
    let version = contribute(&block, contribution(1, (2, 4), bytes(&[2.0, 0.0]))).unwrap().unwrap();
    // mean over 4 slots: [1, 1]; lr 0.5
    assert_eq!((version.step, version.values()), (Step(1), &[0.5, 1.5][..]));
    assert_eq!(version.lr, 0.5);
    let late = block.contribute(contribution(1, (2, 4), bytes(&[2.0, 0.0]))).unwrap();
    assert!(matches!(late, Contributed::Noted(Outcome::AlreadyApplied)));
    assert_eq!(block.at(Step(0)).unwrap().values(), [1.0, 2.0]);
    assert_eq!(block.at(Step(1)).unwrap().values(), [0.5, 1.5]);
}

#[test]
fn planes_kept_in_bf16_are_shown_in_f32() {
    let optimizer = "algorithm = \"sgd\"\nlr = 0.5\nmomentum = 0.9\nstate_dtype = \"bf16\"";
    let block = initialized(&rules_of(optimizer, Combine::Mean, NonfinitePolicy::Stop));
    contribute(&block, contribution(1, (0, 4), bytes(&[4.0, 1.0 + 1.0 / 512.0]))).unwrap().unwrap();
    // mean over 4 slots: [1, 0.25 (1 + 2^-9)], of which bf16 keeps 0.25
    let Payload::Dense(expected) = bytes(&[1.0, 0.25]) else { panic!("dense") };
    assert_eq!(block.plane_at("m", Step(1)).unwrap(), expected.bytes);
    assert_eq!(block.at(Step(1)).unwrap().values(), [0.5, 2.0 - 0.125 * (1.0 + 1.0 / 512.0)]);
}

#[test]
fn bad_contributions_are_refused_by_cause_and_change_nothing() {
    let block = initialized(&default_rules());
    let weight = |weight| Contribution { weight, ..contribution(1, (0, 2), Payload::Absent) };
    for (bad, cause) in [
        (contribution(1, (0, 4), bytes(&[1.0])), RefusalCause::WrongSize),
        (contribution(1, (0, 4), bytes(&[1.0, 2.0, 3.0])), RefusalCause::WrongSize),
        (contribution(1, (0, 4), Payload::Dense(Encoded::f32(&[0; 7][..]))), RefusalCause::WrongSize),
        (contribution(1, (1, 3), bytes(&[1.0, 2.0])), RefusalCause::MisalignedSlots),
        (contribution(1, (0, 5), bytes(&[1.0, 2.0])), RefusalCause::MisalignedSlots),
        (contribution(2, (0, 4), bytes(&[1.0, 2.0])), RefusalCause::StepAhead),
        (contribution(u64::MAX, (0, 4), bytes(&[1.0, 2.0])), RefusalCause::StepAhead),
        (contribution(1, (0, 1), bytes(&[1.0, f32::NAN])), RefusalCause::NonfiniteData),
        (contribution(1, (2, 3), bytes(&[f32::NEG_INFINITY, 0.0])), RefusalCause::NonfiniteData),
        (weight(3.0), RefusalCause::InvalidWeight),
        (contribution(0, (0, 1), bytes(&[1.0, 2.5])), RefusalCause::InitializationDiffers),
        (contribution(0, (0, 4), bytes(&[1.0, 2.0])), RefusalCause::MisalignedSlots),
        (contribution(0, (0, 1), Payload::Absent), RefusalCause::Malformed),
    ] {
        assert_eq!(block.contribute(bad.clone()).unwrap_err().cause, cause, "{bad:?}");
    }
    assert_eq!(block.gathered_bytes(), 0);
    assert_eq!(block.current().unwrap().values(), [1.0, 2.0]);
    let again = block.contribute(contribution(0, (0, 1), bytes(&[1.0, 2.0]))).unwrap();
    assert!(matches!(again, Contributed::Noted(Outcome::AlreadyApplied)));
}

#[test]
fn nothing_is_gathered_before_the_first_weights() {
    let refusal = block(&default_rules()).contribute(contribution(1, (0, 4), bytes(&[1.0, 2.0]))).unwrap_err();
    assert_eq!(refusal.cause, RefusalCause::NotInitialized);
}

#[test]
fn no_step_follows_the_last() {
    let block = initialized(&default_rules());
    for step in 1..=10 {
        assert!(contribute(&block, contribution(step, (0, 4), Payload::Absent)).unwrap().is_some());
    }
    let refusal = block.contribute(contribution(11, (0, 4), Payload::Absent)).unwrap_err();
    assert_eq!(refusal.cause, RefusalCause::StepAhead);
}

#[test]
fn absent_slots_count_in_the_mean_and_an_absent_tensor_is_left_alone() {
    let block = initialized(&default_rules());
    contribute(&block, contribution(1, (0, 2), Payload::Absent)).unwrap();
    let version = contribute(&block, contribution(1, (2, 4), bytes(&[4.0, 4.0]))).unwrap().unwrap();
    assert_eq!(version.values(), [0.5, 1.5]);
    let version = contribute(&block, contribution(2, (0, 4), Payload::Absent)).unwrap().unwrap();
    assert_eq!((version.step, version.values()), (Step(2), &[0.5, 1.5][..]));
}

#[test]
fn a_weighted_mean_divides_by_the_sum_of_weights() {
    let block = initialized(&rules(Combine::WeightedMean, NonfinitePolicy::Stop));
    let weighted = |slots, weight, payload| Contribution { weight, ..contribution(1, slots, payload) };
    contribute(&block, weighted((0, 2), 3.0, bytes(&[3.0, 6.0]))).unwrap();
    let version = contribute(&block, weighted((2, 4), 1.0, bytes(&[1.0, 2.0]))).unwrap().unwrap();
    assert_eq!(version.values(), [0.5, 1.0]);
}

#[test]
fn a_nonfinite_slot_stops_the_job_with_the_block_unapplied() {
    let block = initialized(&default_rules());
    contribute(&block, contribution(1, (0, 2), bytes(&[1.0, 1.0]))).unwrap();
    let Contributed::Halt(refusal) = block.contribute(contribution(1, (2, 4), Payload::Nonfinite)).unwrap() else {
        panic!("expected a halt");
    };
    assert!(refusal.to_string().contains("step 1, slots [2, 4)"), "{refusal}");
    assert_eq!(block.current().unwrap().step, Step(0));
}

#[test]
fn under_skip_a_nonfinite_step_passes_unchanged() {
    let block = initialized(&rules(Combine::Mean, NonfinitePolicy::Skip));
    contribute(&block, contribution(1, (0, 2), bytes(&[1.0, 1.0]))).unwrap();
    let version = contribute(&block, contribution(1, (2, 4), Payload::Nonfinite)).unwrap().unwrap();
    assert_eq!((version.step, version.values()), (Step(1), &[1.0, 2.0][..]));
    let version = contribute(&block, contribution(2, (0, 4), bytes(&[4.0, 4.0]))).unwrap().unwrap();
    assert_eq!(version.values(), [0.5, 1.5]);
}

#[test]
fn a_sum_that_overflows_stops_the_job_and_one_that_only_might_does_not() {
    let huge = f32::MAX * 0.75;
    let block = initialized(&rules(Combine::Mean, NonfinitePolicy::Skip));
    contribute(&block, contribution(1, (0, 2), bytes(&[huge, 0.0]))).unwrap();
    let version = contribute(&block, contribution(1, (2, 4), bytes(&[-huge, 0.0]))).unwrap();
    assert_eq!(version.unwrap().values(), [1.0, 2.0]);
    contribute(&block, contribution(2, (0, 2), bytes(&[huge, 0.0]))).unwrap();
    let halt = block.contribute(contribution(2, (2, 4), bytes(&[huge, 0.0]))).unwrap();
    assert!(matches!(halt, Contributed::Halt(refusal) if refusal.to_string().contains("overflows")));
    assert_eq!(block.current().unwrap().step, Step(1));
}

#[test]
fn while_a_step_is_computed_the_one_before_stays_readable_and_nothing_is_added() {
    let block = initialized(&default_rules());
    let Contributed::Ready(_, update) = block.contribute(contribution(1, (0, 4), bytes(&[4.0, 4.0]))).unwrap() else {
        panic!("expected a whole step");
    };
    let twice = block.contribute(contribution(1, (0, 2), bytes(&[8.0, 8.0]))).unwrap();
    assert!(matches!(twice, Contributed::Noted(Outcome::Duplicate)));
    assert_eq!(block.contribute(contribution(2, (0, 4), Payload::Absent)).unwrap_err().cause, RefusalCause::StepAhead);
    assert_eq!(block.current().unwrap().values(), [1.0, 2.0]);
    assert_eq!(block.install(update.run(&mut Summer::default())).values(), [0.5, 1.5]);
}

#[test]
fn frozen_blocks_take_weights_but_no_gradients() {
    let rules = default_rules();
    let block = Block::new(ID, 2, &[2], Change::Never, rules);
    assert!(matches!(block.contribute(contribution(0, (0, 1), bytes(&[1.0, 2.0]))).unwrap(), Contributed::Initialized));
    let refusal = block.contribute(contribution(1, (0, 4), bytes(&[1.0, 2.0]))).unwrap_err();
    assert!(refusal.to_string().contains("frozen"), "{refusal}");
    assert_eq!(block.at(Step(7)).unwrap().values(), [1.0, 2.0]);
}

#[test]
fn buffers_become_the_mean_over_slots_even_where_gradients_are_summed() {
    let rules = rules(Combine::Sum, NonfinitePolicy::Stop);
    let block = Block::new(ID, 2, &[2], Change::Averaged, rules);
    block.contribute(contribution(0, (0, 1), bytes(&[0.0, 0.0]))).unwrap();
    let version = contribute(&block, contribution(1, (0, 4), bytes(&[4.0, 8.0]))).unwrap().unwrap();
    assert_eq!((version.values(), version.lr), (&[1.0, 2.0][..], 0.0));
}

#[test]
fn buffers_of_old_versions_are_used_again() {
    let block = initialized(&default_rules());
    let mut addresses = std::collections::HashSet::new();
    for step in 1..=10 {
        let version = contribute(&block, contribution(step, (0, 4), bytes(&[4.0, 4.0]))).unwrap().unwrap();
        addresses.insert(version.values().as_ptr());
    }
    assert!(addresses.len() <= 3, "{} buffers for 10 steps", addresses.len());
}

#[test]
fn a_sum_that_overflowed_on_its_way_stops_the_job_as_one_that_overflows_here() {
    for policy in [NonfinitePolicy::Stop, NonfinitePolicy::Skip] {
        let block = initialized(&rules(Combine::Mean, policy));
        let halt = block.contribute(contribution(1, (0, 2), bytes(&[f32::INFINITY, 0.0]))).unwrap();
        assert!(matches!(halt, Contributed::Halt(refusal) if refusal.to_string().contains("overflows")));
        assert_eq!(block.current().unwrap().step, Step(0));
    }
}

// ---- lossy wires ----

fn wired(optimizer: &str, gradients: Dtype, weights: Dtype) -> Arc<Rules> {
    let rules = Arc::into_inner(rules_of(optimizer, Combine::Mean, NonfinitePolicy::Stop)).unwrap();
    Arc::new(Rules { wire: Wire { gradients, weights }, ..rules })
}

fn coded(dtype: Dtype, values: &[f32]) -> Payload {
    let mut bytes = vec![0; dtype.encoded_bytes(values.len())];
    halflife_proto::tensor_codec::encode(dtype, values, &mut bytes);
    Payload::Dense(Encoded { dtype, bytes: bytes.into() })
}

fn sent(version: &Version) -> (Dtype, Vec<f32>) {
    let (dtype, bytes) = version.to_send();
    let mut values = vec![f32::NAN; version.values().len()];
    Encoded { dtype, bytes }.load(0, &mut values);
    (dtype, values)
}

#[test]
fn lossy_slots_are_summed_in_f32() {
    // Exact in bf16, but not their sum: 256 + 1 would round to 256.
    let slots = [[256.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]];
    let block = initialized(&wired("algorithm = \"sgd\"\nlr = 1.0", Dtype::Bf16, Dtype::F32));
    let mut versions = (0..4).filter_map(|slot| {
        let payload = coded(Dtype::Bf16, &slots[slot as usize]);
        contribute(&block, contribution(1, (slot, slot + 1), payload)).unwrap()
    });
    assert_eq!(versions.next().unwrap().values(), [1.0 - 259.0 / 4.0, 1.0]);
}

#[test]
fn dtypes_sizes_and_sums_that_the_wire_does_not_carry_are_refused() {
    for gradients in [Dtype::F32, Dtype::Bf16, Dtype::I8Scaled] {
        let block = initialized(&wired("algorithm = \"sgd\"\nlr = 1.0", gradients, Dtype::F32));
        for other in [Dtype::F32, Dtype::Bf16, Dtype::I8Scaled] {
            let found = block.contribute(contribution(1, (0, 1), coded(other, &[1.0, 2.0])));
            if other == gradients {
                assert!(matches!(found, Ok(Contributed::Noted(Outcome::Added))));
            } else {
                let refusal = found.unwrap_err();
                assert_eq!(refusal.cause, RefusalCause::WrongDtype);
                assert_eq!((refusal.expected, refusal.found), (gradients.to_string(), other.to_string()));
            }
        }
        let short = block.contribute(contribution(1, (1, 2), coded(gradients, &[1.0]))).unwrap_err();
        assert_eq!(short.cause, RefusalCause::WrongSize);
        let bad = block.contribute(contribution(1, (1, 2), coded(gradients, &[1.0, f32::INFINITY]))).unwrap_err();
        assert_eq!(bad.cause, RefusalCause::NonfiniteData, "{gradients}");
        let summed = block.contribute(contribution(1, (2, 4), coded(gradients, &[1.0, 2.0])));
        match gradients {
            Dtype::F32 => assert!(summed.is_ok()),
            _ => assert_eq!(summed.unwrap_err().cause, RefusalCause::MisalignedSlots),
        }
        assert!(block.contribute(contribution(1, (2, 4), Payload::Absent)).is_ok(), "nothing is rounded");
        let first = block.contribute(contribution(0, (0, 1), coded(Dtype::Bf16, &[1.0, 2.0]))).unwrap_err();
        assert_eq!(first.cause, RefusalCause::WrongDtype, "initial weights are f32");
    }
}

#[test]
fn buffers_travel_as_f32_whatever_the_wire() {
    let rules = wired("algorithm = \"sgd\"\nlr = 1.0", Dtype::I8Scaled, Dtype::F32);
    let block = Block::new(ID, 2, &[2], Change::Averaged, rules);
    block.contribute(contribution(0, (0, 1), bytes(&[0.0, 0.0]))).unwrap();
    let refusal = block.contribute(contribution(1, (0, 1), coded(Dtype::I8Scaled, &[1.0, 2.0]))).unwrap_err();
    assert_eq!(refusal.cause, RefusalCause::WrongDtype);
    assert!(contribute(&block, contribution(1, (0, 4), bytes(&[4.0, 8.0]))).unwrap().is_some());
}

/// Under rules that update at once, wait for a norm, and want whole tensors.
#[test]
fn weights_are_sent_rounded_and_kept_in_full() {
    let rounded = |values: &[f32]| {
        let mut values = values.to_vec();
        halflife_proto::tensor_codec::round(Dtype::Bf16, &mut values);
        values
    };
    for optimizer in [
        "algorithm = \"sgd\"\nlr = 1.0",
        "algorithm = \"sgd\"\nlr = 1.0\ngradient = [{ op = \"clip_global_norm\", max_norm = 1e9, form = \"torch\" }]",
        "preset = \"pytorch-adafactor\"\nlr = 0.1",
    ] {
        let block = initialized(&wired(optimizer, Dtype::F32, Dtype::Bf16));
        assert_eq!(sent(&block.current().unwrap()), (Dtype::Bf16, vec![1.0, 2.0]));
        let whole = contribution(1, (0, 4), bytes(&[4.0 / 3.0, 4.0 / 7.0]));
        let Contributed::Ready(_, update) = block.contribute(whole).unwrap() else { panic!("expected a whole step") };
        let applied = match update.needs_norms() {
            false => update.run(&mut Summer::default()),
            true => {
                let mut waiting = update.reduce(&mut Summer::default());
                while waiting.is_pending() {
                    let sums = waiting.sums();
                    waiting.supply(sums);
                }
                match block.rules.optimizer.needs_whole_tensors() {
                    true => Waiting::apply_tensor(vec![waiting], &[2]).remove(0),
                    false => waiting.apply(),
                }
            }
        };
        let version = block.install(applied);
        assert_ne!(rounded(version.values()), version.values(), "{optimizer}");
        let expected = (Dtype::Bf16, rounded(version.values()));
        assert_eq!(sent(&version), expected, "{optimizer}");
        let skipped = contribute(&block, contribution(2, (0, 4), Payload::Absent));
        if let Some(skipped) = skipped.unwrap().filter(|_| !block.rules.reduces()) {
            assert_eq!((skipped.step, sent(&skipped)), (Step(2), expected));
        }
    }
}

#[test]
fn infinity_in_lossy_data_is_refused_even_where_slots_are_weighted() {
    let rules = Arc::into_inner(rules(Combine::WeightedMean, NonfinitePolicy::Stop)).unwrap();
    let wire = Wire { gradients: Dtype::Bf16, weights: Dtype::F32 };
    let block = initialized(&Arc::new(Rules { wire, ..rules }));
    let infinite = contribution(1, (0, 1), coded(Dtype::Bf16, &[f32::INFINITY, 0.0]));
    assert_eq!(block.contribute(infinite).unwrap_err().cause, RefusalCause::NonfiniteData);
}

#[test]
fn encodings_of_old_versions_are_used_again() {
    let block = initialized(&wired("algorithm = \"sgd\"\nlr = 1.0", Dtype::F32, Dtype::Bf16));
    let mut addresses = std::collections::HashSet::new();
    for step in 1..=10 {
        let version = contribute(&block, contribution(step, (0, 4), bytes(&[4.0, 4.0]))).unwrap().unwrap();
        addresses.insert(version.to_send().1.as_ptr());
    }
    assert!(addresses.len() <= 3, "{} buffers for 10 steps", addresses.len());
}
