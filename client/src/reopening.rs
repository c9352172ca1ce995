//! Opening a broken step stream again: longer pauses after each failure, until it is time to give up.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use halflife_proto::hello::Hello;
use halflife_proto::ids::ServerIndex;

use crate::block_plan::BlockPlan;
use crate::error::ClientError;
use crate::observer::Observer;
use crate::pull::is_other_step_worth_asking;
use crate::retry::Backoff;
use crate::server_stream::{self, Opened};
use crate::session::SessionHandle;

/// What opening a stream takes.
#[derive(Clone)]
pub(crate) struct Reopener {
    pub(crate) hello: Hello,
    pub(crate) plan: Arc<BlockPlan>,
    pub(crate) session: SessionHandle,
    pub(crate) give_up_after: Duration,
    pub(crate) observer: Observer,
}

/// A stream being opened.
pub(crate) type Reopening = Pin<Box<dyn Future<Output = Result<Opened, ClientError>> + Send>>;

impl Reopener {
    /// Opens the stream to `server` again, beginning with the newest version at hand.
    pub(crate) fn reopen(&self, server: ServerIndex, url: &str) -> Reopening {
        let Reopener { hello, plan, session, give_up_after, observer } = self.clone();
        let url = url.to_owned();
        Box::pin(async move {
            let mut backoff = Backoff::new(give_up_after);
            loop {
                let from_step = session.look().weights.as_ref().map(|weights| weights.step);
                let mut opened = server_stream::open(&url, server, &hello, from_step, &plan, &observer).await;
                // The job went on meanwhile: what the server has is newer.
                if let (Err(failure), Some(_)) = (&opened, from_step)
                    && is_other_step_worth_asking(failure)
                {
                    opened = server_stream::open(&url, server, &hello, None, &plan, &observer).await;
                }
                match opened {
                    Ok(opened) => return Ok(opened),
                    Err(failure) => backoff.pause(&url, failure).await?,
                }
            }
        })
    }
}
