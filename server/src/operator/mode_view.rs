//! The part of a status that a mode adds: what a quorum left out, what became of the tickets, staleness.

use std::fmt::Write as _;

use halflife_proto::v1::{Distribution, JobStatus, QuorumStatus, TicketStatus};
use serde_json::{Value, json};

/// Lines for people, each after a newline; none in a job whose steps are made of all slots.
pub(super) fn text(status: &JobStatus) -> String {
    let mut text = String::new();
    // Text in memory takes everything.
    if let Some(QuorumStatus { quorum, closed, dropped }) = status.quorum {
        _ = write!(text, "\nquorum {quorum}: {closed} steps closed, {dropped} slots left out");
    }
    if let Some(TicketStatus { granted, done, voided, torn, clock_staleness, update_staleness }) = status.tickets {
        _ = write!(text, "\ntickets: {granted} given, {done} done, {voided} void ({torn} torn)");
        for (name, values) in [("clock", clock_staleness), ("update", update_staleness)] {
            let Distribution { max, mean, p50, p95, p99, .. } = values.unwrap_or_default();
            _ = write!(text, "\n{name} staleness: mean {mean:.2}, p50 {p50}, p95 {p95}, p99 {p99}, max {max}");
        }
    }
    text
}

/// For programs: `null` where the mode has none.
pub(super) fn quorum_json(status: &JobStatus) -> Value {
    let quorum =
        |QuorumStatus { quorum, closed, dropped }| json!({"quorum": quorum, "closed": closed, "dropped": dropped});
    status.quorum.map_or(Value::Null, quorum)
}

/// For programs: `null` where the mode has none.
pub(super) fn tickets_json(status: &JobStatus) -> Value {
    let distribution = |values: Option<Distribution>| {
        let Distribution { count, max, mean, p50, p95, p99 } = values.unwrap_or_default();
        json!({"count": count, "max": max, "mean": mean, "p50": p50, "p95": p95, "p99": p99})
    };
    let tickets = |tickets: TicketStatus| {
        json!({
            "granted": tickets.granted,
            "done": tickets.done,
            "voided": tickets.voided,
            "torn": tickets.torn,
            "clock_staleness": distribution(tickets.clock_staleness),
            "update_staleness": distribution(tickets.update_staleness),
        })
    };
    status.tickets.map_or(Value::Null, tickets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_adds_what_only_it_has() {
        assert_eq!(text(&JobStatus::default()), "");
        assert_eq!(tickets_json(&JobStatus::default()), Value::Null);
        let staleness = Distribution { count: 4, max: 3, mean: 1.5, p50: 1, p95: 3, p99: 3 };
        let tickets = TicketStatus {
            granted: 9,
            done: 6,
            voided: 2,
            torn: 1,
            clock_staleness: Some(staleness),
            update_staleness: None,
        };
        let quorum = QuorumStatus { quorum: 3, closed: 7, dropped: 7 };
        let status = JobStatus { quorum: Some(quorum), tickets: Some(tickets), ..JobStatus::default() };
        for part in [
            "quorum 3: 7 steps closed, 7 slots left out",
            "tickets: 9 given, 6 done, 2 void (1 torn)",
            "clock staleness: mean 1.50, p50 1, p95 3, p99 3, max 3",
        ] {
            assert!(text(&status).contains(part), "expected {part:?} in {}", text(&status));
        }
        assert_eq!(tickets_json(&status)["clock_staleness"]["p95"], 3);
        assert_eq!(quorum_json(&status)["dropped"], 7);
    }
}
