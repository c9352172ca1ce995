//! Settings of the SDK.

use std::time::Duration;

use halflife_proto::hello::Fingerprint;

use crate::observer::Observer;

/// How long connecting and joining go on before they give up.
const GIVE_UP_AFTER_DEFAULT: Duration = Duration::from_secs(60);

/// What a [`Lead`](crate::Lead) is connected with.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// What can make this machine's bits differ from another's.
    pub fingerprint: Fingerprint,
    /// How long connecting, joining and consistent reads are tried again before they give up.
    pub give_up_after: Duration,
    /// Watches the streams.
    pub observer: Observer,
}

impl ClientOptions {
    /// The default settings for a machine.
    #[must_use]
    pub fn new(fingerprint: Fingerprint) -> ClientOptions {
        ClientOptions { fingerprint, give_up_after: GIVE_UP_AFTER_DEFAULT, observer: Observer::default() }
    }
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions::new(Fingerprint::default())
    }
}
