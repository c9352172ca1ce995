//! Opening a membership: the heartbeat stream first, since the lease runs from the join, then the
//! assembler, then the stream to every server.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use halflife_proto::ids::{ServerIndex, Step};
use halflife_proto::manifest::Manifest;
use tokio::task::JoinSet;

use super::Member;
use super::pushing::Pushing;
use crate::assembler::assemble;
use crate::assembly::Assembly;
use crate::block_plan::BlockPlan;
use crate::buffer_pool::BufferPool;
use crate::error::ClientError;
use crate::heartbeat;
use crate::layout::Layout;
use crate::lead::{Admission, Lead};
use crate::pull::is_other_step_worth_asking;
use crate::reopening::Reopener;
use crate::retry::Backoff;
use crate::server_stream::{self, ServerReader};
use crate::session::SessionHandle;
use crate::work::{WorkState, takes_single_slots};

impl Member {
    /// Opens the heartbeat stream, then the stream to every server.
    pub(crate) async fn open(lead: Lead, manifest: &Manifest, admission: Admission) -> Result<Member, ClientError> {
        let Admission { hello, job, tree, placement, urls, unix_sockets, step, number, assignment, heartbeat_every } =
            admission;
        let layout = Arc::new(Layout::new(manifest));
        let mut work = WorkState::new(tree, job.steps, takes_single_slots(job.consistency, job.slots, job.wire));
        if job.keeps_checkpoints {
            work.await_finish();
        }
        if let Some(assignment) = assignment {
            let bad = |refusal| ClientError::bad_message(&lead.url, refusal);
            work.assign(assignment).map_err(bad)?;
        }
        let places = lead.places.and(&urls);
        lead.options.observer.joined(number);
        let mut member = Member {
            _span: lead.options.observer.session(&hello, number),
            places,
            lead_url: lead.url,
            control: lead.control,
            number,
            plan: Arc::new(BlockPlan::new(manifest, &layout, &placement, job.wire)),
            buffers: BufferPool::new(layout.elements()),
            urls,
            session: SessionHandle::new(work),
            tasks: JoinSet::new(),
            result: None,
            pushing: Pushing::default(),
            give_up_after: lead.options.give_up_after,
            observer: lead.options.observer,
            hello,
            job,
            layout,
        };
        let give_up_after = member.give_up_after;
        member.start_heartbeat(heartbeat_every, give_up_after).await?;
        let mut readers = Vec::new();
        for (index, unix_socket) in unix_sockets.iter().enumerate() {
            let server = ServerIndex(index as u32);
            let reader = match member.start_local_stream(server, unix_socket, step).await {
                Some(reader) => reader,
                None => member.start_stream(server, step, give_up_after).await?,
            };
            readers.push(reader);
        }
        member.start_assembler(readers, give_up_after);
        Ok(member)
    }

    async fn start_heartbeat(&mut self, every: Duration, give_up_after: Duration) -> Result<(), ClientError> {
        let mut backoff = Backoff::new(give_up_after);
        let halves = loop {
            match heartbeat::open(&self.lead_url, &self.hello, every, &self.session, &self.observer).await {
                Ok(halves) => break halves,
                Err(failure) => backoff.pause(&self.lead_url, failure).await?,
            }
        };
        let (places, observer) = (self.places.clone(), self.observer.clone());
        self.tasks.spawn(heartbeat::keep(halves, self.hello.clone(), places, give_up_after, observer));
        Ok(())
    }

    fn start_assembler(&mut self, readers: Vec<ServerReader>, give_up_after: Duration) {
        let (plan, elements) = (Arc::clone(&self.plan), self.layout.elements());
        let assembly = Assembly::new(plan, elements, self.job.generation, Step(self.job.steps));
        let assembly = match self.job.consistency.mode.has_tickets() {
            true => assembly.with_snapshots(),
            false => assembly,
        };
        let reopener = Reopener {
            hello: self.hello.clone(),
            plan: Arc::clone(&self.plan),
            session: self.session.clone(),
            give_up_after,
            observer: self.observer.clone(),
        };
        self.tasks.spawn(assemble(assembly, readers, reopener));
    }

    /// Opens the stream to a server on this host through its Unix socket, if it has one and answers
    /// there: a path of that name may be another host's, or behind a container's wall.
    async fn start_local_stream(
        &mut self,
        server: ServerIndex,
        unix_socket: &str,
        from_step: Option<Step>,
    ) -> Option<ServerReader> {
        if unix_socket.is_empty() || !Path::new(unix_socket).exists() {
            return None;
        }
        let url = format!("unix://{unix_socket}");
        match server_stream::open(&url, server, &self.hello, from_step, &self.plan, &self.observer).await {
            Ok(opened) => Some(self.keep_stream(server, opened)),
            Err(failure) => {
                tracing::debug!(url, %failure, "no way through the server's Unix socket");
                None
            }
        }
    }

    fn keep_stream(&mut self, server: ServerIndex, (shipments, reader, step): server_stream::Opened) -> ServerReader {
        self.session.note_opened(server, shipments, step);
        reader
    }

    /// Opens the stream to a server. While that fails, the heartbeats say so to the lead.
    async fn start_stream(
        &mut self,
        server: ServerIndex,
        mut from_step: Option<Step>,
        give_up_after: Duration,
    ) -> Result<ServerReader, ClientError> {
        let url = &self.urls[server.0 as usize];
        let mut backoff = Backoff::new(give_up_after);
        let opened = loop {
            match server_stream::open(url, server, &self.hello, from_step, &self.plan, &self.observer).await {
                Ok(opened) => break opened,
                // The job went on since the join: begin with what the server has; a version that is
                // skipped by that is pulled when there is work at it.
                Err(failure) if is_other_step_worth_asking(&failure) && from_step.is_some() => from_step = None,
                Err(failure) => {
                    self.session.note_unreachable(server);
                    backoff.pause(url, failure).await?;
                }
            }
            if let Some(failure) = self.session.look().failure() {
                return Err(failure.clone());
            }
        };
        Ok(self.keep_stream(server, opened))
    }
}
