//! What lead, servers and workers tell each other.

use super::{read_block_id, read_contribution, read_hello, read_manifest, read_placement, read_slots, required};
use crate::blocks::BlockId;

use crate::ids::{ServerIndex, Step, Ticket};

use super::checkpoints::{read_plan, read_saved, saved};
use crate::membership::{Assignment, Notice, Order, Partial, Report, ServerLoad, Total};
use crate::placement::ServerAddress;
use crate::refusal::Refusal;

use crate::v1;

use std::num::NonZeroU64;

impl From<&Assignment> for v1::Assignment {
    fn from(assignment: &Assignment) -> v1::Assignment {
        v1::Assignment {
            epoch: assignment.epoch,
            from_step: assignment.from_step.0,
            nodes: assignment.nodes.iter().map(|node| (*node).into()).collect(),
            initialize: assignment.initialize,
        }
    }
}

/// Reads an assignment.
///
/// # Errors
/// `MALFORMED` without one, `MISALIGNED_SLOTS` for an empty range.
pub fn read_assignment(wire: Option<v1::Assignment>) -> Result<Assignment, Refusal> {
    let wire = required(wire, "assignment")?;
    Ok(Assignment {
        epoch: wire.epoch,
        from_step: Step(wire.from_step),
        nodes: wire.nodes.into_iter().map(|node| read_slots(Some(node))).collect::<Result<_, _>>()?,
        initialize: wire.initialize,
    })
}

impl From<Notice> for v1::Notice {
    fn from(notice: Notice) -> v1::Notice {
        use v1::notice::Notice as Wire;
        let notice = match notice {
            Notice::Assignment(assignment) => Wire::Assignment((&assignment).into()),
            Notice::Fenced(refusal) => Wire::Fenced(refusal.into()),
            Notice::Finished(step) => Wire::Finished(v1::Finished { step: step.0 }),
            Notice::Stopped(refusal) => Wire::Stopped(refusal.into()),
            Notice::Hold(after) => Wire::Hold(v1::Hold { after_step: after.map(|step| step.0) }),
            Notice::Drained => Wire::Drained(v1::Drained {}),
        };
        v1::Notice { notice: Some(notice) }
    }
}

/// Reads a notice.
///
/// # Errors
/// A [`Refusal`] of what is malformed.
pub fn read_notice(wire: v1::Notice) -> Result<Notice, Refusal> {
    use v1::notice::Notice as Wire;
    Ok(match required(wire.notice, "notice")? {
        Wire::Assignment(assignment) => Notice::Assignment(read_assignment(Some(assignment))?),
        Wire::Fenced(refusal) => Notice::Fenced(refusal.into()),
        Wire::Finished(finished) => Notice::Finished(Step(finished.step)),
        Wire::Stopped(refusal) => Notice::Stopped(refusal.into()),
        Wire::Hold(hold) => Notice::Hold(hold.after_step.map(Step)),
        Wire::Drained(v1::Drained {}) => Notice::Drained,
    })
}

impl From<Order> for v1::ServerOrder {
    fn from(order: Order) -> v1::ServerOrder {
        use v1::server_order::Order as Wire;
        let order = match order {
            Order::Admit { lead, index, job_toml } => {
                Wire::Admission(v1::Admission { lead: Some((&lead).into()), server_index: index.0, job_toml })
            }
            Order::Place { manifest, placement, checkpoint } => Wire::Place(v1::Place {
                manifest: Some((&manifest).into()),
                placement: Some((&placement).into()),
                checkpoint: checkpoint.map(Into::into),
            }),
            Order::Initialize(contribution) => Wire::Initialize(contribution.into()),
            Order::Halt(refusal) => Wire::Halt(refusal.into()),
            Order::Finish(step) => Wire::Finish(v1::Finished { step: step.0 }),
            Order::Total(Total { step, stage, sums: [first, second] }) => {
                Wire::TotalSums(v1::TotalSums { step: step.0, stage, first, second })
            }
            Order::Close { step, slots } => Wire::CloseStep(v1::CloseStep { step: step.0, slots }),
            Order::Void(tickets) => {
                Wire::VoidTickets(v1::VoidTickets { tickets: tickets.into_iter().map(|ticket| ticket.0).collect() })
            }
            Order::AskMissing(step) => Wire::AskMissing(v1::AskMissing { step: step.0 }),
            Order::LastStep(step) => Wire::LastStep(v1::LastStep { step: step.0 }),
            Order::Cut(step) => Wire::Cut(v1::Cut { step: step.0 }),
            Order::Durable(step) => Wire::Durable(v1::Durable { step: step.0 }),
        };
        v1::ServerOrder { order: Some(order) }
    }
}

