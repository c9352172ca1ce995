//! A bucket of S3, or of what speaks like it, as a store.
//!
//! Conditional creates are `If-None-Match: *`, which the service decides; a large object is uploaded in
//! parts and appears when the last request completes it. Requests that fail are tried again within
//! bounds, so a create may meet its own earlier attempt: callers read back after an error.
//!
//! Parts of an upload that was cut off stay in the bucket, invisible, until its lifecycle rule for
//! incomplete uploads removes them; this store removes those of uploads that fail under its eyes.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig};

use super::{Entry, PART_BYTES, Parts, Store, StoreError};

mod client;
mod upload;

/// Most parts an upload may have.
const PARTS_MAX: u64 = 10_000;
/// Attempts after the first, within [`RETRY_TIMEOUT`].
const RETRIES_MAX: usize = 5;
/// No attempt begins later than this after the first.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);
/// Deletions under way at once.
const DELETIONS_MAX: usize = 8;

/// A prefix of a bucket as a store.
#[derive(Debug)]
pub struct S3Store {
    bucket: String,
    prefix: Path,
    objects: AmazonS3,
}

impl S3Store {
    /// The objects below `prefix` of `bucket`. Of `variables` those count that the tools of AWS know, as
    /// they are named in the environment: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`,
    /// `AWS_REGION`, `AWS_ENDPOINT_URL`, those of web identity and containers; without any, credentials come
    /// from the machine's metadata service. Plain HTTP is allowed: what an endpoint offers is its owner's
    /// decision. Nothing is asked of it yet.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when the settings contradict each other or no TLS is possible.
    pub fn open(
        bucket: &str,
        prefix: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<S3Store, StoreError> {
        let location = format!("s3://{bucket}/{prefix}");
        let failed = failed("open", &location);
        let mut builder = AmazonS3Builder::new();
        for (name, value) in variables.into_iter().filter(|(name, _)| name.starts_with("AWS_")) {
            // The tools have many variables; those this client does not know concern something else.
            if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
                builder = builder.with_config(key, value);
            }
        }
        let backoff = BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() };
        let objects = builder
            .with_bucket_name(bucket)
            .with_allow_http(true)
            .with_retry(RetryConfig { backoff, max_retries: RETRIES_MAX, retry_timeout: RETRY_TIMEOUT })
            .with_http_connector(client::Connector)
            .build()
            .map_err(&failed)?;
        let prefix = Path::parse(prefix.trim_end_matches('/')).map_err(|error| failed(error.into()))?;
        Ok(S3Store { bucket: bucket.to_owned(), prefix, objects })
    }

    fn key(&self, path: &str) -> Path {
        Path::from_iter(self.prefix.parts().chain(Path::from(path).parts()))
    }
}

#[async_trait]
impl Store for S3Store {
    fn location(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix)
    }

    async fn create(&self, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        let only_new = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let created = self.objects.put_opts(&self.key(path), bytes.into(), only_new).await;
        created.map(drop).map_err(failed("create", path))
    }

    async fn settle(&self, _: &str) -> Result<(), StoreError> {
        Ok(()) // what can be read is durable
    }

    async fn put(&self, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.objects.put(&self.key(path), bytes.into()).await.map(drop).map_err(failed("write", path))
    }

    async fn upload(&self, path: &str, bytes: u64, parts: Parts) -> Result<(), StoreError> {
        upload::upload(&self.objects, &self.key(path), path, bytes, parts).await
    }

    fn part_bytes(&self, bytes: u64) -> usize {
        (bytes.div_ceil(PARTS_MAX) as usize).next_multiple_of(PART_BYTES).max(PART_BYTES)
    }

    async fn read(&self, path: &str) -> Result<Bytes, StoreError> {
        let failed = failed("read", path);
        self.objects.get(&self.key(path)).await.map_err(&failed)?.bytes().await.map_err(&failed)
    }

    async fn read_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        match self.objects.get_range(&self.key(path), range.clone()).await {
            Ok(bytes) => Ok(bytes),
            Err(error @ object_store::Error::NotFound { .. }) => Err(failed("read", path)(error)),
            // The service refuses a range that begins at or beyond the end.
            Err(error) => match self.size(path).await {
                Ok(size) if size <= range.start => Ok(Bytes::new()),
                _ => Err(failed("read", path)(error)),
            },
        }
    }

    async fn size(&self, path: &str) -> Result<u64, StoreError> {
        self.objects.head(&self.key(path)).await.map(|meta| meta.size).map_err(failed("look at", path))
    }

    async fn list(&self, directory: &str) -> Result<Vec<Entry>, StoreError> {
        let below = self.prefix.as_ref().len();
        let entry = |meta: object_store::ObjectMeta| Entry {
            path: meta.location.as_ref()[below..].trim_start_matches('/').to_owned(),
            bytes: meta.size,
        };
        let listed = self.objects.list(Some(&self.key(directory))).map_ok(entry);
        listed.try_collect().await.map_err(failed("list", directory))
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        match self.objects.delete(&self.key(path)).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            done => done.map_err(failed("delete", path)),
        }
    }

    async fn delete_all(&self, directory: &str) -> Result<(), StoreError> {
        let entries = self.list(directory).await?;
        let deletions = entries.into_iter().map(|entry| async move { self.delete(&entry.path).await });
        futures_util::stream::iter(deletions).buffer_unordered(DELETIONS_MAX).try_collect().await
    }

    async fn free_bytes(&self) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }
}

fn failed<'a>(operation: &'static str, path: &'a str) -> impl Fn(object_store::Error) -> StoreError + 'a {
    move |error| match error {
        object_store::Error::NotFound { .. } => StoreError::NotFound { path: path.to_owned() },
        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
            StoreError::Exists { path: path.to_owned() }
        }
        error => StoreError::Failed { operation, path: path.to_owned(), source: Box::new(error) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(prefix: &str) -> S3Store {
        S3Store::open("bucket", prefix, []).unwrap()
    }

    #[test]
    fn keys_stand_below_the_prefix() {
        assert_eq!(store("").key("a/b.json").as_ref(), "a/b.json");
        assert_eq!(store("some/prefix/").key("a/b.json").as_ref(), "some/prefix/a/b.json");
        assert_eq!(store("some/prefix").location(), "s3://bucket/some/prefix");
    }

    #[test]
    fn parts_grow_with_the_object_and_stay_below_their_number() {
        let store = store("");
        assert_eq!(store.part_bytes(1), PART_BYTES);
        for bytes in [1u64 << 30, 1 << 40, 5 << 40] {
            let part = store.part_bytes(bytes) as u64;
            assert!(bytes.div_ceil(part) <= PARTS_MAX && part.is_multiple_of(PART_BYTES as u64), "{bytes}");
        }
    }
}
