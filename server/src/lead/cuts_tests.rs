//! When a checkpoint is made: tables of orders and answers.

use super::*;

const NOW: Duration = Duration::ZERO;
const FILE: SavedFile = SavedFile { bytes: 1, header_bytes: 1, header_blake3: [0; 32], index_blake3: [0; 32] };

fn write(cuts: &mut Cuts, step: u64, servers: u32) {
    for server in (0..servers).map(ServerIndex) {
        cuts.taken(NOW, server, Step(step), servers as usize);
    }
    let mut all = None;
    for server in (0..servers).map(ServerIndex) {
        assert!(all.is_none());
        all = cuts.saved(server, Step(step), FILE, servers as usize);
    }
    assert_eq!(all.map(|files| files.len()), Some(servers as usize));
}

fn commit(cuts: &mut Cuts, step: u64) {
    write(cuts, step, 2);
    assert!(cuts.ended(NOW, Step(step), None));
    assert_eq!(cuts.durable(), Some(Step(step)));
}

#[test]
fn step_0_comes_first_then_multiples_then_the_last_step() {
    let mut cuts = Cuts::new(10, Step(25), None);
    assert_eq!((cuts.order(NOW, None, None), cuts.hold()), (Some(Step(0)), Some(Step(0))));
    assert_eq!(cuts.order(NOW, Some(Step(0)), None), None, "one at a time");
    commit(&mut cuts, 0);
    assert_eq!(cuts.hold(), None);
    for (complete, due) in [(0, 10), (17, 20), (20, 25)] {
        assert_eq!(cuts.order(NOW, Some(Step(complete)), None), Some(Step(due)));
        commit(&mut cuts, due);
    }
    assert!(cuts.is_settled() && cuts.order(NOW, Some(Step(25)), None).is_none());
    assert_eq!(cuts.told().committed, 4);
}

#[test]
fn a_server_past_the_step_moves_the_cut_for_all() {
    let mut cuts = Cuts::new(10, Step(100), Some(Step(0)));
    assert_eq!(cuts.order(NOW, Some(Step(3)), None), Some(Step(10)));
    assert!(!cuts.taken(NOW, ServerIndex(0), Step(10), 2));
    assert_eq!(cuts.passed(Step(10), Step(11), false), Some(Step(20)));
    assert_eq!(cuts.passed(Step(10), Step(31), false), None, "an answer to the earlier order");
    assert_eq!(cuts.passed(Step(20), Step(30), false), Some(Step(30)), "a block at a step can still be cut there");
    assert!(cuts.saved(ServerIndex(0), Step(10), FILE, 1).is_none());
    assert_eq!(cuts.passed(Step(30), Step(95), false), Some(Step(100)));
    commit(&mut cuts, 100);
}

#[test]
fn a_person_gets_one_of_a_step_ahead_of_the_servers() {
    let mut cuts = Cuts::new(1000, Step(5000), Some(Step(0)));
    assert_eq!(cuts.request(Some(Step(7)), None), Step(8));
    assert_eq!(cuts.order(NOW, Some(Step(7)), None), Some(Step(8)));
    assert_eq!(cuts.passed(Step(8), Step(9), false), Some(Step(11)));
    assert_eq!(cuts.passed(Step(11), Step(12), false), Some(Step(16)));
    commit(&mut cuts, 16);
    assert_eq!(cuts.order(NOW, Some(Step(20)), None), Some(Step(1000)));
    assert_eq!(cuts.request(Some(Step(21)), None), Step(22), "the regular one is far away");
    assert_eq!(cuts.order(NOW, Some(Step(21)), None), Some(Step(22)));
    assert_eq!(cuts.request(Some(Step(21)), None), Step(22), "the one ordered will do");
    assert_eq!(cuts.order(NOW, Some(Step(21)), None), None);
    commit(&mut cuts, 22);
    assert_eq!(cuts.order(NOW, Some(Step(22)), None), Some(Step(1000)), "the regular one is not forgotten");
}

