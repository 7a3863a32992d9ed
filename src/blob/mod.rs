//! Bytes of logs and artifacts over `object_store`: local files now, buckets when more than one replica runs.
