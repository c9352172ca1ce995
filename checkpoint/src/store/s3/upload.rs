//! Uploading a large object in parts, several at once.

use bytes::Bytes;
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt};
use tokio::task::JoinSet;

use super::failed;
use crate::store::{Parts, StoreError};

/// Parts under way at once. Each holds its buffer: 32 MiB of the usual size.
const UNDER_WAY_MAX: usize = 4;

/// Uploads what `parts` brings, if it is `bytes` bytes.
pub async fn upload(
    objects: &AmazonS3,
    key: &Path,
    path: &str,
    bytes: u64,
    mut parts: Parts,
) -> Result<(), StoreError> {
    let first = parts.next().await.map(Bytes::from_owner).unwrap_or_default();
    if first.len() as u64 == bytes {
        // The service refuses no upload of a single small part, but a plain request is one instead of three.
        return match parts.next().await {
            None => objects.put(key, first.into()).await.map(drop).map_err(failed("write", path)),
            Some(more) => Err(interrupted(path, bytes, bytes + more.as_ref().len() as u64)),
        };
    }
    let mut upload = objects.put_multipart(key).await.map_err(failed("begin the upload of", path))?;
    let done = match send(&mut *upload, path, bytes, first, parts).await {
        Ok(()) => upload.complete().await.map(drop).map_err(failed("complete", path)),
        Err(error) => Err(error),
    };
    if done.is_err() {
        // Only tidying: what stays behind is invisible, and has been removed if completing did succeed.
        let _ = upload.abort().await;
    }
    done
}

async fn send(
    upload: &mut dyn MultipartUpload,
    path: &str,
    bytes: u64,
    first: Bytes,
    mut parts: Parts,
) -> Result<(), StoreError> {
    let mut under_way = JoinSet::new();
    let mut found = 0;
    let mut next = Some(first);
    while let Some(part) = next {
        found += part.len() as u64;
        if found > bytes {
            break;
        }
        under_way.spawn(upload.put_part(part.into()));
        if under_way.len() == UNDER_WAY_MAX {
            finish_one(&mut under_way, path).await?;
        }
        next = parts.next().await.map(Bytes::from_owner);
    }
    while !under_way.is_empty() {
        finish_one(&mut under_way, path).await?;
    }
    if found == bytes { Ok(()) } else { Err(interrupted(path, bytes, found)) }
}

async fn finish_one(under_way: &mut JoinSet<object_store::Result<()>>, path: &str) -> Result<(), StoreError> {
    match under_way.join_next().await {
        None => Ok(()),
        Some(Ok(done)) => done.map_err(failed("write a part of", path)),
        Some(Err(ended)) => std::panic::resume_unwind(ended.into_panic()),
    }
}

fn interrupted(path: &str, expected: u64, found: u64) -> StoreError {
    StoreError::Interrupted { path: path.to_owned(), expected, found }
}
