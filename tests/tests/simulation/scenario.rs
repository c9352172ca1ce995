//! What a seed decides before anything runs: the job, the cluster, the faults and when they strike.

use std::time::Duration;

use halflife_checkpoint::Retention;
use halflife_client::Layout;
use halflife_client::simulation::JobTerms;
use halflife_optim::Optimizer;
use halflife_proto::blocks::{BlockId, all_blocks};
use halflife_proto::contribution::{Contribution, Payload};
use halflife_proto::ids::{Generation, ServerIndex, Step, TensorIndex};
use halflife_proto::manifest::{Manifest, Role, Tensor};
use halflife_proto::membership::Order;
use halflife_proto::placement::Placement;
use halflife_proto::slots::{SlotRange, SlotTree};
use halflife_proto::tensor_codec::Encoded;
use halflife_server::JobSpec;
use halflife_server::lead::{Demand, Keeping, Settings};

use crate::faults::{Fault, PlannedFault, Point};
use crate::gradient::initial_weights;
use crate::random::Random;
use crate::server_faults::{PlannedServerFault, plan_server_faults};

/// Steps of a disturbed job.
const STEPS: u64 = 120;
/// Steps of one that keeps checkpoints.
const STEPS_KEPT: u64 = 48;
/// Servers of a disturbed job.
const SERVERS: u32 = 3;
/// Now and then: so many that one has only a block that never changes, and with whole tensors some have none.
const SERVERS_MANY: u32 = 9;
/// Elements of a block: so few that every update runs inline, and most tensors are cut.
pub const BLOCK_ELEMENTS: usize = 4;
/// Silence that costs a worker its slots.
pub const LEASE_US: u64 = 1_000_000;
/// Time between heartbeats.
pub const HEARTBEAT_US: u64 = 200_000;
/// The generation of a job that keeps no checkpoints: not the first, so that there is an older one.
pub const GENERATION: Generation = Generation(7);

/// When steps are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// When every slot is in.
    Sync,
    /// When so many slots are in, fewer than all.
    Quorum(u32),
    /// Each push at once; nobody starts so many of its own pushes ahead of the slowest.
    Bounded(u64),
    /// Each push at once.
    Async,
}

impl Mode {
    fn draw(slots: u32, random: &mut Random) -> Mode {
        match random.below(8) {
            0..4 => Mode::Sync,
            4 => Mode::Bounded(random.below(5)),
            5 => Mode::Async,
            _ if slots > 1 => Mode::Quorum(random.between(1, u64::from(slots) - 1) as u32),
            _ => Mode::Sync,
        }
    }

    /// As the job file says it.
    fn text(self) -> String {
        match self {
            Mode::Sync => "mode = \"sync\"".to_owned(),
            Mode::Quorum(quorum) => format!("mode = \"sync\"\nquorum = {quorum}"),
            Mode::Bounded(bound) => format!("mode = \"bounded\"\nstaleness = {bound}"),
            Mode::Async => "mode = \"async\"".to_owned(),
        }
    }

    /// Whether each push is applied by itself.
    pub fn has_tickets(self) -> bool {
        matches!(self, Mode::Bounded(_) | Mode::Async)
    }
}

/// What NaN there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nan {
    /// None.
    Never,
    /// Now and then one, in a job that lets such steps pass.
    Skipped,
    /// One at this step, which stops the job.
    StopsAt(Step),
}

/// How the job ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With its last step.
    Finished,
    /// A server is lost once this step is complete, which stops the job.
    ServerLost(u64),
    /// A NaN stops the job.
    Nonfinite,
    /// The operator ends it in good order, so long after this step is complete.
    Early { at_step: u64, after_us: u64 },
}

/// How bad the faults of a seed are; what is promised depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Connections break and are opened again: nothing waits for a lease.
    Light,
    /// Whoever is gone is silent.
    Open,
    /// A worker's heart may beat on while it is cut off from its work.
    Hidden,
}

/// The job and all that follows from it.
#[derive(Clone, Debug)]
pub struct Job {
    pub seed: u64,
    pub mode: Mode,
    pub spec: JobSpec,
    pub manifest: Manifest,
    pub layout: Layout,
    pub nan: Nan,
    /// The lead sends the initial weights, from a file.
    pub from_file: bool,
    /// How it keeps checkpoints, if it does.
    pub checkpoints: Option<KeptBy>,
}

/// How a job keeps checkpoints.
#[derive(Clone, Copy, Debug)]
pub struct KeptBy {
    pub every: u64,
    pub retention: Retention,
    /// Whether the store is full for ever in the end.
    pub fills_up: bool,
}

