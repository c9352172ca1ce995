//! Links and the connections over them, as TCP makes them: in order and whole while they live, cut off at some message
//! when they break, silent while a partition lasts.
//!
//! Beyond TCP, on request: copies of contributions, and messages of different blocks that overtake each other.
//! What it does not do: decide what breaks. That is `faults.rs`.

use halflife_proto::blocks::BlockId;

use crate::random::Random;

/// Messages that one connection holds in one direction; a sender waits beyond that, as for TCP's windows.
pub const WINDOW: usize = 16;
/// Later copies and overtaking messages come at most so much later.
const DISORDER_US: u64 = 40_000;

/// Names a connection; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub usize);

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Up = 0,
    Down = 1,
}

/// An end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Worker = 0,
    Peer = 1,
}

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Data,
    Heartbeat,
    /// One question, one answer.
    Call,
}

/// One way of a link.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lane {
    /// A partition holds back everything until then.
    pub held_until: u64,
    pub slow_until: u64,
    /// How much slower.
    pub slow_factor: u64,
    pub copies_until: u64,
    pub disorder_until: u64,
}

/// Between one worker and one server, or one worker and the lead.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub delay_us: u64,
    pub jitter_us: u64,
    pub lanes: [Lane; 2],
}

/// A connection.
#[derive(Clone, Debug)]
pub struct Connection {
    pub worker: usize,
    /// The life of the worker that opened it.
    pub life: u64,
    /// The server's number; the lead's is the one after the last server's.
    pub peer: usize,
    pub kind: Kind,
    /// Whether each end still has it.
    pub is_open: [bool; 2],
    /// Whether something came down it.
    pub is_answered: bool,
    pub in_flight: [usize; 2],
    sent: [u64; 2],
    /// Messages from this number on never arrive.
    lost_from: [u64; 2],
    arrival: [u64; 2],
    first_arrival: [u64; 2],
    block_arrivals: Vec<(BlockId, u64)>,
}

/// When a message arrives, under which number; and its copy, if there is one.
pub struct Passage {
    pub number: u64,
    pub at_us: u64,
    pub copy_at_us: Option<u64>,
}

/// All links and connections.
pub struct Network {
    peers: usize,
    links: Vec<Link>,
    connections: Vec<Connection>,
}

impl Network {
    /// Links of `workers` workers to `peers` peers, each with a delay of its own.
    pub fn new(workers: usize, peers: usize, random: &mut Random) -> Network {
        let link = |random: &mut Random| Link {
            delay_us: random.between(100, 3_000),
            jitter_us: random.between(1, 2_000),
            lanes: [Lane::default(); 2],
        };
        let links = (0..workers * peers).map(|_| link(random)).collect();
        Network { peers, links, connections: Vec::new() }
    }

    /// A link.
    pub fn link_mut(&mut self, worker: usize, peer: usize) -> &mut Link {
        &mut self.links[worker * self.peers + peer]
    }

    /// A connection.
    pub fn get(&self, id: ConnectionId) -> &Connection {
        &self.connections[id.0]
    }

    /// A connection.
    pub fn get_mut(&mut self, id: ConnectionId) -> &mut Connection {
        &mut self.connections[id.0]
    }

    /// Connections between a worker and a peer that an end still has.
    pub fn between(&self, worker: usize, peer: Option<usize>) -> Vec<ConnectionId> {
        let known = self.connections.iter().enumerate();
        known
            .filter(|(_, connection)| {
                connection.worker == worker
                    && peer.is_none_or(|peer| connection.peer == peer)
                    && connection.is_open.contains(&true)
            })
            .map(|(number, _)| ConnectionId(number))
            .collect()
    }

    /// Opens one: the peer has it once its first message arrives.
    pub fn open(&mut self, worker: usize, life: u64, peer: usize, kind: Kind) -> ConnectionId {
        self.connections.push(Connection {
            worker,
            life,
            peer,
            kind,
            is_open: [true, false],
            is_answered: false,
            in_flight: [0; 2],
            sent: [0; 2],
            lost_from: [u64::MAX; 2],
            arrival: [0; 2],
            first_arrival: [0; 2],
            block_arrivals: Vec::new(),
        });
        ConnectionId(self.connections.len() - 1)
    }

