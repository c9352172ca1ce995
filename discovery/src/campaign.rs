//! A server's part in the election, carried out: asks etcd what `election` wants to know, for as long as the server lives.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::election::{Action, Election, Holder, Standing};
use crate::etcd::{Etcd, EtcdError, EtcdPlace};
use crate::record::{CandidateId, JobKeys, LeadRecord};

/// Longest that giving the lease up may hold an end up.
const RESIGN_TIMEOUT: Duration = Duration::from_millis(500);

/// What a server stands for election with.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// Where etcd is.
    pub etcd: EtcdPlace,
    /// Of its job.
    pub keys: JobKeys,
    /// How long a lease is to last.
    pub lease: Duration,
}

/// A server that stands for election, until dropped.
#[derive(Debug)]
pub struct Candidacy {
    campaign: Campaign,
    standing: watch::Receiver<Standing>,
    linked: watch::Sender<bool>,
    resigned: watch::Sender<bool>,
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    holds_until: Mutex<Option<Instant>>,
    /// Why etcd does not answer.
    trouble: Mutex<Option<String>>,
}

impl Shared {
    fn set<T>(place: &Mutex<T>, value: T) {
        *place.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }

    fn get<T: Clone>(place: &Mutex<T>) -> T {
        place.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Campaign {
    /// Stands for election as the server at `url`.
    #[must_use]
    pub fn start(self, url: &str) -> Candidacy {
        let own = LeadRecord { url: url.to_owned(), candidate: CandidateId(rand::random()) };
        let (standing, follow) = watch::channel(Standing::Unknown);
        let (linked, links) = watch::channel(false);
        let (resigned, resigns) = watch::channel(false);
        let shared = Arc::new(Shared::default());
        let runner = Runner {
            etcd: Etcd::new(self.etcd.clone()),
            election: Election::new(own.clone(), self.lease),
            campaign: self.clone(),
            own,
            begun: Instant::now(),
            standing,
            shared: Arc::clone(&shared),
        };
        let task = Mutex::new(Some(tokio::spawn(runner.run(links, resigns))));
        Candidacy { campaign: self, standing: follow, linked, resigned, shared, task }
    }
}

impl Candidacy {
    /// What it stands with.
    #[must_use]
    pub fn campaign(&self) -> &Campaign {
        &self.campaign
    }

    /// How it stands; changes whenever that does.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Whether it was elected and nobody else can have been since. Needed to begin a generation, not to go on with one.
    #[must_use]
    pub fn holds_lease(&self) -> bool {
        Shared::get(&self.shared.holds_until).is_some_and(|until| Instant::now() < until)
    }

    /// Why etcd does not answer, while it does not.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        Shared::get(&self.shared.trouble)
    }

    /// Whether this server's link to the lead that it follows stands.
    pub fn link(&self, linked: bool) {
        self.linked.send_replace(linked);
    }

    /// Gives the lease up, so that another may lead at once. Best effort: without etcd it ends by itself.
    pub async fn resign(&self) {
        self.resigned.send_replace(true);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task
            && timeout(RESIGN_TIMEOUT, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

impl Drop for Candidacy {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

struct Runner {
    etcd: Etcd,
    election: Election,
    campaign: Campaign,
    own: LeadRecord,
    begun: Instant,
    standing: watch::Sender<Standing>,
    shared: Arc<Shared>,
}

impl Runner {
    async fn run(mut self, mut links: watch::Receiver<bool>, mut resigns: watch::Receiver<bool>) {
        loop {
            let wake = Instant::now() + self.election.pause(self.begun.elapsed());
            tokio::select! {
                () = tokio::time::sleep_until(wake) => {}
                // Whoever has lost its lead looks at once. The senders go with the candidacy, which aborts this task.
                _ = links.changed() => {}
                _ = resigns.wait_for(|resigned| *resigned) => break,
            }
            self.election.link(*links.borrow_and_update());
            tokio::select! {
                () = self.beat() => {}
                _ = resigns.wait_for(|resigned| *resigned) => break,
            }
        }
        if let Some(lease) = self.election.lease()
            && let Err(error) = self.etcd.revoke(lease).await
        {
            warn!(%error, "the lease cannot be given up; it ends by itself");
        }
    }

    /// Asks one thing and says what follows.
    async fn beat(&mut self) {
        let asked_at = self.begun.elapsed();
        if let Err(error) = self.ask(asked_at).await {
            self.election.failed();
            self.note_trouble(&error);
        } else if Shared::get(&self.shared.trouble).is_some() {
            info!("etcd answers again");
            Shared::set(&self.shared.trouble, None);
        }
        let holds_until = self.election.holds_until().map(|until| self.begun + until);
        Shared::set(&self.shared.holds_until, holds_until);
        let now = self.election.standing();
        let changed = self.standing.send_if_modified(|standing| {
            let changed = *standing != *now;
            standing.clone_from(now);
            changed
        });
        if changed {
            match now {
                Standing::Unknown => {}
                Standing::Vacant => info!("no server leads"),
                Standing::Leading { term } => info!(term, "this server is elected to lead"),
                Standing::Following(lead) => info!(url = lead.url, "another server leads"),
            }
        }
    }

    async fn ask(&mut self, asked_at: Duration) -> Result<(), EtcdError> {
        let key = self.campaign.keys.lead();
        match self.election.next(asked_at) {
            Action::Grant => {
                let (id, seconds) = self.etcd.grant(self.campaign.lease.as_secs() as i64).await?;
                self.election.granted(asked_at, id, seconds_of(seconds));
            }
            Action::Renew(lease) => {
                let seconds = self.etcd.keep_alive(lease).await?;
                self.election.renewed(asked_at, seconds_of(seconds));
            }
            Action::Look { lease, campaign } => {
                let own = || serde_json::to_vec(&self.own).expect("a record of strings becomes JSON");
                let entry = match campaign {
                    true => self.etcd.create(&key, own(), lease).await?,
                    false => self.etcd.get(&key).await?,
                };
                let holder = entry.and_then(|entry| match serde_json::from_slice(&entry.value) {
                    Ok(record) => Some(Holder { record, lease: entry.lease, term: entry.create_revision }),
                    Err(error) => {
                        warn!(key, %error, "expected a lead's record, found something else; it has to be deleted by hand");
                        None
                    }
                });
                self.election.seen(self.begun.elapsed(), holder);
            }
        }
        Ok(())
    }

    /// Once for each time that it is away.
    fn note_trouble(&self, error: &EtcdError) {
        if Shared::get(&self.shared.trouble).is_none() {
            warn!(%error, "etcd does not answer; a generation that has begun goes on, no server can take over");
        }
        Shared::set(&self.shared.trouble, Some(error.to_string()));
    }
}

fn seconds_of(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}
