//! What can happen, and the queue of it. Events of the same time happen in the order in which they were foreseen.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use halflife_proto::contribution::{BlockWeights, Contribution};
use halflife_proto::ids::{Generation, ServerIndex, Step};
use halflife_proto::membership::{Notice, Order, Report, TicketAnswer};
use halflife_proto::refusal::Refusal;
use halflife_server::lead::simulation::Joined;

use crate::keeping::Deed;
use crate::network::{ConnectionId, End};

/// From a worker.
#[derive(Clone, Debug)]
pub enum Up {
    Join,
    Leave,
    Pull(Step),
    /// The first one opens the heartbeat stream.
    Beat {
        step: Step,
        unreachable: Vec<ServerIndex>,
        ready: bool,
    },
    /// Opens a step stream.
    Open {
        from_step: Option<Step>,
    },
    Contribution(Contribution),
    /// Asks for the ticket of this sequence number.
    Ticket(u64),
    /// To come back behind the weights that wait.
    Mark(u64),
}

/// To a worker.
#[derive(Clone, Debug)]
pub enum Down {
    Joined(Box<Result<(Generation, Joined), Refusal>>),
    Left,
    Ticket(Result<TicketAnswer, Refusal>),
    Pulled(Result<Vec<BlockWeights>, Refusal>),
    HeartbeatsHeard,
    Notice(Notice),
    Welcome(Option<Step>),
    Weights(BlockWeights),
    Mark(u64),
    Acknowledged,
    /// The answer to something in a stream that goes on.
    Refusal(Refusal),
    /// The stream was refused, or ends so.
    Ended(Refusal),
}

/// What a worker set its own clock to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Begin, or ask again to join.
    Join,
    Beat,
    /// Open a stream again: to a server, or (with the number after the last server's) to the lead.
    Open(usize),
    /// The computation under way is done.
    Computed,
    /// Send once more what was refused.
    SendAgain,
    /// Ask again for a ticket.
    Ask,
    /// This mark ought to be back.
    Mark(u64),
    /// Whoever leaves has waited long enough.
    Flush,
    /// Whether a version is still torn, unless something changed since.
    Patience {
        changes: u64,
    },
    /// No answer on this connection until now means that there will be none.
    Unanswered(ConnectionId),
}

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Event {
    LeadTick,
    /// A request for a ticket gets its turn.
    DeskLooks(ConnectionId),
    /// A server wants to take part, in this life of its.
    Register {
        server: usize,
        life: u64,
    },
    Order {
        server: usize,
        link: u64,
        order: Order,
    },
    Report {
        server: usize,
        link: u64,
        report: Report,
    },
    /// A server's node looks at what its shard has to report.
    NodeLooks {
        server: usize,
        life: u64,
    },
    /// An end of the link between the lead and a server notices that it is no more.
    LinkEnded {
        server: usize,
        link: u64,
        at_lead: bool,
    },
    /// A server's process begins.
    StartServer(usize),
    ServerFault(usize),
    /// A lead that stood still goes on, though another leads by now: its life.
    FormerLeadGoesOn(u64),
    Store(Box<Deed>),
    /// A contribution of the generation before arrives.
    Late(usize),
    Up {
        connection: ConnectionId,
        number: u64,
        is_copy: bool,
        message: Up,
    },
    Down {
        connection: ConnectionId,
        number: u64,
        is_copy: bool,
        message: Down,
    },
    /// One end of a connection notices that it is no more.
    Ended {
        connection: ConnectionId,
        end: End,
    },
    Timer {
        worker: usize,
        life: u64,
        timer: Timer,
    },
    Start(usize),
    Continue(usize),
    /// The operator lets the job go on.
    Resume,
    /// The operator ends the job.
    EndEarly,
    Fault(usize),
    Probe,
}

/// A time, the order of foreseeing, an event.
struct Entry(u64, u64, Box<Event>);

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// What is to come.
#[derive(Default)]
pub struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    foreseen: u64,
}

impl Queue {
    /// Something will happen at a time.
    pub fn push(&mut self, at_us: u64, event: Event) {
        self.foreseen += 1;
        self.heap.push(Reverse(Entry(at_us, self.foreseen, Box::new(event))));
    }

    /// What happens next, and when.
    pub fn pop(&mut self) -> Option<(u64, Event)> {
        self.heap.pop().map(|Reverse(Entry(at_us, _, event))| (at_us, *event))
    }
}
