//! Two leads at once: one that stands still, as after SIGSTOP or behind a partition, while another process takes its
//! place. When it goes on it still believes to lead: it takes the reports that came meanwhile, and commits.
//!
//! Nobody hears its orders: its links are gone by then. What it does to the store is all that it can do.

use halflife_proto::ids::{Generation, ServerIndex, Step};
use halflife_proto::membership::Report;
use halflife_server::lead::LeadState;
use halflife_server::lead::simulation::Effect;

use crate::coverage::Transition;
use crate::event::Event;
use crate::keeping::Deed;
use crate::world::World;

/// The lead that stands still, or believes to lead.
pub struct FormerLead {
    state: LeadState,
    generation: Generation,
    /// Its life as a lead.
    life: u64,
    links: Vec<Option<u64>>,
    reports: Vec<(usize, Report)>,
    is_still: bool,
    /// The manifest that it was about to create.
    held: Option<Deed>,
}

impl World<'_> {
    /// The lead stands still; to everybody else it is as good as gone.
    pub(crate) fn pause_lead(&mut self, lasts_us: u64) {
        if !self.lead.is_leading {
            return;
        }
        let state = std::mem::replace(&mut self.lead.state, LeadState::new(self.scenario.job.settings(None)));
        let (generation, life, links) = (self.lead.generation, self.lead.life, self.lead.links.clone());
        let (reports, is_still, held) = (Vec::new(), true, None);
        self.former_lead = Some(FormerLead { state, generation, life, links, reports, is_still, held });
        self.crash_server(0);
        self.queue.push(self.now + lasts_us, Event::FormerLeadGoesOn(life));
    }

    /// A report to a lead that stands still waits for it.
    pub(crate) fn keep_for_former_lead(&mut self, server: usize, link: u64, report: Report) {
        if let Some(former) = self.former_lead.as_mut().filter(|former| former.links[server] == Some(link)) {
            former.reports.push((server, report));
        }
    }

    /// It goes on, and acts upon what it has been told.
    pub(crate) fn former_lead_goes_on(&mut self, life: u64) {
        self.former_lead_creates_its_manifest();
        let Some(former) = self.former_lead.as_mut().filter(|former| former.life == life) else { return };
        former.is_still = false;
        let mut effects = Vec::new();
        for (server, report) in std::mem::take(&mut former.reports) {
            let index = ServerIndex(server as u32);
            effects.extend(match report {
                Report::CutTaken(step) => former.state.cut_taken(index, step),
                Report::Saved(step, file) => former.state.saved(index, step, file),
                Report::Complete(step) => former.state.complete(index, step),
                _ => Vec::new(),
            });
        }
        let generation = former.generation;
        self.coverage.pass(Transition::FormerLeadWentOn);
        for effect in effects {
            if let Effect::Commit(written) = effect {
                self.ask_store(Deed::Look { life, generation, written });
            }
        }
    }

    /// Who leads a generation, or believes to: what it decides to keep, it may yet commit.
    pub(crate) fn lead_of(&self, generation: Generation) -> Option<&LeadState> {
        let former = self.former_lead.as_ref().filter(|former| former.generation == generation);
        former.map(|former| &former.state).or((self.lead.generation == generation).then_some(&self.lead.state))
    }

    pub(crate) fn is_of_former_lead(&self, generation: Generation) -> bool {
        self.former_lead.as_ref().is_some_and(|former| former.generation == generation)
    }

    /// What a lead that stands still was about to create waits with it; a deed that does not.
    pub(crate) fn behind_former_lead(&mut self, life: u64, deed: Deed) -> Option<Deed> {
        match self.former_lead.as_mut().filter(|former| former.life == life && former.is_still) {
            Some(former) => {
                former.held = Some(deed);
                None
            }
            None => Some(deed),
        }
    }

    /// It had looked at the claims before it stood still, and does not look again.
    pub(crate) fn former_lead_creates_its_manifest(&mut self) {
        let Some(former) = &mut self.former_lead else { return };
        if let Some(deed) = former.held.take() {
            former.is_still = false;
            self.queue.push(self.now + self.random.below(300), Event::Store(Box::new(deed)));
        }
    }

    /// Whether it is the lead, or believes to be, whose life this is.
    pub(crate) fn believes_to_lead(&self, life: u64) -> bool {
        self.lead.life == life || self.former_lead.as_ref().is_some_and(|former| former.life == life)
    }

    /// The former lead hears what became of its commit. Were it only cut off from the others' lead, it would say so to its
    /// servers.
    pub(crate) fn former_checkpoint_ended(&mut self, life: u64, step: Step, error: Option<String>) {
        if let Some(former) = self.former_lead.as_mut().filter(|former| former.life == life) {
            if error.is_none() {
                self.promises.cuts.tell(step);
            }
            former.state.checkpoint_ended(step, error);
        }
    }
}