#[test]
fn one_that_fails_is_given_up_and_training_goes_on() {
    let mut cuts = Cuts::new(10, Step(20), None);
    cuts.order(NOW, None, None);
    assert!(cuts.ended(NOW, Step(0), Some("no space".to_owned())));
    assert_eq!((cuts.hold(), cuts.durable()), (None, None));
    assert_eq!((cuts.told().failed, cuts.told().error.as_str()), (1, "no space"));
    assert_eq!(cuts.order(NOW, Some(Step(0)), None), Some(Step(10)));
    commit(&mut cuts, 10);
    assert_eq!(cuts.told().error, "");
    assert_eq!(cuts.order(NOW, Some(Step(10)), None), Some(Step(20)));
    assert!(cuts.ended(NOW, Step(20), Some("no space".to_owned())) && cuts.is_settled());
    assert_eq!(cuts.durable(), Some(Step(10)));
}

#[test]
fn a_job_that_ends_early_is_cut_at_its_last_step() {
    let mut cuts = Cuts::new(10, Step(100), Some(Step(20)));
    assert_eq!(cuts.order(NOW, Some(Step(22)), None), Some(Step(30)));
    cuts.taken(NOW, ServerIndex(1), Step(30), 2); // its blocks never change
    cuts.shorten(Step(23));
    assert_eq!(cuts.order(NOW, Some(Step(23)), None), Some(Step(23)));
    commit(&mut cuts, 23);
    assert!(cuts.is_settled());
}

#[test]
fn a_last_checkpoint_that_was_given_up_is_tried_again_where_the_job_ends_early() {
    let mut cuts = Cuts::new(10, Step(100), Some(Step(90)));
    assert_eq!(cuts.order(NOW, Some(Step(92)), None), Some(Step(100)));
    // A server whose blocks never change writes at once.
    assert!(cuts.ended(NOW, Step(100), Some("no space".to_owned())));
    cuts.shorten(Step(95));
    assert!(!cuts.is_settled());
    assert_eq!(cuts.order(NOW, Some(Step(95)), None), Some(Step(95)));
    commit(&mut cuts, 95);
    assert!(cuts.is_settled());
}

#[test]
fn tickets_stop_at_the_next_cut_until_it_is_taken() {
    let at = Duration::from_millis;
    let mut cuts = Cuts::new(10, Step(25), None);
    assert_eq!(cuts.order_settled(at(0), 0, Step(0)), Some(Step(0)));
    write(&mut cuts, 0, 2);
    assert_eq!(cuts.limit(at(1), 0), Step(0), "step 0 must be durable first");
    assert!(cuts.ended(at(2), Step(0), None));
    assert_eq!(cuts.limit(at(2), 4), Step(10));
    assert_eq!(cuts.order_settled(at(3), 10, Step(9)), None, "ticket 10 is open");
    assert_eq!(cuts.limit(at(5), 10), Step(10));
    assert_eq!(cuts.order_settled(at(9), 10, Step(10)), Some(Step(10)));
    write(&mut cuts, 10, 2);
    assert_eq!((cuts.limit(at(9), 10), cuts.told().pause), (Step(20), at(0)), "write takes it at once");
    assert_eq!(cuts.order_settled(at(30), 20, Step(20)), None, "the one before is still being written");
    assert_eq!(cuts.limit(at(30), 20), Step(25));
    assert!(cuts.ended(at(31), Step(10), None));
    assert_eq!(cuts.order_settled(at(40), 25, Step(25)), Some(Step(25)));
}

#[test]
fn a_person_may_ask_for_one_between_tickets() {
    let mut cuts = Cuts::new(1000, Step(5000), Some(Step(0)));
    assert_eq!(cuts.request_settled(7), Step(7), "every one that was given");
    assert_eq!(cuts.order_settled(NOW, 7, Step(6)), None);
    assert_eq!(cuts.limit(NOW, 7), Step(7), "no further ticket");
    assert_eq!(cuts.order_settled(NOW, 7, Step(7)), Some(Step(7)));
    write(&mut cuts, 7, 1);
    assert_eq!(cuts.limit(NOW, 7), Step(1000));
}