    /// Puts a message on its way; `block` names what must stay in order even where messages overtake each other.
    pub fn send(
        &mut self,
        id: ConnectionId,
        way: Way,
        block: Option<BlockId>,
        now: u64,
        random: &mut Random,
    ) -> Option<Passage> {
        let connection = &mut self.connections[id.0];
        let link = &self.links[connection.worker * self.peers + connection.peer];
        let (lane, way) = (link.lanes[way as usize], way as usize);
        let number = connection.sent[way];
        connection.sent[way] += 1;
        connection.in_flight[way] += 1;
        if number >= connection.lost_from[way] {
            return None;
        }
        let mut travel = link.delay_us + random.below(link.jitter_us);
        if now < lane.slow_until {
            travel *= lane.slow_factor;
        }
        let mut at_us = now.max(lane.held_until) + travel;
        match block.filter(|_| now < lane.disorder_until && number > 0) {
            None => at_us = at_us.max(connection.arrival[way]),
            Some(_) => at_us = at_us.max(connection.first_arrival[way]) + random.below(DISORDER_US),
        }
        // Weights of one block never overtake each other, nor what was sent before the disorder: a stream is read in
        // order.
        if let Some(block) = block.filter(|_| way == Way::Down as usize) {
            match connection.block_arrivals.iter_mut().find(|(known, _)| *known == block) {
                Some((_, last)) => {
                    at_us = at_us.max(*last);
                    *last = at_us;
                }
                None => connection.block_arrivals.push((block, at_us)),
            }
        }
        if number == 0 {
            connection.first_arrival[way] = at_us;
        }
        connection.arrival[way] = connection.arrival[way].max(at_us);
        let is_copied = block.is_some() && way == Way::Up as usize && now < lane.copies_until && random.once_in(3);
        let copy_at_us = is_copied.then(|| at_us + random.below(DISORDER_US));
        Some(Passage { number, at_us, copy_at_us })
    }

    /// A message is there: whether it was not lost meanwhile, and its receiver still wants it.
    pub fn receive(&mut self, id: ConnectionId, way: Way, number: u64, is_copy: bool) -> bool {
        let connection = &mut self.connections[id.0];
        if !is_copy {
            connection.in_flight[way as usize] -= 1;
        }
        if way == Way::Up && number == 0 && number < connection.lost_from[0] {
            connection.is_open[1] = true;
        }
        number < connection.lost_from[way as usize] && connection.is_open[1 - way as usize]
    }

    /// Breaks a connection: of what is under way in each direction the newest messages are lost, as many as chance
    /// has it. The ends do not know yet.
    pub fn lose(&mut self, id: ConnectionId, random: &mut Random) {
        let connection = &mut self.connections[id.0];
        for way in 0..2 {
            let kept = random.below(connection.in_flight[way] as u64 + 1);
            let first_lost = connection.sent[way] - connection.in_flight[way] as u64 + kept;
            connection.lost_from[way] = connection.lost_from[way].min(first_lost);
        }
    }

    /// The peer's end is closed: nothing arrives there any more.
    pub fn forget_peer_end(&mut self, id: ConnectionId) {
        let connection = &mut self.connections[id.0];
        connection.is_open[End::Peer as usize] = false;
        connection.lost_from[Way::Up as usize] = 0;
    }

    /// Whether nothing of it is lost, which its ends may not know yet.
    pub fn is_whole(&self, id: ConnectionId) -> bool {
        self.connections[id.0].lost_from == [u64::MAX; 2]
    }

    /// Room in the window.
    pub fn has_room(&self, id: ConnectionId, way: Way) -> bool {
        self.connections[id.0].in_flight[way as usize] < WINDOW
    }
}
