//! Tickets, pushes, loads, and what a person does.

use super::required;

use crate::ids::{Step, Ticket};

use crate::membership::{Operation, PushesReport, ServerLoad, TicketAnswer, VoidedTicket};

use crate::refusal::{Refusal, RefusalCause};

use crate::v1;

impl From<PushesReport> for v1::PushesReport {
    fn from(report: PushesReport) -> v1::PushesReport {
        let voided =
            |VoidedTicket { ticket, applied, missing }| v1::VoidedTicket { ticket: ticket.0, applied, missing };
        v1::PushesReport {
            done: report.done.into_iter().map(|ticket| ticket.0).collect(),
            voided: report.voided.into_iter().map(voided).collect(),
            update_staleness: report
                .update_staleness
                .into_iter()
                .map(|(staleness, updates)| v1::StalenessCount { staleness, updates })
                .collect(),
        }
    }
}

impl From<v1::PushesReport> for PushesReport {
    fn from(wire: v1::PushesReport) -> PushesReport {
        let voided =
            |v1::VoidedTicket { ticket, applied, missing }| VoidedTicket { ticket: Ticket(ticket), applied, missing };
        PushesReport {
            done: wire.done.into_iter().map(Ticket).collect(),
            voided: wire.voided.into_iter().map(voided).collect(),
            update_staleness: wire.update_staleness.into_iter().map(|count| (count.staleness, count.updates)).collect(),
        }
    }
}

impl From<TicketAnswer> for v1::TicketResponse {
    fn from(answer: TicketAnswer) -> v1::TicketResponse {
        use v1::ticket_response::Answer as Wire;
        let answer = match answer {
            TicketAnswer::Granted(ticket) => Wire::Granted(ticket.0),
            TicketAnswer::Wait => Wire::Wait(v1::TicketWait {}),
            TicketAnswer::Finished(step) => Wire::Finished(v1::Finished { step: step.0 }),
        };
        v1::TicketResponse { answer: Some(answer) }
    }
}

/// Reads the answer to a request for a ticket.
///
/// # Errors
/// `MALFORMED` for an empty one, or ticket 0.
pub fn read_ticket_answer(wire: v1::TicketResponse) -> Result<TicketAnswer, Refusal> {
    use v1::ticket_response::Answer as Wire;
    match required(wire.answer, "answer")? {
        Wire::Granted(0) => Err(Refusal::mismatch(RefusalCause::Malformed, "ticket", "from 1", 0)),
        Wire::Granted(ticket) => Ok(TicketAnswer::Granted(Ticket(ticket))),
        Wire::Wait(v1::TicketWait {}) => Ok(TicketAnswer::Wait),
        Wire::Finished(finished) => Ok(TicketAnswer::Finished(Step(finished.step))),
    }
}

impl From<ServerLoad> for v1::ServerLoad {
    fn from(load: ServerLoad) -> v1::ServerLoad {
        let ServerLoad { gathered_bytes, queued_work, sessions } = load;
        v1::ServerLoad { gathered_bytes, queued_work, sessions }
    }
}

impl From<Operation> for v1::OperateRequest {
    fn from(operation: Operation) -> v1::OperateRequest {
        use v1::operate_request::Operation as Wire;
        let operation = match operation {
            Operation::Pause => Wire::Pause(v1::Pause {}),
            Operation::Resume => Wire::Resume(v1::Resume {}),
            Operation::Drain(worker_number) => Wire::Drain(v1::Drain { worker_number }),
            Operation::Stop => Wire::Stop(v1::Stop {}),
            Operation::Checkpoint => Wire::Checkpoint(v1::Checkpoint {}),
        };
        v1::OperateRequest { operation: Some(operation) }
    }
}

/// Reads what a person does to a job.
///
/// # Errors
/// `MALFORMED` when it is nothing.
pub fn read_operation(wire: v1::OperateRequest) -> Result<Operation, Refusal> {
    use v1::operate_request::Operation as Wire;
    Ok(match required(wire.operation, "operation")? {
        Wire::Pause(v1::Pause {}) => Operation::Pause,
        Wire::Resume(v1::Resume {}) => Operation::Resume,
        Wire::Drain(drain) => Operation::Drain(drain.worker_number),
        Wire::Stop(v1::Stop {}) => Operation::Stop,
        Wire::Checkpoint(v1::Checkpoint {}) => Operation::Checkpoint,
    })
}