/// A job of 5000 steps that cuts every 1000, with this one durable.
fn durable_at(step: u64) -> Cuts {
    Cuts::new(1000, Step(5000), Some(Step(step)))
}

#[test]
fn of_a_job_that_comes_to_rest_before_what_a_person_waits_for_it_is_ordered_anew() {
    let mut cuts = durable_at(0);
    assert_eq!(cuts.request(Some(Step(7)), None), Step(8));
    assert_eq!(cuts.order(NOW, Some(Step(7)), None), Some(Step(8)));
    assert_eq!(cuts.request(Some(Step(7)), Some(Step(7))), Step(7), "nobody computes 8");
    assert_eq!(cuts.order(NOW, Some(Step(7)), Some(Step(7))), Some(Step(7)));
    commit(&mut cuts, 7);

    cuts.request(Some(Step(8)), None);
    assert_eq!(cuts.order(NOW, Some(Step(8)), None), Some(Step(9)));
    assert_eq!(cuts.passed(Step(9), Step(10), false), Some(Step(12)));
    assert_eq!(cuts.request(Some(Step(9)), None), Step(10), "12 will do, and so would 10");
    cuts.rest(Step(10));
    assert_eq!(cuts.order(NOW, Some(Step(10)), Some(Step(10))), Some(Step(10)));
}

#[test]
fn a_request_that_needs_nothing_any_more_does_not_cling_to_the_regular_cut() {
    let mut cuts = durable_at(0);
    cuts.request(Some(Step(7)), None);
    assert_eq!(cuts.order(NOW, Some(Step(7)), None), Some(Step(8)));
    write(&mut cuts, 8, 2);
    assert_eq!(cuts.request(Some(Step(7)), None), Step(8));
    assert!(cuts.ended(NOW, Step(8), None));
    assert_eq!(cuts.order(NOW, Some(Step(8)), Some(Step(8))), Some(Step(1000)));
    assert_eq!(cuts.request(Some(Step(20)), None), Step(21), "the regular one is nobody's");
    assert_eq!(cuts.order(NOW, Some(Step(20)), None), Some(Step(21)));
}

#[test]
fn a_cut_runs_ahead_of_servers_that_others_than_members_train() {
    let mut cuts = durable_at(0);
    cuts.request(Some(Step(7)), Some(Step(7)));
    let (mut at, mut newest) = (cuts.order(NOW, Some(Step(7)), Some(Step(7))), Step(8));
    // Each answer comes when its server is a step further.
    while let Some(step) = at.filter(|step| *step < newest) {
        assert!(newest < Step(20), "it is never caught");
        at = cuts.passed(step, newest, true);
        newest = newest.next();
    }
    assert!(at >= Some(newest));
}

#[test]
fn what_is_asked_for_between_tickets_is_made_once() {
    for (what, durable, granted, settled, ordered) in [
        ("at rest, not cut yet", 0, 7, 7, Some(7)),
        ("one is open", 0, 7, 6, None),
        ("at rest, cut", 7, 7, 7, None),
        ("just restored", 1000, 1000, 1000, None),
        ("finished", 5000, 5000, 5000, None),
    ] {
        let mut cuts = durable_at(durable);
        assert_eq!(cuts.request_settled(granted), Step(granted), "{what}");
        assert_eq!(cuts.order_settled(NOW, granted, Step(settled)), ordered.map(Step), "{what}");
    }
    let mut cuts = Cuts::new(1000, Step(5000), None);
    assert_eq!(cuts.request_settled(0), Step(0));
    assert_eq!(cuts.order_settled(NOW, 0, Step(0)), Some(Step(0)));
    assert_eq!(cuts.request_settled(0), Step(0), "before any ticket");
    commit(&mut cuts, 0);
    assert_eq!(cuts.order_settled(NOW, 0, Step(0)), None);

    cuts.request_settled(7);
    assert_eq!(cuts.order_settled(NOW, 7, Step(7)), Some(Step(7)));
    assert_eq!(cuts.request_settled(7), Step(7), "the one under way will do");
    write(&mut cuts, 7, 2);
    assert_eq!(cuts.request_settled(9), Step(9), "this is of other tickets");
    assert!(cuts.ended(NOW, Step(7), None));
    assert_eq!(cuts.order_settled(NOW, 10, Step(10)), Some(Step(10)));
    assert!(cuts.ended(NOW, Step(10), Some("no space".to_owned())));
    assert_eq!(cuts.request_settled(10), Step(10), "what was given up is tried again");
    assert_eq!(cuts.order_settled(NOW, 10, Step(10)), Some(Step(10)));
}

