//! A job's checkpoints in virtual time: what `saving.rs` does for a server and `lead/keeper.rs` for the lead, over a
//! store that takes its time, fills up, and outlives whoever writes to it.
//!
//! A request that is under way when its sender dies may still be carried out, long after: so a manifest of a
//! generation that is over comes into being, which nobody may ever go on from.

use halflife_checkpoint::retention::{Disposal, disposal};
use halflife_checkpoint::{CheckpointId, Claim};
use halflife_proto::ids::{Generation, ServerIndex, Step};
use halflife_proto::membership::Report;
use halflife_server::lead::simulation::Written;
use halflife_server::shard::TakenCut;

use crate::coverage::Transition;
use crate::event::Event;
use crate::server_faults::ServerPoint;
use crate::store::{Part, StoredBlock, StoredManifest, id_of};
use crate::world::World;

/// Something that the store has done, or is about to. `life` is the sender's: an answer reaches only who is still there.
#[derive(Clone, Debug)]
pub enum Deed {
    /// A server's part is written.
    Part {
        server: usize,
        life: u64,
        id: CheckpointId,
        part: Part,
    },
    /// Who commits looks at the newest claim and at the parts.
    Look {
        life: u64,
        generation: Generation,
        written: Written,
    },
    /// The manifest is created.
    Create {
        life: u64,
        generation: Generation,
        written: Written,
        is_late: bool,
    },
    /// The lead hears what became of it.
    Ended {
        life: u64,
        step: Step,
        error: Option<String>,
    },
    /// The lead looks what may go, and deletes it.
    Prune {
        life: u64,
    },
    Delete {
        life: u64,
        generation: Generation,
        disposal: Disposal,
    },
    /// A server has read the blocks of a checkpoint.
    Read {
        server: usize,
        life: u64,
    },
    /// Who is to lead reads what there is, claims a generation, looks once more, begins it, and has written its nonce.
    Begin {
        life: u64,
    },
    Claim {
        life: u64,
        claim: Claim,
    },
    LookAgain {
        life: u64,
        claim: Claim,
    },
    Begun {
        life: u64,
        claim: Claim,
    },
    Nonce {
        life: u64,
        claim: Claim,
    },
}