impl KeptBy {
    /// Now and then; from chance of its own, so that all else of a seed stays as it is.
    fn draw(seed: u64) -> Option<KeptBy> {
        let random = &mut Random::new(seed ^ 0xc4ec);
        let keeps = random.once_in(3);
        let every = random.between(2, 9);
        let keep_every = if random.once_in(3) { 2 * every } else { 0 };
        let retention = Retention { keep_last: random.between(0, 3) as usize, keep_every };
        let fills_up = random.once_in(6);
        keeps.then_some(KeptBy { every, retention, fills_up })
    }
}

impl Job {
    fn draw(seed: u64, servers: u32, nan: Nan, checkpoints: Option<KeptBy>, random: &mut Random) -> Job {
        let steps = steps(checkpoints);
        let slots = random.pick(&[1, 2, 3, 4, 5, 6, 8, 11]);
        let mode = Mode::draw(slots, random);
        let combine = random.pick(&["mean", "mean", "weighted_mean", "sum"]);
        let gradients = random.pick(&["f32", "f32", "f32", "bf16"]);
        let weights = random.pick(&["f32", "f32", "f32", "bf16"]);
        // Rules that need a norm over more than a block are refused where there are no steps for all blocks.
        let optimizers = if mode.has_tickets() { &OPTIMIZERS[..BLOCKWISE] } else { &OPTIMIZERS[..] };
        let optimizer = random.pick(optimizers);
        let nonfinite = if matches!(nan, Nan::StopsAt(_)) { "stop" } else { "skip" };
        let (heartbeat_ms, lease_ms) = (HEARTBEAT_US / 1000, LEASE_US / 1000);
        let text = format!(
            "[job]\nname = \"simulation\"\nseed = {}\nsteps = {steps}\nslots = {slots}\nservers = {servers}\n\
             block_elements = {BLOCK_ELEMENTS}\n{}\ncombine = \"{combine}\"\nnonfinite = \"{nonfinite}\"\n\
             [membership]\nheartbeat_ms = {heartbeat_ms}\nlease_ms = {lease_ms}\n\
             [wire]\ngradients = \"{gradients}\"\nweights = \"{weights}\"\n\
             {optimizer}",
            seed >> 1, // TOML's integers are signed
            mode.text(),
        );
        let spec = JobSpec::parse("the simulated job", &text, &[]).expect("a job of the simulator's own");
        let manifest = manifest();
        let layout = Layout::new(&manifest);
        let from_file = random.once_in(5);
        Job { seed, mode, spec, manifest, layout, nan, from_file, checkpoints }
    }

    /// What the workers know of it.
    pub fn terms(&self, generation: Generation) -> JobTerms {
        let tree = SlotTree::new(self.spec.job.slots).expect("at least one slot");
        let (steps, combine, wire) = (self.spec.job.steps, self.spec.job.combine, self.spec.wire);
        let (consistency, keeps_checkpoints) = (self.spec.job.consistency(), self.checkpoints.is_some());
        JobTerms { generation, tree, steps, combine, wire, consistency, keeps_checkpoints }
    }

    /// What the lead decides by, as `Lead::new` makes it of a job.
    pub fn settings(&self, checkpoints: Option<Keeping>) -> Settings {
        let is_restored = checkpoints.as_ref().is_some_and(|keeping| keeping.restored.is_some());
        let job = &self.spec.job;
        let optimizer = Optimizer::new(&self.spec.optimizer, job.steps).expect("a job spec has a valid optimizer");
        let norms_of_tensors = optimizer.reductions().iter().any(|reduction| !reduction.is_global());
        let shapes = || {
            let own = self.manifest.tensors().iter().filter(|tensor| !matches!(tensor.role, Role::Tied(_)));
            own.map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect()
        };
        Settings {
            whole_tensors: optimizer.needs_whole_tensors() || norms_of_tensors,
            servers: job.servers,
            slots: SlotTree::new(job.slots).expect("at least one slot"),
            steps: Step(job.steps),
            block_elements: job.block_elements,
            initial_tensors: (self.from_file && !is_restored).then(shapes),
            lease: Duration::from_micros(LEASE_US),
            demand: Demand::default(), // no server bounds its memory
            checkpoints,
            forming: None,
            consistency: job.consistency(),
        }
    }

