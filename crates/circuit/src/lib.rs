//! Circuit: container networking for plain containerd.
#![forbid(unsafe_code)]
