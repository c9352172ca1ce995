//! How many servers.

use halflife_proto::blocks::BLOCKS_MAX;
use serde::Serialize;

use super::arguments::PlanError;
use super::constants::NEAR_ENOUGH;
use super::memory::ServerMemory;
use super::pace::Pace;
use super::question::Question;
use crate::config::SERVERS_MAX;

/// The number of servers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fleet {
    /// That the rest of the plan is for.
    pub servers: u32,
    /// The smallest number that fits in memory and is nearly as fast as as many servers as workers; `None` where no
    /// number fits.
    pub recommended: Option<u32>,
}

impl Fleet {
    pub(super) fn choose(question: &Question) -> Result<Fleet, PlanError> {
        let blocks = question.parameters.div_ceil(question.job.job.block_elements);
        if blocks > BLOCKS_MAX {
            let found = format!("{blocks} of {} elements", question.job.job.block_elements);
            return Err(PlanError::OutOfRange {
                what: "the model's blocks",
                expected: format!("at most {BLOCKS_MAX}: take larger ones (job.block_elements)"),
                found,
            });
        }
        // Whoever names a number is told what it needs, even if it does not fit.
        let recommended = match (recommended(question, blocks), question.servers) {
            (Ok(recommended), _) => Some(recommended),
            (Err(_), Some(_)) => None,
            (Err(error), None) => return Err(error),
        };
        let servers = question.servers.or(recommended).unwrap_or(1);
        Ok(Fleet { servers, recommended })
    }
}

/// More servers than workers would leave the workers' own links as narrow as they are; more than blocks
/// would leave some empty.
fn recommended(question: &Question, blocks: u64) -> Result<u32, PlanError> {
    let most = u32::try_from(blocks).unwrap_or(SERVERS_MAX).clamp(1, SERVERS_MAX);
    let bound = question.memory_max.map_or(u64::MAX, |bound| bound.get());
    let reserved = |servers| ServerMemory::new(question, servers).reserved_bytes;
    let Some(fits) = (1..=most).find(|servers| reserved(*servers) <= bound) else {
        return Err(PlanError::DoesNotFit { bound, servers: most, needed: reserved(most) });
    };
    let last = question.workers.min(most).max(fits);
    let step = |servers| Pace::new(question, servers).step_s;
    let near_enough = step(last) * NEAR_ENOUGH;
    Ok((fits..last).find(|servers| step(*servers) <= near_enough).unwrap_or(last))
}