    /// What the lead sends to initialize from a file, as `lead/initial_weights.rs` does.
    pub fn initial_orders(
        &self,
        model: Option<&(Manifest, Placement)>,
        generation: Generation,
    ) -> Vec<(ServerIndex, Order)> {
        let Some((manifest, placement)) = model else { return Vec::new() };
        let weights = initial_weights(self.seed, self.layout.elements());
        let order = |(block, range): (BlockId, std::ops::Range<u64>)| {
            let begin = self.layout.range(block.tensor).start;
            let values = &weights[begin + range.start as usize..begin + range.end as usize];
            let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let order = Order::Initialize(Contribution {
                block,
                generation,
                step: Step::ZERO,
                slots: SlotRange { begin: 0, end: 1 },
                weight: 1.0,
                payload: Payload::Dense(Encoded::f32(data)),
                push: None,
            });
            Some((placement.server_of(block)?, order))
        };
        all_blocks(manifest, placement.block_elements()).filter_map(order).collect()
    }

    /// Tensors that the optimizer moves.
    pub fn trainable(&self) -> impl Iterator<Item = u32> + '_ {
        self.of_role(|role| *role == Role::Trainable)
    }

    /// All slots.
    pub fn root(&self) -> SlotRange {
        SlotTree::new(self.spec.job.slots).expect("at least one slot").root()
    }

    /// Whether steps change a tensor.
    pub fn changes(&self, tensor: TensorIndex) -> bool {
        tensor.0 == self.buffer() || self.trainable().any(|index| index == tensor.0)
    }

    /// The buffer.
    pub fn buffer(&self) -> u32 {
        self.of_role(|role| *role == Role::Buffer).next().expect("the model has a buffer")
    }

    fn of_role(&self, wanted: impl Fn(&Role) -> bool) -> impl Iterator<Item = u32> {
        let tensors = self.manifest.tensors().iter().enumerate();
        tensors.filter(move |(_, tensor)| wanted(&tensor.role)).map(|(index, _)| index as u32)
    }
}

/// How many of them need no norm.
const BLOCKWISE: usize = 2;
/// One of each kind: plain, with a norm over the model, with whole tensors.
const OPTIMIZERS: [&str; 4] = [
    "[optimizer]\nalgorithm = \"adam\"\nbetas = [0.9, 0.999]\neps = 1e-8\nlr = 0.01\n\
     [optimizer.weight_decay]\nmode = \"decoupled\"\nvalue = 0.01\n",
    "[optimizer]\npreset = \"pytorch-sgd\"\nlr = 0.01\nmomentum = 0.9\n",
    "[optimizer]\nalgorithm = \"adam\"\nbetas = [0.9, 0.999]\neps = 1e-8\nlr = 0.01\n\
     gradient = [{ op = \"clip_global_norm\", max_norm = 0.5 }]\n\
     [optimizer.weight_decay]\nmode = \"decoupled\"\nvalue = 0.01\n",
    "[optimizer]\npreset = \"optax-lamb\"\nlr = 0.01\n",
];

/// Every role, and tensors that are cut into several blocks, the last of them not whole.
fn manifest() -> Manifest {
    let frozen = Tensor { role: Role::Frozen, ..Tensor::trainable("frozen", &[4]) };
    let tied = Tensor { role: Role::Tied("weight".into()), ..Tensor::trainable("tied", &[5, 4]) };
    let buffer = Tensor { role: Role::Buffer, ..Tensor::trainable("mean", &[3]) };
    let weight = Tensor::trainable("weight", &[5, 4]);
    Manifest::new(vec![frozen, weight, tied, Tensor::trainable("bias", &[6]), buffer]).expect("a manifest")
}

/// Everything a seed decides.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub job: Job,
    pub workers: usize,
    pub ending: Ending,
    pub severity: Severity,
    /// By the step whose completion sets them off.
    pub faults: Vec<PlannedFault>,
    /// The same of servers, in a job that keeps checkpoints.
    pub server_faults: Vec<PlannedServerFault>,
    /// Whether the whole state of blocks is noted, beside their weights.
    pub notes_states: bool,
    /// Whether nonsense is sent to servers and lead now and then.
    pub probes: bool,
}

