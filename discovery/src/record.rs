//! What stands in etcd, under which key.
//!
//! | key | value | lives |
//! |---|---|---|
//! | `/halflife/JOB/lead` | [`LeadRecord`] as JSON | as long as the lease of the server that created it |
//! | `/halflife/JOB/placement` | [`PlacementRecord`] as JSON | for good; written only by whoever holds the key above |

use std::fmt;

use serde::{Deserialize, Serialize};

/// A server process that wants to lead, drawn at random when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct CandidateId(pub u64);

impl fmt::Display for CandidateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<CandidateId> for String {
    fn from(id: CandidateId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for CandidateId {
    type Error = String;

    fn try_from(text: String) -> Result<CandidateId, String> {
        let number = u64::from_str_radix(&text, 16);
        number.map(CandidateId).map_err(|_| format!("expected 16 hexadecimal digits, found {text:?}"))
    }
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeadRecord {
    /// Where it is reached.
    pub url: String,
    /// Which process it is: another at the same URL is another lead.
    pub candidate: CandidateId,
}

/// Who holds blocks, in one generation: for people and their tools. No process of ours decides by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementRecord {
    /// The job's id.
    pub job: String,
    /// Incarnation of its state.
    pub generation: u64,
    /// Who leads it.
    pub lead: String,
    /// By index.
    pub servers: Vec<ServerRecord>,
}

/// A server of a placement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerRecord {
    /// Where it is reached.
    pub url: String,
    /// Blocks that it holds; 0 before there is a model.
    pub blocks: u64,
}

/// The keys of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobKeys {
    job: String,
}

impl JobKeys {
    /// Of the job with this name (`job.name` of its file).
    #[must_use]
    pub fn of(job: &str) -> JobKeys {
        JobKeys { job: job.to_owned() }
    }

    /// Of the [`LeadRecord`].
    #[must_use]
    pub fn lead(&self) -> String {
        format!("/halflife/{}/lead", self.job)
    }

    /// Of the [`PlacementRecord`].
    #[must_use]
    pub fn placement(&self) -> String {
        format!("/halflife/{}/placement", self.job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_text_that_people_can_read() {
        let record = LeadRecord { url: "http://a:1".to_owned(), candidate: CandidateId(0x1f) };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(text, r#"{"url":"http://a:1","candidate":"000000000000001f"}"#);
        assert_eq!(serde_json::from_str::<LeadRecord>(&text).unwrap(), record);
        assert!(serde_json::from_str::<LeadRecord>(r#"{"url":"","candidate":"x"}"#).is_err());
        assert_eq!(JobKeys::of("digits").lead(), "/halflife/digits/lead");
    }
}