impl World<'_> {
    /// The store does something, after its usual time.
    pub(crate) fn ask_store(&mut self, deed: Deed) {
        let at_us = self.now + self.store.latency_us(self.now, &mut self.random);
        self.queue.push(at_us, Event::Store(Box::new(deed)));
    }

    pub(crate) fn store_does(&mut self, deed: Deed) {
        match deed {
            Deed::Part { server, life, id, part } => self.part_written(server, life, id, part),
            Deed::Look { life, generation, written } => self.look_before_commit(life, generation, written),
            Deed::Create { life, .. } => {
                if let Some(Deed::Create { life, generation, written, is_late }) = self.behind_former_lead(life, deed) {
                    self.create_manifest(life, generation, written, is_late);
                }
            }
            Deed::Ended { life, step, error } => self.checkpoint_ended(life, step, error),
            Deed::Prune { life } => self.look_what_may_go(life),
            Deed::Delete { life, generation, disposal } => self.delete(life, generation, &disposal),
            Deed::Read { server, life } => self.blocks_read(server, life),
            Deed::Begin { life } => self.choose_checkpoint(life),
            Deed::Claim { life, claim } => self.claim_generation(life, claim),
            Deed::LookAgain { life, claim } => self.look_once_more(life, claim),
            Deed::Begun { life, claim } => self.generation_begun(life, claim),
            Deed::Nonce { life, claim } => self.begin_to_lead(life, &claim),
        }
        let servers = self.servers.len();
        if let Some(lost) = self.store.why_lost(servers) {
            self.promises.fail(format!("P6: {lost}"));
        }
    }

    // ---- a server ----

    /// A cut is whole: it is written while training goes on.
    pub(crate) fn begin_to_save(&mut self, server: usize, cut: TakenCut) {
        let side = &self.servers[server];
        let (Some(shard), Some(identity)) = (&side.shard, &side.identity) else { return };
        let (life, id) = (side.life, id_of(cut.step, identity.generation));
        let names: Vec<&str> = shard.plane_specs().iter().map(|spec| spec.name).collect();
        let blocks = cut.blocks.iter().map(|captured| StoredBlock::new(captured, &names)).collect();
        self.check_cut(server, id, &cut.blocks);
        self.coverage.pass(Transition::CutTaken);
        self.trace.note(self.now, &[12, server as u64, id.step.0], || format!("server {server} has set {id} aside"));
        if self.server_reached(ServerPoint::CutTaken, server) {
            return;
        }
        self.send_report(server, Report::CutTaken(cut.step));
        self.ask_store(Deed::Part { server, life, id, part: Part::new(blocks) });
    }

    fn part_written(&mut self, server: usize, life: u64, id: CheckpointId, mut part: Part) {
        let index = ServerIndex(server as u32);
        if self.servers[server].life != life {
            // Cut off by the end of its writer: gone, damaged, or there without anybody knowing.
            let fate = self.random.below(3);
            self.coverage.count("cut off part", ["gone", "damaged", "whole"][fate as usize]);
            part.is_whole = fate == 2;
            if fate > 0 {
                self.store.put(id, index, part);
            }
            return;
        }
        if self.store.is_full(self.now) {
            self.coverage.pass(Transition::PartFailed);
            return self.send_report(server, Report::SaveFailed(id.step, "the store is full".to_owned()));
        }
        let file = part.file;
        self.store.put(id, index, part);
        self.coverage.pass(Transition::PartWritten);
        if !self.server_reached(ServerPoint::PartWritten, server) {
            self.send_report(server, Report::Saved(id.step, file));
        }
    }

    // ---- the lead ----

    pub(crate) fn begin_to_commit(&mut self, written: Written) {
        let (life, generation) = (self.lead.life, self.lead.generation);
        self.ask_store(Deed::Look { life, generation, written });
    }

    fn look_before_commit(&mut self, life: u64, generation: Generation, written: Written) {
        if !self.believes_to_lead(life) {
            return;
        }
        let (id, servers) = (id_of(written.step, generation), self.servers.len());
        if self.store.newest_generation() > Some(generation) {
            self.coverage.pass(Transition::CommitRefused);
            let error = Some(format!("{id} is fenced"));
            return self.ask_store(Deed::Ended { life, step: written.step, error });
        }
        if let Some(why) = self.store.why_not_whole(id, &written.files, servers) {
            if self.lead.life != life {
                return; // who leads now may have thrown it away
            }
            return self.promises.fail(format!("P6: about to be committed, {why}"));
        }
        self.ask_store(Deed::Create { life, generation, written, is_late: false });
        if self.lead.life == life {
            self.server_reached(ServerPoint::BeforeManifest, 0);
        }
    }

    fn create_manifest(&mut self, life: u64, generation: Generation, written: Written, is_late: bool) {
        let (id, step) = (id_of(written.step, generation), written.step);
        let is_alone = !self.believes_to_lead(life);
        if is_alone && !is_late && self.random.once_in(3) {
            return; // it never arrived
        }
        if is_alone && !is_late {
            // It is under way still, wherever its sender is by now.
            let at_us = self.now + self.random.below(4_000_000);
            let late = Deed::Create { life, generation, written, is_late: true };
            return self.queue.push(at_us, Event::Store(Box::new(late)));
        }
        if self.store.is_full(self.now) {
            self.coverage.pass(Transition::CommitFailed);
            if !is_alone {
                self.ask_store(Deed::Ended { life, step, error: Some("the store is full".to_owned()) });
            }
            return;
        }
        let (voided, torn) = written.tickets.unwrap_or_default();
        let model = self.scenario.job.manifest.clone();
        // Who deletes leftovers may have been quicker than a commit that is so late: then it is none.
        let servers = self.servers.len();
        if self.lead.life != life && self.store.why_not_whole(id, &written.files, servers).is_some() {
            return;
        }
        let is_over = self.store.commit(id, StoredManifest { model, files: written.files, voided, torn });
        self.coverage.pass(if is_over { Transition::CommittedLate } else { Transition::Committed });
        self.trace.note(self.now, &[13, id.step.0, id.generation.0], || format!("store: {id} is committed"));
        let is_struck = self.lead.life == life && self.server_reached(ServerPoint::AfterManifest, 0);
        if !is_alone && !is_struck {
            // Who commits looks at the claims once more.
            let error = is_over.then(|| format!("{id} is fenced"));
            self.ask_store(Deed::Ended { life, step, error });
        }
    }

    fn checkpoint_ended(&mut self, life: u64, step: Step, error: Option<String>) {
        if self.lead.life != life {
            return self.former_checkpoint_ended(life, step, error);
        }
        let (now, is_committed) = (self.lead_now(), error.is_none());
        self.lead.state.clock(now);
        self.note_checkpoint_ended(step, error.as_deref());
        let effects = self.lead.state.checkpoint_ended(step, error);
        self.carry_out(effects, false);
        if is_committed && self.lead.life == life {
            self.ask_store(Deed::Prune { life });
        }
    }

    fn look_what_may_go(&mut self, life: u64) {
        let Some(generation) = self.store.newest_generation().filter(|_| self.lead.life == life) else { return };
        let Some(kept) = &self.scenario.job.checkpoints else { return };
        let found = self.store.kept.keys().copied().collect();
        let history = self.store.history();
        let disposal = disposal(&history, &found, &self.store.committed(), kept.retention);
        if disposal != Disposal::default() {
            self.ask_store(Deed::Delete { life, generation, disposal });
        }
    }

    fn delete(&mut self, life: u64, generation: Generation, disposal: &Disposal) {
        if self.lead.life != life || self.store.newest_generation() != Some(generation) {
            return self.coverage.pass(Transition::PruneStopped);
        }
        for id in disposal.checkpoints.iter().chain(&disposal.orphans) {
            self.store.kept.remove(id);
            self.coverage.pass(Transition::Pruned);
        }
    }
}
