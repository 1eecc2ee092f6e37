//! The DNS face.