#[test]
fn of_a_job_that_stands_still_the_step_where_it_is_is_cut_once() {
    for (what, durable, complete, rest, answer, ordered) in [
        ("it trains", 7, 7, None, 8, 8),
        ("it comes to rest", 0, 7, Some(8), 8, 8),
        ("it rests", 0, 8, Some(8), 8, 8),
        ("a worker had begun the next", 0, 9, Some(8), 9, 9),
        ("it rests where it was cut", 8, 8, Some(8), 8, 1000),
        ("it came to rest where it was cut", 8, 7, Some(8), 8, 1000),
        ("it rests at its end", 4000, 5000, Some(5000), 5000, 5000),
    ] {
        let (complete, rest, mut cuts) = (Some(Step(complete)), rest.map(Step), durable_at(durable));
        assert_eq!(cuts.request(complete, rest), Step(answer), "{what}");
        assert_eq!(cuts.order(NOW, complete, rest), Some(Step(ordered)), "{what}");
    }
    let mut finished = durable_at(5000);
    assert_eq!(finished.request(Some(Step(5000)), None), Step(5000));
    assert_eq!(finished.order(NOW, Some(Step(5000)), None), None);
    let mut restoring = durable_at(3000);
    assert_eq!(restoring.request(None, None), Step(3000), "nothing was computed since");
}

#[test]
fn a_cut_that_a_person_waits_for_is_not_beyond_where_the_job_rests() {
    let mut cuts = durable_at(0);
    let rest = Some(Step(9));
    cuts.request(Some(Step(7)), None);
    assert_eq!(cuts.order(NOW, Some(Step(7)), None), Some(Step(8)));
    assert_eq!(cuts.passed(Step(8), Step(9), false), Some(Step(11)));
    cuts.rest(Step(9));
    assert_eq!(cuts.order(NOW, Some(Step(8)), rest), Some(Step(9)));
    assert_eq!(cuts.passed(Step(9), Step(10), true), Some(Step(10)), "a worker had begun it");
    cuts.taken(NOW, ServerIndex(0), Step(10), 2);
    assert_eq!(cuts.request(Some(Step(10)), rest), Step(10), "this one holds all that there is");
    commit(&mut cuts, 10);
    assert_eq!(cuts.order(NOW, Some(Step(10)), rest), Some(Step(1000)), "the regular one is not forgotten");
    cuts.rest(Step(10));
    assert_eq!(cuts.under_way(), Some(Step(1000)), "nobody waits for that");

    let mut cuts = durable_at(0);
    cuts.request(Some(Step(9)), rest);
    cuts.order(NOW, Some(Step(9)), rest);
    assert!(cuts.ended(NOW, Step(9), Some("no space".to_owned())));
    assert_eq!(cuts.order(NOW, Some(Step(9)), rest), Some(Step(1000)));
    assert_eq!(cuts.request(Some(Step(9)), rest), Step(9), "what was given up is tried again");
    assert_eq!(cuts.order(NOW, Some(Step(9)), rest), Some(Step(9)));
}
