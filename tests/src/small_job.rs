//! A job of four weights, whose steps can be computed by hand.

use halflife_proto::refusal::Refusal;
use halflife_server::JobSpec;
use tonic::Status;

use crate::cluster::Cluster;
use crate::tool::{Tool, ToolTensor};

/// SGD with lr 1, so that a step takes the mean gradient off the weights; ten steps, four slots, two elements in a block.
/// `settings` are further lines of `[job]`.
pub fn spec(settings: &str) -> JobSpec {
    let text = format!(
        "[job]\nname = \"small\"\nsteps = 10\nslots = 4\nblock_elements = 2\n{settings}\n\
         [optimizer]\nalgorithm = \"sgd\"\nlr = 1.0\n"
    );
    JobSpec::parse("small", &text, &[]).expect("a valid job")
}

/// Three blocks.
pub fn tensors() -> Vec<ToolTensor> {
    vec![ToolTensor::trainable("w", &[3]), ToolTensor::trainable("b", &[1])]
}

/// The job with weights `w = [1, 2, 3]`, `b = [4]`.
pub async fn started(settings: &str) -> (Cluster, Tool) {
    let cluster = Cluster::start(spec(settings)).await;
    let mut tool = Tool::join(cluster.lead_url(), tensors()).await.expect("the tool joins");
    tool.initialize(0, &[1.0, 2.0, 3.0]).await.expect("w is set");
    tool.initialize(1, &[4.0]).await.expect("b is set");
    tool.wait_for(0).await;
    (cluster, tool)
}

/// The typed refusal of a failed call, which must say something.
pub fn refusal(status: &Status) -> Refusal {
    let refusal = Refusal::from_status(status).unwrap_or_else(|| panic!("no refusal in {status:?}"));
    assert_eq!(status.code(), refusal.cause.code(), "{refusal}");
    assert!(!refusal.message.is_empty());
    refusal
}