/// Reads an order.
///
/// # Errors
/// A [`Refusal`] of what is malformed.
pub fn read_order(wire: v1::ServerOrder) -> Result<Order, Refusal> {
    use v1::server_order::Order as Wire;
    Ok(match required(wire.order, "order")? {
        Wire::Admission(admission) => Order::Admit {
            lead: read_hello(admission.lead)?,
            index: ServerIndex(admission.server_index),
            job_toml: admission.job_toml,
        },
        Wire::Place(place) => {
            let manifest = read_manifest(place.manifest)?;
            let placement = read_placement(place.placement, &manifest)?;
            Order::Place { manifest, placement, checkpoint: place.checkpoint.map(read_plan) }
        }
        Wire::Initialize(contribution) => Order::Initialize(read_contribution(contribution)?),
        Wire::Halt(refusal) => Order::Halt(refusal.into()),
        Wire::Finish(finished) => Order::Finish(Step(finished.step)),
        Wire::TotalSums(total) => {
            Order::Total(Total { step: Step(total.step), stage: total.stage, sums: [total.first, total.second] })
        }
        Wire::CloseStep(close) => Order::Close { step: Step(close.step), slots: close.slots },
        Wire::VoidTickets(void) => Order::Void(void.tickets.into_iter().map(Ticket).collect()),
        Wire::AskMissing(ask) => Order::AskMissing(Step(ask.step)),
        Wire::LastStep(last) => Order::LastStep(Step(last.step)),
        Wire::Cut(cut) => Order::Cut(Step(cut.step)),
        Wire::Durable(durable) => Order::Durable(Step(durable.step)),
    })
}

impl From<Report> for v1::ServerReport {
    fn from(report: Report) -> v1::ServerReport {
        use v1::server_report::Report as Wire;
        let report = match report {
            Report::Register { hello, address: ServerAddress { url, unix_socket }, memory_max } => {
                let memory_max = memory_max.map_or(0, NonZeroU64::get);
                Wire::Registration(v1::Registration { hello: Some((&hello).into()), url, unix_socket, memory_max })
            }
            Report::Missing(step, slots) => Wire::Missing(v1::MissingSlots {
                step: step.0,
                slots: slots.into_iter().map(v1::SlotRange::from).collect(),
            }),
            Report::LastStep(step) => Wire::LastStep(v1::LastStep { step: step.0 }),
            Report::Load(load) => Wire::Load(load.into()),
            Report::Placed(placement_version) => Wire::Placed(v1::Placed { placement_version }),
            Report::Complete(step) => Wire::StepComplete(v1::StepComplete { step: step.0 }),
            Report::Halted(refusal) => Wire::Halted(refusal.into()),
            Report::Partial(Partial { step, stage, blocks }) => {
                let sums = |(block, [first, second]): (BlockId, [f64; 2])| v1::BlockSums {
                    block: Some(block.into()),
                    first,
                    second,
                };
                Wire::PartialSums(v1::PartialSums {
                    step: step.0,
                    stage,
                    blocks: blocks.into_iter().map(sums).collect(),
                })
            }
            Report::Slots { step, slots } => Wire::SlotsComplete(v1::SlotsComplete { step: step.0, slots }),
            Report::Pushes(pushes) => Wire::Pushes(pushes.into()),
            Report::CutPassed { step, newest } => Wire::CutPassed(v1::CutPassed { step: step.0, newest: newest.0 }),
            Report::CutTaken(step) => Wire::CutTaken(v1::CutTaken { step: step.0 }),
            Report::Saved(step, file) => Wire::Saved(saved(step, file)),
            Report::SaveFailed(step, reason) => Wire::SaveFailed(v1::SaveFailed { step: step.0, reason }),
        };
        v1::ServerReport { report: Some(report) }
    }
}

/// Reads a report.
///
/// # Errors
/// A [`Refusal`] of what is malformed.
pub fn read_report(wire: v1::ServerReport) -> Result<Report, Refusal> {
    use v1::server_report::Report as Wire;
    Ok(match required(wire.report, "report")? {
        Wire::Registration(registration) => {
            let address = ServerAddress { url: registration.url, unix_socket: registration.unix_socket };
            let memory_max = NonZeroU64::new(registration.memory_max);
            Report::Register { hello: read_hello(registration.hello)?, address, memory_max }
        }
        Wire::Missing(missing) => {
            let slots = missing.slots.into_iter().map(|slots| read_slots(Some(slots))).collect::<Result<_, _>>()?;
            Report::Missing(Step(missing.step), slots)
        }
        Wire::LastStep(last) => Report::LastStep(Step(last.step)),
        Wire::Load(v1::ServerLoad { gathered_bytes, queued_work, sessions }) => {
            Report::Load(ServerLoad { gathered_bytes, queued_work, sessions })
        }
        Wire::Placed(placed) => Report::Placed(placed.placement_version),
        Wire::StepComplete(complete) => Report::Complete(Step(complete.step)),
        Wire::Halted(refusal) => Report::Halted(refusal.into()),
        Wire::PartialSums(partial) => {
            let sums = |wire: v1::BlockSums| Ok((read_block_id(wire.block)?, [wire.first, wire.second]));
            let blocks = partial.blocks.into_iter().map(sums).collect::<Result<_, Refusal>>()?;
            Report::Partial(Partial { step: Step(partial.step), stage: partial.stage, blocks })
        }
        Wire::SlotsComplete(complete) => Report::Slots { step: Step(complete.step), slots: complete.slots },
        Wire::Pushes(pushes) => Report::Pushes(pushes.into()),
        Wire::CutPassed(v1::CutPassed { step, newest }) => Report::CutPassed { step: Step(step), newest: Step(newest) },
        Wire::CutTaken(taken) => Report::CutTaken(Step(taken.step)),
        Wire::Saved(saved) => Report::Saved(Step(saved.step), read_saved(&saved)?),
        Wire::SaveFailed(failed) => Report::SaveFailed(Step(failed.step), failed.reason),
    })
}
