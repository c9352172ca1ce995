//! A small shard for unit tests: all blocks of a job on one server.

use std::sync::Arc;

use halflife_proto::hello::Fingerprint;
use halflife_proto::ids::{Generation, Incarnation, JobId, ServerIndex};
use halflife_proto::manifest::{Manifest, Tensor};

use super::{Identity, Shard, ShardCompute};
use crate::config::JobSpec;
use crate::placement::balance;

/// Generation 1 of a job with these lines in `[job]`, SGD with momentum, and a tensor of each shape.
pub(crate) fn shard(settings: &str, shapes: &[&[usize]]) -> Arc<Shard> {
    let job = format!("[job]\nname = \"test\"\n{settings}\n[optimizer]\nalgorithm = \"sgd\"\nlr = 0.5\nmomentum = 0.5");
    let spec = JobSpec::parse("the test", &job, &[]).unwrap();
    let tensors = shapes.iter().enumerate().map(|(number, shape)| Tensor::trainable(number.to_string(), shape));
    let manifest = Manifest::new(tensors.collect()).unwrap();
    let placement = balance(&manifest, 1, spec.job.block_elements, false, vec!["http://s".into()]).unwrap();
    let identity = Identity {
        job: JobId("test".to_owned()),
        generation: Generation(1),
        incarnation: Incarnation(1),
        fingerprint: Fingerprint::default(),
        index: ServerIndex(0),
    };
    let compute = Arc::new(ShardCompute::new(1).unwrap());
    Shard::new(identity, &spec, manifest, placement, compute, Arc::default()).unwrap()
}
