//! What the benches have in common: the cases, their arrays, and the bound: a loop with the same
//! traffic and trivial arithmetic.
//!
//! A part is what one thread works on: a tensor of its own, so that rules with norms over a tensor
//! take part too. Their bound reads once more what the norm reads.

mod bound;

use halflife_optim::{KernelPath, Optimizer, OptimizerConfig, Plane, PlaneMut, Reduction, StepFactors};

/// Columns of the tensors; sizes are multiples of it.
const COLUMNS: usize = 1000;
const ADAM: &str = "algorithm = \"adam\"\nlr = 0.001";
const DECAY: &str = "\n[weight_decay]\nmode = \"decoupled\"\nvalue = 0.1";
const L2: &str = "\n[weight_decay]\nmode = \"l2\"\nvalue = 0.1";

/// What is measured: a name and an optimizer.
pub struct Case {
    pub name: String,
    pub optimizer: Optimizer,
}

impl Case {
    pub fn new(name: &str, text: &str) -> Self {
        let config: OptimizerConfig = toml::from_str(text).unwrap();
        Self { name: name.into(), optimizer: Optimizer::new(&config, 1000).unwrap() }
    }

    /// The same case on another build of the loops.
    pub fn on(&self, path: KernelPath) -> Self {
        let name = format!("{}, {}", self.name, path.instructions());
        Self { name, optimizer: self.optimizer.clone().with_kernel_path(path) }
    }
}

/// `AdamW`, or the same without decay.
pub fn adam(decays: bool) -> Case {
    if decays { Case::new("adamw", &format!("{ADAM}{DECAY}")) } else { Case::new("adam", ADAM) }
}

/// Every rule, the gradient pipelines that are common, and state in bf16.
pub fn cases() -> Vec<Case> {
    let piped = |ops: &str, decay: &str| format!("{ADAM}\ngradient = [{ops}]{decay}");
    let decayed = |algorithm: &str| format!("algorithm = \"{algorithm}\"\nlr = 0.001{DECAY}");
    let clip_value = "{ op = \"clip_value\", at = 1.0 }";
    let clip_norm = "{ op = \"clip_norm\", max_norm = 1.0 }";
    let half = format!("state_dtype = \"bf16\"\n{ADAM}{DECAY}");
    [
        adam(true),
        adam(false),
        Case::new("adamw, amsgrad", &format!("amsgrad = true\n{ADAM}{DECAY}")),
        Case::new("adam, l2", &format!("{ADAM}{L2}")),
        Case::new("adam, l1", &format!("{ADAM}{}", L2.replace("l2", "l1"))),
        Case::new("adamw, clip_value", &piped(clip_value, DECAY)),
        Case::new("adamw, rescale", &piped("{ op = \"rescale\", by = 0.5 }", DECAY)),
        Case::new("adamw, clip_norm", &piped(clip_norm, DECAY)),
        Case::new("adamw, bf16", &half),
        Case::new("nadam_torch", &decayed("nadam_torch")),
        Case::new("nadam_optax", &decayed("nadam_optax")),
        Case::new("radam", &decayed("radam")),
        Case::new("sgd", &decayed("sgd")),
        Case::new("sgd, momentum", &format!("momentum = 0.9\n{}", decayed("sgd"))),
        Case::new("lion", &decayed("lion")),
        Case::new("lion, bf16", &format!("state_dtype = \"bf16\"\n{}", decayed("lion"))),
        Case::new("lamb", &decayed("lamb")),
        Case::new("adafactor_torch", &decayed("adafactor_torch")),
    ]
    .into()
}

/// The tensor of one thread.
pub struct Part {
    shape: [usize; 2],
    weights: Vec<f32>,
    next: Vec<f32>,
    gradient: Vec<f32>,
    planes: Vec<Plane>,
    factors: StepFactors,
}

impl Part {
    /// A tensor of `size` elements, a multiple of a thousand.
    pub fn new(case: &Case, size: usize) -> Self {
        let shape = [size / COLUMNS, COLUMNS];
        let optimizer = &case.optimizer;
        let mut part = Self {
            shape,
            weights: vec![0.5; size],
            next: vec![0.5; size],
            gradient: (0..size).map(|i| ((i % 17) as f32 - 8.0) * 1e-3).collect(),
            planes: optimizer.planes().iter().map(|spec| Plane::new(spec, spec.length(&shape))).collect(),
            factors: optimizer.factors(&optimizer.tensor("w", &shape), 500, 500),
        };
        // Some value in every plane: arithmetic on zeros and denormals is another thing.
        for _ in 0..3 {
            part.update(case);
        }
        part
    }

    /// Goes on with another case that has the same planes.
    #[allow(dead_code)] // not every bench compares two cases
    pub fn switch_to(&mut self, case: &Case) {
        self.factors = case.optimizer.factors(&case.optimizer.tensor("w", &self.shape), 500, 500);
    }

    /// One update of the tensor, its norms included.
    pub fn update(&mut self, case: &Case) {
        let mut planes: Vec<PlaneMut<'_>> = self.planes.iter_mut().map(Plane::view_mut).collect();
        let (weights, next) = (&self.weights, &mut self.next);
        case.optimizer.update_tensor(&self.factors, &self.shape, weights, next, &mut planes, &self.gradient);
    }

    /// The loop with the same traffic.
    pub fn bound(&mut self, case: &Case) {
        if !case.optimizer.reductions().is_empty() {
            let planes = if self.reads_planes_twice(case) { self.planes.as_slice() } else { &[] };
            bound::read(&self.weights, &self.gradient, planes);
        }
        // Adafactor's planes are small: its bound is that of a rule without state.
        let planes = if case.optimizer.needs_whole_tensors() { &mut [] } else { self.planes.as_mut_slice() };
        bound::update(&self.weights, &mut self.next, &self.gradient, planes);
    }

    fn reads_planes_twice(&self, case: &Case) -> bool {
        case.optimizer.reductions().contains(&Reduction::TrustRatio)
    }

    /// Bytes that one update reads and writes at least.
    pub fn bytes(&self, case: &Case) -> usize {
        let size = self.weights.len();
        let state = case.optimizer.state_bytes_per_parameter();
        let read = match (case.optimizer.reductions().is_empty(), self.reads_planes_twice(case)) {
            (true, _) => 0,
            (false, with_planes) => 4 * size + if with_planes { (4 + state) * size } else { 0 },
        };
        read + (12 + 2 * state) * size
    }
}