impl Scenario {
    /// What `seed` stands for.
    pub fn draw(seed: u64) -> Scenario {
        let mut random = Random::new(seed);
        let checkpoints = KeptBy::draw(seed);
        let steps = steps(checkpoints);
        let ending = match random.below(10) {
            // Whoever keeps checkpoints comes back after the loss of a server; after a NaN nobody does.
            0 if checkpoints.is_none() => Ending::ServerLost(random.between(steps - 15, steps - 2)),
            1 if checkpoints.is_none() => Ending::Nonfinite,
            2 => Ending::Early { at_step: random.between(steps - 15, steps - 2), after_us: random.below(40_000) },
            _ => Ending::Finished,
        };
        let nan = match ending {
            Ending::Nonfinite => Nan::StopsAt(Step(random.between(steps - 14, steps))),
            _ if random.once_in(3) => Nan::Skipped,
            _ => Nan::Never,
        };
        let job_seed = random.next();
        let servers = if job_seed.is_multiple_of(12) { SERVERS_MANY } else { SERVERS };
        let job = Job::draw(job_seed, servers, nan, checkpoints, &mut random);
        let workers = random.between(2, 6) as usize;
        let severity = match random.below(8) {
            0 => Severity::Light,
            1..5 => Severity::Open,
            _ => Severity::Hidden,
        };
        let end = steps - steps / 4;
        let mut faults = plan_faults(severity, job.mode.has_tickets(), end, &mut random);
        if let Ending::Early { at_step, .. } = ending
            && severity != Severity::Light
        {
            faults.extend(plan_slow_end(at_step, &mut random));
            faults.sort_by_key(|planned| planned.at_step);
        }
        let server_faults = match checkpoints {
            Some(_) => plan_server_faults(end, &mut random),
            None => Vec::new(),
        };
        let notes_states = checkpoints.is_some();
        Scenario { seed, job, workers, ending, severity, faults, server_faults, notes_states, probes: true }
    }

    /// The same job without anything that could go wrong: one worker, one server.
    pub fn undisturbed(&self) -> Scenario {
        let mut job = self.job.clone();
        job.spec.job.servers = 1;
        job.checkpoints = None;
        let ending = if self.ending == Ending::Nonfinite { Ending::Nonfinite } else { Ending::Finished };
        let severity = Severity::Light;
        let (seed, faults, server_faults) = (self.seed, Vec::new(), Vec::new());
        let notes_states = self.notes_states;
        Scenario { seed, job, workers: 1, ending, severity, faults, server_faults, notes_states, probes: false }
    }
}

/// Steps of a job: fewer where many are made twice.
fn steps(checkpoints: Option<KeptBy>) -> u64 {
    if checkpoints.is_some() { STEPS_KEPT } else { STEPS }
}

/// While the job is asked to end the lead hears late from a server or two: it knows an older step than theirs.
fn plan_slow_end(at_step: u64, random: &mut Random) -> Vec<PlannedFault> {
    let slow = |_| PlannedFault {
        at_step: at_step - random.between(0, 2),
        after_us: random.below(60_000),
        point: Point::Now,
        blocks: 1,
        fault: Fault::SlowServer,
        lasts_us: random.between(50_000, 1_000_000),
    };
    (0..2).map(slow).collect()
}

/// Every fault strikes before step `end`, even one whose point nobody comes to.
fn plan_faults(severity: Severity, has_tickets: bool, end: u64, random: &mut Random) -> Vec<PlannedFault> {
    let count = random.between(5, 14);
    let mut faults: Vec<PlannedFault> = (0..count)
        .map(|number| {
            let at_step = if number == 0 && random.once_in(2) { 0 } else { random.below(end) };
            let point = match random.below(3) {
                0 => Point::Now,
                _ => loop {
                    let point = random.pick(&Point::ALL);
                    // Who loses the answer to its request to join is waited for as long as its lease.
                    let is_light = severity != Severity::Light || point != Point::Joining;
                    if point.is_of(has_tickets) && is_light {
                        break point;
                    }
                },
            };
            let fault = loop {
                let fault = match (severity, point) {
                    (Severity::Light, _) => random.pick(&Fault::LIGHT),
                    // Who has just joined has no connections yet but the one that its answer comes by.
                    (_, Point::Joining) => random.pick(&Fault::OF_JOINERS),
                    _ => random.pick(&Fault::ALL),
                };
                if severity == Severity::Hidden || !fault.hides_behind_heartbeats() {
                    break fault;
                }
            };
            // Workers join before the first step, and again only after faults.
            let is_early = point == Point::Initializing || (point == Point::Joining && random.once_in(2));
            let at_step = if is_early { 0 } else { at_step };
            let (after_us, blocks) = (random.below(60_000), random.between(1, 12));
            let longest_us = if fault.hides_behind_heartbeats() { 10_000_000 } else { 3_500_000 };
            let lasts_us = random.between(50_000, longest_us);
            PlannedFault { at_step, after_us, point, blocks, fault, lasts_us }
        })
        .collect();
    faults.sort_by_key(|planned| planned.at_step);
    faults
}
